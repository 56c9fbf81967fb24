"""Finds unsafe values in arguments: values that JSON can store, but that do not come back as they were.

They are rows of an ORM, iterators, datetimes without a timezone, and values of types that cannot read their own JSON.
When a task is registered, its annotations show which of them its arguments may contain. Each call is checked for those
alone.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pgqueue.error_info import storable_text
from pgqueue.errors import InvalidTask

_PLAIN = frozenset({str, int, float, bool, type(None), bytes, datetime})
# Kinds of schema whose values are read back as they are written. Of the others some are not: a model with a computed
# field and extra="forbid" refuses what it has written.
_SAFE_KEYS = frozenset({"str", "int", "float", "bool", "bytes", "date", "datetime", "timedelta", "uuid", "decimal"})
_SAFE = _SAFE_KEYS | {"any", "none", "time", "list", "set", "frozenset", "tuple", "nullable", "union", "typed-dict",
                      "typed-dict-field", "definitions", "definition-ref"}  # fmt: skip
_NAIVE = re.compile(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?"')
_NOT_SCHEMAS = ("default", "metadata", "expected")  # parts of a node that hold values
_ANY_VALUE = frozenset({"any", "is-instance", "function-plain", "function-wrap"})


@dataclasses.dataclass(frozen=True, slots=True)
class Hazards:
    """The unsafe values that a task's annotations allow.

    `rows`: rows of an ORM and iterators. `times`: datetimes without a timezone. `one_way`: values of types that cannot
    read their own JSON.
    """

    rows: bool = False
    times: bool = False
    one_way: bool = False

    def may_be_in(self, text: bytes, *calls: Mapping[str, Any]) -> bool:
        """Whether the arguments of these calls may contain rows or naive datetimes. `text` is their JSON."""
        if self.times and b"T" in text and _NAIVE.search(text):
            return True
        values = (value for call in calls for value in call.values() if type(value) not in _PLAIN)
        return self.rows and any(find_row(value) is not None for value in values)

    def problems(self, text: bytes, values: Mapping[str, Any], plain: Callable[[Any], Mapping[str, Any]]) -> list[str]:
        """Describe each unsafe value in one call's arguments. `text` is their JSON; `plain` makes plain values."""
        found: list[str] = []
        if self.times and b"T" in text and _NAIVE.search(text):
            found += naive_times(plain(values))
        if self.rows:
            rows = [(name, _row(value)) for name, value in values.items() if type(value) not in _PLAIN]
            found += [f"{name}: {explain_row(row)}" for name, row in rows if row is not None]
        return found


UNTYPED = Hazards(rows=True, times=True)  # of arguments that no annotation describes


def hazards_of(task: str, parameter: str, annotation: object, schema: Any) -> Hazards:
    """Return the unsafe values that a parameter's annotation allows. Raises InvalidTask if it allows nothing else."""
    kinds, one_way = set(), False
    for node in _nodes(schema):
        kinds.add(node["type"])
        if _allows_extra_fields(node):
            kinds.add("any")
        one_way = one_way or not _round_trips(node)
        if node["type"] in ("model", "dataclass") and (orm := _orm_of(node["cls"])):
            raise InvalidTask(
                f"task {task}: parameter {parameter!r} is annotated {annotation!r}, a row of {orm}, which would be "
                "stored as it is now: take its primary key, and load it inside the task"
            )
        if node["type"] == "generator":
            raise InvalidTask(
                f"task {task}: parameter {parameter!r} is annotated {annotation!r}, which can be read only once: "
                "take a list"
            )
        if node["type"] == "datetime" and node.get("tz_constraint") == "naive":
            raise InvalidTask(
                f"task {task}: parameter {parameter!r} takes a datetime without a timezone, which workers elsewhere "
                "would take for another moment: take an aware one, or the wall-clock time as str"
            )
    return Hazards(rows=bool(kinds & _ANY_VALUE), times=bool(kinds & (_ANY_VALUE | {"datetime"})), one_way=one_way)


def combined(found: Sequence[Hazards]) -> Hazards | None:
    """Return the hazards of several parameters together; None if there are none."""
    hazards = Hazards(*(any(getattr(one, kind) for one in found) for kind in Hazards.__slots__))
    return hazards if hazards != Hazards() else None


def naive_times(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the place of each datetime without a timezone, and the remedy."""
    for path, value in values.items():
        for at, leaf in leaves(value, path):
            if isinstance(leaf, datetime) and leaf.utcoffset() is None:
                yield f"{at}: a datetime without a timezone (pass an aware one, such as datetime.now(UTC))"


def explain_row(row: object) -> str:
    """Return why a row of an ORM, or an iterator, is refused, and what to pass instead."""
    kind = type(row)
    if isinstance(row, Iterator):
        return f"{kind.__qualname__} can be read only once (pass a list)"
    return f"{kind.__qualname__} is a row of {_orm_of(kind)} (pass its primary key, and load it in the task)"


def find_row(value: object) -> object | None:
    """Return the first row of an ORM, or iterator, in a value; None if there is none, or the value contains itself."""
    try:
        return _row(value)
    except RecursionError:
        return None


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the path and the value of each leaf in nested data; keys of dicts are leaves, too."""
    if isinstance(value, dict):
        for key, item in value.items():
            at = storable_text(f"{path}.{key}" if path else str(key))
            yield at, str(key) if isinstance(key, float) else key  # JSON writes a number that is a key as text
            yield from leaves(item, at)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, value


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
    """Return the name of the ORM that has mapped a class. We look in modules that the program has imported already, and
    import none."""
    if hasattr(kind, "__mapper__"):
        return "SQLAlchemy"
    models = getattr(sys.modules.get("django.db.models"), "Model", None)
    return "Django" if models is not None and issubclass(kind, models) else None


def _allows_extra_fields(node: Mapping[str, Any]) -> bool:
    return "allow" in (node.get("extra_behavior"), (node.get("config") or {}).get("extra_fields_behavior"))


def _round_trips(node: Mapping[str, Any]) -> bool:
    """Whether values of a type are read back as they are written, as far as this node of its schema decides it."""
    kind = node["type"]
    if "serialization" in node:
        return False
    if kind in ("enum", "literal"):
        values = node["expected"] if kind == "literal" else [member.value for member in node["members"]]
        return all(value is None or type(value) in (str, int, bool) for value in values)
    if kind == "dict":
        return node.get("keys_schema", {"type": "str"})["type"] in _SAFE_KEYS
    return kind in _SAFE


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a core schema of pydantic, each with its `type`."""
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
                node = {name: part for name, part in node.items() if name not in _NOT_SCHEMAS}
            left += node.values()
        elif isinstance(node, (list, tuple)):
            seen.add(id(node))
            left += node
