"""Every statement of pgqueue, each a method that returns a Query: SQL, parameters and how to read the rows.

No SQL stands anywhere else but in migrations and tests. Each statement's comment says what it promises under
concurrency, which index it uses and which naive form is wrong.
"""

from pgqueue.queries.ahead import AheadQueries
from pgqueue.queries.base import Query
from pgqueue.queries.cancel import CancelQueries
from pgqueue.queries.claim import ClaimQueries
from pgqueue.queries.definition import DefinitionQueries
from pgqueue.queries.expire import ExpireQueries
from pgqueue.queries.keyed import KeyedQueries
from pgqueue.queries.read import ReadQueries
from pgqueue.queries.resolve import ResolveQueries
from pgqueue.queries.results import ResultQueries
from pgqueue.queries.schedule import ScheduleQueries
from pgqueue.queries.schema import SchemaQueries
from pgqueue.queries.worker import WorkerQueries

__all__ = ["Queries", "Query"]


class Queries(
    KeyedQueries,
    ClaimQueries,
    ResolveQueries,
    CancelQueries,
    ExpireQueries,
    WorkerQueries,
    ScheduleQueries,
    DefinitionQueries,
    AheadQueries,
    SchemaQueries,
    ReadQueries,
    ResultQueries,
):
    """All statements, rendered for one schema."""
