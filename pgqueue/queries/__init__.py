"""Every SQL statement of pgqueue: each is a method that returns a Query (SQL, parameters, and how to read the rows).

SQL stands only here, in migrations and in tests. The comment above a statement says what it promises under concurrency,
which index it uses, and which naive form is wrong. The statements as Postgres gets them lie in `tests/statements/sql/`.

Why `j.id = any(array[g.id])` and not `j.id = g.id`: where one part of a statement finds jobs, keys or waiters by keys
from another part, both forms mean the same, but the planner may join an equation by walking through the whole index.
When VACUUM has found the table nearly empty, that walk looks as cheap as one probe. The planner does not count the dead
entries that a long transaction keeps in the index: with a million of them, each batch of outcomes took a second until
the next VACUUM. A partial index, or one that holds every column asked for, may be walked in spite of the array; there
the statement uses a scalar subselect, or `lateral` with a `limit`.
"""

from pgqueue.codecs import Codec
from pgqueue.queries.activity import ActivityQueries
from pgqueue.queries.base import Query, Templates
from pgqueue.queries.calls import CallQueries
from pgqueue.queries.chosen import ChosenQueries
from pgqueue.queries.dashboard import DashboardQueries
from pgqueue.queries.dead import DeadQueries
from pgqueue.queries.doctor import DoctorQueries
from pgqueue.queries.jobs import JobQueries
from pgqueue.queries.limits import LimitQueries
from pgqueue.queries.locks import LockQueries
from pgqueue.queries.metrics import MetricQueries
from pgqueue.queries.names import NameQueries
from pgqueue.queries.operations import OperationQueries
from pgqueue.queries.partitions import PartitionQueries
from pgqueue.queries.pauses import PauseQueries
from pgqueue.queries.published import EventQueries
from pgqueue.queries.queues import QueueQueries
from pgqueue.queries.retention import RetentionQueries
from pgqueue.queries.roles import RoleQueries
from pgqueue.queries.schedules import ScheduleQueries
from pgqueue.queries.schema import SchemaQueries
from pgqueue.queries.signals import SignalQueries
from pgqueue.queries.steps import StepQueries
from pgqueue.queries.turns import TurnQueries
from pgqueue.queries.waits import WaitQueries
from pgqueue.queries.why import WhyQueries
from pgqueue.queries.workers import WorkerQueries
from pgqueue.queries.workflows import WorkflowQueries

__all__ = ["Queries", "Query"]


class Queries:
    """Every statement, rendered for one schema, by what it is about."""

    def __init__(self, schema: str, codec: Codec | None = None, *, templates: Templates | None = None) -> None:
        templates = templates or Templates(schema)
        self.jobs = JobQueries(templates, codec)
        self.turns = TurnQueries(templates, codec)
        self.workers = WorkerQueries(templates, codec)
        self.schedules = ScheduleQueries(templates, codec)
        self.waits = WaitQueries(templates, codec)
        self.schema = SchemaQueries(templates, codec)
        self.activity = ActivityQueries(templates, codec)
        self.chosen = ChosenQueries(templates, codec)
        self.dead = DeadQueries(templates, codec)
        self.why = WhyQueries(templates, codec)
        self.operations = OperationQueries(templates, codec)
        self.queues = QueueQueries(templates, codec)
        self.limits = LimitQueries(templates, codec)
        self.locks = LockQueries(templates, codec)
        self.pauses = PauseQueries(templates, codec)
        self.steps = StepQueries(templates, codec)
        self.signals = SignalQueries(templates, codec)
        self.calls = CallQueries(templates, codec)
        self.metrics = MetricQueries(templates, codec)
        self.names = NameQueries(templates, codec)
        self.partitions = PartitionQueries(templates, codec)
        self.retention = RetentionQueries(templates, codec)
        self.doctor = DoctorQueries(templates, codec)
        self.workflows = WorkflowQueries(templates, codec)
        self.roles = RoleQueries(templates, codec)
        self.events = EventQueries(templates, codec)
        self.dashboard = DashboardQueries(templates, codec)
