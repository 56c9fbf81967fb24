"""Publishing events: a call becomes new events, those become rows and the jobs of their subscribers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from pgqueue.client.app_parts import AppParts
from pgqueue.client.settings import CallSettings
from pgqueue.client.steps import StepRunner, Steps, all_or_nothing
from pgqueue.errors import InvalidArguments, InvalidEvent, InvalidOption
from pgqueue.events import JobEnqueued
from pgqueue.jobs.bucket_key import NoKey, key_text
from pgqueue.jobs.event import NewEvent, Published
from pgqueue.jobs.topics import check_topic
from pgqueue.tasks.context import running_job_of
from pgqueue.tasks.storable import encode_unregistered
from pgqueue.tasks.subscription import subscriptions_of
from pgqueue.tasks.versions import with_maker

CHUNK = 2_000  # events in one statement
CHUNK_BYTES = 16 * 1024 * 1024

GivenEvent: TypeAlias = tuple[str, Mapping[str, Any]] | tuple[str, Mapping[str, Any], object]


class HasApp(Protocol):
    """An app, or a client of it."""

    @property
    def _app(self) -> AppParts: ...
    @property
    def _runner(self) -> StepRunner: ...


class PublishVerbs:
    """The verbs that publish events, of an app and of `app.using(conn)`."""

    def publish(self: HasApp, topic: str, data: Mapping[str, Any] | None = None, *, key: object = None) -> Published:
        """Publish an event: one row, and a job of each task that subscribes to its topic. With a key it also wakes the
        jobs that wait for it by `ctx.wait_event(topic, key=key)`, which gives them the data.

        On a borrowed connection the event and its jobs exist if and only if the caller's transaction commits. `data`
        has values that JSON can say, by name. `key` names the subject of the event, such as the id of an order:
        subscribers with `ordered="event.key"` get the events of one key in order. Raises InvalidEvent before anything
        is written.
        """
        return _publisher(self).publish([new_event(self._app, topic, data, key)])[0]

    async def apublish(
        self: HasApp, topic: str, data: Mapping[str, Any] | None = None, *, key: object = None
    ) -> Published:
        """The async twin of `publish`."""
        return (await _publisher(self).apublish([new_event(self._app, topic, data, key)]))[0]

    def publish_many(self: HasApp, events: Iterable[GivenEvent], /) -> list[Published]:
        """Publish many events, all or none: each is a topic and its data, and its key if it has one.

        All are checked first: InvalidEvent names the position of the event, and nothing is written.
        """
        return _publisher(self).publish(list(_new_events(self._app, events)))

    async def apublish_many(self: HasApp, events: Iterable[GivenEvent], /) -> list[Published]:
        """The async twin of `publish_many`."""
        return await _publisher(self).apublish(list(_new_events(self._app, events)))


class Publisher:
    """Publishes events where a runner runs its steps, and runs their jobs at once in tests that ask for it.

    `headers`, as JSON, are those of each job.
    """

    def __init__(self, app: AppParts, runner: StepRunner, headers: str | None) -> None:
        self._app = app
        self._runner = runner
        self._headers = headers

    def publish(self, events: Sequence[NewEvent]) -> list[Published]:
        """Publish events; return each with its jobs."""
        with self._hooked(events) as (done, headers):
            done += self._runner.perform(self._steps(events, headers))
        inline = self._app.backend.inline
        if inline is not None:
            inline.run_many([job for event in done for job in event.jobs])
        return done

    async def apublish(self, events: Sequence[NewEvent]) -> list[Published]:
        """The async twin of `publish`."""
        with self._hooked(events) as (done, headers):
            done += await self._runner.aperform(self._steps(events, headers))
        inline = self._app.backend.inline
        if inline is not None:
            await inline.arun_many([job for event in done for job in event.jobs])
        return done

    @contextmanager
    def _hooked(self, events: Sequence[NewEvent]) -> Iterator[tuple[list[Published], str | None]]:
        """Call the hooks around a call; gives the list for published events, and the headers of their jobs."""
        hooks, done = self._app.enqueue_hooks, list[Published]()
        if not hooks or not events:
            yield done, self._headers
            return
        with hooks.around_publishing(events[0].topic, self._headers, len(events)) as (call, headers):
            yield done, headers
            call.job_ids = [job for event in done for job in event.jobs]

    @all_or_nothing
    def _several(self, events: Sequence[NewEvent], headers: str | None) -> Steps[list[Published]]:
        return (yield from self._each_chunk(events, headers))

    def _steps(self, events: Sequence[NewEvent], headers: str | None) -> Steps[list[Published]]:
        if len(events) == 1 and not self._app.backend.declares_at_once:  # one statement is a unit by itself
            return (yield from self._each_chunk(events, headers))
        return (yield from self._several(events, headers))

    def _each_chunk(self, events: Sequence[NewEvent], headers: str | None) -> Steps[list[Published]]:
        app, queries, done = self._app, self._app.backend.queries.events, list[Published]()
        headers = with_maker(headers, running_job_of(app.tasks))
        if app.backend.declares_at_once:
            rows = [one.row for one in subscriptions_of(app.tasks, app.queue, app.retention)]
            if rows:
                yield queries.declare("", rows)
        for chunk in _chunks(events):
            for event, jobs in (yield queries.publish(chunk, headers)):
                done.append(event)
                if app.listeners:
                    for job in jobs:
                        app.listeners.emit(JobEnqueued(job.id, job.task, job.queue))
        return done


def _publisher(client: HasApp) -> Publisher:
    settings: CallSettings = getattr(client, "_settings", None) or CallSettings()
    given = [name for name in settings.__slots__ if name != "headers" and getattr(settings, name) is not None]
    if given:
        raise InvalidOption(
            f"{', '.join(given)} cannot be used with publish(): give headers alone, for each subscriber's task has "
            "options of its own"
        )
    return Publisher(client._app, client._runner, settings.headers)


def _new_events(app: AppParts, events: Iterable[GivenEvent]) -> Iterator[NewEvent]:
    for at, given in enumerate(events):
        if not isinstance(given, (tuple, list)) or not 2 <= len(given) <= 3:
            raise InvalidEvent(
                f"event {at}", [f"{given!r:.100} is no event: give a topic, its data, and perhaps a key"]
            )
        topic, data, key = (*given, None)[:3]
        try:
            yield new_event(app, topic, data, key)
        except InvalidEvent as error:
            raise error.at(at) from None


def new_event(app: AppParts, topic: object, data: object, key: object) -> NewEvent:
    """Return an event as it is published. Raises InvalidEvent."""
    try:
        checked = check_topic(topic)
    except InvalidOption as error:
        raise InvalidEvent(f"{topic!r:.100}", [str(error)]) from None
    given = {} if data is None else data
    if not isinstance(given, Mapping):
        raise InvalidEvent(checked, [f"data {given!r:.100} cannot be used: give a dict, with a name for each value"])
    try:
        text = encode_unregistered(checked, given, app.max_args_bytes)
    except InvalidArguments as error:
        raise InvalidEvent(checked, [f"data {problem}" for problem in error.problems]) from None
    if key is None:
        return NewEvent(checked, text)
    try:
        return NewEvent(checked, text, key_text(key))
    except NoKey as error:
        raise InvalidEvent(checked, [f"key: {error}"]) from None


def _chunks(events: Sequence[NewEvent]) -> Iterator[list[NewEvent]]:
    """Yield events in chunks, one for each statement."""
    chunk: list[NewEvent] = []
    size = 0
    for event in events:
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += len(event.data)
    if chunk:
        yield chunk
