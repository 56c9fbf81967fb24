"""Hooks around the run of a task: called where it runs, with the exception itself, for tracing and error reports.

A middleware runs on the worker's event loop and makes each job a coroutine. A hook is called in the thread, task or
child process of the task, and an app without hooks pays one `if` for them.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pgqueue.errors import InvalidOption
from pgqueue.jobs.outcome import (
    AskedCancel,
    AskedFail,
    AskedRateLimited,
    AskedRetry,
    AskedSnooze,
    Outcome,
    Raised,
    Succeeded,
)
from pgqueue.tasks.context import Context

log = logging.getLogger("pgqueue.worker")
OutcomeName: TypeAlias = Literal["succeeded", "retried", "failed", "snoozed", "cancelled", "released"]


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How the run of a task has ended, before that is written.

    `context` is that of the job, and `error` what the task raised, a verdict such as Retry too; None if it returned.
    `outcome`: "retried" if an error or Retry leads to another attempt, "failed" if it makes the job a dead letter,
    "released" if a stopping worker has cut it off. A job that loses its lease meanwhile may still end in another way.
    """

    context: Context
    outcome: OutcomeName
    error: BaseException | None


OnAttemptEnd: TypeAlias = Callable[[AttemptEnd], object]
AttemptHook: TypeAlias = Callable[[Context], OnAttemptEnd | None]


class AttemptHooks:
    """The hooks around the runs of an app's tasks."""

    def __init__(self) -> None:
        self._hooks: list[AttemptHook] = []

    def __bool__(self) -> bool:
        """Whether there is a hook."""
        return bool(self._hooks)

    def add(self, hook: AttemptHook) -> None:
        """Call a hook as each run begins. Raises InvalidOption for an `async def`, which no thread could call."""
        _check(hook)
        self._hooks.append(hook)

    def add_end(self, end: OnAttemptEnd) -> None:
        """Call a function as each run has ended. Raises InvalidOption as `add` does."""
        _check(end)
        self._hooks.append(lambda _: end)

    def begin(self, context: Context) -> "ObservedAttempt":
        """Call the hooks in the order they were added."""
        ends: list[OnAttemptEnd] = []
        for hook in self._hooks:
            try:
                end = hook(context)
            except Exception as error:  # noqa: BLE001 - the task runs all the same
                _complain(error, context)
            else:
                if end is not None:
                    ends.append(end)
        return ObservedAttempt(context, ends)


@dataclass(slots=True)
class ObservedAttempt:
    """A run that hooks have seen begin; `ends` are called, the last first, when it has ended."""

    context: Context
    ends: list[OnAttemptEnd]

    def close(self, outcome: Outcome, error: BaseException | None) -> Outcome:
        """Tell the hooks how the run has ended; return the outcome."""
        self._tell(name_of(self.context, outcome), error)
        return outcome

    def cut_off(self, error: BaseException) -> None:
        """Tell the hooks that the worker has cancelled the run: somebody asked for it, or the worker stops."""
        self._tell("cancelled" if self.context.cancelled else "released", error)

    def _tell(self, outcome: OutcomeName, error: BaseException | None) -> None:
        end = AttemptEnd(self.context, outcome, error)
        for hook in reversed(self.ends):
            try:
                hook(end)
            except Exception as raised:  # noqa: BLE001 - the outcome stands
                _complain(raised, self.context)


def _check(hook: object) -> None:
    if not callable(hook) or inspect.iscoroutinefunction(hook):
        raise InvalidOption(f"{hook!r} is no hook: give a def, for it is called in threads, too")


def name_of(context: Context, outcome: Outcome) -> OutcomeName:
    """Return the name of an outcome: "retried" and "failed" depend on whether an attempt is left."""
    match outcome:
        case Succeeded():
            return "succeeded"
        case Raised(permanent=True) | AskedFail():
            return "failed"
        case Raised() | AskedRetry():
            return "failed" if context.is_last_attempt else "retried"
        case AskedSnooze() | AskedRateLimited():
            return "snoozed"
        case AskedCancel():
            return "cancelled"
        case _:
            return "released"


def _complain(error: Exception, context: Context) -> None:
    log.error("job %d: a hook raised %s", context.job_id, type(error).__name__, exc_info=error)
