"""What makes signatures of a task: `task.s(…)`, `task.si(…)`, `task.map(…)`, `task.chunks(…)`."""

from collections.abc import Coroutine, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Never, ParamSpec, Protocol, TypeVar, overload

from pgqueue.client.canvas.calls import Calls
from pgqueue.client.canvas.canvas import Group, Signature
from pgqueue.errors import InvalidOption

P = ParamSpec("P")
Q = ParamSpec("Q")
A = TypeVar("A")
A_in = TypeVar("A_in", contravariant=True)
T = TypeVar("T")
R_out = TypeVar("R_out", covariant=True)


if TYPE_CHECKING:

    class _Takes(Protocol[A_in, Q, R_out]):
        """A task by its first parameter and the rest: type checkers look through `_call` to find them."""

        def _call(self, first: A_in, /, *args: Q.args, **kwargs: Q.kwargs) -> R_out: ...


class MakesSignatures(Generic[P, R_out]):
    """A task, or a task with options, of which canvases are made.

    Where type checkers accept a call of `s` without the first argument, the result of the step before is that one.
    """

    if TYPE_CHECKING:

        def _call(self, /, *args: P.args, **kwargs: P.kwargs) -> R_out: ...

    @property
    def _calls(self) -> Calls:
        raise NotImplementedError

    @overload
    def s(self: "_Takes[A, Q, Coroutine[Any, Any, T]]", /, *args: Q.args, **kwargs: Q.kwargs) -> Signature[A, T]: ...
    @overload
    def s(self: "_Takes[A, Q, T]", /, *args: Q.args, **kwargs: Q.kwargs) -> Signature[A, T]: ...
    @overload
    def s(
        self: "MakesSignatures[P, Coroutine[Any, Any, T]]", /, *args: P.args, **kwargs: P.kwargs
    ) -> Signature[Never, T]: ...
    @overload
    def s(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature[Never, R_out]: ...
    def s(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return a call of the task as a value, for chains, groups, chords and workflows.

        After another step it gets that one's result as the first argument that is not given by name, and its own
        arguments by position come after it.
        """
        return Signature(self._calls, args, kwargs)

    @overload
    def si(
        self: "MakesSignatures[P, Coroutine[Any, Any, T]]", /, *args: P.args, **kwargs: P.kwargs
    ) -> Signature[object, T]: ...
    @overload
    def si(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature[object, R_out]: ...
    def si(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return a call of the task as a value that takes no result: all its arguments are here."""
        return Signature(self._calls, args, kwargs, takes_result=False)

    @overload
    def map(
        self: "_Takes[A, Q, Coroutine[Any, Any, T]]", values: Iterable[A], /, *args: Q.args, **kwargs: Q.kwargs
    ) -> Group[Never, T]: ...
    @overload
    def map(self: "_Takes[A, Q, T]", values: Iterable[A], /, *args: Q.args, **kwargs: Q.kwargs) -> Group[Never, T]: ...
    def map(self, values: Iterable[Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return a group with a job for each value, which is its first argument; the others are the same for all."""
        calls = self._calls
        return Group(Signature(calls, (value, *args), kwargs, takes_result=False) for value in values)

    @overload
    def chunks(
        self: "_Takes[list[A], Q, Coroutine[Any, Any, T]]",
        values: Iterable[A],
        size: int,
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Group[Never, T]: ...
    @overload
    def chunks(
        self: "_Takes[list[A], Q, T]", values: Iterable[A], size: int, /, *args: Q.args, **kwargs: Q.kwargs
    ) -> Group[Never, T]: ...
    def chunks(self, values: Iterable[Any], size: int, /, *args: Any, **kwargs: Any) -> Any:
        """Return a group with a job for each `size` values: the first argument of the task is a list of them."""
        if type(size) is not int or size < 1:
            raise InvalidOption(f"chunks of {size!r:.100} values cannot be used: give 1 or more")
        calls = self._calls
        return Group(Signature(calls, (chunk, *args), kwargs, takes_result=False) for chunk in _chunks(values, size))


def _chunks(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    left = iter(values)
    while chunk := list(islice(left, size)):
        yield chunk
