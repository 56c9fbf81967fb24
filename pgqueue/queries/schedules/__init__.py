"""Statements about schedules: defined, fired, previewed and read."""

from pgqueue.queries.schedules.define import DefinitionQueries
from pgqueue.queries.schedules.fire import FireQueries
from pgqueue.queries.schedules.preview import PreviewQueries
from pgqueue.queries.schedules.read import ScheduleReadQueries
from pgqueue.queries.schedules.release import ReleaseQueries

__all__ = ["ScheduleQueries"]


class ScheduleQueries(FireQueries, DefinitionQueries, ReleaseQueries, PreviewQueries, ScheduleReadQueries):
    """Statements about schedules, each file of this folder some of them."""
