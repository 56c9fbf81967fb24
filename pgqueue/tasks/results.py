"""The results of a group, read page by page: what a parameter gets that is annotated `pgqueue.Results[T]`."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from types import GenericAlias
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, get_args, get_origin

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from pgqueue.codecs import Codec
from pgqueue.jobs.verdicts import Fail
from pgqueue.tasks.inputs import ResultsGone, value_of

T = TypeVar("T")


class ResultPage(NamedTuple):
    """Some results of a group in its order, as `value_of` reads each, and the place up to which they were read."""

    reached: int
    items: list[dict[str, Any]]


class Pages(Protocol):
    """Where the results of a job's argument come from. `page` returns those behind a place; None at the end. `members`
    returns how many all pages have; None where that is not certain."""

    def page(self, argument: str, after: int) -> ResultPage | None: ...
    async def apage(self, argument: str, after: int) -> ResultPage | None: ...
    def members(self, argument: str) -> int | None: ...
    async def amembers(self, argument: str) -> int | None: ...


class Results(Generic[T]):
    """What the members of a group have returned, in the order of the group: read some thousand at a time by `for` or
    `async for`, so that none of them is held longer than you do. Each loop begins anew.

    A result that does not fit `T` ends the job as a dead letter: the loop raises `Fail`. It raises the same at its end
    if results of a group that has succeeded are gone. Where a call gives a list, and
    in a child process, all are there from the beginning.
    """

    def __init__(self, known: Sequence[T] = ()) -> None:
        self._known = known
        self._read: tuple[Pages, str, TypeAdapter[list[T]], Codec | None] | None = None

    @classmethod
    def read(cls, pages: Pages, argument: str, kind: Any, codec: Codec | None) -> "Results[T]":
        """Return those of an argument whose annotation is `kind`."""
        made = cls()
        made._read = pages, argument, TypeAdapter(_list_of(kind)), codec
        return made

    def __iter__(self) -> Iterator[T]:
        yield from self._known
        if self._read is not None:
            pages, argument, adapter, codec = self._read
            after = count = 0
            while page := pages.page(argument, after):
                yield from _values(argument, page.items, adapter, codec)
                after, count = page.reached, count + len(page.items)
            _check_whole(argument, count, pages.members(argument))

    async def __aiter__(self) -> AsyncIterator[T]:
        for known in self._known:
            yield known
        if self._read is not None:
            pages, argument, adapter, codec = self._read
            after = count = 0
            while page := await pages.apage(argument, after):
                for value in _values(argument, page.items, adapter, codec):
                    yield value
                after, count = page.reached, count + len(page.items)
            _check_whole(argument, count, await pages.amembers(argument))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        items = handler.generate_schema(_list_of(source))
        return core_schema.no_info_after_validator_function(
            cls, items, serialization=core_schema.plain_serializer_function_ser_schema(list, return_schema=items)
        )


def _values(
    argument: str, items: Sequence[dict[str, Any]], adapter: TypeAdapter[list[T]], codec: Codec | None
) -> list[T]:
    try:
        return adapter.validate_json(json.dumps([value_of(codec, item) for item in items]))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise Fail(f"a result that is {argument!r} does not fit: {problem['msg']}") from None


def _check_whole(argument: str, count: int, members: int | None) -> None:
    if members is not None and count < members:
        raise Fail(str(ResultsGone(argument, members - count)))


def is_paged(kind: Any) -> bool:
    """Whether an annotation is Results, or Results[T]."""
    return (get_origin(kind) or kind) is Results


def _list_of(kind: Any) -> Any:
    return GenericAlias(list, get_args(kind) or (Any,))


Results.__module__ = "pgqueue"  # where users import it from
