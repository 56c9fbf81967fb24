"""`app.lock(…)`: one block at a time, a holder that is named, a lock that lives as long as its block."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

import pgqueue
from pgqueue import (
    App,
    ConfigError,
    InvalidOption,
    LockHeld,
    LockLost,
    NamedLock,
    UnknownLock,
    codecs,
    testing,
)
from pgqueue.client import named_lock
from pgqueue.client.actor import who
from pgqueue.queries.locks import Look
from tests.conftest import eventually, scalar
from tests.harness import Conn, InThread, Proxy, wait_for

ROWS = "select count(*) from pgqueue.named_lock"
WAITED = "select waited_until > now() from pgqueue.named_lock"
RENEWED = "select expires_at > acquired_at + interval '1.8 s' from pgqueue.named_lock"
STOLEN = "update pgqueue.named_lock set expires_at = now() - interval '1 s'"


@pytest.fixture
def other(dsn: str) -> Iterator[App]:
    """The same app in another process, as far as the database knows."""
    app = App(dsn)
    yield app
    app.close()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Look]:
    """The looks of waiters: the first, one when the lock is listened for, one at each hint, and none by polling."""
    monkeypatch.setattr(named_lock, "FIRST_PAUSE", 3600.0)
    monkeypatch.setattr(named_lock, "LONGEST_PAUSE", 3600.0)
    looks: list[Look] = []
    judge = named_lock._Taking.judge

    def noting(taking: Any, look: Look) -> Any:
        looks.append(look)
        return judge(taking, look)

    monkeypatch.setattr(named_lock._Taking, "judge", noting)
    return looks


def test_a_lock_is_held_in_its_block_and_free_after_it(app: App, other: App, conn: Conn) -> None:
    with app.lock("sync:42", ttl=300) as lock:
        assert lock.held
        lock.check()
        assert repr(lock) == "<NamedLock 'sync:42' held>"
        with pytest.raises(LockHeld), other.lock("sync:42"):
            raise AssertionError("two hold it")
        with other.lock("sync:43"):
            assert scalar(conn, ROWS) == 2
    assert (lock.held, scalar(conn, ROWS)) == (False, 0)
    with pytest.raises(LockLost, match="its block has ended"):
        lock.check()
    with other.lock("sync:42") as next_one:
        assert next_one.token > lock.token


def test_a_lock_is_given_back_when_its_block_raises(app: App, conn: Conn) -> None:
    with pytest.raises(ZeroDivisionError), app.lock("k"):
        raise ZeroDivisionError
    assert scalar(conn, ROWS) == 0


def test_the_refusal_names_the_holder(app: App, other: App, conn: Conn) -> None:
    with app.lock("sync:42", ttl=300):
        until = scalar(conn, "select expires_at from pgqueue.named_lock")
        with pytest.raises(LockHeld) as refused, other.lock("sync:42"):
            pass
    error = refused.value
    assert (error.key, error.job_id, error.expires_at, error.waited) == ("sync:42", None, until, 0)
    assert error.holder.startswith(f"{who(None)} on ")
    assert error.holder.endswith(f":{os.getpid()}")
    assert str(error) == (
        f"lock 'sync:42' is held by {error.holder} until {until.isoformat(' ', 'seconds')}, and longer if it is renewed"
    )
    assert isinstance(error, pgqueue.Conflict)


def test_a_wait_ends_with_the_refusal_when_its_time_is_over(app: App, other: App) -> None:
    with app.lock("k"), pytest.raises(LockHeld, match=r"it was not free within 0\.\d+ s") as refused:
        other.lock("k", wait=0.3).__enter__()
    assert refused.value.waited >= 0.3


def test_a_release_wakes_the_waiter(app: App, other: App, looks: list[Look]) -> None:
    """With a pause of an hour between two looks nothing but the hint can have woken it."""

    def wait() -> int:
        with other.lock("k", wait=None) as lock:
            return lock.token

    with app.lock("k", ttl=3600) as held:
        waiter = InThread(wait)
        wait_for(lambda: len(looks) == 3)  # of the holder one
        assert not waiter.done
    assert waiter.result() > held.token


def test_a_release_wakes_the_waiter_in_an_event_loop(app: App, other: App, looks: list[Look]) -> None:
    async def scenario() -> None:
        async with app.lock("k", ttl=3600) as held:
            waiter = asyncio.create_task(wait())
            await eventually(lambda: len(looks) == 3)
            assert not waiter.done()
        assert await waiter > held.token
        await app.aclose()
        await other.aclose()

    async def wait() -> int:
        async with other.lock("k", wait=None) as lock:
            return lock.token

    asyncio.run(scenario())


def test_without_hints_a_waiter_looks_again_and_again(app: App, dsn: str, conn: Conn) -> None:
    """Behind PgBouncer nobody can listen."""
    other = App(dsn, pgbouncer=True)
    with app.lock("k"):
        waiter = InThread(lambda: other.lock("k", wait=None).__enter__())
        wait_for(lambda: scalar(conn, WAITED))
    lock = waiter.result()
    assert other.backend.lock_hints._thread is None
    lock.__exit__(None, None, None)
    other.close()


def test_a_waiter_stays_over_an_outage(
    app: App, other: App, conn: Conn, dsn: str, server_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = str(conninfo_to_dict(dsn)["dbname"])
    other.backend.pools._sync_pool().timeout = 0.2  # how long a look waits for a connection
    with app.lock("k", ttl=300), psycopg.connect(server_dsn, autocommit=True) as server:
        waiter = InThread(lambda: other.lock("k", wait=None).__enter__())
        wait_for(lambda: scalar(conn, WAITED))
        server.execute(sql.SQL("alter database {} with allow_connections false").format(sql.Identifier(name)))
        server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        wait_for(lambda: "waiting for lock 'k' goes on" in caplog.text)
        server.execute(sql.SQL("alter database {} with allow_connections true").format(sql.Identifier(name)))
        assert not waiter.done
    heir = waiter.result()
    assert heir.held
    heir.__exit__(None, None, None)


def test_of_many_waiters_one_at_a_time_has_the_lock_and_all_get_it(app: App, other: App) -> None:
    inside, most, tokens = 0, 0, []

    def use(which: App) -> None:
        nonlocal inside, most
        for _ in range(3):
            with which.lock("k", wait=None) as lock:
                inside += 1
                most = max(most, inside)
                tokens.append(lock.token)
                inside -= 1

    threads = [InThread(lambda which=which: use(which)) for which in (app, other) * 3]  # type: ignore[misc]
    for thread in threads:
        thread.result()
    assert (most, len(tokens)) == (1, 18)
    assert tokens == sorted(set(tokens))


def test_a_waiter_gets_the_lock_of_a_holder_that_died(app: App, other: App, conn: Conn) -> None:
    dead = app.lock("k", ttl=300)
    dead.__enter__()
    app.backend.lock_renewer.drop(dead._taken)  # as after a crash: nobody renews it
    waiter = InThread(lambda: other.lock("k", wait=None).__enter__())
    wait_for(lambda: scalar(conn, WAITED))
    conn.execute(STOLEN)
    heir: NamedLock = waiter.result()
    with pytest.raises(LockLost, match="another has taken it, or an operator"):
        dead.__exit__(None, None, None)
    assert heir.held
    assert scalar(conn, "select token from pgqueue.named_lock") == heir.token
    heir.__exit__(None, None, None)
    assert scalar(conn, ROWS) == 0


def test_a_lock_is_renewed_as_long_as_its_block_runs(app: App, other: App, conn: Conn) -> None:
    with app.lock("k", ttl=1) as lock:
        wait_for(lambda: scalar(conn, RENEWED))
        with pytest.raises(LockHeld), other.lock("k"):
            pass
        lock.check()


def test_a_lock_is_renewed_while_its_event_loop_is_blocked(app: App, conn: Conn) -> None:
    async def scenario() -> None:
        async with app.lock("k", ttl=1) as lock:
            wait_for_in_this_thread(lambda: scalar(conn, RENEWED))
            lock.check()
        await app.aclose()

    asyncio.run(scenario())


def wait_for_in_this_thread(condition: Any) -> None:
    """Wait without giving the event loop a turn."""
    ended = threading.Event()
    for _ in range(3000):
        if condition():
            return
        ended.wait(0.01)
    raise AssertionError("it did not come true")


def test_many_locks_are_renewed_by_one_thread_that_ends_with_the_app(app: App, conn: Conn) -> None:
    every = "select bool_and(expires_at > acquired_at + interval '1.2 s') from pgqueue.named_lock"
    before = set(threading.enumerate())
    locks = [app.lock(f"k{n}", ttl=1) for n in range(30)]
    for lock in locks:
        lock.__enter__()
    wait_for(lambda: scalar(conn, every))
    (thread,) = {one for one in threading.enumerate() if one.name == "pgqueue-locks"} - before
    for lock in locks:
        lock.check()
        lock.__exit__(None, None, None)
    app.close()
    assert not thread.is_alive()


def test_closing_the_app_leaves_a_lock_to_the_end_of_its_block(app: App, conn: Conn) -> None:
    with app.lock("k", ttl=1):
        app.close()
        wait_for(lambda: scalar(conn, RENEWED))
    assert scalar(conn, ROWS) == 0


def test_a_holder_whose_lock_was_released_by_an_operator_learns_of_it(app: App, other: App, conn: Conn) -> None:
    def block() -> None:
        with app.lock("k", ttl=1) as lock:
            tokens.append(lock.token)
            assert other.locks.release("k").token == lock.token
            wait_for(lambda: not lock.held)
            with pytest.raises(LockLost):
                lock.check()

    tokens: list[int] = []
    with pytest.raises(LockLost, match="an operator has released it") as lost:
        block()
    assert (lost.value.key, [lost.value.token]) == ("k", tokens)


def test_the_error_of_a_block_that_lost_its_lock_gets_a_note(app: App, other: App) -> None:
    def block() -> None:
        with app.lock("k"):
            other.locks.release("k")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        block()
    (note,) = raised.value.__notes__
    assert note.startswith("pgqueue: lock 'k' with token ")


def test_a_holder_without_database_learns_that_its_lock_may_be_anothers(app: App, dsn: str, server_dsn: str) -> None:
    name = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(server_dsn, autocommit=True) as server:

        def block() -> None:
            with app.lock("k", ttl=1) as lock:
                app.backend.pools._sync_pool().timeout = 0.5  # how long the release waits for a connection
                server.execute(sql.SQL("alter database {} with allow_connections false").format(sql.Identifier(name)))
                server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
                wait_for(lambda: not lock.held)
                with pytest.raises(LockLost):
                    lock.check()

        with pytest.raises(LockLost, match=r"could not be renewed within its 1 s"):
            block()
        server.execute(sql.SQL("alter database {} with allow_connections true").format(sql.Identifier(name)))


def test_a_lock_survives_a_lost_connection(app: App, conn: Conn) -> None:
    with app.lock("k", ttl=2) as lock:
        wait_for(lambda: scalar(conn, "select expires_at > acquired_at + interval '2.5 s' from pgqueue.named_lock"))
        ours = (
            "select pid from pg_stat_activity where application_name = 'pgqueue locks' and datname = current_database()"
        )
        assert scalar(conn, f"select count(pg_terminate_backend(pid)) from ({ours}) as o") == 1
        before = scalar(conn, "select expires_at from pgqueue.named_lock")
        wait_for(lambda: scalar(conn, "select expires_at > %s from pgqueue.named_lock", before))
        lock.check()
    assert scalar(conn, ROWS) == 0


def test_a_release_that_fails_is_made_up_for(app: App, conn: Conn) -> None:
    with app.lock("k", ttl=300):
        conn.execute("alter table pgqueue.named_lock rename to gone")
    conn.execute("alter table pgqueue.gone rename to named_lock")
    wait_for(lambda: scalar(conn, ROWS) == 0)


def test_a_lock_whose_answer_was_lost_does_not_stay(dsn: str, conn: Conn) -> None:
    """The statement has committed, and its caller does not know."""
    with Proxy.before(dsn, b"named_lock") as proxy:
        app = App(proxy.dsn)
        with pytest.raises(psycopg.OperationalError):
            app.lock("k", ttl=300).__enter__()
        assert proxy.cut.is_set()
        assert scalar(conn, "select is_called from pgqueue.lock_token")
        wait_for(lambda: scalar(conn, ROWS) == 0)
        app.close()


def test_a_cancelled_taker_leaves_no_lock_behind(app: App, conn: Conn, connect: Any) -> None:
    """It is cancelled while its statement waits; whether that has taken the lock nobody knows."""

    async def scenario() -> None:
        first = connect()
        first.execute(
            "insert into pgqueue.named_lock (key, owner, token, holder, expires_at)"
            " values ('k', gen_random_uuid(), 1, 'h', now())"
        )
        taker = asyncio.create_task(app.lock("k").__aenter__())
        blocked = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        await eventually(lambda: scalar(conn, blocked) == 1)
        taker.cancel()
        first.rollback()
        with pytest.raises(asyncio.CancelledError):
            await taker
        await eventually(lambda: scalar(conn, ROWS) == 0)
        await app.aclose()

    asyncio.run(scenario())


def test_a_block_that_is_cancelled_while_it_gives_its_lock_back_gives_it_back_all_the_same(
    app: App, conn: Conn, connect: Any
) -> None:
    async def scenario() -> None:
        keeper = connect()

        async def block() -> None:
            async with app.lock("k", ttl=300):
                keeper.execute("select from pgqueue.named_lock for update")

        holder = asyncio.create_task(block())
        blocked = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        await eventually(lambda: scalar(conn, blocked) == 1)
        holder.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holder
        assert scalar(conn, ROWS) == 1
        keeper.rollback()
        await eventually(lambda: scalar(conn, ROWS) == 0)
        await app.aclose()

    asyncio.run(scenario())


def test_a_waiter_that_is_cancelled_takes_nothing(app: App, other: App, conn: Conn) -> None:
    async def scenario() -> None:
        async with app.lock("k"):
            waiter = asyncio.create_task(other.lock("k", wait=None).__aenter__())
            await eventually(lambda: scalar(conn, WAITED))
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert other.backend.lock_hints._waiters == {}
        assert scalar(conn, ROWS) == 0
        await app.aclose()
        await other.aclose()

    asyncio.run(scenario())


def test_a_lock_for_one_block_is_for_one_block(app: App) -> None:
    lock = app.lock("k")
    with pytest.raises(ConfigError, match="is not taken"):
        _ = lock.token
    assert not lock.held
    with lock:
        pass
    with pytest.raises(ConfigError, match="for one block"):
        lock.__enter__()


@pytest.mark.parametrize(
    "options",
    [
        {"key": ""}, {"key": "x" * 201}, {"key": "a\nb"}, {"key": 5}, {"ttl": 0}, {"ttl": 0.5}, {"ttl": None},
        {"ttl": float("nan")}, {"ttl": 1e9}, {"ttl": "60"}, {"wait": -1}, {"wait": float("inf")}, {"wait": True},
    ],
)  # fmt: skip
def test_what_cannot_be_a_lock_is_refused_and_nothing_is_written(app: App, conn: Conn, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        app.lock(**({"key": "k"} | options))
    assert scalar(conn, ROWS) == 0


def test_a_role_with_another_isolation_level_loses_races_as_others_do(dsn: str, conn: Conn, connect: Any) -> None:
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    conn.execute(sql.SQL("alter database {} set default_transaction_isolation = 'repeatable read'").format(name))
    app = App(dsn)
    first = connect()
    first.execute(
        "insert into pgqueue.named_lock (key, owner, token, holder, expires_at)"
        " values ('k', gen_random_uuid(), 1, 'the first', now() + interval '1 h')"
    )
    taker = InThread(lambda: app.lock("k").__enter__())
    blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    wait_for(lambda: scalar(conn, blocked) == 1)
    first.commit()
    with pytest.raises(LockHeld, match="held by the first"):
        taker.result()
    app.close()


def test_a_script_that_holds_waits_and_exits_leaves_nothing_and_waits_for_no_thread(dsn: str, conn: Conn) -> None:
    script = """
