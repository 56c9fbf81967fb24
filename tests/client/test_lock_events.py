"""Process events of named locks: a wait that has ended, and a loss, each told once."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgqueue import App, LockHeld, LockLost, NamedLock, events, testing
from tests.conftest import drain, scalar
from tests.harness import Conn, InThread, wait_for

WAITED = "select waited_until > now() from pgqueue.named_lock"
GONE = "it was not renewed in time and another has taken it, or an operator has released it"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def other(dsn: str) -> Iterator[App]:
    """The same app in another process, as far as the database knows."""
    app = App(dsn)
    yield app
    app.close()


@pytest.fixture
def heard(app: App) -> list[Any]:
    """The events of locks that the app's listener has heard."""
    heard: list[Any] = []
    app.on(events.LockEvent)(heard.append)
    return heard


def held_while(lock: NamedLock, act: Callable[[], object]) -> None:
    with lock:
        act()


def test_a_lock_that_was_waited_for_tells_for_how_long(app: App, other: App, conn: Conn, heard: list[Any]) -> None:
    def wait() -> tuple[float, int]:
        began = time.monotonic()
        with app.lock("k", wait=None) as lock:
            assert len(heard) == 1  # before the block
            return time.monotonic() - began, lock.token

    with other.lock("k"):
        waiter = InThread(wait)
        wait_for(lambda: scalar(conn, WAITED))
        assert heard == []
    took, token = waiter.result()
    (event,) = heard
    assert event == events.LockWaited("k", token, None, event.seconds)
    assert 0 < event.seconds <= took + 0.001


def test_a_lock_that_an_event_loop_waited_for_tells_it_as_well(
    app: App, other: App, conn: Conn, heard: list[Any]
) -> None:
    async def scenario() -> int:
        async with app.lock("k", wait=None) as lock:
            assert [type(event) for event in heard] == [events.LockWaited]
        await app.aclose()
        return lock.token

    held = other.lock("k")
    held.__enter__()
    waiter = InThread(lambda: asyncio.run(scenario()))
    wait_for(lambda: scalar(conn, WAITED))
    held.__exit__(None, None, None)
    token = waiter.result()
    assert [event.token for event in heard] == [token]


def test_a_free_lock_tells_nothing_and_neither_does_one_that_is_refused(app: App, other: App, heard: list[Any]) -> None:
    with app.lock("k", wait=5):
        pass
    with other.lock("k"), pytest.raises(LockHeld):
        app.lock("k", wait=0.05).__enter__()
    assert heard == []


def test_a_loss_that_a_renewal_finds_is_told_at_once_and_not_again_at_the_end(
    app: App, other: App, heard: list[Any]
) -> None:
    def lose() -> None:
        other.locks.release("k")
        wait_for(lambda: len(heard) == 1)
        assert not lock.held

    lock = app.lock("k", ttl=1)
    with pytest.raises(LockLost):
        held_while(lock, lose)
    assert heard == [events.LockLost("k", lock.token, None, GONE)]


def test_a_loss_that_the_end_of_the_block_finds_is_told_then(app: App, other: App, heard: list[Any]) -> None:
    lock, failed = app.lock("k"), app.lock("failed")
    with pytest.raises(LockLost):
        held_while(lock, lambda: other.locks.release("k"))
    assert len(heard) == 1

    def fail() -> None:
        other.locks.release("failed")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        held_while(failed, fail)
    assert heard == [
        events.LockLost("k", lock.token, None, GONE),
        events.LockLost("failed", failed.token, None, GONE),
    ]


def test_a_loss_for_want_of_the_database_is_told(app: App, conn: Conn, heard: list[Any]) -> None:
    def lose() -> None:
        conn.execute("alter table pgqueue.named_lock rename to gone")
        lock._taken.deadline = 0.0  # as after five minutes

    lock = app.lock("k", ttl=300)
    with pytest.raises(LockLost):
        held_while(lock, lose)
    conn.execute("alter table pgqueue.gone rename to named_lock")
    assert heard == [events.LockLost("k", lock.token, None, "it could not be renewed within its 300 s")]
    conn.execute("delete from pgqueue.named_lock")


def test_a_listener_that_takes_long_holds_up_no_renewal(app: App, other: App, conn: Conn) -> None:
    called, go = threading.Event(), threading.Event()

    @app.on(events.LockLost)
    def slow(event: events.LockLost) -> None:
        called.set()
        assert go.wait(30)

    lost = app.lock("lost", ttl=1)
    with app.lock("kept", ttl=1) as kept:
        lost.__enter__()
        other.locks.release("lost")
        assert called.wait(30)
        deadline = kept._taken.deadline
        wait_for(lambda: kept._taken.deadline > deadline)
        assert not go.is_set()
        go.set()
        with pytest.raises(LockLost):
            lost.__exit__(None, None, None)


def test_the_event_names_the_job_whose_task_has_the_lock(app: App, other: App, conn: Conn, heard: list[Any]) -> None:
    @app.task(max_attempts=1)
    def sync() -> None:
        with app.lock("k"):
            other.locks.release("k")

    job = sync.enqueue()
    drain(app, conn)
    (event,) = heard
    assert (event.job_id, event.key, type(event)) == (job.id, "k", events.LockLost)


def test_in_a_test_a_lock_that_is_lost_tells_it_as_well(app: App, heard: list[Any]) -> None:
    with testing.rolled_back(app):
        lock = app.lock("k")
        with pytest.raises(LockLost):
            held_while(lock, lambda: app.locks.release("k"))
    assert heard == [events.LockLost("k", lock.token, None, GONE)]


def test_a_renewal_that_comes_back_after_the_end_of_the_block_tells_no_second_time(
    app: App, other: App, heard: list[Any]
) -> None:
    lock = app.lock("k")
    with pytest.raises(LockLost):
        held_while(lock, lambda: other.locks.release("k"))
    app.backend.lock_renewer._lost(lock._taken)
    with app.lock("kept") as kept:
        pass
    app.backend.lock_renewer._lost(kept._taken)  # its row was gone because the end had released it
    assert heard == [events.LockLost("k", lock.token, None, GONE)]
    assert not lock._taken.told  # by a renewal
    assert not kept._taken.told
