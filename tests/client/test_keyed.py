"""Many calls with idempotency keys in one statement: in which order keys are taken, which exist, which change hands."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from pgqueue import App, IdempotencyConflict, InvalidArguments, PgqueueError, Task, codecs
from pgqueue.client import admission
from pgqueue.events import JobEnqueued
from pgqueue.jobs.keys import key_hashes
from pgqueue.queries.jobs import JobQueries
from pgqueue.tasks import block_coder
from tests.conftest import scalar
from tests.harness import Conn, InThread, wait_blocked

JOBS = "select count(*) from pgqueue.job"
KEYS = "select count(*) from pgqueue.idempotency_key"
OVER = "update pgqueue.idempotency_key set expires_at = now() - interval '1 s'"
Open = Callable[[], Conn]


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(params=["one part", "several parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one statement carries a whole call."""
    if request.param == "several parts":
        monkeypatch.setattr(block_coder, "BLOCK", 2)
        monkeypatch.setattr("pgqueue.client.chunks.CHUNK", 3)


def in_order(count: int) -> list[str]:
    """Return texts whose keys of `ship` are taken in this order."""
    texts = [f"k{n}" for n in range(count)]
    return [text for _, text in sorted(zip(key_hashes("ship", texts), texts, strict=True))]


@pytest.mark.usefixtures("parts")
def test_each_call_gets_its_job_whatever_it_meets(conn: Conn, app: App, ship: Task[[int], int]) -> None:
    heard: list[int] = []
    met = ship.using(idempotency_key="met").enqueue(1)
    ship.using(idempotency_key="over").enqueue(7)
    conn.execute(f"{OVER} where job_id <> {met.id}")
    app.on(JobEnqueued)(lambda event: heard.append(event.job_id))
    keys = ["a", None, "met", "b", "a", "over", None, "c", "met", "over"]
    numbers = [3, 4, 1, 5, 3, 8, 4, 6, 1, 8]
    ids = ship.using(idempotency_key=keys).enqueue_many({"n": n} for n in numbers)
    assert (ids[2], ids[8], ids[4], ids[9]) == (met.id, met.id, ids[0], ids[5])
    assert len(set(ids)) == 7
    found: dict[int, Any] = {
        job_id: (args["n"], headers.get("idempotency_key"))
        for job_id, args, headers in conn.execute("select id, args, headers from pgqueue.job").fetchall()
    }
    assert [found[job_id] for job_id in ids] == list(zip(numbers, keys, strict=True))
    assert sorted(heard) == sorted(set(ids) - {met.id})
    assert scalar(conn, "select count(*) from pgqueue.transition") == scalar(conn, JOBS) == 8
    assert scalar(conn, f"{KEYS} where expires_at > now()") == 5
    assert ship.using(idempotency_key=[key or "d" for key in keys[:6]]).enqueue_many({"n": n} for n in numbers[:6]) == [
        *ids[:1],
        scalar(conn, "select max(id) from pgqueue.job"),
        *ids[2:6],
    ]


@pytest.mark.usefixtures("parts")
def test_keys_are_taken_in_one_order_whatever_the_order_of_the_calls(connect: Open, ship: Task[[int], int]) -> None:
    keys = in_order(9)
    holder, bulk, other = connect(), connect(), connect()
    ship.using(holder, idempotency_key=keys[6]).enqueue(0)
    calls = [{"n": 0}] * 9
    mixed = [keys[n] for n in (5, 0, 8, 3, 6, 1, 7, 4, 2)]
    waiting = InThread(lambda: ship.using(bulk, idempotency_key=mixed).enqueue_many(calls))
    with psycopg.connect(holder.info.dsn, autocommit=True) as observer:
        wait_blocked(observer, bulk, holder)
    other.execute("set lock_timeout = '1ms'; commit")
    for key in keys[7:]:  # not taken yet
        assert not ship.using(other, idempotency_key=key).enqueue(0).existing
    for key in keys[:6]:
        with pytest.raises(psycopg.errors.LockNotAvailable), other.transaction():
            ship.using(other, idempotency_key=key).enqueue(0)
    other.rollback()
    holder.rollback()
    assert len(set(waiting.result())) == 9


@pytest.mark.usefixtures("parts")
def test_what_cannot_come_in_leaves_nothing_and_the_transaction_usable(
    conn: Conn, connect: Open, ship: Task[[int], int]
) -> None:
    first = ship.using(idempotency_key="k3").enqueue(3)
    borrowed = connect()
    ship.using(borrowed).enqueue(9)
    keys = [f"k{n}" for n in range(8)]
    with pytest.raises(IdempotencyConflict, match=f"'k3' of task ship .* by job {first.id}"):
        ship.using(borrowed, idempotency_key=keys).enqueue_many([{"n": 0}] * 8)
    with pytest.raises(IdempotencyConflict, match=r"'k0' .* in the same call"):
        ship.using(borrowed, idempotency_key=[*keys[:7], "k0"]).enqueue_many({"n": n} for n in range(8))
    with pytest.raises(InvalidArguments, match="call 5"):
        ship.using(borrowed, idempotency_key=keys).enqueue_many({"n": "x" if n == 5 else n} for n in range(8))
    borrowed.commit()
    assert (scalar(conn, JOBS), scalar(conn, KEYS)) == (2, 1)


