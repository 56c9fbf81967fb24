"""The tasks that are measured, and the app that has them: the same in the bench and in its worker."""

import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from pgqueue.app import App
from pgqueue.client.task import Task


class Ran:
    """How many bodies have run in this process."""

    count = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """An app over the bench's schema, and its tasks."""

    app: App
    nothing: Task[[int], Coroutine[Any, Any, None]]
    arrive: Task[[int], Coroutine[Any, Any, float]]


def build(dsn: str | None, schema: str) -> Measured:
    """Make the app. Without a DSN it is looked up as ever."""
    app = App(dsn, schema=schema)

    @app.task(name="bench.nothing")
    async def nothing(number: int) -> None:
        Ran.count += 1

    @app.task(name="bench.arrive")
    async def arrive(sent_ns: int) -> float:
        # Sender and worker are processes of one machine: they share the monotonic clock.
        waited = time.monotonic_ns() - sent_ns
        Ran.count += 1
        return waited / 1e6

    return Measured(app, nothing, arrive)
