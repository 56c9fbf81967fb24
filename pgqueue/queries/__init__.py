"""Every statement of pgqueue, each a method that returns a Query: SQL, parameters and how to read the rows.

No SQL stands anywhere else but in migrations and tests. Each statement's comment says what it promises under
concurrency, which index it uses and which naive form is wrong.

Where jobs, keys or waiters are found by keys that another part of the statement has, it says `j.id = any(array[g.id])`,
not `j.id = g.id`. Both mean the same, but an equation may be joined by walking through the whole index, and when VACUUM
has found a table nearly empty, that looks as cheap as one probe. The planner knows nothing of the dead entries that
somebody's long transaction keeps there: a million of them, and a second for each batch of outcomes, until the next
VACUUM. An index that is partial, or has all that is asked for, may be walked even so: there it is a scalar subselect or
`lateral`, with a `limit`.
"""

from pgqueue.queries.base import Query
from pgqueue.queries.cancel import CancelQueries
from pgqueue.queries.claim import ClaimQueries
from pgqueue.queries.keyed import KeyedQueries
from pgqueue.queries.read import ReadQueries
from pgqueue.queries.resolve import ResolveQueries
from pgqueue.queries.results import ResultQueries
from pgqueue.queries.schedule import ScheduleQueries
from pgqueue.queries.schedule_definition import DefinitionQueries
from pgqueue.queries.schedule_preview import AheadQueries
from pgqueue.queries.schema import SchemaQueries
from pgqueue.queries.sweep import ExpireQueries
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
