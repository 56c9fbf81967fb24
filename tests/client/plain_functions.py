"""Functions without a decorator, which the tests of `App(functions_from=…)` enqueue."""

from os import getpid  # noqa: F401 - a function of another module, which no job may name
from textwrap import dedent  # noqa: F401 - likewise, and written in Python

from pgqueue import Context


def add(n: int, to: int = 1) -> int:
    return n + to


async def double(n: int) -> int:
    return 2 * n


def told(ctx: Context, task: str) -> str:
    return f"{ctx.task} {task} {ctx.max_attempts}"


def spread(*numbers: int) -> int:
    return sum(numbers)


def _private() -> None: ...


def outer() -> object:
    def inner() -> None: ...

    return inner


class Shop:
    def open(self) -> None: ...


nameless = lambda: None  # noqa: E731
