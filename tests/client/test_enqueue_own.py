"""Enqueueing: the options of a call, own connections, connections with odd settings, and which workers are woken."""

import asyncio
import os
import select
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from pgqueue import App, Task, UnknownJob
from tests.conftest import scalar, shown
from tests.harness import heard, wait_for

Conn = psycopg.Connection[Any]
JOBS = "select count(*) from pgqueue.job"
WAITING = ("insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds, waiting) "
           "values (%s, 'worker', 'h', 1, '0', %s, '{}', 1, 60, %s)")  # fmt: skip


@pytest.fixture
def task(app: App) -> Task[..., None]:
    """A task with settings of its own."""

    @app.task(name="ship", queue="parcels", priority=5, max_attempts=4, tags=["eu"])
    def ship(n: Any = 0) -> None: ...

    return ship


@pytest.mark.parametrize("delay", [90, 90.0, timedelta(seconds=90)], ids=repr)
def test_a_delay_counts_from_the_statement(dsn: str, app: App, conn: Conn, task: Task[..., None], delay: Any) -> None:
    with psycopg.connect(dsn) as borrowed:
        borrowed.execute("select 1")
        before = scalar(conn, "select clock_timestamp()")
        job = task.using(borrowed, delay=delay).enqueue()
        after = scalar(conn, "select clock_timestamp()")
    assert before <= job.run_at - timedelta(seconds=90) <= after
    assert job.run_at - job.created_at == timedelta(seconds=90)
    assert app.get(job.id).run_at == job.run_at


def test_without_options_the_tasks_own_settings_stand(app: App, task: Task[..., None]) -> None:
    job = app.get(task.enqueue().id)
    assert (job.queue, job.priority, job.max_attempts, job.tags, job.phase) == ("parcels", 5, 4, ("eu",), "pending")


def test_an_option_that_is_zero_or_empty_is_still_an_option(app: App, task: Task[..., None]) -> None:
    job = app.get(task.using(priority=0, tags=[], delay=0).enqueue().id)
    assert (job.priority, job.tags, job.phase) == (0, (), "pending")


def test_what_enqueue_returns_is_what_a_reader_gets(app: App, task: Task[..., None]) -> None:
    for job in (task.enqueue(n={"a": [1]}), task.using(delay=60).enqueue(), app.enqueue("elsewhere", {"x": 1})):
        assert app.get(job.id) == job


def test_enqueueing_by_name_uses_a_registered_tasks_settings(app: App, task: Task[..., None]) -> None:
    job = app.enqueue("ship", {"n": 1})
    assert (job.queue, job.priority, job.max_attempts, job.tags, job.args) == ("parcels", 5, 4, ("eu",), {"n": 1})


def test_enqueueing_an_unknown_name_uses_the_apps_settings(dsn: str) -> None:
    app = App(dsn, queue="misc", max_attempts=2)
    try:
        job = app.get(app.enqueue("elsewhere", {"x": None}).id)
    finally:
        app.close()
    assert (job.task, job.queue, job.priority, job.max_attempts, job.args) == ("elsewhere", "misc", 0, 2, {"x": None})


@pytest.mark.parametrize("job_id", [0, -1, 10**12, 2**63, -(2**63)])
def test_an_id_that_no_job_has_is_unknown(app: App, job_id: int) -> None:
    async def aget() -> None:
        try:
            await app.aget(job_id)
        finally:
            await app.aclose()

    with pytest.raises(UnknownJob, match=f"no job {job_id}: never committed, or dropped by retention"):
        app.get(job_id)
    with pytest.raises(UnknownJob, match=f"no job {job_id}"):
        asyncio.run(aget())


def test_get_on_a_borrowed_connection_sees_the_uncommitted_job(dsn: str, app: App, task: Task[..., None]) -> None:
    with psycopg.connect(dsn) as borrowed:
        job = task.using(borrowed).enqueue(n=1)
        assert app.using(borrowed).get(job.id).args == {"n": 1}
        with pytest.raises(UnknownJob):
            app.get(job.id)


