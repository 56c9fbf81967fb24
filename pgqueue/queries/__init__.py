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

from pgqueue.codecs import Codec
from pgqueue.queries.base import Query, Templates
from pgqueue.queries.jobs import JobQueries
from pgqueue.queries.schedules import ScheduleQueries
from pgqueue.queries.schema import SchemaQueries
from pgqueue.queries.waits import WaitQueries
from pgqueue.queries.workers import WorkerQueries

__all__ = ["Queries", "Query"]


class Queries:
    """Every statement, rendered for one schema, by what it is about."""

    def __init__(self, schema: str, codec: Codec | None = None, *, templates: Templates | None = None) -> None:
        templates = templates or Templates(schema)
        self.jobs = JobQueries(templates, codec)
        self.workers = WorkerQueries(templates, codec)
        self.schedules = ScheduleQueries(templates, codec)
        self.waits = WaitQueries(templates, codec)
        self.schema = SchemaQueries(templates, codec)
