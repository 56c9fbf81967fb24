"""Running calls in threads: one for each while calls are long, few for many while they are short."""

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

from pgqueue.worker.running.calling import caught

Result: TypeAlias = tuple[Any, BaseException | None]
SHORT = 0.0002  # seconds: below this, waking a thread costs more than the call
PATIENCE = 0.005  # seconds that a call waits for a thread that is awake, before one is woken for it


@dataclass(slots=True, eq=False)
class _Call:
    """What to call, in which context, and whom to tell."""

    function: Callable[[], Any]
    context: contextvars.Context
    tell: Callable[[Result], None]


class Threads:
    """At most `most` threads. What a call returned or raised is told on the event loop.

    Handing the interpreter from one thread to another takes longer than a short call. So, as long as calls have been
    short of late, a new one is left to the threads that are awake; if they are at something long after all, a thread is
    woken for each that still waits.
    """

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="pgqueue-job")
        self._lock = threading.Lock()
        self._todo: deque[_Call] = deque()
        self._awake = 0
        self._begun = 0  # how many calls were ever begun
        self._typical = 1.0  # how long calls took of late, in seconds
        self._done: deque[tuple[_Call, Result]] = deque()
        self._told = False
        self._guard: asyncio.TimerHandle | None = None

    def submit(self, function: Callable[[], Any], context: contextvars.Context, tell: Callable[[Result], None]) -> None:
        """Call a function in a thread. On the event loop, from where it is told."""
        self._loop = asyncio.get_running_loop()
        with self._lock:
            self._todo.append(_Call(function, context, tell))
            left = self._awake > 0 and self._typical < SHORT
            self._awake += not left
        if not left:
            self._pool.submit(self._work)
        elif self._guard is None:
            self._guard = self._loop.call_later(PATIENCE, self._look_after, self._begun)

    async def run(self, function: Callable[[], Any]) -> Result:
        """Call a function in a thread, in a copy of this context, and wait for it."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def tell(result: Result) -> None:
            if not answer.done():  # nobody waits any more
                answer.set_result(result)

        self.submit(function, contextvars.copy_context(), tell)
        return await answer

    def close(self) -> None:
        """Let go of the threads that idle. One that is at a call is left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _look_after(self, begun: int) -> None:
        """Wake a thread for each call that waits, if none was begun since the last look."""
        self._guard = None
        with self._lock:
            waiting = len(self._todo)
            more = waiting if begun == self._begun else 0
            self._awake += more
        for _ in range(more):
            self._pool.submit(self._work)
        if waiting and not more:
            self._guard = self._loop.call_later(PATIENCE, self._look_after, self._begun)

    def _work(self) -> None:
        """In a thread: make one call after the other until none waits."""
        while True:
            with self._lock:
                if not self._todo:
                    self._awake -= 1
                    return
                call = self._todo.popleft()
                self._begun += 1
            began = time.perf_counter()
            result = call.context.run(caught, call.function)
            self._typical += (time.perf_counter() - began - self._typical) / 8
            self._done.append((call, result))
            if not self._told:
                self._told = True
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False  # first: what is done from now on is told by another call
        try:
            for _ in range(len(self._done)):
                call, result = self._done.popleft()
                call.tell(result)
        finally:
            if self._done:  # one raised: the others must be told all the same
                self._loop.call_soon(self._tell)