def test_aget_reads_what_get_reads(app: App, task: Task[..., None]) -> None:
    async def both() -> bool:
        try:
            job = await task.aenqueue(n=2)
            return await app.aget(job.id) == app.get(job.id) == job
        finally:
            await app.aclose()

    assert asyncio.run(both())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_uses_connections_of_its_own(app: App, conn: Conn, task: Task[..., None]) -> None:
    task.enqueue(n="parent")
    pid = os.fork()
    if pid == 0:
        try:
            task.enqueue(n="child")
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must never run on into the tests
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    task.enqueue(n="parent again")
    enqueued = scalar(conn, "select array_agg(args->>'n' order by id) from pgqueue.job")
    assert enqueued == ["parent", "child", "parent again"]


def test_own_connections_that_were_cut_are_replaced(app: App, conn: Conn, task: Task[..., None]) -> None:
    mine = "from pg_stat_activity where application_name = 'pgqueue' and datname = current_database()"

    def cut() -> bool:
        ended = scalar(conn, f"select count(pg_terminate_backend(pid, 30000)) {mine}")
        return bool(ended == 1)

    async def body() -> None:
        try:
            await task.aenqueue()
            assert cut()
            await task.aenqueue()
        finally:
            await app.aclose()

    asyncio.run(body())
    task.enqueue()
    assert cut()
    task.enqueue()
    assert scalar(conn, JOBS) == 4


@pytest.mark.parametrize(("idle_seconds", "asked"), [(-1.0, True), (3600.0, False)], ids=["idle for long", "just used"])
def test_an_own_connection_is_asked_whether_it_lives_only_when_it_was_idle(
    monkeypatch: pytest.MonkeyPatch, task: Task[..., None], idle_seconds: float, asked: bool
) -> None:
    task.enqueue()
    monkeypatch.setattr("pgqueue.db.pools.IDLE_SECONDS", idle_seconds)
    checked: list[object] = []
    monkeypatch.setattr(ConnectionPool, "check_connection", checked.append)
    task.enqueue()
    assert bool(checked) == asked