def test_bulks_that_take_over_in_opposite_order_do_not_deadlock(conn: Conn, ship: Task[[int], int]) -> None:
    def expire() -> None:
        conn.execute(f"{OVER} where job_id % 2 = 0".encode())

    barrier = threading.Barrier(4, action=expire)
    keyed = ship.using(idempotency_key=lambda n: f"order-{n}", idempotency_window=3600)
    keyed.enqueue_many({"n": n} for n in range(0, 300, 3))

    def enqueue(step: int) -> list[list[int]]:
        answers = []
        for _ in range(6):
            barrier.wait()
            answers.append(keyed.enqueue_many([{"n": n} for n in range(300)][::step])[::step])
            barrier.wait()
        return answers

    answers = [thread.result() for thread in [InThread(partial(enqueue, step)) for step in (1, -1, 1, -1)]]
    assert answers[0][-1] == answers[1][-1] == answers[2][-1] == answers[3][-1]
    assert scalar(conn, KEYS) == 300
    assert scalar(conn, "select count(*) from pgqueue.job") > 300


@pytest.mark.parametrize("borrowed", [False, True])
@pytest.mark.parametrize("verb", ["find_key_holders", "take_expired_keys"])
def test_a_call_begins_again_when_a_key_has_changed_hands(
    conn: Conn, connect: Open, ship: Task[[int], int], monkeypatch: pytest.MonkeyPatch, verb: str, borrowed: bool
) -> None:
    ship.using(idempotency_key="k").enqueue(1)
    conn.execute(OVER)
    plain = getattr(JobQueries, verb)
    stolen: list[int] = []

    def steal(queries: JobQueries, given: Any) -> Any:
        if not stolen:
            with monkeypatch.context() as untouched:
                untouched.setattr(JobQueries, verb, plain)
                conn.execute("delete from pgqueue.idempotency_key")
                stolen.append(ship.using(idempotency_key="k").enqueue(1).id)
                if verb == "find_key_holders":
                    conn.execute("delete from pgqueue.idempotency_key where job_id = %s", stolen)
        return plain(queries, given)

    monkeypatch.setattr(JobQueries, verb, steal)
    bound = ship.using(connect(), idempotency_key=["j", "k"]) if borrowed else ship.using(idempotency_key=["j", "k"])
    ids = bound.enqueue_many([{"n": 1}] * 2)
    assert (ids[1] == stolen[0]) is (verb == "take_expired_keys")
    assert len(set(ids)) == 2


def test_who_never_gets_a_key_that_changes_hands_is_told(
    conn: Conn, connect: Open, ship: Task[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "ROUNDS", 3)
    ship.using(idempotency_key="k").enqueue(1)
    conn.execute(OVER)
    connect().execute("select from pgqueue.idempotency_key for update")
    with pytest.raises(PgqueueError, match="taken and freed 3 times"):
        ship.using(idempotency_key=["j", "k"]).enqueue_many([{"n": 1}] * 2)
    assert (scalar(conn, JOBS), scalar(conn, KEYS)) == (1, 1)


def test_what_calls_share_stands_in_each_job(app: App, conn: Conn) -> None:
    @app.task(name="t", version=2, upcasters={1: lambda args: args}, tags=["x"], expires=60)
    def task(n: int = 5) -> None: ...

    keys = ['"', None, "\\ü\n"]
    ids = task.using(idempotency_key=keys, idempotency_window=7, delay=30, priority=3).enqueue_many([{}, {"n": 5}, {}])
    single = task.using(idempotency_key='"', delay=30, priority=3).enqueue()
    assert single.id == ids[0]
    rows = conn.execute(
        "select headers, tags, priority, run_at - created_at = '30 s', expires_at - created_at = '1 min'"
        " from pgqueue.job_live order by id"
    ).fetchall()
    assert [row[0].get("idempotency_key") for row in rows] == keys
    assert [(row[0]["$version"], *row[1:]) for row in rows] == [(2, ["x"], 3, True, True)] * 3
    assert scalar(conn, "select bool_and(expires_at - created_at = '7 s') from pgqueue.idempotency_key")


@pytest.mark.parametrize("options", [{"idempotent": True}, {"idempotent": lambda n: f"k{n}"}], ids=["all", "function"])
def test_sealed_arguments_are_known_by_their_keys(dsn: str, conn: Conn, options: dict[str, Any]) -> None:
    with_codec = App(dsn, codec=codecs.AESGCM({"k": b"x" * 32}))
    task = with_codec.task(name="t", **options)(lambda n: None)
    ids = task.enqueue_many([{"n": 1}, {"n": 2}, {"n": 1}])
    assert ids == [ids[0], ids[1], ids[0]] == task.enqueue_many([{"n": 1}, {"n": 2}, {"n": 1}])
    assert task.enqueue(2).id == ids[1]
    assert scalar(conn, "select bool_and(args ? '$codec') from pgqueue.job")
    assert scalar(conn, "select count(request) from pgqueue.idempotency_key") == 0
    with_codec.close()


def test_bulks_single_calls_and_sql_have_the_same_keys_and_requests(conn: Conn, ship: Task[[int], int]) -> None:
    ids = ship.using(idempotency_key=["a"]).enqueue_many([{"n": 1}])
    ids += [ship.using(idempotency_key="b").enqueue(1).id]
    ids += [scalar(conn, "select pgqueue.enqueue('ship', '{\"n\": 1}', idempotency_key => 'c')")]
    call = "select pgqueue.enqueue('ship', '{\"n\": 1}', idempotency_key => %s)"
    assert [scalar(conn, call, key) for key in "abc"] == ids
    assert [ship.using(idempotency_key=key).enqueue(1).id for key in "abc"] == ids
    assert ship.using(idempotency_key=list("abc")).enqueue_many([{"n": 1}] * 3) == ids
    assert scalar(conn, "select count(distinct request) from pgqueue.idempotency_key") == 1
    for key in "abc":
        with pytest.raises(IdempotencyConflict):
            ship.using(idempotency_key=[key]).enqueue_many([{"n": 2}])
        with pytest.raises(psycopg.errors.UniqueViolation):
            scalar(conn, call.replace("1}", "2}"), key)
