"""What all parts of a running worker share."""

from dataclasses import dataclass, replace

from pgqueue.app import App
from pgqueue.jobs.patterns import Patterns
from pgqueue.process.heartbeat import Identity, describe_process
from pgqueue.queries import Queries
from pgqueue.worker.settings import WorkerSettings
from pgqueue.worker.slots import Slots


@dataclass(frozen=True, slots=True)
class Served:
    """What a worker serves: queues and patterns of queues, in order, and the tasks it knows."""

    queues: tuple[str, ...]
    tasks: tuple[str, ...]

    @property
    def patterns(self) -> Patterns:
        """The patterns among the queues."""
        return Patterns(self.queues)

    def has_queue(self, queue: str) -> bool:
        """Whether the worker serves a queue, by its name or by a pattern."""
        return queue in self.queues or self.patterns.match(queue) is not None


@dataclass(frozen=True, slots=True)
class WorkerCore:
    """The app, settings, slots and identity of one running worker, handed to each of its parts."""

    app: App
    settings: WorkerSettings
    served: Served
    slots: Slots
    identity: Identity

    @classmethod
    def of(
        cls, app: App, settings: WorkerSettings, served: Served, slots: Slots, health_address: str | None = None
    ) -> "WorkerCore":
        """Return a core with a new identity. Its row is inserted when the identity starts."""
        info = describe_process("worker", settings.lease_seconds, served.queues, app.tasks.announced(), slots.total)
        info = replace(info, release=app.release, health_address=health_address)
        info = replace(info, shares=settings.shares, limits=settings.limits, max_wait=settings.max_wait)
        return cls(app, settings, served, slots, Identity(app.database, app.queries, info))

    @property
    def queries(self) -> Queries:
        """The statements of the app's schema."""
        return self.app.queries
