"""What Python values hold that JSON would take and no reader gets back: rows of an ORM, times without a timezone.

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

from pgqueue.errors import InvalidTask

_PLAIN = frozenset({str, int, float, bool, type(None), bytes, datetime})
_NAIVE = re.compile(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?"')
_VALUES = ("default", "metadata", "expected")  # of a node: not schemas
_OPEN = frozenset({"any", "is-instance", "function-plain", "function-wrap", "generator"})


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """What the types of a task leave room for: rows of an ORM, and datetimes."""

    rows: bool = False
    times: bool = False

    def is_suspect(self, text: bytes, values: Mapping[str, Any]) -> bool:
        """Whether there may be something of the kind in arguments that have just become JSON."""
        if self.times and b"T" in text and _NAIVE.search(text):
            return True
        return self.rows and any(type(value) not in _PLAIN and find_row(value) is not None for value in values.values())

    def problems(self, text: bytes, values: Mapping[str, Any], plain: Callable[[Any], Mapping[str, Any]]) -> list[str]:
        """Say what must not be stored of arguments that have just become JSON; `plain` makes plain Python of them."""
        found: list[str] = []
        if self.times and b"T" in text and _NAIVE.search(text):
            found += naive_times(plain(values))
        if self.rows:
            rows = [(name, _row(value)) for name, value in values.items() if type(value) not in _PLAIN]
            found += [f"{name}: {about_row(row)}" for name, row in rows if row is not None]
        return found


ANYTHING = Room(rows=True, times=True)


def room_for(task: str, parameter: str, kind: object, schema: Any) -> Room:
    """Return what a parameter's type leaves room for. Raises InvalidTask for one that can never be used."""
    found = set()
    for node in _nodes(schema):
        found.add(node["type"])
        if node["type"] in ("model", "dataclass") and (orm := _orm_of(node["cls"])):
            raise InvalidTask(
                f"task {task}: parameter {parameter!r} is annotated {kind!r}, a row of {orm}, which would be stored as "
                "it is now: take its primary key, and load it inside the task"
            )
        if node["type"] == "datetime" and node.get("tz_constraint") == "naive":
            raise InvalidTask(
                f"task {task}: parameter {parameter!r} takes a datetime without a timezone, which workers elsewhere "
                "would take for another moment: take an aware one, or the wall-clock time as str"
            )
    return Room(rows=bool(found & _OPEN), times=bool(found & (_OPEN | {"datetime"})))


def together(rooms: Sequence[Room]) -> Room | None:
    """Return what several parameters leave room for; None if nothing has to be looked for."""
    room = Room(any(one.rows for one in rooms), any(one.times for one in rooms))
    return room if room.rows or room.times else None


def naive_times(values: Mapping[str, Any]) -> Iterator[str]:
    """Say where datetimes without a timezone are."""
    for path, value in values.items():
        for at, leaf in _leaves(value, path):
            if isinstance(leaf, datetime) and leaf.utcoffset() is None:
                yield f"{at}: a datetime without a timezone (pass an aware one, such as datetime.now(UTC))"


def about_row(row: object) -> str:
    """Say why a row of an ORM is refused, and what to pass instead."""
    kind = type(row)
    return f"{kind.__qualname__} is a row of {_orm_of(kind)} (pass its primary key, and load it in the task)"


def find_row(value: object) -> object | None:
    """Return the first row of an ORM in a value; None if there is none, or it contains itself."""
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
    elif _orm_of(kind):
        return value
    elif dataclasses.is_dataclass(kind) or hasattr(kind, "__pydantic_fields__"):
        inside = getattr(value, "__dict__", {}).values()
    return next((row for row in map(_row, inside) if row is not None), None)


def _orm_of(kind: type) -> str | None:
    """Return the name of the ORM that has mapped a class. Of libraries that the host has imported; we import none."""
    if hasattr(kind, "__mapper__"):
        return "SQLAlchemy"
    models = getattr(sys.modules.get("django.db.models"), "Model", None)
    return "Django" if models is not None and issubclass(kind, models) else None


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            at = f"{path}.{key}"
            yield at, key
            yield from _leaves(item, at)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
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

    shape = adapter.json_schema(schema_generator=Lenient) | {"title": title}
    return {"$schema": GenerateJsonSchema.schema_dialect} | shape | ({"description": about} if about else {})
