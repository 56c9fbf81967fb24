"""Unique jobs: one that waits, or one that has not ended; skip, replace or raise on conflict; retries never collide."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
import pytest

from pgqueue import App, DuplicateJob, InvalidOption, Job, SnapshotConflict, Unique, db
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from tests.callers import TRANSACTIONAL, Caller, on
from tests.conftest import drain, scalar
from tests.harness import QUERIES, WORKER, Conn, InThread, add_worker, wait_blocked

JOBS = "select count(*) from pgqueue.job"
ARGS = "select array_agg(args->>'n' order by id) from pgqueue.job"
GOING_ON = [
    Resolution("retry", "error", 0.0, error=ErrorInfo("E", "m")),
    Resolution("snooze", "later", 0.0, refund=True),
    Resolution("release", "released", refund=True),
]
Open = Callable[..., Conn]


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def claim(conn: Conn, worker: Any = WORKER) -> list[ClaimedJob]:
    return db.run(conn, QUERIES.jobs.claim(worker, {"default": 10}, 10))


def put(app: App, conn: object = None, n: int = 1, key: str = "k", **options: Any) -> Job:
    """Enqueue with a unique key, on a connection of our own unless one is borrowed."""
    using = app.using if conn is None else lambda **rest: app.using(conn, **rest)
    return using(unique_key=key, **options).enqueue("t", {"n": n})


def test_a_second_one_is_the_first_while_that_waits(app: App, conn: Conn) -> None:
    first = put(app)
    again = put(app, n=2)
    assert (again.id, again.existing, again.args) == (first.id, True, {"n": 1})
    assert not put(app, key="other").existing
    assert not app.using(unique_key="k").enqueue("another", {"n": 1}).existing
    claim(conn)
    assert not put(app, n=3).existing


def test_one_that_lives_is_unique_until_it_ends(app: App, conn: Conn) -> None:
    live = Unique(while_="live")
    first = put(app, unique=live)
    (job,) = claim(conn)
    assert put(app, unique=live).id == first.id
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("retry", "error", 0.0))]))
    assert put(app, unique=live).id == first.id
    (job,) = claim(conn)
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("dead_letter", "error"))]))
    assert put(app, unique=live).id != first.id


@pytest.mark.parametrize("end", ["cancel", "expire"])
def test_a_job_that_is_cancelled_or_expires_gives_its_key_up(app: App, conn: Conn, end: str) -> None:
    first = put(app, unique=Unique(while_="live"))
    if end == "cancel":
        app.cancel(first.id)
    else:
        conn.execute("update pgqueue.job_live set expires_at = now()")
        db.run(conn, QUERIES.jobs.expire(10))
    assert not put(app).existing


def test_raise_names_the_job_that_is_there(app: App, conn: Conn) -> None:
    first = put(app, on_conflict="raise")
    with pytest.raises(DuplicateJob, match=f"'k' of task t is held by job {first.id}") as caught:
        put(app, on_conflict="raise")
    assert (caught.value.job_id, caught.value.key) == (first.id, "k")
    assert scalar(conn, JOBS) == 1


@pytest.mark.parametrize("kind", [*TRANSACTIONAL, "psycopg autocommit"])
def test_meeting_another_job_leaves_the_transaction_usable(kind: str, dsn: str, app: App, conn: Conn) -> None:
    first = put(app)

    async def body(caller: Caller) -> None:
        task = app.task(name="t")(lambda n: None)
        for options, existing in (({}, True), ({"on_conflict": "replace"}, True)):
            job = await caller.enqueue(task.using(caller.conn, unique_key="k", **options), 2)
            assert (job.id, job.existing) == (first.id, existing)
        with pytest.raises(DuplicateJob):
            await caller.enqueue(task.using(caller.conn, unique_key="k", on_conflict="raise"), 3)
        many = task.using(caller.conn, unique_key=["a", "k", None], on_conflict="raise")
        with pytest.raises(DuplicateJob):
            await caller.enqueue_many(many, [{"n": n} for n in (4, 5, 6)])
        await caller.commit()
        assert scalar(conn, ARGS) == ["2"]

    on(kind, dsn, app, body)


def test_replacing_gives_a_waiting_job_all_that_the_new_call_says_and_tells_of_it(app: App, conn: Conn) -> None:
    first = put(app, delay=5)
    at = datetime(2031, 5, 1, tzinfo=UTC)
    options: dict[str, Any] = {"run_at": at, "priority": 7, "queue": "bulk", "max_attempts": 2, "tags": ["x"]}
    job = put(app, n=2, on_conflict="replace", expires=at + timedelta(1), **options)
    assert (job.id, job.existing, job.created_at) == (first.id, True, first.created_at)
    assert (job.args, job.run_at, job.priority, job.queue, job.max_attempts, job.tags) == (
        {"n": 2}, at, 7, "bulk", 2, ("x",)
    )  # fmt: skip
    assert scalar(conn, "select expires_at - run_at = '1 day' from pgqueue.job_live")
    transitions = conn.execute("select from_state, to_state, reason from pgqueue.transition order by at").fetchall()
    assert transitions == [(None, "pending", None), ("pending", "pending", "replaced")]


def test_a_parked_job_can_be_replaced(app: App, conn: Conn) -> None:
    first = put(app, unique=Unique(while_="live"))
    (job,) = claim(conn)
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("park", "unknown task", refund=True))]))
    assert put(app, n=2, unique=Unique(while_="live"), on_conflict="replace").id == first.id
    assert scalar(conn, "select state || (args->>'n') from pgqueue.job") == "blocked2"


def test_what_runs_or_has_run_is_not_replaced(app: App, conn: Conn) -> None:
    live = Unique(while_="live", on_conflict="replace")
    first = put(app, unique=live)
    (job,) = claim(conn)
    assert put(app, n=2, unique=live).id == first.id
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("retry", "error", 0.0))]))
    assert put(app, n=3, unique=live).id == first.id
    assert scalar(conn, ARGS) == ["1"]


def test_debounce_runs_once_with_the_last_arguments_after_the_last_call(app: App, conn: Conn) -> None:
    @app.task(name="index", unique=Unique(by="doc", on_conflict="replace"))
    def index(doc: int, text: str) -> str:
        return text

    first = index.using(delay=10).enqueue(1, "a")
    index.using(delay=10).enqueue(2, "other")
    last = index.using(delay=20).enqueue(1, "b")
    assert (last.id, last.run_at - first.run_at > timedelta(seconds=9)) == (first.id, True)
    conn.execute("update pgqueue.job_live set run_at = now()")
    drain(app, conn)
    results = "select array_agg(result #>> '{}' order by id) from pgqueue.job_finished"
    assert scalar(conn, results) == ["b", "other"]


def test_throttle_admits_one_a_window_whatever_became_of_it(app: App, conn: Conn) -> None:
    @app.task(name="sync", unique=Unique(by=["customer"], window=timedelta(minutes=10)))
    def sync(customer: int, full: bool = False) -> None: ...

    first = sync.enqueue(1)
    assert not sync.enqueue(2).existing
    drain(app, conn)
    again = sync.enqueue(1, full=True)
    assert (again.id, again.existing, str(again.state)) == (first.id, True, "succeeded")
    assert sync.using(on_conflict="replace").enqueue(1).id == first.id
    with pytest.raises(DuplicateJob):
        sync.using(on_conflict="raise").enqueue(1)
    conn.execute("update pgqueue.idempotency_key set created_at = now() - interval '2 h', expires_at = now()")
    assert not sync.enqueue(1).existing


@pytest.mark.parametrize("on_conflict", ["skip", "raise"])
def test_a_call_that_meets_a_waiting_job_takes_no_window(
    app: App, conn: Conn, connect: Open, on_conflict: Literal["skip", "raise"]
) -> None:
    unique = Unique(window=60, on_conflict=on_conflict)
    put(app, unique=unique)
    conn.execute("delete from pgqueue.idempotency_key")  # its window is over, but it still waits
    borrowed = connect()
    for one in (None, borrowed):
        try:
            assert put(app, one, n=2, unique=unique).existing
        except DuplicateJob:
            assert on_conflict == "raise"
    borrowed.commit()
    assert scalar(conn, "select count(*) from pgqueue.idempotency_key") == 0
    claim(conn)
    assert not put(app, n=3, unique=unique).existing


def test_a_window_and_an_idempotency_key_of_the_same_text_are_two_things(app: App) -> None:
    put(app, unique=Unique(window=60))
    assert not app.using(idempotency_key="k").enqueue("t", {"n": 1}).existing


@pytest.mark.parametrize("resolution", GOING_ON, ids=lambda resolution: resolution.verb)
def test_a_job_that_goes_back_to_pending_collides_with_nobody(app: App, conn: Conn, resolution: Resolution) -> None:
    first = put(app)
    (job,) = claim(conn)
    second = put(app, n=2)
    assert db.run(conn, QUERIES.jobs.resolve([(job, resolution)])) == {first.id}
    assert put(app, n=3).id == second.id
    jobs = claim(conn)
    assert {one.id for one in jobs} == {first.id, second.id}
    third = put(app, n=3)
    assert db.run(conn, QUERIES.jobs.resolve([(one, resolution) for one in jobs])) == {first.id, second.id}
    assert scalar(conn, "select array_agg(id order by id) from pgqueue.job_live where state = 'pending'") == [
        first.id, second.id, third.id,
    ]  # fmt: skip


def test_rescue_and_the_giving_back_of_strays_collide_with_nobody(app: App, conn: Conn) -> None:
    put(app)
    worker = add_worker(conn)
    claim(conn, worker)
    put(app, n=2)
    db.run(conn, QUERIES.jobs.release_strays(worker, []))
    claim(conn, worker)
    put(app, n=3)
    conn.execute("update pgqueue.worker set lost_at = now()")
    assert len(db.run(conn, QUERIES.jobs.rescue(WORKER))) == 2
    assert scalar(conn, "select count(*) from pgqueue.job_live where state = 'pending'") == 3


@pytest.mark.parametrize(("end", "existing"), [("commit", True), ("rollback", False)])
def test_the_second_waits_for_the_first(app: App, conn: Conn, connect: Open, end: str, existing: bool) -> None:
    a, b = connect(), connect()
    first = put(app, a)
    waiting = InThread(lambda: put(app, b, n=2))
    wait_blocked(conn, b, a)
    getattr(a, end)()
    assert (waiting.result().existing, waiting.result().id == first.id) == (existing, existing)
    b.commit()
    assert scalar(conn, ARGS) == ["1" if existing else "2"]


@pytest.mark.parametrize(("end", "existing"), [("commit", False), ("rollback", True)])
@pytest.mark.parametrize("on_conflict", ["skip", "replace", "raise"])
def test_an_enqueue_waits_for_a_claim_in_flight(
    app: App, conn: Conn, connect: Open, on_conflict: str, end: str, existing: bool
) -> None:
    first = put(app)
    a, b = connect(), connect()
    assert [job.id for job in claim(a)] == [first.id]
    waiting = InThread(lambda: put(app, b, n=2, on_conflict=on_conflict))
    wait_blocked(conn, b, a)
    getattr(a, end)()
    if existing and on_conflict == "raise":
        with pytest.raises(DuplicateJob):
            waiting.result()
    else:
        assert (waiting.result().existing, waiting.result().id == first.id) == (existing, existing)
    b.commit()
    assert scalar(conn, ARGS) == (["1", "2"] if not existing else ["2" if on_conflict == "replace" else "1"])


def test_a_claim_passes_by_a_job_that_is_being_replaced_and_then_runs_the_new_arguments(
    app: App, conn: Conn, connect: Open
) -> None:
    first = put(app)
    a, b = connect(), connect()
    assert put(app, a, n=2, on_conflict="replace").id == first.id
    b.execute("set local lock_timeout = '1ms'")
    assert claim(b) == []
    a.commit()
    assert [(job.id, job.args) for job in claim(b)] == [(first.id, '{"n": 2}')]


def test_a_replacement_that_waited_for_a_claim_of_a_live_job_leaves_it_alone(
    app: App, conn: Conn, connect: Open
) -> None:
    live = Unique(while_="live", on_conflict="replace")
    first = put(app, unique=live)
    a, b = connect(), connect()
    claim(a)
    waiting = InThread(lambda: put(app, b, n=2, unique=live))
    wait_blocked(conn, b, a)
    a.commit()
    assert waiting.result().id == first.id
    b.commit()
    assert scalar(conn, ARGS) == ["1"]


def test_a_replacement_that_waited_while_its_job_lost_the_key_replaces_the_new_holder(
    app: App, conn: Conn, connect: Open
) -> None:
    first = put(app, expires=60.0)
    a, b = connect(), connect()
    a.execute("select from pgqueue.job_live where id = %s for update", [first.id])
    waiting = InThread(lambda: put(app, b, n=2, on_conflict="replace"))
    wait_blocked(conn, b, a)  # it has found the first job, and is about to replace it
    a.execute("update pgqueue.job_live set expires_at = now() - interval '1 second'")
    second = put(app, a, n=3)
    a.commit()
    assert waiting.result().id == second.id
    b.commit()
    assert scalar(conn, ARGS) == ["1", "2"]
    assert scalar(conn, "select count(*) from pgqueue.job_live where expires_at is null and state = 'pending'") == 1


def test_an_enqueue_waits_for_an_outcome_in_flight_of_a_live_job(app: App, conn: Conn, connect: Open) -> None:
    live = Unique(while_="live")
    put(app, unique=live)
    (job,) = claim(conn)
    a, b = connect(), connect()
    db.run(a, QUERIES.jobs.resolve([(job, Resolution("succeed"))]))
    waiting = InThread(lambda: put(app, b, n=2, unique=live))
    wait_blocked(conn, b, a)
    a.commit()
    assert not waiting.result().existing


def test_a_snapshot_that_cannot_see_the_holder_is_told_and_the_transaction_stays_usable(
    app: App, conn: Conn, connect: Open
) -> None:
    a = connect()
    a.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    a.execute("select count(*) from pgqueue.job")
    put(app)
    with pytest.raises(SnapshotConflict):
        put(app, a)
    a.execute("select 1")


def test_a_bulk_returns_ids_in_place_and_keeps_the_first_or_the_last_of_the_same(app: App, conn: Conn) -> None:
    @app.task(name="t", unique=Unique(by=["n"]))
    def t(n: int, text: str = "") -> None: ...

    old = t.enqueue(0, "old")
    calls = [{"n": n, "text": text} for n, text in ((1, "a"), (0, "b"), (1, "c"), (2, "d"))]
    ids = t.enqueue_many(calls)
    assert (ids[1], ids[2], len(set(ids))) == (old.id, ids[0], 3)
    texts = "select array_agg(args->>'text' order by args->>'n') from pgqueue.job"
    assert scalar(conn, texts) == ["old", "a", "d"]
    assert t.using(on_conflict="replace").enqueue_many(calls) == ids
    assert scalar(conn, texts) == ["b", "c", "d"]
    with pytest.raises(DuplicateJob, match="another job of the same call"):
        t.using(on_conflict="raise").enqueue_many([{"n": 7}, {"n": 7}])


def test_many_producers_and_a_claimer_leave_one_waiting_job_for_each_key(app: App, conn: Conn, dsn: str) -> None:
    barrier = threading.Barrier(4)
    running = threading.Event()
    running.set()

    def produce(on_conflict: Any) -> None:
        barrier.wait()
        for n in range(150):
            put(app, n=n, key=f"k{n % 3}", on_conflict=on_conflict)

    def consume() -> int:
        taken = 0
        with psycopg.connect(dsn, autocommit=True) as own:
            barrier.wait()
            while running.is_set():
                jobs = claim(own)
                taken += len(jobs)
                if jobs:
                    db.run(own, QUERIES.jobs.resolve([(job, Resolution("retry", "error", 3600.0)) for job in jobs]))
        return taken

    producers = [InThread(lambda how=how: produce(how)) for how in ("skip", "replace", "replace")]
    consumer = InThread(consume)
    for producer in producers:
        producer.result()
    running.clear()
    taken = consumer.result()
    waiting = "select count(*) from pgqueue.job_live where attempt = 0"
    assert scalar(conn, waiting) <= 3
    assert scalar(conn, JOBS) == taken + scalar(conn, waiting)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: Unique(by=[]), "name arguments"),
    (lambda: Unique(by=[1]), "name arguments"),  # type: ignore[list-item]
    (lambda: Unique(while_="running"), "pending or live"),  # type: ignore[arg-type]
    (lambda: Unique(window=0), "window=0"),
    (lambda: Unique(on_conflict="ignore"), "skip, replace or raise"),  # type: ignore[arg-type]
    (lambda: App().task(unique=Unique(by=["nope"]))(lambda n: None), "no parameter nope"),
    (lambda: App().task(unique=True), "pgqueue.Unique"),  # type: ignore[arg-type,call-overload]
    (lambda: App().task(unique=Unique(), idempotent=True), "exclude each other"),
    (lambda: App().using(on_conflict="ignore"), "skip, replace or raise"),  # type: ignore[arg-type]
    (lambda: App().using(unique_key=""), "unique_key=''"),
]


@pytest.mark.parametrize(("make", "said"), BAD, ids=[said for _, said in BAD])
def test_rules_that_cannot_be_used_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        make()
