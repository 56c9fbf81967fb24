"""Keys at their edges: in which order they are taken, savepoints, time limits, options that a call leaves out."""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgqueue import App, DuplicateJob, IdempotencyConflict, InvalidOption, Task, Unique, db
from pgqueue.db.link import Link
from pgqueue.scheduler import SchedulerSettings, Ticker, declare
from tests.conftest import scalar
from tests.harness import QUERIES, WORKER, Conn, InThread, wait_blocked

JOBS = "select count(*) from pgqueue.job"
KEYS = "select count(*) from pgqueue.idempotency_key"
WINDOWED = Unique(window=60)
KEYED: list[dict[str, Any]] = [
    {"idempotency_key": "k"}, {"unique_key": "k"}, {"unique_key": "k", "unique": WINDOWED},
]  # fmt: skip
Open = Callable[[], Conn]


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def hashes(key: str) -> tuple[str, str]:
    """Return how a unique key of `ship` is stored: in idempotency_key, for its window, and in job_live."""
    alone = f"ship\n{key}".encode()
    return hashlib.sha256(b"\x00" + alone).hexdigest()[:32], hashlib.sha256(alone).hexdigest()


def test_batches_take_unique_keys_in_one_order_with_a_window_or_without(
    conn: Conn, connect: Open, ship: Task[[int], int]
) -> None:
    early = "a"
    late = next(
        f"b{n}" for n in range(100) if hashes(f"b{n}")[0] > hashes("a")[0] and hashes(f"b{n}")[1] < hashes("a")[1]
    )
    holder, batch, other = connect(), connect(), connect()
    ship.using(holder, unique_key=late).enqueue(1)
    keys = [early, late]
    waiting = InThread(lambda: ship.using(batch, unique_key=keys, unique=WINDOWED).enqueue_many([{"n": 1}] * 2))
    wait_blocked(conn, batch, holder)
    other.execute("set lock_timeout = '1ms'")
    assert not ship.using(other, unique_key=early).enqueue(1).existing  # the batch has not taken this key yet
    other.rollback()
    holder.rollback()
    assert len(waiting.result()) == 2


def test_keys_that_are_over_are_freed_in_the_order_in_which_a_batch_takes_them(
    conn: Conn, connect: Open, ship: Task[[int], int]
) -> None:
    window, alone = hashes("a")
    early = next(f"b{n}" for n in range(100) if hashes(f"b{n}")[0] > window and hashes(f"b{n}")[1] < alone)
    keys = ship.using(unique_key=[early, "a"], unique=WINDOWED)
    keys.enqueue_many([{"n": 1}] * 2)
    conn.execute("delete from pgqueue.job_live")
    conn.execute("update pgqueue.idempotency_key set expires_at = now()")
    holder, batch, other = connect(), connect(), connect()
    lock = "select from pgqueue.idempotency_key where key = %s::uuid for update nowait"
    holder.execute(lock, (hashes(early)[0],))
    freeing = InThread(lambda: ship.using(batch, unique_key=[early, "a"], unique=WINDOWED).enqueue_many([{"n": 1}] * 2))
    wait_blocked(conn, batch, holder)
    other.execute(lock, (window,))  # the batch has not taken this key yet
    other.rollback()
    holder.rollback()
    assert len(freeing.result()) == 2


# Statistics by which few jobs have not begun and few windows have ended, so that the planner would begin with those.
RARE = """
insert into pgqueue.job_live (task, queue, attempt) select 't', 'q', 1 from generate_series(1, 300);
insert into pgqueue.idempotency_key (key, job_id, expires_at)
select gen_random_uuid(), i, 'infinity' from generate_series(1, 1000) as i;
analyze pgqueue.job_live, pgqueue.idempotency_key;
delete from pgqueue.job_live;
delete from pgqueue.idempotency_key"""
OVER_KEYS = "update pgqueue.idempotency_key set expires_at = now() where key = %s::uuid"


