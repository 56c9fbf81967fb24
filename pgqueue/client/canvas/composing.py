"""`chain`, `group` and `chord`, typed as far as type checkers go."""

from collections.abc import Iterable
from typing import Any, TypeVar, overload

from pgqueue.client.canvas.canvas import Canvas, Chain, Group

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
M = TypeVar("M")
Any_ = Canvas[Any, Any]


@overload
def chain(steps: Iterable[Any_], /) -> Canvas[Any, Any]: ...
@overload
def chain(one: Canvas[A, B], /) -> Canvas[A, B]: ...
@overload
def chain(one: Canvas[A, B], two: Group[B, M], /) -> Group[A, M]: ...
@overload
def chain(one: Canvas[A, B], two: Canvas[B, C], /) -> Canvas[A, C]: ...
@overload
def chain(one: Canvas[A, B], two: Canvas[B, C], three: Group[C, M], /) -> Group[A, M]: ...
@overload
def chain(one: Canvas[A, B], two: Canvas[B, C], three: Canvas[C, D], /) -> Canvas[A, D]: ...
@overload
def chain(one: Canvas[A, B], two: Canvas[B, C], three: Canvas[C, D], four: Canvas[D, E], /) -> Canvas[A, E]: ...
@overload
def chain(
    one: Canvas[A, B], two: Canvas[B, C], three: Canvas[C, D], four: Canvas[D, E], five: Canvas[E, F], /, *more: Any_
) -> Canvas[A, Any]: ...
def chain(*steps: Any) -> Any:
    """Return a chain: each step runs after the one before it has succeeded, and gets its result. `a | b` is the same.

    The result goes to the first parameter that is not given by name, and arguments by position come after it; a step
    made by `si` takes none. A chain takes steps, or one iterable of them.
    """
    return Chain(steps[0] if len(steps) == 1 and not isinstance(steps[0], Canvas) else steps)


@overload
def group(members: Iterable[Group[A, M]], /) -> Group[A, M]: ...
@overload
def group(members: Iterable[Canvas[A, M]], /) -> Group[A, M]: ...
@overload
def group(*members: Group[A, M]) -> Group[A, M]: ...
@overload
def group(*members: Canvas[A, M]) -> Group[A, M]: ...
def group(*members: Any) -> Any:
    """Return a group: its members run side by side, and what comes next gets the list of their results, in order.

    It takes members, or one iterable of them; a group of none has ended at once, with an empty list. In a chain each
    member gets the result of the step before.
    """
    return Group(members[0] if len(members) == 1 and not isinstance(members[0], Canvas) else members)


def chord(header: Iterable[Canvas[A, M]] | Group[A, M], body: Canvas[list[M], B], /) -> Canvas[A, B]:
    """Return a group and what comes after it: `chord([a.s(1), a.s(2)], b.s())` is `group(a.s(1), a.s(2)) | b.s()`."""
    return Chain([header if isinstance(header, Canvas) else Group(header), body])
