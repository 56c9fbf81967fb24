"""The values of steps as JSON, and back as what the annotation of a step's function says."""

import inspect
import json
import typing
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import TypeAdapter, ValidationError

from pgqueue.errors import InvalidStep, StepMismatch
from pgqueue.tasks.storable import encode_result

# JSON gives these back as they were.
_PLAIN = (inspect.Signature.empty, None, type(None), Any, str, int, float, bool, list, dict, object)
_adapters: "WeakKeyDictionary[Callable[..., Any], TypeAdapter[Any] | None]" = WeakKeyDictionary()


def encode_value(name: str, value: object, max_bytes: int) -> str | None:
    """Return the value of a step as JSON text, None for None. Raises InvalidStep if it cannot be stored."""
    text, error = encode_result(value, max_bytes)
    if error is not None:
        raise InvalidStep(f"what step {name!r} returned cannot be recorded: {error.message}")
    return text


def decode_value(name: str, text: str | None, function: Callable[..., Any] | None, *, recorded: bool) -> Any:
    """Return the value of a step from JSON text, as the annotation of its function says.

    Where it does not fit, raises StepMismatch for a value that is recorded, InvalidStep for a new one.
    """
    if text is None:
        return None
    adapter = None if function is None else _adapter(function)
    if adapter is None:
        return json.loads(text)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        why = f"{error.error_count()} errors, the first: {error.errors(include_url=False)[0]['msg']}"
        if recorded:
            raise StepMismatch(
                f"the value recorded of step {name!r} is not what its function returns now: {why}"
            ) from None
        raise InvalidStep(f"step {name!r} returned what the annotation of its function does not take: {why}") from None


def _adapter(function: Callable[..., Any]) -> TypeAdapter[Any] | None:
    try:
        return _adapters[function]
    except (KeyError, TypeError):
        pass
    adapter = _made(function)
    with suppress(TypeError):  # an object that cannot be a key of weak references
        _adapters[function] = adapter
    return adapter


def _made(function: Callable[..., Any]) -> TypeAdapter[Any] | None:
    try:
        returned = inspect.signature(function, eval_str=True).return_annotation
        if typing.get_origin(returned) in (Awaitable, Coroutine):
            returned = typing.get_args(returned)[-1]
        return None if returned in _PLAIN else TypeAdapter(returned)
    except Exception:  # noqa: BLE001 - annotations are expressions, and pydantic may not know a type: then it is JSON
        return None
