"""What can be stored as JSON and read back: arguments and results are looked through before they are written."""

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
from pgqueue.tasks.annotations import ANYTHING, Hazards, about_row, find_row, leaves
from pgqueue.tasks.sealing import MARK

MAX_ARGS_BYTES = 1_000_000
MAX_BYTES = 8 * 1024 * 1024  # of a result
MAX_DEPTH = 200
MAX_DIGITS = 4000


# NaN and Infinity are written out, found and refused; pydantic's default would quietly store null, and so do models,
# which have their own setting.
WRITE = pydantic_core.CoreConfig(ser_json_inf_nan="constants", ser_json_bytes="base64")
AS_JSON = pydantic_core.SchemaSerializer(core_schema.any_schema(), WRITE)  # of values whose type nobody has said
# Bytes that occur in JSON only where something Postgres cannot store may stand: then each value is looked at.
# The last stands for half a character in the key of a dict, which is written without a word.
SUSPECTS = (b"NaN", b"Infinity", b"null", b"\\u0000", b'"**', b"\xef\xbf\xbd")
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')

_BRACKETS = re.compile(rb"[\[\]{}]")
_LONG_NUMBER = re.compile(rb"\d{%d}" % MAX_DIGITS)
_HALF = "a lone surrogate is half a character (decode the text with errors='replace', or pass bytes)"
_MODEL_BYTES = "give it model_config = ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')"
_SURROGATE = re.compile("[\ud800-\udfff]")


def unserialisable(
    valid: Mapping[str, Any], error: Exception, serializer: pydantic_core.SchemaSerializer = AS_JSON
) -> list[str]:
    """Say which of some values cannot be JSON, why, and what to pass instead."""
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
        return about_row(row)
    if "UnexpectedValue" in str(cause):
        return "it holds what its type does not allow (it was changed after it was made: make a new one)"
    return f"{cause} (pass plain data, such as the id of a row, not an object)"


def hidden_problems(
    text: bytes,
    value: Any,
    serializer: pydantic_core.SchemaSerializer,
    path: str,
    most: int,
    room: Hazards | None = None,
) -> list[str]:
    """Say what is wrong with values that have become JSON: what Postgres or a reader would not give back."""
    problems = _too_much(text, path, most)
    if not problems and any(suspect in text for suspect in SUSPECTS):
        problems = list(_unstorable(serializer.to_python(value), path)) or list(_written(text, path))
    if room is not None and not problems:
        problems = room.problems(text, value, serializer.to_python)
    return problems


def _too_much(text: bytes, path: str, most: int) -> list[str]:
    """Find what JSON allows and readers do not: sheer size, nesting without end, numbers of thousands of digits."""
    if len(text) > most:
        limit = "" if path else ", or raise max_args_bytes"
        return [f"{path or 'arguments'}: {len(text)} bytes of JSON (at most {most}: keep the data elsewhere{limit})"]
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
    """Say what only the JSON shows: members of an enum, and whatever writes itself, look like nothing in Python."""
    for at, leaf in leaves(json.loads(text), path):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            yield f"{at}: it is written as {leaf}, which is not JSON (pass a finite number, or None)"
        elif isinstance(leaf, str) and "\x00" in leaf:
            yield f"{at}: it is written with NUL, which Postgres cannot store (for bytes in a model: {_MODEL_BYTES})"


def encode_result(value: object, most: int = MAX_BYTES) -> tuple[str | None, ErrorInfo | None]:
    """Return a task's result as JSON text, or why it cannot be stored. The job has succeeded either way."""
    if value is None:
        return None, None
    try:
        text = AS_JSON.to_json(value)
        problems = hidden_problems(text, value, AS_JSON, "result", most)
    except Exception as error:  # noqa: BLE001 - a result's own code may raise anything
        return None, ErrorInfo.of(error)
    if problems:
        return None, ErrorInfo("pgqueue.ResultNotStorable", "; ".join(problems))
    return text.decode(), None


def check_json_object(task: str, args: Mapping[str, Any], max_args_bytes: int = MAX_ARGS_BYTES) -> str:
    """Return the arguments of a task that is not registered here as JSON text."""
    if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
        raise InvalidArguments(task, ["arguments must be an object with a name for each value"])
    if MARK in args:
        raise InvalidArguments(task, [f"{MARK}: this name is pgqueue's own (give the value another one)"])
    try:
        text = AS_JSON.to_json(dict(args))
        problems = hidden_problems(text, dict(args), AS_JSON, "", max_args_bytes, ANYTHING)
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        problems = unserialisable(dict(args), error)
    if problems:
        raise InvalidArguments(task, problems)
    return text.decode()
