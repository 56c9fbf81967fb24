"""Threads for tasks: one for each call while calls are long, few for many calls while they are short."""

import asyncio
import contextvars
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from pgqueue.worker.running.calling import caught
from pgqueue.worker.running.django_connections import call_with_fresh

log = logging.getLogger("pgqueue.worker")
Result: TypeAlias = tuple[Any, BaseException | None]
SHORT_SECONDS = 0.0002  # below this, waking a thread costs more than the call
MAX_WAIT_SECONDS = 0.005  # for which a call waits for a thread that is awake, before one is woken for it
NO_THREAD_SECONDS = 0.5  # before a thread is asked for again, where the system had none left
# Before Python 3.12 a pool counts a thread as idle after each call, also after one for which it counted none as taken.
# It would then never again start as many threads as it may.
KEPT_COUNTS_TWICE = sys.version_info < (3, 12)


@dataclass(slots=True, eq=False)
class _Call:
    """A function to call in a context, and the function that takes its result."""

    function: Callable[[], Any]
    context: contextvars.Context
    on_done: Callable[[Result], None]


class Threads:
    """At most `max_threads` threads. Each result is delivered on the event loop.

    Handing the interpreter from one thread to another takes longer than a short call. So, while recent calls were
    short, a new one is left to the threads that are awake. If those are busy for long after all, a thread is woken for
    each call that still waits.
    """

    def __init__(self, max_threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_threads, thread_name_prefix="pgqueue-job")
        self._lock = threading.Lock()
        self._todo: deque[_Call] = deque()
        self._awake = 0
        self._begun = 0  # how many calls have begun since the start
        self._typical = 1.0  # seconds that recent calls took
        self._done: deque[tuple[_Call, Result]] = deque()
        self._delivering = False
        self._closed = False
        self._kept = 0  # calls that the pool kept, of which it will count a thread as idle that does not exist
        self._wait_timer: asyncio.TimerHandle | None = None

    def submit(
        self, function: Callable[[], Any], context: contextvars.Context, on_done: Callable[[Result], None]
    ) -> None:
        """Call a function in a thread, and `on_done` with its result on this event loop."""
        self._loop = asyncio.get_running_loop()
        with self._lock:
            self._todo.append(_Call(function, context, on_done))
            left = self._awake > 0 and self._typical < SHORT_SECONDS
            self._awake += not left
        if not left:
            self._wake()
        elif self._wait_timer is None:
            self._wait_timer = self._loop.call_later(MAX_WAIT_SECONDS, self._wake_more, self._begun)

    async def run(self, function: Callable[[], Any]) -> Result:
        """Call a function in a thread, in a copy of this context, and wait for it."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def on_done(result: Result) -> None:
            if not answer.done():  # the waiting task may have been cancelled
                answer.set_result(result)

        self.submit(function, contextvars.copy_context(), on_done)
        return await answer

    def close(self) -> None:
        """End the threads that are idle. One that is in a call is left behind."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _wake_more(self, begun: int) -> None:
        """Wake a thread for each call that waits, if none has begun since `begun` was counted."""
        self._wait_timer = None
        with self._lock:
            waiting = len(self._todo)
            more = waiting if begun == self._begun else 0
        for _ in range(more):
            with self._lock:
                self._awake += 1
            if not self._wake():
                break
        if waiting and not more and self._wait_timer is None:
            self._wait_timer = self._loop.call_later(MAX_WAIT_SECONDS, self._wake_more, self._begun)

    def _wake(self) -> bool:
        """Let a thread work, which the pool starts if none is idle; return whether that could be done."""
        while self._kept and self._pool._idle_semaphore.acquire(blocking=False):
            self._kept -= 1
        try:
            self._pool.submit(self._work)
            return True
        except RuntimeError as error:  # the system has no thread left: the pool keeps this for one that is free
            self._kept += KEPT_COUNTS_TWICE
            if self._wait_timer is None and not self._closed:
                log.warning("jobs wait for a thread: %s", error)
                self._wait_timer = self._loop.call_later(NO_THREAD_SECONDS, self._wake_more, self._begun)
            return False

    def _work(self) -> None:
        """Run in a thread: make one call after the other until none waits."""
        while True:
            with self._lock:
                if not self._todo:
                    self._awake -= 1
                    return
                call = self._todo.popleft()
                self._begun += 1
            began = time.perf_counter()
            function = call.function
            if "django.apps" in sys.modules:
                function = partial(call_with_fresh, function)
            result = call.context.run(caught, function)
            self._typical += (time.perf_counter() - began - self._typical) / 8
            self._done.append((call, result))
            if not self._delivering:
                self._delivering = True
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False  # first: results that come from now on are delivered by another call
        try:
            for _ in range(len(self._done)):
                call, result = self._done.popleft()
                call.on_done(result)
        finally:
            if self._done:  # one raised: the others must be delivered all the same
                self._loop.call_soon(self._deliver)
