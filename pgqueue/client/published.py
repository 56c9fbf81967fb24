"""Published events and subscriptions as operators use them: `app.events`."""

import builtins
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.publishing import new_event
from pgqueue.client.settings import check_before, check_limit, check_run_at
from pgqueue.client.steps import CURRENT_CONNECTION, StepRunner, Steps, verb
from pgqueue.client.task import Task
from pgqueue.errors import UnknownEvent, UnknownSubscription
from pgqueue.events import JobEnqueued
from pgqueue.jobs.event import EventJob, Replayed
from pgqueue.jobs.topics import check_pattern
from pgqueue.queries.base import sleep, start_of
from pgqueue.queries.published.publish import ReplayedBatch
from pgqueue.queries.published.read import StoredEvent
from pgqueue.queries.published.subscribe import Subscription
from pgqueue.tasks.subscription import renames, subscriptions_of
from pgqueue.timing import Bounds, Seconds, check_duration

BATCH = 1_000  # ids of events that one statement of a replay looks at
LOOK = 0.05  # seconds between two looks whether transactions have ended
PATIENCE = Bounds(0, 3600)


class Events:
    """The verbs on published events and subscriptions: `app.events`. Each has an async twin with an `a`."""

    def __init__(self, app: AppParts, conn: object = CURRENT_CONNECTION) -> None:
        self._app = app
        self._runner = StepRunner(app, conn)

    def using(self, conn: object) -> "Events":
        """Bind a connection to borrow: changes take effect if and only if its transaction commits."""
        return Events(self._app, conn)

    @verb
    def list(
        self,
        pattern: str = "#",
        *,
        key: str | None = None,
        since: datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Steps[builtins.list[StoredEvent]]:
        """Return the newest events of topics that fit a pattern, the newest first; of those below the id `before`.

        It looks at 10,000 events at most, however few of them fit: with `before` it goes on from the last one.
        """
        expression = None if pattern == "#" else check_pattern(pattern).expression
        start = None if since is None else check_run_at(since)
        found: builtins.list[StoredEvent] = yield self._app.queries.events.list(
            expression, key, start, check_before(before), check_limit(limit)
        )
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def get(self, event: int) -> Steps[StoredEvent]:
        """Return one event, and the tasks that have got it. Raises UnknownEvent."""
        found: StoredEvent | None = yield self._app.queries.events.get(_id(event))
        if found is None:
            raise UnknownEvent(f"no event {event}: never committed, or dropped by retention")
        return found

    aget = get.twin

    @verb
    def awaiting(self, topic: str, key: object) -> Steps[int]:
        """Return how many jobs wait for an event of a topic and a key now, in `ctx.wait_event`; 1,000 if it is more.

        Those are the jobs that an event which is published now lets go on. A job that begins to wait later finds it,
        too, unless it was enqueued later. Raises InvalidEvent for what cannot be published.
        """
        event = new_event(self._app, topic, None, key)
        if event.key is None:
            return 0
        found: int = yield self._app.queries.events.awaiting(event.topic, event.key)
        return found

    aawaiting = awaiting.twin

    @verb
    def replay(
        self,
        task: "str | Task[..., Any]",
        *,
        since: datetime | None = None,
        to: datetime | None = None,
        patience: Seconds = 30.0,
    ) -> Steps[Replayed]:
        """Make jobs of kept events for one subscriber: of those that it has not got yet, once each.

        `since` and `to` are aware datetimes; without them all events count that are kept and were published before the
        call. Each batch is a transaction, unless a connection is borrowed. A transaction that has published before the
        subscription existed may still be open: the replay waits for it, at most `patience` seconds. It may be called
        again, and by several at once: each event knows its subscribers.

        Raises UnknownSubscription for a task that gets no events.
        """
        queries = self._app.queries.events
        wait = check_duration("patience", patience, PATIENCE)
        start = start_of(None if since is None else check_run_at(since))
        subscription = yield from self._subscription(task)
        open_before: set[str] = yield queries.publishers()
        now: datetime = yield queries.clock()
        end = now if to is None else check_run_at(to)
        jobs = yield from self._pass(subscription.id, start, end)
        if open_before:
            open_before = yield from self._ended(open_before, wait)
            jobs += yield from self._pass(subscription.id, start, end)
        return Replayed(jobs, len(open_before))

    areplay = replay.twin

    @verb
    def subscriptions(self) -> Steps[builtins.list[Subscription]]:
        """Return the subscriptions of all apps, also those that are disabled."""
        found: builtins.list[Subscription] = yield self._app.queries.events.subscriptions()
        return found

    asubscriptions = subscriptions.twin

    @verb
    def declare(self) -> Steps[builtins.list[Subscription]]:
        """Write the subscriptions of this app's code, as a worker does when it starts; return those of all apps.

        It disables none. For a deploy in which events are published before the first worker of the release runs.
        """
        app, queries = self._app, self._app.queries.events
        declared = subscriptions_of(app.tasks, app.queue, app.retention)
        renamed = renames(declared)
        if renamed is not None:
            yield queries.rename(renamed)
        if declared:
            yield queries.declare(app.name, [one.row for one in declared])
        found: builtins.list[Subscription] = yield queries.subscriptions()
        return found

    adeclare = declare.twin

    @verb
    def disable(self, task: "str | Task[..., Any]", *, by: str | None = None) -> Steps[Subscription]:
        """Let a task get no more events, until `enable`. Events of the time between can be replayed.

        Raises UnknownSubscription.
        """
        yield self._app.queries.events.disable(_name(task), who(by))
        return (yield from self._subscription(task))

    adisable = disable.twin

    @verb
    def enable(self, task: "str | Task[..., Any]") -> Steps[Subscription]:
        """Let a task get events again. Raises UnknownSubscription."""
        yield self._app.queries.events.enable(_name(task))
        return (yield from self._subscription(task))

    aenable = enable.twin

    def _subscription(self, task: "str | Task[..., Any]") -> Steps[Subscription]:
        name, queries = _name(task), self._app.queries.events
        found: Sequence[Subscription] = yield queries.subscriptions(name)
        if not found:
            known: Sequence[Subscription] = yield queries.subscriptions()
            names = ", ".join(one.task for one in known) or "none"
            raise UnknownSubscription(
                f"task {name!r} gets no events (those do: {names}): give it on=…, and start a worker or call "
                "app.events.declare()"
            )
        return found[0]

    def _pass(self, subscription: int, since: str, to: datetime) -> Steps[int]:
        """Replay a range of time once; return how many jobs it made."""
        made, last = 0, 0
        while True:
            batch: ReplayedBatch = yield self._app.queries.events.replay(subscription, last, since, to, BATCH)
            if batch.last is None:
                return made
            made, last = made + len(batch.jobs), batch.last
            self._emit(batch.jobs)

    def _ended(self, transactions: set[str], patience: float) -> Steps[set[str]]:
        """Wait until these transactions have ended; return those that have not in time."""
        until = time.monotonic() + patience
        while True:
            now_open: set[str] = yield self._app.queries.events.publishers()
            transactions &= now_open
            if not transactions or time.monotonic() >= until:
                return transactions
            yield sleep(LOOK)

    def _emit(self, jobs: Sequence[EventJob]) -> None:
        if self._app.listeners:
            for job in jobs:
                self._app.listeners.emit(JobEnqueued(job.id, job.task, job.queue))


def _name(task: "str | Task[..., Any]") -> str:
    return task if isinstance(task, str) else task.name


def _id(event: int) -> int:
    """Return an id that an event may have; 0, which none has, for another one."""
    return event if type(event) is int and 0 < event < 2**63 else 0
