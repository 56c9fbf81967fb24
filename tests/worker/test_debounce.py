"""A flood of notifications makes few calls, and the last one is never lost."""

import asyncio

from pgqueue.process.debounce import Debounced


def test_the_first_call_is_at_once_and_a_flood_becomes_one_more() -> None:
    async def body() -> None:
        calls: list[float] = []
        twice = asyncio.Event()
        loop = asyncio.get_running_loop()

        def call() -> None:
            calls.append(loop.time())
            if len(calls) == 2:
                twice.set()

        debounced = Debounced(call, 0.1)
        debounced()
        assert len(calls) == 1
        for _ in range(1000):
            debounced()
        assert len(calls) == 1
        await twice.wait()
        assert calls[1] - calls[0] > 0.09

    asyncio.run(body())
