"""Statements about jobs: enqueued, claimed, resolved, cancelled, expired and read."""

from pgqueue.queries.jobs.asleep import CountWaitingQueries
from pgqueue.queries.jobs.cancel import CancelQueries
from pgqueue.queries.jobs.change import ChangeQueries
from pgqueue.queries.jobs.claim import ClaimQueries
from pgqueue.queries.jobs.claim_oldest import ClaimOldestQueries
from pgqueue.queries.jobs.count import CountQueries
from pgqueue.queries.jobs.dead_letter_tasks import DeadLetterTaskQueries
from pgqueue.queries.jobs.enqueue_conditional import ConditionalQueries
from pgqueue.queries.jobs.enqueue_keyed import KeyedQueries
from pgqueue.queries.jobs.expire import ExpireQueries
from pgqueue.queries.jobs.find_queues import FindQueueQueries
from pgqueue.queries.jobs.keys import KeyQueries
from pgqueue.queries.jobs.list import JobListQueries
from pgqueue.queries.jobs.rescue import RescueQueries
from pgqueue.queries.jobs.resolve import ResolveQueries

__all__ = ["JobQueries"]


class JobQueries(
    ConditionalQueries,
    KeyedQueries,
    KeyQueries,
    ClaimQueries,
    ClaimOldestQueries,
    ResolveQueries,
    RescueQueries,
    DeadLetterTaskQueries,
    CancelQueries,
    ChangeQueries,
    ExpireQueries,
    FindQueueQueries,
    JobListQueries,
    CountQueries,
    CountWaitingQueries,
):
    """Statements about jobs, each file of this folder some of them."""
