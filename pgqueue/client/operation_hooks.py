"""Hooks around verbs that bring many jobs back: tracing makes a span of each call."""

import logging
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from pgqueue.queries.operations import Operation

log = logging.getLogger("pgqueue")
BRINGING_BACK = ("redrive", "retry")

OnOperationEnd: TypeAlias = Callable[[Operation | None, BaseException | None], object]
OperationHook: TypeAlias = Callable[[], OnOperationEnd]


def hooked(hooks: list[OperationHook], steps: Generator[Any, Any, Operation]) -> Generator[Any, Any, Operation]:
    """Call hooks before the steps of an operation, and tell them at its end how it is then, or what was raised."""
    ends: list[OnOperationEnd] = []
    for hook in hooks:
        try:
            ends.append(hook())
        except Exception as error:  # noqa: BLE001 - the jobs are brought back all the same
            _complain(error)
    try:
        done = yield from steps
    except BaseException as error:
        _tell(ends, None, error)
        raise
    _tell(ends, done, None)
    return done


def _tell(ends: list[OnOperationEnd], done: Operation | None, error: BaseException | None) -> None:
    for end in ends:
        try:
            end(done, error)
        except Exception as raised:  # noqa: BLE001 - the call's own result or error stands
            _complain(raised)


def _complain(error: Exception) -> None:
    log.error("a hook around an operation raised %s", type(error).__name__, exc_info=error)
