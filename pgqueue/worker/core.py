"""What all parts of a running worker share."""

from dataclasses import dataclass, replace

from pgqueue.app import App
from pgqueue.jobs.patterns import Patterns
from pgqueue.process.heartbeat import Identity, describe_process
from pgqueue.queries import Queries
from pgqueue.queries.workers import WorkerInfo
from pgqueue.worker.host import OWN, Host
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
    """The app, settings, slots, identity and host of one running worker, handed to each of its parts."""

    app: App
    settings: WorkerSettings
    served: Served
    slots: Slots
    identity: Identity
    host: Host = OWN

    @classmethod
    def of(
        cls, app: App, settings: WorkerSettings, served: Served, slots: Slots, health_address: str | None = None
    ) -> "WorkerCore":
        """Return a core with a new identity. Its row is inserted when the identity starts."""
        info = describe_worker(app, settings, served, slots, health_address)
        return cls(app, settings, served, slots, Identity(app.database, app.queries, info))

    @property
    def queries(self) -> Queries:
        """The statements of the app's schema."""
        return self.app.queries


def describe_worker(
    app: App, settings: WorkerSettings, served: Served, slots: Slots, health_address: str | None
) -> WorkerInfo:
    """Return the row of a worker in this process."""
    info = describe_process("worker", settings.lease_seconds, served.queues, app.tasks.announced(), slots.most)
    info = replace(info, release=app.release, health_address=health_address)
    return replace(info, shares=settings.shares, limits=settings.limits, max_wait=settings.max_wait)
