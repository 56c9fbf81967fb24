"""Arguments that only a newer release can have written: they have a parameter, or a field, that is not known here."""

import keyword
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})  # pydantic's names of that problem
MAX_BYTES = 400  # of names that a label carries: an index has the label
_INSIDE = ("items", "additionalProperties")
_ANY_OF = ("anyOf", "oneOf", "allOf", "prefixItems")


def unknown_names(schema: Mapping[str, Any], error: ValidationError) -> tuple[str, ...]:
    """Return the parameters and fields (`to.street`) that arguments have and a task does not.

    Empty where the arguments are invalid for another reason, too: no release can have written them.
    """
    names = set()
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        name = _path(schema, problem["loc"]) if problem["type"] in UNKNOWN else None
        if name is None:
            return ()
        names.add(name)
    return tuple(names)


def has_names(schema: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a task has all these parameters and fields."""
    return all(_nodes(schema, name.split(".")) for name in names)


def label_of(version: int, names: Iterable[str]) -> str:
    """Return the label under which a job waits for a worker that knows these names: as many of them as fit."""
    label = str(version)
    for name in sorted(names):
        longer = f"{label}+{name}"
        if len(longer.encode()) <= MAX_BYTES:
            label = longer
    return label


def _path(schema: Mapping[str, Any], place: Sequence[int | str]) -> str | None:
    """Return the name of an unknown parameter or field by its place in the arguments, None if no code can have it.

    The place may hold indexes, keys of dicts and tags of unions; only names of the schema become part of the path.
    """
    *outer, name = place
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        return None
    path: list[str] = []
    for part in outer:
        if isinstance(part, str) and _nodes(schema, [*path, part]):
            path.append(part)
    return None if _nodes(schema, [*path, name]) else ".".join([*path, name])


def _nodes(schema: Mapping[str, Any], path: Sequence[str]) -> list[Any]:
    """Return the schemas of a parameter or field; none if the task does not have it."""
    nodes: list[Any] = [schema]
    for name in path:
        objects = _expanded(schema, nodes)
        nodes = [each["properties"][name] for each in objects if name in each.get("properties", {})]
    return nodes


def _expanded(schema: Mapping[str, Any], nodes: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield schemas, those they refer to, those of their items and values, and those of which they are a union."""
    left, seen = list(nodes), set()
    while left:
        node = left.pop()
        if not isinstance(node, Mapping) or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        left += [node[key] for key in _INSIDE if key in node]
        left += [part for key in _ANY_OF for part in node.get(key, ())]
        if "$ref" in node:
            left.append(schema.get("$defs", {}).get(node["$ref"].rpartition("/")[2]))