@pytest.mark.parametrize("unique", [Unique(on_conflict="replace"), WINDOWED], ids=["replaced", "freed"])
def test_rows_are_locked_in_the_order_of_the_keys_whatever_the_statistics_say(
    conn: Conn, connect: Open, ship: Task[[int], int], unique: Unique
) -> None:
    for statement in RARE.split(";"):
        conn.execute(statement)
    first, second = sorted(("a", "b"), key=lambda key: hashes(key)[1])
    ids = {key: ship.using(unique_key=key, unique=unique).enqueue(1).id for key in (second, first)}
    if unique is WINDOWED:
        for key in (second, first):  # in the order of the table
            conn.execute(OVER_KEYS, (hashes(key)[0],))
        conn.execute("delete from pgqueue.job_live")
        lock = "select from pgqueue.idempotency_key where key = %s::uuid for update nowait"
        rows = {key: hashes(key)[0] for key in ids}
    else:
        lock, rows = "select from pgqueue.job_live where id = %s for update nowait", {k: str(i) for k, i in ids.items()}
    holder, batch, other = connect(), connect(), connect()
    holder.execute(lock, (rows[first],))
    keyed = ship.using(batch, unique_key=[second, first], unique=unique)
    waiting = InThread(lambda: keyed.enqueue_many([{"n": 2}] * 2))
    wait_blocked(conn, batch, holder)
    other.execute(lock, (rows[second],))  # the batch has not locked this one yet
    other.rollback()
    holder.rollback()
    assert len(waiting.result()) == 2


def test_batches_that_replace_in_opposite_order_do_not_deadlock(ship: Task[[int], int]) -> None:
    barrier = threading.Barrier(4)
    failed: list[Exception] = []
    uniques = [Unique(on_conflict="replace", window=window) for window in (None, 60, None, 60)]
    ship.using(unique=Unique(window=60)).enqueue_many([{"n": n} for n in range(300)])

    def enqueue(unique: Unique, step: int) -> None:
        try:
            for _ in range(5):
                barrier.wait()
                ship.using(unique=unique).enqueue_many([{"n": n} for n in range(300)][::step])
        except (psycopg.Error, threading.BrokenBarrierError) as error:
            failed.append(error)
            barrier.abort()  # the others would wait for this thread

    for thread in [InThread(lambda u=u, at=at: enqueue(u, (1, 1, -1, -1)[at])) for at, u in enumerate(uniques)]:
        thread.result()
    assert failed == []


def test_a_batch_of_several_chunks_is_all_or_none_and_knows_its_duplicates(
    conn: Conn, connect: Open, ship: Task[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.client.chunks.CHUNK", 2)
    outside = ship.using(idempotency_key="k3").enqueue(3)
    borrowed = connect()
    keyed = ship.using(borrowed, idempotency_key=lambda n: f"k{n}")
    ids = keyed.enqueue_many({"n": n} for n in (5, 3, 1, 5, 4, 2, 1, 3))
    assert (ids[1], ids[7], ids[3], ids[6]) == (outside.id, outside.id, ids[0], ids[2])
    assert len(set(ids)) == 5
    borrowed.rollback()
    ship.using(borrowed).enqueue(9)
    with pytest.raises(IdempotencyConflict, match=f"'k3' of task ship .* by job {outside.id}"):
        ship.using(borrowed, idempotency_key=[f"k{n}" for n in range(8)]).enqueue_many({"n": 0} for _ in range(8))
    borrowed.commit()
    assert (scalar(conn, JOBS), scalar(conn, KEYS)) == (2, 1)


@pytest.mark.parametrize("options", KEYED, ids=str)
def test_a_savepoint_that_is_rolled_back_gives_the_key_to_the_one_that_waits(
    conn: Conn, connect: Open, ship: Task[[int], int], options: dict[str, Any]
) -> None:
    a, b = connect(), connect()
    with a.transaction():
        with a.transaction() as savepoint:
            ship.using(a, **options).enqueue(1)
            waiting = InThread(lambda: ship.using(b, **options).enqueue(1))
            wait_blocked(conn, b, a)
            raise psycopg.Rollback(savepoint)
        late = waiting.result()  # while the outer transaction is still open
        assert not late.existing
        again = InThread(lambda: ship.using(a, **options).enqueue(1))
        wait_blocked(conn, a, b)
        b.commit()
        assert (again.result().id, again.result().existing) == (late.id, True)
    assert scalar(conn, JOBS) == 1


@pytest.mark.parametrize("options", [*KEYED, {"unique_key": "held", "on_conflict": "replace"}], ids=str)
def test_the_callers_lock_timeout_bounds_each_wait(
    app: App, connect: Open, ship: Task[[int], int], options: dict[str, Any]
) -> None:
    ship.using(unique_key="held").enqueue(1)
    a, b = connect(), connect()
    ship.using(a, **options).enqueue(2)
    b.execute("set lock_timeout = '5ms'; commit")
    call = ", ".join(f"{name} => '{value}'" for name, value in options.items() if isinstance(value, str))
    with pytest.raises(psycopg.errors.LockNotAvailable, match="lock timeout"), b.transaction():
        b.execute(f"select pgqueue.enqueue('ship', '{{\"n\": 2}}', {call})".encode())
    with pytest.raises(psycopg.errors.LockNotAvailable, match="lock timeout"), b.transaction():
        ship.using(b, **options).enqueue(2)
    many = options | {name: [value] for name, value in options.items() if name.endswith("_key")}
    with pytest.raises(psycopg.errors.LockNotAvailable, match="lock timeout"):
        ship.using(b, **many).enqueue_many([{"n": 2}])
    b.execute("select 1")  # a batch has a savepoint of its own


def test_a_job_met_by_skipping_may_start_before_the_commit_and_a_replaced_one_may_not(
    app: App, connect: Open, ship: Task[[int], int]
) -> None:
    first = ship.using(unique_key="k").enqueue(1)
    a, worker = connect(), connect()
    for on_conflict, started in (("replace", []), ("skip", [first.id])):
        assert ship.using(a, unique_key="k", on_conflict=on_conflict).enqueue(2).id == first.id  # type: ignore[arg-type]
        assert [job.id for job in db.run(worker, QUERIES.jobs.claim(WORKER, {"default": 9}, 9))] == started
        a.commit()


OVER = "update pgqueue.job_live set expires_at = now() - interval '1 second' where expires_at is not null"


@pytest.mark.parametrize("on_conflict", ["skip", "replace", "raise"])
@pytest.mark.parametrize("while_", ["pending", "live"])
@pytest.mark.parametrize("verb", ["enqueue", "enqueue_many", "sql"])
def test_a_job_that_has_expired_keeps_no_other_out(
    conn: Conn, ship: Task[[int], int], verb: str, while_: Any, on_conflict: Any
) -> None:
    first = ship.using(unique_key="k", unique=Unique(while_=while_), expires=60).enqueue(1)
    conn.execute(OVER)  # and no sweeper has run
    keyed = ship.using(unique_key="k", unique=Unique(while_=while_, on_conflict=on_conflict))
    if verb == "enqueue":
        assert not keyed.enqueue(2).existing
    elif verb == "enqueue_many":
        assert keyed.enqueue_many([{"n": 2}]) != [first.id]
    else:
        call = f"unique_key => 'k', unique_while => '{while_}', on_conflict => '{on_conflict}'"
        assert scalar(conn, f"select pgqueue.enqueue('ship', '{{\"n\": 2}}', {call})") != first.id
    assert [job.id for job in db.run(conn, QUERIES.jobs.expire(9))] == [first.id]
    assert [job.args for job in db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 9}, 9))] == ['{"n": 2}']


