"""Threads for the tasks of a test: in a sync test async tasks run on an event loop in another thread, in an async test
sync tasks do.

A sync task that a sync test drains runs in the thread of the test, so that objects that frameworks keep by thread, such
as Django's connections, are the test's own.
"""

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from pgqueue.worker.running.calling import caught
from pgqueue.worker.running.threads import Result, Threads

T = TypeVar("T")
Main = Callable[[Threads], Coroutine[Any, Any, T]]


class InSideThread(Threads):
    """Makes calls in a thread beside the event loop: the one that asgiref keeps for them, if asgiref is imported."""

    def __init__(self) -> None:
        super().__init__(1)

    async def run(self, function: Callable[[], Any]) -> Result:
        """Call a function and wait for it."""
        asgiref = sys.modules.get("asgiref.sync")
        if asgiref is not None:
            result: Result = await asgiref.sync_to_async(caught, thread_sensitive=True)(function)
            return result
        return await asyncio.to_thread(caught, function)


class InTestThread(Threads):
    """Makes calls in the thread of the test, which serves them while the event loop runs in another thread."""

    def __init__(self) -> None:
        super().__init__(1)
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def run(self, function: Callable[[], Any]) -> Result:
        """Ask the test's thread to call a function, and wait for it."""
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        answer: asyncio.Future[Result] = loop.create_future()

        def call() -> None:
            loop.call_soon_threadsafe(answer.set_result, context.run(caught, function))

        self._calls.put(call)
        return await answer

    def serve(self) -> None:
        """Make the calls that come, until `finish`."""
        while (call := self._calls.get()) is not None:
            call()

    def finish(self) -> None:
        """End `serve`."""
        self._calls.put(None)


def from_sync(main: Main[T]) -> T:
    """Run a coroutine to its end on an event loop of its own. Sync tasks are called in this thread meanwhile."""
    asgiref = sys.modules.get("asgiref.sync")
    if asgiref is not None and not loop_runs():

        async def run() -> T:
            return await main(InSideThread())

        result: T = asgiref.async_to_sync(run)()  # so that Django's async ORM comes back to this thread, too
        return result
    here = InTestThread()
    with ThreadPoolExecutor(1, thread_name_prefix="pgqueue-test") as pool:
        done = pool.submit(asyncio.run, main(here))
        done.add_done_callback(lambda _: here.finish())
        here.serve()
        return done.result()


def loop_runs() -> bool:
    """Whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
