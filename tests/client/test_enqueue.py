"""Enqueueing on every kind of connection: a job exists if and only if the caller's transaction committed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import psycopg
import pytest

from pgqueue import App, Task
from pgqueue.client.steps import OWN_CONNECTION
from tests.callers import AT_ONCE, TRANSACTIONAL, Caller, on
from tests.conftest import scalar

Conn = psycopg.Connection[Any]
JOBS = "select count(*) from pgqueue.job"
LOG = "select count(*) from pgqueue.transition"
ORDERS = "select count(*) from public.orders"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def task(app: App, conn: Conn) -> Task[..., None]:
    """A task, and a business table beside it."""
    conn.execute("create table public.orders (id int)")

    @app.task(name="ship")
    def ship(n: int = 0) -> None: ...

    return ship


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_rollback_leaves_no_job_and_no_transition(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(caller: Caller) -> None:
        await caller.execute("insert into public.orders values (1)")
        await caller.enqueue(task.using(caller.conn), 1)
        await caller.enqueue_many(task.using(caller.conn), [{"n": 2}, {"n": 3}])
        await caller.rollback()
        await caller.commit()
        assert [scalar(conn, query) for query in (JOBS, LOG, ORDERS)] == [0, 0, 0]

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_commit_makes_the_job_and_the_business_row_visible_together(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(caller: Caller) -> None:
        await caller.execute("insert into public.orders values (1)")
        job = await caller.enqueue(task.using(caller.conn), 1)
        assert [scalar(conn, query) for query in (JOBS, LOG, ORDERS)] == [0, 0, 0]
        await caller.commit()
        assert [scalar(conn, query) for query in (JOBS, LOG, ORDERS)] == [1, 1, 1]
        assert scalar(conn, "select id from pgqueue.job where args = '{\"n\": 1}' and state = 'pending'") == job.id

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_a_job_enqueued_before_any_other_statement_is_committed_with_the_rest(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(caller: Caller) -> None:
        await caller.enqueue(task.using(caller.conn), 1)
        await caller.commit()
        assert scalar(conn, JOBS) == 1

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_the_connection_stays_open_and_uncommitted(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(caller: Caller) -> None:
        await caller.enqueue(task.using(caller.conn))
        await caller.enqueue_many(task.using(caller.conn), [{}, {}])
        assert await caller.execute(JOBS) == 3
        assert scalar(conn, JOBS) == 0
        await caller.commit()
        await caller.enqueue(task.using(caller.conn))
        await caller.rollback()
        assert (scalar(conn, JOBS), scalar(conn, LOG)) == (3, 3)

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_rolling_back_to_a_savepoint_removes_the_job(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(caller: Caller) -> None:
        await caller.enqueue(task.using(caller.conn), 1)
        await caller.execute("savepoint s")
        await caller.enqueue(task.using(caller.conn), 2)
        await caller.enqueue_many(task.using(caller.conn), [{"n": 3}])
        await caller.execute("rollback to savepoint s")
        await caller.commit()
        assert scalar(conn, "select array_agg(args->>'n') from pgqueue.job") == ["1"]
        assert scalar(conn, LOG) == 1

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", AT_ONCE)
def test_without_a_transaction_a_job_is_there_at_once(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(caller: Caller) -> None:
        await caller.enqueue(task.using(caller.conn))
        assert (scalar(conn, JOBS), scalar(conn, LOG)) == (1, 1)
        await caller.enqueue_many(task.using(caller.conn), [{}, {}])
        assert (scalar(conn, JOBS), scalar(conn, LOG)) == (3, 3)
        await caller.enqueue(app.using(caller.conn), "elsewhere", {"x": [1]})
        assert scalar(conn, "select args from pgqueue.job where task = 'elsewhere'") == {"x": [1]}

    on(kind, dsn, app, body)


@pytest.fixture
def refusing(conn: Conn) -> Iterator[None]:
    """Let the database refuse a job that is not in the first chunk."""
    conn.execute("alter table pgqueue.job_live add constraint refused check (args->>'n' <> '5500')")
    yield
    conn.execute("alter table pgqueue.job_live drop constraint refused")


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("kind", [*AT_ONCE, "psycopg", "AsyncSession"])
def test_many_jobs_are_all_or_nothing_when_a_later_chunk_fails(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(caller: Caller) -> None:
        with pytest.raises((psycopg.errors.CheckViolation, asyncpg.CheckViolationError)):
            await caller.enqueue_many(task.using(caller.conn), [{"n": n} for n in range(6000)])
        assert (scalar(conn, JOBS), scalar(conn, LOG)) == (0, 0)

    on(kind, dsn, app, body)


@pytest.mark.usefixtures("refusing")
def test_many_jobs_are_all_or_nothing_in_a_pipeline_on_autocommit(dsn: str, conn: Conn, task: Task[..., None]) -> None:
    def in_a_pipeline(borrowed: Conn) -> None:
        with borrowed.pipeline():
            borrowed.execute("select 1")
            task.using(borrowed).enqueue_many({"n": n} for n in range(6000))

    with psycopg.connect(dsn, autocommit=True) as borrowed, pytest.raises(psycopg.errors.CheckViolation):
        in_a_pipeline(borrowed)
    assert (scalar(conn, JOBS), scalar(conn, LOG)) == (0, 0)


@pytest.mark.parametrize("kind", ["own", "own async", "psycopg", "psycopg pipeline", "AsyncSession"])
def test_ids_come_back_in_the_order_of_the_calls(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(caller: Caller) -> None:
        ids = await caller.enqueue_many(task.using(caller.conn), [{"n": n} for n in range(12_000)])
        if caller.conn is not OWN_CONNECTION:
            await caller.commit()
        rows = conn.execute("select id, (args->>'n')::int from pgqueue.job order by 2").fetchall()
        assert rows == list(zip(ids, range(12_000), strict=True))
        assert scalar(conn, LOG) == 12_000

    on(kind, dsn, app, body)


def test_no_calls_at_all_are_no_jobs(conn: Conn, task: Task[..., None]) -> None:
    assert task.enqueue_many([]) == []
    assert scalar(conn, JOBS) == 0


@pytest.mark.parametrize("kind", ["own", "psycopg", "AsyncSession"])
def test_options_land_in_the_row(kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]) -> None:
    at = datetime(2031, 5, 1, 12, 0, 0, 250_000, UTC)
    options: dict[str, Any] = {"run_at": at, "priority": -7, "queue": "bulk:eu", "max_attempts": 3, "tags": ["a", "b"]}

    async def body(caller: Caller) -> None:
        jobs = [
            await caller.enqueue(task.using(caller.conn, **options)),
            await caller.enqueue(app.using(caller.conn, **options), "elsewhere"),
        ]
        await caller.enqueue_many(task.using(caller.conn, **options), [{}])
        if caller.conn is not OWN_CONNECTION:
            await caller.commit()
        rows = conn.execute("select run_at, priority, queue, max_attempts, tags, phase from pgqueue.job").fetchall()
        assert rows == [(at, -7, "bulk:eu", 3, ["a", "b"], "scheduled")] * 3
        assert [(j.run_at, j.priority, j.queue, j.max_attempts, j.tags, j.phase) for j in jobs] == [
            (at, -7, "bulk:eu", 3, ("a", "b"), "scheduled")
        ] * 2

    on(kind, dsn, app, body)