@pytest.mark.parametrize(("end", "existing"), [("commit", True), ("rollback", False)])
def test_two_that_meet_a_job_that_has_expired_leave_one_waiting(
    conn: Conn, connect: Open, ship: Task[[int], int], end: str, existing: bool
) -> None:
    ship.using(unique_key="k", expires=60).enqueue(1)
    conn.execute(OVER)
    a, b = connect(), connect()
    second = ship.using(a, unique_key="k").enqueue(2)
    waiting = InThread(lambda: ship.using(b, unique_key="k").enqueue(2))
    wait_blocked(conn, b, a)
    getattr(a, end)()
    assert (waiting.result().existing, waiting.result().id == second.id) == (existing, existing)
    b.commit()
    assert scalar(conn, "select count(*) from pgqueue.job where args->>'n' = '2'") == 1


def test_who_frees_the_key_of_an_expired_job_waits_for_the_sweeper(
    conn: Conn, connect: Open, ship: Task[[int], int]
) -> None:
    ship.using(unique_key="k", expires=60).enqueue(1)
    conn.execute(OVER)
    sweeper, b = connect(), connect()
    assert len(db.run(sweeper, QUERIES.jobs.expire(9))) == 1
    waiting = InThread(lambda: ship.using(b, unique_key="k").enqueue(2))
    wait_blocked(conn, b, sweeper)
    sweeper.commit()
    assert not waiting.result().existing


