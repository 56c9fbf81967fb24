"""What Python values hold that JSON would take and no reader gets back: rows of an ORM, iterators, naive times.

Looked for only in tasks whose types leave room for it; which those are is found once, when a task is registered.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import SchemaSerializer, from_json

from pgqueue.error_info import storable_text
from pgqueue.errors import InvalidTask

_PLAIN = frozenset({str, int, float, bool, type(None), bytes, datetime})
# Types that read what they have written. Of the others some do not: a model with a computed field and extra="forbid".
_KEYS = frozenset({"str", "int", "float", "bool", "bytes", "date", "datetime", "timedelta", "uuid", "decimal"})
_SURE = _KEYS | {"any", "none", "time", "list", "set", "frozenset", "tuple", "nullable", "union", "typed-dict",
                 "typed-dict-field", "definitions", "definition-ref"}  # fmt: skip
_NAIVE = re.compile(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?"')
_VALUES = ("default", "metadata", "expected")  # of a node: not schemas
_OPEN = frozenset({"any", "is-instance", "function-plain", "function-wrap"})


@dataclasses.dataclass(frozen=True, slots=True)
class Hazards:
    """What the types of a task leave room for: rows of an ORM (and iterators), datetimes, what is not read back."""

    rows: bool = False
    times: bool = False
    lost: bool = False

    def is_suspect(self, text: bytes, *calls: Mapping[str, Any]) -> bool:
        """Whether there may be something of the kind in calls whose arguments have just become one JSON text."""
        if self.times and b"T" in text and _NAIVE.search(text):
            return True
        values = (value for call in calls for value in call.values() if type(value) not in _PLAIN)
        return self.rows and any(find_row(value) is not None for value in values)

    def problems(self, text: bytes, values: Mapping[str, Any], plain: Callable[[Any], Mapping[str, Any]]) -> list[str]:
        """Say what must not be stored of arguments that have just become JSON; `plain` makes plain Python of them."""
        found: list[str] = []
        if self.times and b"T" in text and _NAIVE.search(text):
            found += naive_times(plain(values))
        if self.rows:
            rows = [(name, _row(value)) for name, value in values.items() if type(value) not in _PLAIN]
            found += [f"{name}: {about_row(row)}" for name, row in rows if row is not None]
        return found


ANYTHING = Hazards(rows=True, times=True)


def hazards_of(task: str, parameter: str, kind: object, schema: Any) -> Hazards:
    """Return what a parameter's type leaves room for. Raises InvalidTask for one that can never be used."""
    found, lost = set(), False
    for node in _nodes(schema):
        found.add(node["type"])
        if _takes_more(node):
            found.add("any")
        lost = lost or not _is_sure(node)
        if node["type"] in ("model", "dataclass") and (orm := _orm_of(node["cls"])):
            raise InvalidTask(
                f"task {task}: parameter {parameter!r} is annotated {kind!r}, a row of {orm}, which would be stored as "
                "it is now: take its primary key, and load it inside the task"
            )
        if node["type"] == "generator":
            raise InvalidTask(
                f"task {task}: parameter {parameter!r} is annotated {kind!r}, which can be read only once: take a list"
            )
        if node["type"] == "datetime" and node.get("tz_constraint") == "naive":
            raise InvalidTask(
                f"task {task}: parameter {parameter!r} takes a datetime without a timezone, which workers elsewhere "
                "would take for another moment: take an aware one, or the wall-clock time as str"
            )
    return Hazards(rows=bool(found & _OPEN), times=bool(found & (_OPEN | {"datetime"})), lost=lost)


def _takes_more(node: Mapping[str, Any]) -> bool:
    """Whether values may have fields that the type does not name."""
    return "allow" in (node.get("extra_behavior"), (node.get("config") or {}).get("extra_fields_behavior"))


def _is_sure(node: Mapping[str, Any]) -> bool:
    """Whether all values of a type, as far as this node says it, are read back as they are written."""
    kind = node["type"]
    if "serialization" in node:
        return False
    if kind in ("enum", "literal"):
        values = node["expected"] if kind == "literal" else [member.value for member in node["members"]]
        return all(value is None or type(value) in (str, int, bool) for value in values)
    if kind == "dict":
        return node.get("keys_schema", {"type": "str"})["type"] in _KEYS
    return kind in _SURE


