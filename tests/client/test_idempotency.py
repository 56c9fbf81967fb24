"""A key admits one job: under races, in bulk, after the job is gone; and a conflict leaves the transaction usable."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import (
    App,
    Context,
    IdempotencyConflict,
    InvalidOption,
    Job,
    JobState,
    SnapshotConflict,
    Snooze,
    Task,
    UnknownJob,
    db,
)
from pgqueue.events import JobEnqueued
from tests.callers import TRANSACTIONAL, Caller, on
from tests.conftest import drain, scalar, work
from tests.harness import QUERIES, Conn, InThread, wait_blocked

JOBS = "select count(*) from pgqueue.job"
KEYS = "select count(*) from pgqueue.idempotency_key"
KINDS = [*TRANSACTIONAL, "own", "own async", "psycopg autocommit", "psycopg async autocommit"]
Open = Callable[..., Conn]


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.mark.parametrize("kind", KINDS)
def test_a_repeat_returns_the_first_job_on_every_kind_of_connection(
    kind: str, dsn: str, app: App, conn: Conn, ship: Task[[int], int]
) -> None:
    async def body(caller: Caller) -> None:
        first = await caller.enqueue(ship.using(caller.conn, idempotency_key="k"), 1)
        again = await caller.enqueue(ship.using(caller.conn, idempotency_key="k"), 1)
        by_name = await caller.enqueue(app.using(caller.conn, idempotency_key="k"), "ship", {"n": 1})
        other = await caller.enqueue(ship.using(caller.conn, idempotency_key="l"), 1)
        assert (first.existing, again.existing, by_name.existing, other.existing) == (False, True, True, False)
        assert again.id == by_name.id == first.id != other.id
        assert (again.args, again.state, again.run_at) == (first.args, first.state, first.run_at)
        if not kind.startswith("own"):
            await caller.commit()
        assert [scalar(conn, query) for query in (JOBS, KEYS, "select count(*) from pgqueue.transition")] == [2, 2, 2]

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", [*TRANSACTIONAL, "psycopg autocommit"])
def test_a_conflict_raises_writes_nothing_and_leaves_the_transaction_usable(
    kind: str, dsn: str, app: App, conn: Conn, ship: Task[[int], int]
) -> None:
    async def body(caller: Caller) -> None:
        first = await caller.enqueue(ship.using(caller.conn, idempotency_key="k"), 1)
        with pytest.raises(IdempotencyConflict, match=f"'k' of task ship .* by job {first.id}") as caught:
            await caller.enqueue(ship.using(caller.conn, idempotency_key="k"), 2)
        assert caught.value.job_id == first.id
        with pytest.raises(IdempotencyConflict):
            await caller.enqueue_many(ship.using(caller.conn, idempotency_key=["a", "k", "b"]), [{"n": 5}] * 3)
        await caller.execute("select 1")
        await caller.commit()
        assert (scalar(conn, JOBS), scalar(conn, KEYS)) == (1, 1)

    on(kind, dsn, app, body)


@pytest.mark.parametrize(
    ("first", "second", "jobs"),
    [("commit", "commit", 1), ("commit", "rollback", 1), ("rollback", "commit", 1), ("rollback", "rollback", 0)],
)
def test_the_second_waits_for_the_first_and_somebody_wins(
    conn: Conn, connect: Open, ship: Task[[int], int], first: str, second: str, jobs: int
) -> None:
    a, b = connect(), connect()
    winner = ship.using(a, idempotency_key="k").enqueue(1)
    waiting = InThread(lambda: ship.using(b, idempotency_key="k").enqueue(1))
    wait_blocked(conn, b, a)
    getattr(a, first)()
    late: Job = waiting.result()
    assert late.existing is (first == "commit")
    assert (late.id == winner.id) is (first == "commit")
    assert b.execute("select 1").fetchone() == (1,)
    getattr(b, second)()
    assert scalar(conn, JOBS) == scalar(conn, KEYS) == jobs


def test_a_conflict_that_was_waited_for_leaves_the_transaction_usable(
    conn: Conn, connect: Open, ship: Task[[int], int]
) -> None:
    a, b = connect(), connect()
    ship.using(a, idempotency_key="k").enqueue(1)
    ship.using(b).enqueue(7)
    waiting = InThread(lambda: ship.using(b, idempotency_key="k").enqueue(2))
    wait_blocked(conn, b, a)
    a.commit()
    with pytest.raises(IdempotencyConflict):
        waiting.result()
    b.commit()
    assert scalar(conn, "select array_agg(args->>'n' order by id) from pgqueue.job") == ["1", "7"]


def test_a_bulk_waits_for_a_key_in_flight_and_takes_the_ids_in_place(
    conn: Conn, connect: Open, ship: Task[[int], int]
) -> None:
    old = ship.using(idempotency_key="old").enqueue(0)
    a, b = connect(), connect()
    held = ship.using(a, idempotency_key="k").enqueue(1)
    keys = ["old", "x", "k", None, "x", None]
    calls = [{"n": n} for n in (0, 3, 1, 4, 3, 4)]
    waiting = InThread(lambda: ship.using(b, idempotency_key=keys).enqueue_many(calls))
    wait_blocked(conn, b, a)
    a.commit()
    ids = waiting.result()
    b.commit()
    assert (ids[0], ids[2], ids[4]) == (old.id, held.id, ids[1])
    assert len(set(ids)) == 5
    rows = conn.execute("select (args->>'n')::int from pgqueue.job where id = any(%s) order by 1", (ids,)).fetchall()
    assert [n for (n,) in rows] == [0, 1, 3, 4, 4]


def test_bulks_with_the_same_keys_in_opposite_order_do_not_deadlock(
    dsn: str, conn: Conn, ship: Task[[int], int]
) -> None:
    barrier = threading.Barrier(4)
    keyed = ship.using(idempotency_key=lambda n: f"order-{n}")

    def enqueue(step: int) -> list[list[int]]:
        answers = []
        for low in range(0, 2000, 200):
            barrier.wait()
            ids = keyed.enqueue_many([{"n": n} for n in range(low, low + 200)][::step])
            answers.append(ids[::step])
        return answers

    answers = [thread.result() for thread in [InThread(lambda step=step: enqueue(step)) for step in (1, -1, 1, -1)]]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert scalar(conn, "select count(distinct args) from pgqueue.job") == scalar(conn, JOBS) == 2000


def test_the_same_key_twice_in_a_batch_with_other_arguments_is_refused_before_anything_is_written(
    conn: Conn, ship: Task[[int], int]
) -> None:
    with pytest.raises(IdempotencyConflict, match="in the same call"):
        ship.using(idempotency_key=["a", "b", "a"]).enqueue_many([{"n": 1}, {"n": 1}, {"n": 2}])
    assert scalar(conn, JOBS) == scalar(conn, KEYS) == 0


def test_a_key_belongs_to_one_task(app: App, ship: Task[[int], int]) -> None:
    assert not ship.using(idempotency_key="k").enqueue(1).existing
    assert not app.using(idempotency_key="k").enqueue("other", {"n": 1}).existing


def test_arguments_are_compared_by_value(app: App) -> None:
    assert not app.using(idempotency_key="k").enqueue("t", {"a": 1, "b": {"c": 1, "d": 2}}).existing
    assert app.using(idempotency_key="k").enqueue("t", {"b": {"d": 2, "c": 1}, "a": 1}).existing


def test_a_finished_job_is_returned_with_its_result_and_a_pruned_one_with_what_is_known(
    app: App, conn: Conn, ship: Task[[int], int]
) -> None:
    keyed = ship.using(idempotency_key="k")
    first = keyed.enqueue(4)
    drain(app, conn)
    again = keyed.enqueue(4)
    assert (again.id, again.state, again.result, again.existing) == (first.id, JobState.SUCCEEDED, 8, True)
    conn.execute("truncate pgqueue.job_finished, pgqueue.transition")
    gone = keyed.enqueue(4)
    assert (gone.id, gone.phase, gone.args, gone.existing) == (first.id, "pruned", {"n": 4}, True)
    assert gone.state.is_terminal
    with pytest.raises(IdempotencyConflict):
        keyed.enqueue(5)
    assert keyed.enqueue_many([{"n": 4}]) == [first.id]


def test_a_key_is_free_when_its_window_is_over_whether_it_was_pruned_or_not(
    app: App, conn: Conn, ship: Task[[int], int]
) -> None:
    keyed = ship.using(idempotency_key="k", idempotency_window=timedelta(hours=1))
    first = keyed.enqueue(1)
    left = "select extract(epoch from expires_at - created_at)::int from pgqueue.idempotency_key"
    assert scalar(conn, left) == 3600
    over = "update pgqueue.idempotency_key set created_at = now() - interval '2 h', expires_at = now() - interval '1 h'"
    conn.execute(over)
    second = keyed.enqueue(2)
    assert (second.existing, second.id != first.id) == (False, True)
    conn.execute(over)
    assert keyed.enqueue_many([{"n": 3}, {"n": 3}])[0] != second.id
    assert keyed.enqueue(3).existing


def test_a_worker_prunes_keys_that_are_over_and_leaves_others(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    conn.execute(
        "truncate pgqueue.idempotency_key"
    )  # dead rows of other tests leave gaps, and these rows would not lie together
    ship.using(idempotency_key=lambda n: str(n)).enqueue_many([{"n": n} for n in range(30)])
    conn.execute("update pgqueue.idempotency_key k set created_at = now() - interval '2 h', expires_at = now()"
                 " from pgqueue.job_live j where j.id = k.job_id and (j.args->>'n')::int < 20")  # fmt: skip
    asyncio.run(work(app, lambda: scalar(conn, KEYS) == 10))
    assert scalar(conn, "select bool_and(expires_at > now()) from pgqueue.idempotency_key")


def test_pruning_does_not_wait_for_who_holds_a_key(conn: Conn, connect: Open, ship: Task[[int], int]) -> None:
    ship.using(idempotency_key="k").enqueue(1)
    conn.execute("update pgqueue.idempotency_key set job_id = 16, expires_at = now()")  # a key that the query reads
    a, b = connect(), connect()
    assert not ship.using(a, idempotency_key="k").enqueue(2).existing
    b.execute("set local lock_timeout = '1ms'")
    pruned = db.run(b, QUERIES.jobs.prune_keys(3))
    assert pruned is not None
    assert pruned.deleted == 0
    a.rollback()
    assert db.run(conn, QUERIES.jobs.prune_keys(3)) == (pruned.at, 1)


def test_keys_are_pruned_in_small_batches_though_few_are_looked_at(conn: Conn, ship: Task[[int], int]) -> None:
    conn.execute("truncate pgqueue.idempotency_key")
    ship.using(idempotency_key=lambda n: str(n), idempotency_window=3600).enqueue_many({"n": n} for n in range(3000))
    ship.using(idempotency_key="new").enqueue(1)
    conn.execute("update pgqueue.idempotency_key set expires_at = now() where expires_at < now() + interval '2 h'")
    counts = []
    while (pruned := db.run(conn, QUERIES.jobs.prune_keys(3))) is not None:
        counts.append(pruned.deleted)
    assert max(counts) <= 500
    assert min(counts) > 0
    assert sum(counts) > 2900
    assert scalar(conn, f"{KEYS} where expires_at > now()") == 1


@pytest.mark.parametrize(("end", "existing"), [("commit", True), ("rollback", False)])
def test_two_that_want_an_expired_key_get_one_job(
    conn: Conn, connect: Open, ship: Task[[int], int], end: str, existing: bool
) -> None:
    ship.using(idempotency_key="k").enqueue(1)
    conn.execute("update pgqueue.idempotency_key set created_at = now() - interval '2 h', expires_at = now()")
    a, b = connect(), connect()
    winner = ship.using(a, idempotency_key="k").enqueue(2)
    waiting = InThread(lambda: ship.using(b, idempotency_key="k").enqueue(2))
    wait_blocked(conn, b, a)
    getattr(a, end)()
    assert (waiting.result().existing, waiting.result().id == winner.id) == (existing, existing)
    b.commit()
    assert (scalar(conn, JOBS), scalar(conn, KEYS)) == (2, 1)


def snapshot(conn: Conn, level: psycopg.IsolationLevel) -> None:
    conn.isolation_level = level
    conn.execute("select count(*) from pgqueue.job")


LEVELS = [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE]


@pytest.mark.parametrize("level", LEVELS)
def test_a_transaction_that_keeps_its_snapshot_finds_what_it_can_see(
    conn: Conn, connect: Open, ship: Task[[int], int], level: psycopg.IsolationLevel
) -> None:
    first = ship.using(idempotency_key="k").enqueue(1)
    a = connect()
    snapshot(a, level)
    assert ship.using(a, idempotency_key="k").enqueue(1).id == first.id
    assert not ship.using(a, idempotency_key="new").enqueue(1).existing
    assert ship.using(a, idempotency_key="new").enqueue(1).existing
    with pytest.raises(IdempotencyConflict):
        ship.using(a, idempotency_key="k").enqueue(2)
    a.commit()
    assert scalar(conn, JOBS) == 2


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_a_transaction_that_cannot_see_the_winner_is_told_and_stays_usable(
    conn: Conn, connect: Open, ship: Task[[int], int], level: psycopg.IsolationLevel, many: bool
) -> None:
    a = connect()
    snapshot(a, level)
    ship.using(a).enqueue(7)
    ship.using(idempotency_key="k").enqueue(1)
    keyed = ship.using(a, idempotency_key="k")
    with pytest.raises(SnapshotConflict, match="roll back and do it again") as caught:
        keyed.enqueue_many([{"n": 1}]) if many else keyed.enqueue(1)
    assert caught.value.sqlstate == "40001"
    a.execute("select 1")
    a.commit()
    assert scalar(conn, "select array_agg(args->>'n' order by id) from pgqueue.job") == ["7", "1"]


def test_a_connection_of_our_own_tries_again_until_it_sees_the_winner(
    conn: Conn, connect: Open, dsn: str, ship: Task[[int], int]
) -> None:
    a = connect()
    winner = ship.using(a, idempotency_key="k").enqueue(1)
    with psycopg.connect(dsn, autocommit=True, options="-c default_transaction_isolation=serializable") as own:
        waiting = InThread(lambda: ship.using(own, idempotency_key="k").enqueue(1))
        wait_blocked(conn, own, a)
        a.commit()
        assert waiting.result().id == winner.id


def test_an_idempotent_task_makes_its_keys_of_its_arguments(app: App, conn: Conn) -> None:
    @app.task(name="whole", idempotent=True)
    def whole(a: int, b: dict[str, int] | None = None) -> None: ...

    @app.task(name="some", idempotent=lambda a: f"a-{a:03}" if a else None, idempotency_window=60)
    def some(a: int = 5, b: str = "x") -> None: ...

    first = whole.enqueue(1, {"x": 1, "y": 2})
    assert whole.enqueue(a=1, b={"y": 2, "x": 1}).id == first.id
    assert not whole.enqueue(1, {"x": 1, "y": 3}).existing
    assert not some.enqueue(7).existing
    assert some.enqueue(7).existing
    assert [some.enqueue(0).existing, some.enqueue(0).existing] == [False, False]
    assert not some.enqueue().existing
    keys = "select array_agg(headers->>'idempotency_key' order by id) from pgqueue.job where task = 'some'"
    assert scalar(conn, keys) == ["a-007", None, None, "a-005"]
    some_keys = "from pgqueue.idempotency_key k join pgqueue.job j on j.id = k.job_id where j.task = 'some'"
    assert scalar(conn, f"select max(expires_at - k.created_at) = '1 min' {some_keys}")


def test_the_key_that_a_task_hands_on_is_the_same_on_each_attempt(app: App, conn: Conn) -> None:
    seen: dict[int, list[str]] = {}
    tries: list[str] = []

    @app.task(name="pay", retry=[0.0])
    def pay(ctx: Context, n: int) -> None:
        seen.setdefault(n, []).append(ctx.idempotency_key)
        tries.append(ctx.attempt_key)
        assert ctx.attempt_key.startswith(f"{ctx.idempotency_key}.")
        assert len(seen[n]) > 1

    pay.using(idempotency_key="order-42").enqueue(1)
    pay.enqueue_many([{"n": 2}, {"n": 3}])
    drain(app, conn)
    assert seen[1] == ["order-42"] * 2
    assert [len(set(keys)) for keys in seen.values()] == [1, 1, 1]
    assert len({keys[0] for keys in seen.values()}) == 3
    assert len(set(tries)) == len(tries) == 6


def test_attempts_with_the_same_number_have_keys_of_their_own(app: App, conn: Conn) -> None:
    seen: list[tuple[int, str]] = []

    @app.task(name="pay")
    def pay(ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.attempt_key))
        if len(seen) < 2:
            raise Snooze(0)

    pay.enqueue()
    drain(app, conn)
    assert [attempt for attempt, _ in seen] == [1, 1]
    assert len({key for _, key in seen}) == 2


def test_an_id_that_the_caller_has_chosen_leads_to_its_job(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    chosen = str(uuid4())
    with pytest.raises(UnknownJob, match="no job of task ship holds"):
        app.find("ship", chosen)
    with conn.transaction():
        job = ship.using(conn, idempotency_key=chosen, idempotency_window=3600).enqueue(1)
        assert app.using(conn).find("ship", chosen).id == job.id
        with pytest.raises(UnknownJob):
            app.find("ship", chosen)  # nothing has committed yet
    app.using(idempotency_key=chosen).enqueue("other", {"n": 1})  # a key belongs to its task
    assert (app.find("ship", chosen).id, app.find("ship", chosen).state) == (job.id, "pending")
    drain(app, conn)
    found = asyncio.run(app.afind("ship", chosen))
    assert (found.id, found.state, found.result) == (job.id, "succeeded", 2)
    assert found.wait(1) == 2
    conn.execute("delete from pgqueue.job_finished")
    with pytest.raises(UnknownJob, match=f"job {job.id}, .* was dropped by retention"):
        app.find("ship", chosen)
    conn.execute("update pgqueue.idempotency_key set expires_at = now()")
    with pytest.raises(UnknownJob, match="the window of the key has ended"):
        app.find("ship", chosen)


def test_a_job_that_gets_the_id_of_a_lost_one_has_a_key_of_its_own(app: App, conn: Conn) -> None:
    """A failover to an asynchronous standby takes back the last jobs and the sequence, but not what the jobs did."""
    seen: list[tuple[int, str]] = []

    @app.task(name="pay", retention=0)
    def pay(ctx: Context) -> None:
        seen.append((ctx.job_id, ctx.idempotency_key))

    for _ in range(2):
        conn.execute("select setval('pgqueue.job_id', 42)")
        pay.enqueue()
        drain(app, conn)
    assert [job_id for job_id, _ in seen] == [43, 43]
    assert len({key for _, key in seen}) == 2


def test_only_new_jobs_are_told_of(app: App, ship: Task[[int], int]) -> None:
    heard: list[int] = []
    app.on(JobEnqueued)(lambda event: heard.append(event.job_id))
    keyed = ship.using(idempotency_key=lambda n: str(n))
    ids = [keyed.enqueue(1).id, keyed.enqueue(1).id, *keyed.enqueue_many([{"n": n} for n in (1, 2, 2)])]
    assert heard == sorted(set(ids))


@pytest.mark.parametrize("key", ["x" * 1_000_000, "naïve ☃ 'quoted' \"and\"\n\\lines", " "])
def test_any_text_can_be_a_key(conn: Conn, ship: Task[[int], int], key: str) -> None:
    assert not ship.using(idempotency_key=key).enqueue(1).existing
    assert ship.using(idempotency_key=[key, key]).enqueue_many([{"n": 1}] * 2)[1] == 1
    assert scalar(conn, "select headers->>'idempotency_key' from pgqueue.job") == key


BAD: list[tuple[dict[str, Any], str]] = [
    ({"idempotency_key": ""}, "idempotency_key=''"),
    ({"idempotency_key": "a\x00"}, "without NUL"),
    ({"idempotency_key": "\ud800"}, "idempotency_key"),
    ({"idempotency_key": 5}, "idempotency_key=5"),
    ({"idempotency_key": ["a"]}, "enqueue_many"),
    ({"idempotency_key": lambda n: n}, "idempotency_key=1"),
    ({"idempotency_key": lambda order: "x"}, "no parameter order"),
    ({"idempotency_key": "a", "idempotency_window": 0}, "idempotency_window=0"),
    ({"idempotency_key": "a", "idempotency_window": "1 day"}, "idempotency_window='1 day'"),
    ({"idempotency_key": "a", "unique_key": "b"}, "exclude each other"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=lambda value: ascii(value)[:40])
def test_what_is_no_key_is_refused_before_anything_is_written(
    connect: Open, ship: Task[[int], int], options: dict[str, Any], said: str
) -> None:
    borrowed = connect()
    with pytest.raises(InvalidOption, match=said):
        ship.using(borrowed, **options).enqueue(1)
    assert borrowed.execute(JOBS.encode()).fetchone() == (0,)


def test_a_list_of_keys_must_have_one_for_each_call(conn: Conn, ship: Task[[int], int]) -> None:
    for keys in (["a"], ["a", "b", "c"]):
        with pytest.raises(InvalidOption, match=f"{len(keys)} keys for 2 calls"):
            ship.using(idempotency_key=keys).enqueue_many([{"n": 1}, {"n": 2}])
    assert scalar(conn, JOBS) == 0


def test_an_unknown_option_is_a_type_error(app: App, ship: Task[[int], int]) -> None:
    for call in (ship.using, app.using, app.task):
        with pytest.raises(TypeError, match="'idempotency'"):
            call(idempotency="k")  # type: ignore[operator]
