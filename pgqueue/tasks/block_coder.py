"""The arguments of many calls of one task, validated and written by the block."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import pydantic_core
from pydantic_core import core_schema

from pgqueue.tasks.hazards import Hazards
from pgqueue.tasks.storable import MAX_ARGS_BYTES, MAX_DEPTH, MAX_DIGITS, STRINGS, WRITE

BLOCK = 500
# Kinds of schema whose values are written in one way, whatever the value: the text shows all that is wrong with it.
_PLAIN = {"int", "float", "str", "bool", "none", "date", "time", "datetime", "timedelta", "uuid", "decimal"}
_INSIDE = {"list": ("items_schema",), "set": ("items_schema",), "frozenset": ("items_schema",), "nullable": ("schema",),
           "dict": ("keys_schema", "values_schema"), "typed-dict-field": ("schema",)}  # fmt: skip
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
Call = Mapping[str, Any]


class BlockCoder:
    """Validates and writes calls of one task by the block: a call into pydantic costs more than a small job in it.

    It refuses nothing. A block in which anything may be wrong comes back unwritten, and the coder of single calls,
    which can name the problem, takes its calls one by one.
    """

    def __init__(self, schema: Any, max_bytes: int = MAX_ARGS_BYTES, hazards: Hazards | None = None) -> None:
        self._max_bytes = max_bytes
        self._hazards = hazards
        self._definitions = schema["definitions"] if schema["type"] == "definitions" else []
        self._shape = schema["schema"] if self._definitions else schema
        fields = self._shape["fields"].items()
        # Parameters that would not be stored under their own names.
        self.renamed = [name for name, field in fields if any("alias" in key or "exclude" in key for key in field)]

    @cached_property
    def is_plain(self) -> bool:
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

    def encode(self, calls: Iterable[Call]) -> Iterator[tuple[list[Call], str | None, list[dict[str, Any]]]]:
        """Yield the calls in blocks; with each its JSON objects separated by commas, or None if anything may be wrong
        with them, and its calls as they were validated."""
        source = iter(calls)
        while block := list(islice(source, BLOCK)):
            yield from self._halved(block)

    def _halved(self, block: list[Call]) -> Iterator[tuple[list[Call], str | None, list[dict[str, Any]]]]:
        text, valid = self._written(block)
        if text is not None and len(text) > self._max_bytes and len(block) > 1:
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
            hazards = self._hazards
            if hazards is not None and hazards.one_way:
                self._validator.validate_json(text, by_alias=True, by_name=True)
            return None if hazards is not None and hazards.may_be_in(text, *valid) else text, valid
        except Exception:  # noqa: BLE001 - a type's own code may raise anything, and raises it again for its one call
            return None, []

    def is_harmless(self, text: bytes, calls: int = 0) -> bool:
        """Whether JSON text, of one call or of a list of `calls`, certainly holds nothing that must not be stored.

        Null and asterisks are suspicious only where a value may be an object with settings of its own.
        """
        if b"NaN" in text or b"Infinity" in text or b"\\u0000" in text or len(text) > self._max_bytes:
            return False
        if b"\xef\xbf\xbd" in text:
            return False
        if len(text) > MAX_DIGITS and _has_long_number(text):
            return False
        return self.is_plain or (not (b"null" in text or b'"**' in text) and _is_shallow(text, calls))


def _is_plain(schema: Any) -> bool:
    """Whether values of a type are written in the one way of that type, and are nested no deeper than it."""
    kind = schema["type"]
    if "serialization" in schema:
        return False
    if kind == "literal":
        return all(value is None or type(value) in (str, int, bool) for value in schema["expected"])
    if kind in _INSIDE:
        return all(name in schema and _is_plain(schema[name]) for name in _INSIDE[kind])
    return kind in _PLAIN


def _has_long_number(text: bytes) -> bool:
    """Whether there may be a number of more than MAX_DIGITS digits: it would fill one of these windows at least."""
    window = MAX_DIGITS // 2
    return any(text[at : at + window].isdigit() for at in range(0, len(text), window))


def _is_shallow(text: bytes, calls: int) -> bool:
    """Whether the nesting is no deeper than MAX_DEPTH. Each turn removes the innermost brackets, two levels at most."""
    if text.count(b"[") + text.count(b"{") - calls <= MAX_DEPTH:
        return True
    bare = STRINGS.sub(b"", text).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH // 2 - 1):
        if not bare:
            return True
        bare = bare.replace(b"{}", b"").replace(b"[]", b"")
    return False