@pytest.mark.parametrize("asynchronous", [False, True])
def test_pipelines_in_autocommit(dsn: str, conn: Conn, ship: Task[[int], int], asynchronous: bool) -> None:
    windowed: dict[str, Any] = {"unique_key": "k", "unique": WINDOWED}

    async def with_async() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as own, own.pipeline():
            for options in ({"idempotency_key": "k"}, windowed):
                assert not (await ship.using(own, **options).aenqueue(1)).existing
                assert (await ship.using(own, **options).aenqueue(1)).existing
            with pytest.raises(IdempotencyConflict):
                await ship.using(own, idempotency_key=["a", "k"]).aenqueue_many([{"n": 2}] * 2)
            with pytest.raises(DuplicateJob):
                await ship.using(own, **windowed, on_conflict="raise").aenqueue(1)
            await own.execute("select 1")

    def with_sync() -> None:
        with psycopg.connect(dsn, autocommit=True) as own, own.pipeline():
            for options in ({"idempotency_key": "k"}, windowed):
                assert not ship.using(own, **options).enqueue(1).existing
                assert ship.using(own, **options).enqueue(1).existing
            with pytest.raises(IdempotencyConflict):
                ship.using(own, idempotency_key=["a", "k"]).enqueue_many([{"n": 2}] * 2)
            with pytest.raises(DuplicateJob):
                ship.using(own, **windowed, on_conflict="raise").enqueue(1)
            own.execute("select 1")

    asyncio.run(with_async()) if asynchronous else with_sync()
    assert (scalar(conn, JOBS), scalar(conn, KEYS)) == (2, 2)


def test_a_key_made_of_arguments_counts_a_default_as_given(app: App) -> None:
    @app.task(name="whole", idempotent=True)
    def whole(a: int = 5, b: float = 1, c: int = None, d: bytes = b"x") -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    @app.task(name="one", unique=Unique(by="a"))
    def one(a: int = 5, b: str = "x") -> None: ...

    first = whole.enqueue()
    same = [{"a": 5}, {"b": 1}, {"b": 1.0, "d": b"x"}, {}]
    assert {whole.enqueue(**call).id for call in same} == {first.id} == set(whole.enqueue_many(same))  # type: ignore[arg-type]
    assert app.enqueue("whole", {"a": 5}).id == first.id
    assert not whole.enqueue(c=5).existing
    assert [one.enqueue().existing, one.enqueue(5).existing, one.enqueue(6).existing] == [False, True, False]


def test_true_and_one_are_two_requests_in_a_batch(app: App) -> None:
    either = app.task(name="either")(lambda value: None)
    with pytest.raises(IdempotencyConflict, match="in the same call"):
        either.using(idempotency_key=["k", "k"]).enqueue_many([{"value": 1}, {"value": True}])


NOTHING: list[tuple[Callable[[App, Task[[int], int]], object], str]] = [
    (lambda app, ship: ship.using(on_conflict="raise"), "on_conflict goes with unique_key"),
    (lambda app, ship: ship.using(idempotency_key="k", on_conflict="raise"), "on_conflict goes with unique_key"),
    (lambda app, ship: ship.using(idempotency_window=60), "idempotency_window goes with"),
    (lambda app, ship: app.using(on_conflict="raise").enqueue("other"), "on_conflict goes with unique_key"),
    (lambda app, ship: app.using(idempotency_window=60).enqueue("ship", {"n": 1}), "idempotency_window goes with"),
    (lambda app, ship: app.using(unique=Unique(by="m")).enqueue("other", {"n": 1}), "names m: no argument of this"),
]


@pytest.mark.parametrize(("make", "said"), NOTHING, ids=range(len(NOTHING)))
def test_what_would_be_passed_over_in_silence_is_refused(
    app: App, conn: Conn, ship: Task[[int], int], make: Callable[[App, Task[[int], int]], object], said: str
) -> None:
    with pytest.raises(InvalidOption, match=said):
        make(app, ship)
    assert scalar(conn, JOBS) == 0


def test_a_task_may_have_a_window_for_the_keys_of_calls(app: App, conn: Conn) -> None:
    task = app.task(name="t", idempotency_window=60)(lambda: None)
    assert [task.enqueue().existing, task.using(idempotency_key="k").enqueue().existing] == [False, False]
    assert scalar(conn, "select expires_at - created_at = '1 min' from pgqueue.idempotency_key")


def test_a_schedule_fires_each_tick_whatever_its_task_says_of_keys(app: App, conn: Conn) -> None:
    app.schedule(3600, misfire="all(2)")(app.task(name="unique", unique=Unique(while_="live"))(lambda: None))
    app.schedule(3600, misfire="all(2)")(app.task(name="idempotent", idempotent=True)(lambda: None))

    async def fire() -> int:
        link = Link(app.database, "test")
        try:
            await declare(app, link)
            # Three ticks are due, or four where the hour has just begun: in both cases the last two fire.
            conn.execute("update pgqueue.schedule set next_tick = next_tick - interval '3 hours'")
            return await Ticker(app, link, SchedulerSettings()).fire()
        finally:
            await link.close()

    assert asyncio.run(fire()) == 2  # schedules
    assert scalar(conn, JOBS) == 4
