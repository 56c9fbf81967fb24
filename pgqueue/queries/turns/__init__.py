"""Statements about the turns of metered jobs: lanes, claims and buckets."""

from pgqueue.queries.turns.buckets import BucketQueries
from pgqueue.queries.turns.claim import TurnClaimQueries
from pgqueue.queries.turns.full import FullQueries
from pgqueue.queries.turns.look import LookQueries

__all__ = ["TurnQueries"]


class TurnQueries(TurnClaimQueries, LookQueries, BucketQueries, FullQueries):
    """Statements about the turns of metered jobs, each file of this folder some of them."""
