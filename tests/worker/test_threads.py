"""Threads for calls: enough of them while calls are long, few while they are short; each call is answered once."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pgqueue.worker.running.threads import Result, Threads
from tests.conftest import DEADLINE, eventually


def play(scenario: Callable[[Threads], Coroutine[Any, Any, Any]], most: int = 4) -> Any:
    """Run a scenario with threads of its own."""

    async def run() -> Any:
        threads = Threads(most)
        try:
            return await scenario(threads)
        finally:
            threads.close()

    return asyncio.run(run())


@pytest.mark.parametrize("short_before", [0, 500])
def test_long_calls_run_side_by_side_even_where_calls_were_short_before(short_before: int) -> None:
    async def scenario(threads: Threads) -> None:
        await asyncio.gather(*(threads.run(lambda: None) for _ in range(short_before)))
        together = threading.Barrier(4)
        answers = await asyncio.gather(*(threads.run(lambda: together.wait(DEADLINE)) for _ in range(4)))
        assert sorted(value for value, _ in answers) == [0, 1, 2, 3]
        assert [error for _, error in answers] == [None] * 4

    play(scenario)


def test_each_call_is_told_once_on_the_loop_in_its_own_context() -> None:
    loops = 2000
    mine = contextvars.ContextVar("mine", default=0)
    answered: list[int] = []

    def call(n: int) -> int:
        assert mine.get() == 0
        mine.set(n)
        return mine.get()

    async def scenario(threads: Threads) -> None:
        here = threading.get_ident()

        def tell(result: Result) -> None:
            assert threading.get_ident() == here
            answered.append(result[0])

        for n in range(loops):
            threads.submit(lambda n=n: call(n), contextvars.copy_context(), tell)  # type: ignore[misc]
        await eventually(lambda: len(answered) >= loops)

    play(scenario)
    assert sorted(answered) == list(range(loops))


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_whatever_a_call_raises_is_told_and_the_thread_goes_on(error: BaseException) -> None:
    def call() -> None:
        raise error

    async def scenario(threads: Threads) -> None:
        assert await threads.run(call) == (None, error)
        assert await threads.run(lambda: 7) == (7, None)

    play(scenario, most=1)


def test_one_that_cannot_be_told_does_not_keep_the_others_from_being_told() -> None:
    answered: list[int] = []

    def tell(result: Result) -> None:
        answered.append(result[0])
        if result[0] == 0:
            raise RuntimeError("the first is not heard")

    async def scenario(threads: Threads) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        begin = threading.Event()
        for n in range(20):
            threads.submit(lambda n=n: begin.wait(DEADLINE) and n, contextvars.copy_context(), tell)  # type: ignore[misc]
        begin.set()
        await eventually(lambda: len(answered) == 20)

    play(scenario, most=1)


def test_who_no_longer_waits_for_a_call_is_not_told() -> None:
    async def scenario(threads: Threads) -> None:
        ended = threading.Event()
        waits = asyncio.create_task(threads.run(lambda: ended.wait(DEADLINE)))
        await asyncio.sleep(0)
        waits.cancel()
        ended.set()
        assert await threads.run(lambda: 7) == (7, None)
        with pytest.raises(asyncio.CancelledError):
            await waits

    play(scenario, most=1)


@pytest.mark.parametrize("failures", [1, 3])
def test_a_call_for_which_no_thread_can_be_started_waits_for_one(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """The job stayed running under a living worker, in a slot that no code freed."""
    monkeypatch.setattr("pgqueue.worker.running.threads.NO_THREAD_SECONDS", 0.05)
    left, start = [None] * failures, threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("pgqueue-job") and left:
            left.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)

    async def scenario(threads: Threads) -> None:
        async with asyncio.timeout(DEADLINE):
            assert await asyncio.gather(*(threads.run(lambda n=n: n) for n in range(4))) == [  # type: ignore[misc]
                (n, None) for n in range(4)
            ]
            assert not left
            pool = threads._pool  # before Python 3.12 it now counts threads as idle that do not exist
            await eventually(lambda: threads._wait_timer is None and pool._work_queue.empty(), "calls all begun")
            await eventually(lambda: pool._idle_semaphore._value, "an idle thread")
            together = threading.Barrier(4)  # as many threads as before, and each call is still woken for
            answers = await asyncio.gather(*(threads.run(lambda: together.wait(DEADLINE)) for _ in range(4)))
            assert [error for _, error in answers] == [None] * 4

    play(scenario)
