"""Computing plans apart from the event loop, item by item, each within a budget of time."""

import asyncio
import ctypes
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from pgqueue.errors import InvalidPlan

T = TypeVar("T")
R = TypeVar("R")

BUDGET = 4.0  # seconds for one item; well within the deadline of a connection


class _OutOfTime(BaseException):
    """Raised in a thread whose item takes too long. No `except Exception` of a plan catches it."""


async def compute_each(function: Callable[[T], R], items: Sequence[T], seconds: float = BUDGET) -> list[R | Exception]:
    """Return for each item what the function returns of it, or the exception that says why there is nothing.

    The function runs in a thread, because a plan may take long, and nothing else of the process waits for it. An item
    that takes longer than `seconds` is given up with InvalidPlan, and the others go on.
    """
    results: list[R | Exception] = []
    while len(results) < len(items):
        results += await _Computation(function, items[len(results) :]).run(seconds)
    return results


class _Computation(Generic[T, R]):
    """A thread that computes items until one takes too long."""

    def __init__(self, function: Callable[[T], R], items: Sequence[T]) -> None:
        self._function = function
        self._items = items
        self._results: list[R | Exception] = []
        self._abandoned = False
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        # A thread of its own: nothing waits for it when the process ends, and no later work inherits its interruption.
        self._thread = threading.Thread(target=self._compute, name="pgqueue-plans", daemon=True)

    async def run(self, seconds: float) -> list[R | Exception]:
        """Return the results up to the end, or up to the item that took too long."""
        self._thread.start()
        computed = -1
        try:
            while len(self._results) > computed:
                computed = len(self._results)
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._done.wait()
                    return self._results
        finally:
            self._abandoned = True
        results = list(self._results)  # the thread may add another
        self._interrupt()
        return [*results, InvalidPlan(f"the plan takes longer than {seconds:g} s to compute: give another one")]

    def _compute(self) -> None:
        with suppress(_OutOfTime):
            self._compute_all()

    def _compute_all(self) -> None:
        for item in self._items:
            if self._abandoned:
                return
            try:
                result: R | Exception = self._function(item)
            except Exception as error:  # noqa: BLE001 - it is the result, and the caller decides
                result = error
            self._results.append(result)
        with suppress(RuntimeError):  # the event loop has been closed
            self._loop.call_soon_threadsafe(self._done.set)

    def _interrupt(self) -> None:
        """Raise an exception in the thread, which ends a loop of Python code that would never end."""
        thread = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_OutOfTime))
