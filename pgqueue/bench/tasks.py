"""The tasks that are measured, and their app: the same in the bench and in its worker."""

import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from pgqueue.app import App
from pgqueue.client.task import Task


class JobsRun:
    """How many jobs have run in this process."""

    count = 0


@dataclass(frozen=True, slots=True)
class BenchTasks:
    """An app on the bench's schema, and its tasks."""

    app: App
    nothing: Task[[int], Coroutine[Any, Any, None]]
    arrive: Task[[int], Coroutine[Any, Any, float]]


def build_tasks(dsn: str | None, schema: str) -> BenchTasks:
    """Make the app and its tasks. Without a DSN the app looks it up as any app does."""
    app = App(dsn, schema=schema)

    @app.task(name="bench.nothing")
    async def nothing(number: int) -> None:
        JobsRun.count += 1

    @app.task(name="bench.arrive")
    async def arrive(sent_ns: int) -> float:
        # Sender and worker are processes of one machine: they share the monotonic clock.
        waited = time.monotonic_ns() - sent_ns
        JobsRun.count += 1
        return waited / 1e6

    return BenchTasks(app, nothing, arrive)
