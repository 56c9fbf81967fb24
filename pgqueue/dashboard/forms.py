"""Forms for the arguments of a task, made from its JSON schema, and what is read of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgqueue.dashboard.redaction import is_secret
from pgqueue.errors import InvalidOption
from pgqueue.tasks.registry import Tasks

PREFIX = "arg:"
WHOLE = "args"  # the field of a task that is not known here: all arguments as one JSON object
_PLAIN = {"string": "text", "integer": "number", "number": "number", "boolean": "flag"}
DEEPEST_REF = 10


@dataclass(frozen=True, slots=True)
class Field:
    """One field: the argument, how it is typed (text, number, flag, choice or json), and the text in it.

    `secret`: its value is not shown, and stays as it is where the field is left empty.
    """

    name: str
    kind: str
    text: str
    required: bool
    choices: Sequence[str] = ()
    about: str = ""
    secret: bool = False


def fields_of(tasks: Tasks, task: str, values: Mapping[str, Any]) -> list[Field]:
    """Return the fields of a task's arguments, filled with `values`. A task that is not known here has one field."""
    spec = tasks.get(task)
    if spec is None:
        shown = {name: value for name, value in values.items() if not is_secret(name)}
        return [Field(WHOLE, "json", _json(shown), True, about="All arguments, a JSON object.")]
    schema = spec.json_schema()
    known: dict[str, Any] = schema.get("properties", {})
    shapes = known | {name: {} for name in values if name not in known}
    required = schema.get("required", ())
    return [_field(name, _resolved(shape, schema), values, name in required) for name, shape in shapes.items()]


def _field(name: str, shape: Mapping[str, Any], values: Mapping[str, Any], required: bool) -> Field:
    kind = "choice" if "enum" in shape else _PLAIN.get(str(shape.get("type")), "json")
    value = values.get(name, shape.get("default"))
    if name in values and kind != "json" and not _fits(kind, value):
        kind = "json"
    choices = [str(each) for each in shape.get("enum", ())]
    about = " · ".join(str(shape[part]) for part in ("description", "format") if part in shape)
    secret = is_secret(name)
    text = "" if secret or (name not in values and value is None) else _text(kind, value)
    return Field(name, kind, text, required and name not in values, choices, about or _typed(shape), secret)


def _typed(shape: Mapping[str, Any]) -> str:
    return (
        " or ".join(str(each.get("type", "")) for each in shape["anyOf"])
        if "anyOf" in shape
        else str(shape.get("type", ""))
    )


def _resolved(shape: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow references within a schema."""
    for _ in range(DEEPEST_REF):
        name = str(shape.get("$ref", "")).rpartition("/")[2]
        if not name:
            break
        shape = schema.get("$defs", {}).get(name, {}) | {key: each for key, each in shape.items() if key != "$ref"}
    return shape


def _fits(kind: str, value: Any) -> bool:
    match kind:
        case "flag":
            return isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            return isinstance(value, str)


def _text(kind: str, value: Any) -> str:
    if kind in ("text", "choice") and isinstance(value, str):
        return value
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2 if isinstance(value, dict | list) and value else None)


def read_fields(fields: Sequence[Field], form: Mapping[str, str], had: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a form gives and that differ from what there was. Raises InvalidOption.

    An empty field that need not be filled gives nothing; the argument then stays as it was, or has its default.
    """
    if [field.name for field in fields] == [WHOLE] and fields[0].kind == "json":
        given = _read_json(WHOLE, form.get(PREFIX + WHOLE, "{}"))
        if not isinstance(given, dict):
            raise InvalidOption('the arguments cannot be used: give a JSON object, such as {"order_id": 1}')
    else:
        given = {field.name: _read(field, form) for field in fields if _is_given(field, form)}
    return {name: value for name, value in given.items() if name not in had or not _same(had[name], value)}


def _same(one: Any, other: Any) -> bool:
    """Whether nothing was changed: 1 is 1.0, but it is not true."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return isinstance(one, bool) == isinstance(other, bool) and one == other
    return type(one) is type(other) and bool(one == other)


def _is_given(field: Field, form: Mapping[str, str]) -> bool:
    text = form.get(PREFIX + field.name)
    if field.kind == "flag":
        return True
    if field.kind == "text":
        return bool(text) or (text == "" and (field.required or (field.text != "" and not field.secret)))
    return bool(text and text.strip())


def _read(field: Field, form: Mapping[str, str]) -> Any:
    text = form.get(PREFIX + field.name, "")
    match field.kind:
        case "flag":
            return text == "on"
        case "text" | "choice":
            return text
        case _:
            return _read_json(field.name, text)


def _read_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # does not quote what was typed: rows and logs repeat errors, and arguments may be secret
        raise InvalidOption(f"{name:.100} cannot be used: give JSON, a text in double quotes") from None