def test_an_own_connection_that_was_sent_something_is_asked(
    conn: Conn, app: App, task: Task[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    task.enqueue()
    with app.backend.pools.connection() as own:
        own.execute("listen gossip")
    monkeypatch.setattr("pgqueue.db.pools.IDLE_SECONDS", 3600.0)
    checked: list[object] = []
    monkeypatch.setattr(ConnectionPool, "check_connection", checked.append)
    conn.execute("select pg_catalog.pg_notify('gossip', '')")
    wait_for(lambda: select.select([own], [], [], 0)[0], "the notification's arrival")
    task.enqueue()
    assert checked == [own]


def test_an_app_that_was_closed_opens_again(app: App, conn: Conn, task: Task[..., None]) -> None:
    task.enqueue()
    app.close()
    task.enqueue()
    assert scalar(conn, JOBS) == 2


def test_one_app_serves_several_event_loops(app: App, conn: Conn, task: Task[..., None]) -> None:
    async def once() -> None:
        try:
            await asyncio.gather(*(task.aenqueue(n=n) for n in range(12)))
        finally:
            await app.aclose()

    asyncio.run(once())
    asyncio.run(once())
    assert scalar(conn, JOBS) == 24


@pytest.mark.parametrize(
    "settings",
    [
        {"row_factory": dict_row},
        {"cursor_factory": psycopg.ClientCursor},
        {"prepare_threshold": 0},
        {"options": "-c DateStyle=SQL,DMY"},
        {"options": "-c search_path="},
        {"options": "-c IntervalStyle=sql_standard -c TimeZone=Asia/Kathmandu"},
        {"options": "-c default_transaction_isolation=serializable"},
        {"options": "-c standard_conforming_strings=on -c bytea_output=escape"},
    ],
    ids=shown,
)
def test_a_connection_with_settings_of_its_own_works(
    dsn: str, app: App, conn: Conn, task: Task[..., None], settings: dict[str, Any]
) -> None:
    with psycopg.connect(dsn, **settings) as borrowed:
        job = task.using(borrowed, delay=5, tags=["a,b"]).enqueue(n="é %s {x}")
        assert app.using(borrowed).get(job.id) == job
    assert app.get(job.id) == job
    assert job.run_at - job.created_at == timedelta(seconds=5)
    assert scalar(conn, "select args->>'n' from pgqueue.job") == "é %s {x}"


def test_tags_of_any_printable_text_come_back_as_they_were(app: App, conn: Conn, task: Task[..., None]) -> None:
    tags = ['"', "\\", '\\"', ",", "{a,b}", "{", "NULL", "null", "'; --", " lead and trail ", "日本", "%s", "a\\,b"]
    job = task.using(tags=tags).enqueue()
    task.using(tags=tags).enqueue_many([{}, {}])
    assert list(app.get(job.id).tags) == tags
    assert conn.execute("select distinct tags from pgqueue.job").fetchall() == [(tags,)]


@pytest.fixture
def listener(dsn: str) -> Iterator[Conn]:
    """A connection that listens as a worker does."""
    with psycopg.connect(dsn, autocommit=True) as listening:
        listening.execute("listen pgqueue")
        yield listening


def test_a_sleeping_worker_of_the_queue_is_notified_once(listener: Conn, conn: Conn, task: Task[..., None]) -> None:
    conn.execute(WAITING, (uuid.uuid4(), ["other", "parcels"], True))
    conn.execute(WAITING, (uuid.uuid4(), ["parcels"], True))
    task.enqueue_many([{}] * 50)
    assert heard(listener, conn) == ["parcels"]


@pytest.mark.parametrize(("queues", "waiting"), [(["parcels"], False), (["other"], True)], ids=["awake", "other queue"])
def test_nobody_is_notified_unless_a_worker_of_the_queue_sleeps(
    listener: Conn, conn: Conn, task: Task[..., None], queues: list[str], waiting: bool
) -> None:
    conn.execute(WAITING, (uuid.uuid4(), queues, waiting))
    task.enqueue()
    assert heard(listener, conn) == []


def test_a_job_of_the_future_wakes_nobody(listener: Conn, conn: Conn, task: Task[..., None]) -> None:
    conn.execute(WAITING, (uuid.uuid4(), ["parcels"], True))
    task.using(delay=60).enqueue()
    assert heard(listener, conn) == []


def test_a_job_that_is_rolled_back_wakes_nobody(dsn: str, listener: Conn, conn: Conn, task: Task[..., None]) -> None:
    conn.execute(WAITING, (uuid.uuid4(), ["parcels"], True))
    with psycopg.connect(dsn) as borrowed:
        task.using(borrowed).enqueue()
        borrowed.rollback()
    assert heard(listener, conn) == []


def test_a_job_wakes_when_it_is_committed_and_not_before(
    dsn: str, listener: Conn, conn: Conn, task: Task[..., None]
) -> None:
    conn.execute(WAITING, (uuid.uuid4(), ["parcels"], True))
    with psycopg.connect(dsn) as borrowed:
        task.using(borrowed).enqueue()
        assert heard(listener, conn) == []
        borrowed.commit()
    assert heard(listener, conn) == ["parcels"]


def test_open_transactions_that_enqueue_do_not_wait_for_each_other(dsn: str, conn: Conn, task: Task[..., None]) -> None:
    conn.execute(WAITING, (uuid.uuid4(), ["parcels"], True))
    impatient = {"options": "-c statement_timeout=5s -c lock_timeout=2s"}
    with psycopg.connect(dsn, **impatient) as one, psycopg.connect(dsn, **impatient) as other:
        for n in range(3):
            task.using(one).enqueue(n=n)
            task.using(other).enqueue_many([{"n": n}, {"n": n}])
        other.commit()
        assert scalar(conn, JOBS) == 6
        one.commit()
    assert scalar(conn, JOBS) == 9
