"""What arguments may be as JSON, and those of many calls of one task at once."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import pydantic_core
from pydantic_core import core_schema

from pgqueue.tasks.annotations import Hazards
from pgqueue.tasks.storable import MAX_ARGS_BYTES, MAX_DEPTH, MAX_DIGITS, STRINGS, WRITE

BLOCK = 500


# Types that are written in one way, whatever the value: the text shows all that is wrong with it.
_PLAIN = {"int", "float", "str", "bool", "none", "date", "time", "datetime", "timedelta", "uuid", "decimal"}
_INSIDE = {"list": ("items_schema",), "set": ("items_schema",), "frozenset": ("items_schema",), "nullable": ("schema",),
           "dict": ("keys_schema", "values_schema"), "typed-dict-field": ("schema",)}  # fmt: skip
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
Call = Mapping[str, Any]


class ManyCalls:
    """Validates and writes calls of one task by the block: a call into pydantic costs more than a small job in it.

    It only ever says yes. What it cannot vouch for is left to whoever looks at one call after the other, and knows what
    to say about it.
    """

    def __init__(self, schema: Any, most: int = MAX_ARGS_BYTES, room: Hazards | None = None) -> None:
        self._most = most
        self._room = room
        self._definitions = schema["definitions"] if schema["type"] == "definitions" else []
        self._shape = schema["schema"] if self._definitions else schema
        fields = self._shape["fields"].items()
        # Parameters that are not stored under their own names.
        self.hidden = [name for name, field in fields if any("alias" in key or "exclude" in key for key in field)]

    @cached_property
    def plain(self) -> bool:
        """Whether each argument is of a type that is written in one way, whatever the value."""
        return not self._definitions and all(map(_is_plain, self._shape["fields"].values()))

    @cached_property
    def _list(self) -> core_schema.CoreSchema:
        return core_schema.definitions_schema(core_schema.list_schema(self._shape), self._definitions)

    @cached_property
    def _validator(self) -> pydantic_core.SchemaValidator:
        return pydantic_core.SchemaValidator(self._list)

    @cached_property
    def _serializer(self) -> pydantic_core.SchemaSerializer:
        return pydantic_core.SchemaSerializer(self._list, WRITE)

    def blocks(self, calls: Iterable[Call]) -> Iterator[tuple[list[Call], str | None, list[dict[str, Any]]]]:
        """Yield the calls in blocks, each with its JSON objects separated by commas, or None if it cannot vouch for
        one of them; and as they were validated."""
        source = iter(calls)
        while block := list(islice(source, BLOCK)):
            yield from self._halved(block)

    def _halved(self, block: list[Call]) -> Iterator[tuple[list[Call], str | None, list[dict[str, Any]]]]:
        text, valid = self._written(block)
        if text is not None and len(text) > self._most and len(block) > 1:
            middle = len(block) // 2
            yield from self._halved(block[:middle])
            yield from self._halved(block[middle:])
        else:
            yield block, text[1:-1].decode() if text and self.is_harmless(text, len(block)) else None, valid

    def _written(self, block: list[Call]) -> tuple[bytes | None, list[dict[str, Any]]]:
        if any(type(call) is not dict for call in block):
            return None, []
        try:
            valid = self._validator.validate_python(block)
            text = self._serializer.to_json(valid, by_alias=False, warnings="error")
            room = self._room
            if room is not None and room.lost:
                self._validator.validate_json(text, by_alias=True, by_name=True)
            return None if room is not None and room.is_suspect(text, *valid) else text, valid
        except Exception:  # noqa: BLE001 - a type's own code may raise anything, and raises it again when asked alone
            return None, []

    def is_harmless(self, text: bytes, calls: int = 0) -> bool:
        """Whether a call, or a list of so many, written as JSON, can hide nothing that must not be stored.

        Null and asterisks are suspects only where a value may be an object with settings of its own.
        """
        if b"NaN" in text or b"Infinity" in text or b"\\u0000" in text or len(text) > self._most:
            return False
        if b"\xef\xbf\xbd" in text:
            return False
        if len(text) > MAX_DIGITS and _has_long_number(text):
            return False
        return self.plain or (not (b"null" in text or b'"**' in text) and _is_shallow(text, calls))


def _is_plain(schema: Any) -> bool:
    """Whether all values of a type are written in the one way that belongs to it, and are nested no deeper than it."""
    kind = schema["type"]
    if "serialization" in schema:
        return False
    if kind == "literal":
        return all(value is None or type(value) in (str, int, bool) for value in schema["expected"])
    if kind in _INSIDE:
        return all(name in schema and _is_plain(schema[name]) for name in _INSIDE[kind])
    return kind in _PLAIN


def _has_long_number(text: bytes) -> bool:
    """Whether there may be a number too long: so many digits in a row fill one of these windows at least."""
    window = MAX_DIGITS // 2
    return any(text[at : at + window].isdigit() for at in range(0, len(text), window))


def _is_shallow(text: bytes, calls: int) -> bool:
    """Whether nothing is nested too deep. Each turn takes the innermost brackets away, two levels at most."""
    if text.count(b"[") + text.count(b"{") - calls <= MAX_DEPTH:
        return True
    bare = STRINGS.sub(b"", text).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH // 2 - 1):
        if not bare:
            return True
        bare = bare.replace(b"{}", b"").replace(b"[]", b"")
    return False
