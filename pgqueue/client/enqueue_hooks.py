"""Hooks around enqueueing, which may add headers: tracing puts its context into the jobs."""

import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from pgqueue.errors import InvalidOption
from pgqueue.jobs.job import NewJob
from pgqueue.tasks.headers import headers_text, merged

log = logging.getLogger("pgqueue")


@dataclass(slots=True)
class EnqueueCall:
    """One call that enqueues `count` jobs of a task. A hook may add to `headers`, but those `given` count.

    Of a call that publishes, `topic` is the topic of its first event, `task` and `queue` are that, too, and `count`
    counts the events. `schedule`: the schedule that fires. `job_ids` are filled when the jobs are inserted. Whether
    they exist for others is decided by the caller's transaction.
    """

    task: str
    queue: str
    count: int
    schedule: str | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    job_ids: Sequence[int] = ()
    topic: str | None = None


OnEnqueueEnd: TypeAlias = Callable[[BaseException | None], object]
EnqueueHook: TypeAlias = Callable[[EnqueueCall], OnEnqueueEnd | None]


class EnqueueHooks:
    """The hooks around an app's enqueueing."""

    def __init__(self) -> None:
        self._hooks: list[EnqueueHook] = []

    def __bool__(self) -> bool:
        """Whether there is a hook."""
        return bool(self._hooks)

    def add(self, hook: EnqueueHook) -> None:
        """Call a hook before each call enqueues. Raises InvalidOption for an `async def`."""
        if not callable(hook) or inspect.iscoroutinefunction(hook):
            raise InvalidOption(f"{hook!r} is no hook: give a def, for jobs are enqueued where no event loop runs, too")
        self._hooks.append(hook)

    @contextmanager
    def around(self, new: NewJob, count: int = 1, schedule: str | None = None) -> Iterator[EnqueueCall]:
        """Call the hooks, give their headers to `new`, and tell them at the end what was raised, or None."""
        call = EnqueueCall(new.task, new.queue, count, schedule, _read(new.headers))
        with self._called(call):
            new.headers = merged(new.headers, call.headers)
            yield call

    @contextmanager
    def around_publishing(
        self, topic: str, headers: str | None, count: int
    ) -> Iterator[tuple[EnqueueCall, str | None]]:
        """Call the hooks as `around` does; gives the call, and the headers with those of the hooks."""
        call = EnqueueCall(topic, topic, count, given=_read(headers), topic=topic)
        with self._called(call):
            yield call, merged(headers, call.headers)

    @contextmanager
    def _called(self, call: EnqueueCall) -> Iterator[None]:
        ends: list[OnEnqueueEnd] = []
        for hook in self._hooks:
            try:
                end = hook(call)
                headers_text(call.headers)
            except Exception as error:  # noqa: BLE001 - the job is enqueued all the same
                call.headers.clear()
                _complain(error, call)
            else:
                ends += [] if end is None else [end]
        try:
            yield
        except BaseException as error:
            _tell(ends, error, call)
            raise
        _tell(ends, None, call)


def _read(headers: str | None) -> Mapping[str, str]:
    given: Mapping[str, str] = json.loads(headers) if headers else {}
    return given


def _tell(ends: Sequence[OnEnqueueEnd], error: BaseException | None, call: EnqueueCall) -> None:
    for end in reversed(ends):
        try:
            end(error)
        except Exception as raised:  # noqa: BLE001 - the call's own result or error stands
            _complain(raised, call)


def _complain(error: Exception, call: EnqueueCall) -> None:
    log.error("a hook around the enqueueing of %s raised %s", call.task, type(error).__name__, exc_info=error)
