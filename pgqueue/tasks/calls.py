"""Calls of other tasks from a step: what `ctx.call` takes, and what it returns or raises once they have ended."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from pgqueue.codecs import Codec
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import CallFailed
from pgqueue.jobs.step import RecordedStep
from pgqueue.tasks.sealing import open_result, read_error, read_text
from pgqueue.tasks.step_values import decode_value

Out = TypeVar("Out", covariant=True)


class TaskCall(Generic[Out]):
    """What a task may call: a call of a task as a value, such as `resize.s(7)`, or a canvas. `Out` is its result."""

    __slots__ = ()


def shape_text(lengths: Sequence[int | None], *, many: bool) -> str:
    """Return the form of what a step with calls returns, as JSON: of each call how many results are its list, or null
    for one result; of one call that alone."""
    return json.dumps(list(lengths) if many else lengths[0])


class Returned:
    """What the calls of a step have returned. `function_of`: the function of a task, if this app knows it."""

    def __init__(self, codec: Codec | None, function_of: Callable[[str], Callable[..., Any] | None]) -> None:
        self._codec = codec
        self._function_of = function_of

    def read(self, step: RecordedStep) -> Any:
        """Return the result of the call, or the list of those of several. Raises CallFailed, StepMismatch."""
        recorded = json.loads(step.value or "{}")
        items, shape = recorded["items"], recorded["shape"]
        failed = [item for item in items if item["state"] != "succeeded"]
        if failed:
            raise self._error(step.name, failed, len(items))
        values = iter(items)
        if isinstance(shape, list):
            return [self._part(step.name, length, values) for length in shape]
        return self._part(step.name, shape, values)

    def _part(self, name: str, length: int | None, items: Iterator[dict[str, Any]]) -> Any:
        if length is None:
            return self._value(name, next(items))
        return [self._value(name, next(items)) for _ in range(length)]

    def _value(self, name: str, item: dict[str, Any]) -> Any:
        value = open_result(self._codec, item["task"], item["result"])
        function = self._function_of(item["task"])
        if value is None or function is None:
            return value
        return decode_value(name, json.dumps(value), function, recorded=True)

    def _error(self, name: str, failed: list[dict[str, Any]], calls: int) -> CallFailed:
        first = failed[0]
        task, error, reason = first["task"] or "", first["error"], first["reason"]
        if error is not None:
            error = ErrorInfo(error["type"], error["message"], error.get("traceback"))
            error = error if self._codec is None else read_error(self._codec, task, error)
        if reason is not None and self._codec is not None:
            reason = read_text(self._codec, "reason", task, reason)
        more = "" if len(failed) == 1 else f"; {len(failed)} of {calls} calls did not succeed"
        return CallFailed(name, (first["id"], task, first["state"], reason, error), more)