import sys, time
import pgqueue
app, other = pgqueue.App(sys.argv[1]), pgqueue.App(sys.argv[1])
with app.lock("k", ttl=1) as lock:
    first = lock._taken.deadline
    try:
        other.lock("k", wait=0.5).__enter__()
    except pgqueue.LockHeld:
        pass
    while lock._taken.deadline == first:
        time.sleep(0.01)
"""
    command = [sys.executable, "-W", "error", "-c", script, dsn]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert scalar(conn, ROWS) == 0


def in_child(app: App, lock: NamedLock) -> int:
    """What a forked child does with the lock of its parent, and with its own; 0 if all is as it should be."""
    try:
        lock.check()
        return 1
    except LockLost as error:
        if "forked" not in str(error):
            return 2
    lock.__exit__(None, None, None)
    try:
        with app.lock("k", wait=0.2):
            return 3
    except LockHeld:
        pass
    with app.lock("child", ttl=1) as own:
        first = own._taken.deadline
        wait_for(lambda: own._taken.deadline > first)  # its own thread renews it
    app.close()
    return 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_holds_no_lock_of_its_parent_and_gives_none_back(app: App, conn: Conn) -> None:
    with app.lock("k", ttl=2) as lock:
        first = lock._taken.deadline
        wait_for(lambda: lock._taken.deadline > first)  # so that the thread and its connection are there
        child = os.fork()
        if child == 0:
            code = 4
            try:
                code = in_child(app, lock)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert scalar(conn, ROWS) == 1
        lock.check()
    assert scalar(conn, ROWS) == 0


def test_a_codec_does_not_hide_keys(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=codecs.AESGCM({"a": os.urandom(32)}))
    with app.lock("sync:42"):
        assert scalar(conn, "select key from pgqueue.lock_status") == "sync:42"
    app.close()


def test_in_a_test_a_lock_is_taken_in_its_transaction_and_nobody_waits(app: App, conn: Conn) -> None:
    with testing.rolled_back(app):
        with app.lock("k") as lock:
            assert lock.held
            with pytest.raises(LockHeld), app.lock("k", wait=None):
                pass
        with app.lock("k") as again:
            assert again.token > lock.token
            assert scalar(conn, ROWS) == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pgqueue-lock")]


def test_operators_list_locks(app: App, other: App) -> None:
    with app.lock("mail"), app.lock("sync:1") as one:
        assert [lock.key for lock in other.locks.list()] == ["mail", "sync:1"]
        (found,) = other.locks.list("sync:*")
        assert (found.key, found.token, found.job_id, found.waited_for) == ("sync:1", one.token, None, False)
        assert datetime.now(UTC) > found.acquired_at
        assert [lock.key for lock in other.locks.list("mail")] == ["mail"]
    assert other.locks.list() == []


def test_operators_release_locks(app: App, other: App) -> None:
    mail, spam = app.lock("mail"), app.lock("spam")
    mail.__enter__()
    with spam:
        with pytest.raises(UnknownLock, match=f"nobody holds a lock 'mail' with token {spam.token}"):
            other.locks.release("mail", token=spam.token)
        assert mail.held
        assert asyncio.run(arelease(other, "mail", mail.token)).key == "mail"
        with pytest.raises(UnknownLock, match="nobody holds a lock 'mail': `pgqueue locks list`"):
            other.locks.release("mail")
        for token in (0, True, 2**63, "7"):
            with pytest.raises(InvalidOption):
                other.locks.release("spam", token=token)  # type: ignore[arg-type]
        with other.lock("mail"):
            pass
    with pytest.raises(LockLost):
        mail.__exit__(None, None, None)


async def arelease(app: App, key: str, token: int) -> Any:
    try:
        return await app.locks.arelease(key, token=token)
    finally:
        await app.aclose()
