"""Checks that arguments and results, written as JSON, can be stored by Postgres and read back."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pydantic_core
from pydantic import Secret, SecretBytes, SecretStr
from pydantic_core import core_schema

from pgqueue.error_info import ErrorInfo
from pgqueue.errors import InvalidArguments
from pgqueue.tasks.hazards import UNTYPED, Hazards, explain_row, find_row, leaves
from pgqueue.tasks.sealing import EVENT, MARK

MAX_ARGS_BYTES = 1_000_000
MAX_RESULT_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 200
MAX_DIGITS = 4000

# NaN and Infinity are written as such, found and refused. pydantic's default would quietly store null. Models do: they
# have a setting of their own.
WRITE = pydantic_core.CoreConfig(ser_json_inf_nan="constants", ser_json_bytes="base64")
UNTYPED_SERIALIZER = pydantic_core.SchemaSerializer(core_schema.any_schema(), WRITE)
# Bytes that JSON text holds wherever a value may be one that Postgres cannot store; each value is looked at then. The
# last stands for half a character in the key of a dict, which pydantic replaces without an error.
SUSPICIOUS = (b"NaN", b"Infinity", b"null", b"\\u0000", b'"**', b"\xef\xbf\xbd")
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')

_BRACKETS = re.compile(rb"[\[\]{}]")
_LONG_NUMBER = re.compile(rb"\d{%d}" % MAX_DIGITS)
_HALF = "a lone surrogate is half a character (decode the text with errors='replace', or pass bytes)"
_MODEL_BYTES = "give it model_config = ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')"
_SURROGATE = re.compile("[\ud800-\udfff]")


def unserialisable(
    valid: Mapping[str, Any], error: Exception, serializer: pydantic_core.SchemaSerializer = UNTYPED_SERIALIZER
) -> list[str]:
    """Return which of the values cannot be JSON, why, and what to pass instead."""
    problems = []
    for name, value in valid.items():
        try:
            serializer.to_json(valid, include={name}, warnings="error")
        except (pydantic_core.PydanticSerializationError, UnicodeError) as cause:
            problems.append(f"{name}: {_why_not(value, cause)}")
    return problems or [_why_not(valid, error)]


def _why_not(value: object, cause: Exception) -> str:
    if "surrogates not allowed" in str(cause):
        return _HALF
    if "invalid utf-8 sequence" in str(cause):
        return f"bytes in a model that are no UTF-8 ({_MODEL_BYTES})"
    if (row := find_row(value)) is not None:
        return explain_row(row)
    if "UnexpectedValue" in str(cause):
        return "it holds what its type does not allow (it was changed after it was made: make a new one)"
    return f"{cause} (pass plain data, such as the id of a row, not an object)"


def hidden_problems(
    text: bytes,
    value: Any,
    serializer: pydantic_core.SchemaSerializer,
    path: str,
    max_bytes: int,
    hazards: Hazards | None = None,
) -> list[str]:
    """Return the problems of a value that has become JSON: Postgres would not store it, or no reader get it back."""
    problems = _too_much(text, path, max_bytes)
    if not problems and any(sign in text for sign in SUSPICIOUS):
        problems = list(_unstorable(serializer.to_python(value), path)) or list(_written(text, path))
    if hazards is not None and not problems:
        problems = hazards.problems(text, value, serializer.to_python)
    return problems


def _too_much(text: bytes, path: str, max_bytes: int) -> list[str]:
    """Find what JSON allows and readers do not: too many bytes, too deep a nesting, too many digits of a number."""
    if len(text) > max_bytes:
        limit = "" if path else ", or raise max_args_bytes"
        return [
            f"{path or 'arguments'}: {len(text)} bytes of JSON (at most {max_bytes}: keep the data elsewhere{limit})"
        ]
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH and len(text) <= MAX_DIGITS:
        return []
    bare, depth, deepest = STRINGS.sub(b"", text), 0, 0
    for bracket in _BRACKETS.findall(bare):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    what = path or "arguments"
    problems = [f"{what}: nested {deepest} deep (at most {MAX_DEPTH}: flatten the data)"] if deepest > MAX_DEPTH else []
    if _LONG_NUMBER.search(bare):
        problems.append(f"{what}: a number of more than {MAX_DIGITS} digits (pass it as a text)")
    return problems


def _unstorable(value: Any, path: str) -> Iterator[str]:
    for at, leaf in leaves(value, path):
        match leaf:
            case float() if not math.isfinite(leaf):
                yield f"{at}: {leaf} is not JSON (pass a finite number, or None)"
            case Decimal() if not leaf.is_finite():
                yield f"{at}: {leaf} is not JSON (pass a finite number, or None)"
            case str() if "\x00" in leaf:
                yield f"{at}: a NUL character cannot be stored by Postgres (remove it, or pass bytes)"
            case str() if _SURROGATE.search(leaf):
                yield f"{at}: {_HALF}"
            case SecretStr() | SecretBytes() | Secret():
                yield f"{at}: a secret is written as asterisks, and lost (pass the id of where it is kept)"


def _written(text: bytes, path: str) -> Iterator[str]:
    """Yield the problems that only the JSON shows: members of an enum, and objects that write themselves, do not show
    them as Python values."""
    for at, leaf in leaves(json.loads(text), path):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            yield f"{at}: it is written as {leaf}, which is not JSON (pass a finite number, or None)"
        elif isinstance(leaf, str) and "\x00" in leaf:
            yield f"{at}: it is written with NUL, which Postgres cannot store (for bytes in a model: {_MODEL_BYTES})"


def encode_result(value: object, max_bytes: int = MAX_RESULT_BYTES) -> tuple[str | None, ErrorInfo | None]:
    """Return a task's result as JSON text, or why it cannot be stored. The job has succeeded either way."""
    if value is None:
        return None, None
    try:
        text = UNTYPED_SERIALIZER.to_json(value)
        problems = hidden_problems(text, value, UNTYPED_SERIALIZER, "result", max_bytes)
    except Exception as error:  # noqa: BLE001 - the result's own code may raise anything
        return None, ErrorInfo.of(error)
    if problems:
        return None, ErrorInfo("pgqueue.ResultNotStorable", "; ".join(problems))
    return text.decode(), None


def encode_unregistered(task: str, args: Mapping[str, Any], max_bytes: int = MAX_ARGS_BYTES) -> str:
    """Return the arguments of a task that is not registered here as JSON text. Raises InvalidArguments."""
    if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
        raise InvalidArguments(task, ["arguments must be an object with a name for each value"])
    for own in (MARK, EVENT):
        if own in args:
            raise InvalidArguments(task, [f"{own}: this name is pgqueue's own (rename the argument)"])
    try:
        text = UNTYPED_SERIALIZER.to_json(dict(args))
        problems = hidden_problems(text, dict(args), UNTYPED_SERIALIZER, "", max_bytes, UNTYPED)
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        problems = unserialisable(dict(args), error)
    if problems:
        raise InvalidArguments(task, problems)
    return text.decode()