def together(rooms: Sequence[Hazards]) -> Hazards | None:
    """Return what several parameters leave room for; None if nothing has to be looked for."""
    room = Hazards(*(any(getattr(one, kind) for one in rooms) for kind in Hazards.__slots__))
    return room if room != Hazards() else None


def naive_times(values: Mapping[str, Any]) -> Iterator[str]:
    """Say where datetimes without a timezone are."""
    for path, value in values.items():
        for at, leaf in leaves(value, path):
            if isinstance(leaf, datetime) and leaf.utcoffset() is None:
                yield f"{at}: a datetime without a timezone (pass an aware one, such as datetime.now(UTC))"


def about_row(row: object) -> str:
    """Say why a row of an ORM, or an iterator, is refused, and what to pass instead."""
    kind = type(row)
    if isinstance(row, Iterator):
        return f"{kind.__qualname__} can be read only once (pass a list)"
    return f"{kind.__qualname__} is a row of {_orm_of(kind)} (pass its primary key, and load it in the task)"


def find_row(value: object) -> object | None:
    """Return the first row of an ORM, or iterator, in a value; None if there is none, or it contains itself."""
    try:
        return _row(value)
    except RecursionError:
        return None


def _row(value: object) -> object | None:
    kind = type(value)
    if kind in _PLAIN:
        return None
    inside: Iterable[object] = ()
    if isinstance(value, dict):
        inside = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = value
    elif _orm_of(kind) or isinstance(value, Iterator):
        return value
    elif dataclasses.is_dataclass(kind):
        inside = (getattr(value, field.name, None) for field in dataclasses.fields(kind))
    elif hasattr(kind, "__pydantic_fields__"):
        inside = (*value.__dict__.values(), *(getattr(value, "__pydantic_extra__", None) or {}).values())
    return next((row for row in map(_row, inside) if row is not None), None)


def _orm_of(kind: type) -> str | None:
    """Return the name of the ORM that has mapped a class. Of libraries that the host has imported; we import none."""
    if hasattr(kind, "__mapper__"):
        return "SQLAlchemy"
    models = getattr(sys.modules.get("django.db.models"), "Model", None)
    return "Django" if models is not None and issubclass(kind, models) else None


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """What is inside a value, keys of dicts too, and where."""
    if isinstance(value, dict):
        for key, item in value.items():
            at = storable_text(f"{path}.{key}" if path else str(key))
            yield at, str(key) if isinstance(key, float) else key  # JSON has numbers that are keys as text
            yield from leaves(item, at)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """The nodes of a core schema of pydantic, each with its `type`."""
    seen: set[int] = set()
    left = [schema]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        if isinstance(node, dict):
            seen.add(id(node))
            if isinstance(node.get("type"), str):
                yield node
                node = {name: part for name, part in node.items() if name not in _VALUES}
            left += node.values()
        elif isinstance(node, (list, tuple)):
            seen.add(id(node))
            left += node


def stored_defaults(parameters: Iterable[inspect.Parameter], serializer: SchemaSerializer) -> dict[str, Any]:
    """Return the defaults of parameters as JSON has them. One that is no valid argument is missing: no call can give
    it."""
    stored: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.default is not parameter.empty:
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            try:
                valid = TypeAdapter(kind).validate_python(parameter.default)
                stored |= from_json(serializer.to_json({parameter.name: valid}, warnings="error"))
            except Exception:  # noqa: BLE001, S112 - validators are the user's code: they may raise anything
                continue
    return stored


def json_schema(adapter: "TypeAdapter[dict[str, Any]]", title: str, about: str | None) -> dict[str, Any]:
    """Return the JSON schema of a task's arguments. What JSON schema cannot say is left open."""
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue  # for this function only

    class Lenient(GenerateJsonSchema):
        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
            return {}

    shape = adapter.json_schema(by_alias=False, schema_generator=Lenient) | {"title": title}
    return {"$schema": GenerateJsonSchema.schema_dialect} | shape | ({"description": about} if about else {})
