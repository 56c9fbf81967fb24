"""From a call in Celery's words to a job: its arguments as they are stored, its options, and its place in a canvas."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pgqueue.celery.options import call_options
from pgqueue.celery.parts import Adapter, AdapterTask
from pgqueue.celery.request import ERRBACK, family
from pgqueue.celery.values import written
from pgqueue.client.canvas.building import Ends
from pgqueue.client.canvas.canvas import Signature as CoreSignature
from pgqueue.client.steps import CURRENT_CONNECTION
from pgqueue.client.task import Enqueuer
from pgqueue.errors import InvalidArguments
from pgqueue.tasks.call_shape import POSITIONAL


@dataclass(frozen=True)
class Call:
    """A call of a task. `fed`: its first argument is the result of what comes before; `errback`: how that has
    failed."""

    task: AdapterTask
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    fed: bool = False
    errback: bool = False


class _Later:
    """Stands for the argument that comes later."""


_LATER = _Later()


class _FedSignature(CoreSignature[Any, Any]):
    """A call that takes the result of what comes before in any case, also as a callback, as Celery has it."""

    def _parameter_of(self, before: Ends | None) -> str | None:
        needed = before is not None and before.is_optional
        return super()._parameter_of(replace(before, is_optional=False) if before and needed else before)


def enqueuer_of(app: Adapter, call: Call, positional: int, conn: object = CURRENT_CONNECTION) -> Enqueuer[..., Any]:
    """Return the task of pgqueue with the options of a call, on a connection."""
    return call.task.core.using(conn, **_options(app, call, positional))


def stored_arguments(call: Call) -> tuple[dict[str, Any], int]:
    """Return the arguments of a call as they are stored, and how many of them were given by position.

    Raises InvalidArguments where they do not fit the function, or are no JSON.
    """
    task, shape = call.task, call.task.shape
    args = call.args
    if call.errback:
        args = (*((_LATER,) if shape.by_name else ()), *(None,) * _more_places(call), *args)
    elif call.fed and shape.by_name:
        args = (_LATER, *args)
    try:
        stored, positional = shape.stored(args, call.kwargs, partial=(call.fed or call.errback) and not shape.by_name)
        found = {
            name: value if task.pydantic else written(value, name)
            for name, value in stored.items()
            if value is not _LATER
        }
    except TypeError as error:
        raise InvalidArguments(task.name, [f"{error} (it takes {shape.signature})"]) from None
    return found, positional


def signature_of(app: Adapter, call: Call) -> CoreSignature[Any, Any]:
    """Return a call as a part of a canvas."""
    stored, positional = stored_arguments(call)
    calls = enqueuer_of(app, call, positional)._calls
    return _FedSignature(calls, (), stored, takes_result=call.fed or call.errback)


def _options(app: Adapter, call: Call, positional: int) -> dict[str, Any]:
    options = call_options(app, call.task, call.task.name, call.options, (call.args, call.kwargs))
    headers = family() | options.pop("headers")
    if positional:
        headers[POSITIONAL] = str(positional)
    if call.errback:
        headers[ERRBACK] = "3" if _more_places(call) else "1"
    return options | ({"headers": headers} if headers else {})


def _more_places(call: Call) -> int:
    """Return how many places behind its first one an errback gets: two if it takes request, exc and traceback."""
    parameters = call.task.shape.signature.parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return 2
    places = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    free = [each for each in places if each.name not in call.kwargs]
    return 2 if len(free) - len(call.args) >= 3 else 0
