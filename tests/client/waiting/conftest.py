"""Waits without a clock, a task to wait for, and something that happens between two statements."""

from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, Task, db
from pgqueue.client import watched
from pgqueue.worker.duties import announcer, listener


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait polls: what ends a wait was an event."""
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE", "FOLLOWED_PAUSE"):
        monkeypatch.setattr(watched, name, 3600.0)
    monkeypatch.setattr(announcer, "CHECK_SECONDS", 3600.0)
    monkeypatch.setattr(listener, "PING_SECONDS", 3600.0)


@pytest.fixture
def add(app: App) -> Task[[int, int], Any]:
    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    return add  # type: ignore[return-value]


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, Callable[[db.AsyncConnection], Any]], None]:
    """Have something happen on the hub's own thread between the first statement of a kind and what follows it."""

    def install(kind: bytes, happen: Callable[[db.AsyncConnection], Any]) -> None:
        done: list[bool] = []
        run = db.run_async

        async def meddling(conn: db.AsyncConnection, query: Any) -> Any:
            answer = await run(conn, query)
            if kind in query.sql and not done:
                done.append(True)
                await happen(conn)
            return answer

        monkeypatch.setattr(db, "run_async", meddling)

    return install
