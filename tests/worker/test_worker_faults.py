"""A worker under faults: stops in order, wakes when it should, survives lost connections, never strands a job."""

import asyncio
import threading
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context
from pgqueue.queries.base import Templates
from pgqueue.queries.jobs import JobQueries
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import eventually, scalar, work
from tests.harness import Proxy, insert_job

Conn = psycopg.Connection[Any]
QUICK = 10.0


def finished(conn: Conn) -> int:
    return int(scalar(conn, "select count(*) from pgqueue.job_finished"))


def waiting(conn: Conn) -> bool:
    return bool(scalar(conn, "select exists (select from pgqueue.worker where waiting)"))


async def until(condition: Any, what: str = "the condition") -> None:
    async with asyncio.timeout(QUICK):
        await eventually(condition, what)


def test_a_stopping_worker_finishes_what_runs_and_leaves_the_rest_unclaimed(app: App, conn: Conn) -> None:
    started, go_on = threading.Event(), threading.Event()

    @app.task
    def task() -> str:
        started.set()
        go_on.wait(QUICK)
        return "done"

    jobs = task.enqueue_many({} for _ in range(3))

    async def scenario() -> bool:
        worker = Worker(app, WorkerSettings(concurrency=1))
        running = asyncio.create_task(worker.run())
        await until(started.is_set)
        worker.stop()
        await until(lambda: scalar(conn, "select stopping from pgqueue.worker"), "the worker says it stops")
        go_on.set()
        return await running

    assert asyncio.run(scenario()) is True
    assert [app.get(job).state for job in jobs] == ["succeeded", "pending", "pending"]
    assert scalar(conn, "select max(attempt) from pgqueue.job_live") == 0
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_a_worker_that_has_stopped_leaves_no_task_and_no_connection_behind(app: App, conn: Conn) -> None:
    @app.task
    async def task() -> None: ...

    task.enqueue()

    async def scenario() -> set[str]:
        before = asyncio.all_tasks()
        await work(app, lambda: finished(conn))
        return {task.get_name() for task in asyncio.all_tasks() - before}

    assert asyncio.run(scenario()) == set()
    mine = "select count(*) from pg_stat_activity where datname = current_database() and application_name like %s"
    asyncio.run(eventually(lambda: scalar(conn, mine, "pgqueue worker%") == 0, "all connections closed"))
    assert not [t for t in threading.enumerate() if t.name == "pgqueue-heartbeat"]


def test_a_second_stop_cancels_async_jobs_and_gives_them_back_uncharged(app: App, conn: Conn) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    @app.task
    async def task() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    job = task.enqueue()

    async def scenario() -> None:
        worker = Worker(app, WorkerSettings())
        running = asyncio.create_task(worker.run())
        await until(started.is_set)
        worker.stop()
        worker.stop()
        async with asyncio.timeout(QUICK):
            assert await running

    asyncio.run(scenario())
    given_back = app.get(job.id)
    assert cancelled.is_set()
    assert (given_back.state, given_back.attempt) == ("pending", 0)
    assert given_back.attempts[0].reason == "released"


def test_a_worker_that_cannot_end_a_thread_says_so_and_gives_its_job_back(app: App, conn: Conn) -> None:
    started, go_on = threading.Event(), threading.Event()

    @app.task
    def task() -> None:
        started.set()
        go_on.wait(QUICK * 3)

    job = task.enqueue()

    async def scenario() -> bool:
        worker = Worker(app, WorkerSettings(shutdown_timeout=0.01))
        running = asyncio.create_task(worker.run())
        await until(started.is_set)
        worker.stop()
        try:
            return await running
        finally:
            go_on.set()

    assert asyncio.run(scenario()) is False
    assert (app.get(job.id).state, app.get(job.id).attempt) == ("pending", 0)


def test_a_sleeping_worker_is_woken_by_notify(app: App, conn: Conn) -> None:
    @app.task
    async def task() -> None: ...

    async def scenario() -> None:
        worker = Worker(app, WorkerSettings(poll_seconds=30))
        running = asyncio.create_task(worker.run())
        await until(lambda: waiting(conn), "the worker sleeps")
        await asyncio.to_thread(task.enqueue)
        await until(lambda: finished(conn) == 1, "the job has run")
        worker.stop()
        await running

    asyncio.run(scenario())


def test_a_job_that_nobody_notified_about_is_found_by_polling(app: App, conn: Conn) -> None:
    @app.task(name="task")
    async def task() -> None: ...

    async def scenario() -> None:
        worker = Worker(app, WorkerSettings(poll_seconds=0.2))
        running = asyncio.create_task(worker.run())
        await until(lambda: waiting(conn), "the worker sleeps")
        end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and"
        await until(lambda: scalar(conn, f"{end} application_name = 'pgqueue worker listen'"), "the listener's end")
        insert_job(conn, task="task")
        await until(lambda: finished(conn) == 1, "the job has run")
        worker.stop()
        await running

    asyncio.run(scenario())


def test_a_worker_wakes_by_itself_when_a_delayed_job_is_due(app: App, conn: Conn) -> None:
    @app.task
    async def task() -> None: ...

    task.using(delay=0.3).enqueue()

    async def scenario() -> None:
        async with asyncio.timeout(QUICK):
            await work(app, lambda: finished(conn) == 1, poll_seconds=30)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["claim", "resolve", "listen", "chores", "heartbeat"])
def test_each_connection_may_be_lost_while_jobs_run_and_each_job_ends_once(app: App, conn: Conn, name: str) -> None:
    @app.task
    async def task(n: int) -> None:
        await asyncio.sleep(0.001)

    task.enqueue_many({"n": n} for n in range(1000))
    kills = {1}  # not while the worker starts: that may fail
    end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database()"

    def lose_and_look() -> bool:
        done = finished(conn)
        if max(kills) <= done < 900 and scalar(conn, f"{end} and application_name = %s", f"pgqueue worker {name}"):
            kills.add(done + 150)
        return done == 1000

    asyncio.run(work(app, lose_and_look, poll_seconds=0.2, lease_seconds=10))
    assert len(kills) > 1
    assert scalar(conn, "select count(*) from pgqueue.transition where to_state = 'succeeded'") == 1000


def test_two_workers_run_each_of_many_jobs_exactly_once(app: App, conn: Conn, dsn: str) -> None:
    conn.execute("create table public.effect (n int)")
    local = threading.local()

    @app.task
    def task(n: int) -> None:
        if not hasattr(local, "conn"):
            local.conn = psycopg.connect(dsn, autocommit=True, options="-c synchronous_commit=off")
            connections.append(local.conn)
        local.conn.execute("insert into public.effect values (%s)", (n,))

    connections: list[Conn] = []
    task.enqueue_many({"n": n} for n in range(2000))

    async def scenario() -> None:
        both = (work(app, lambda: finished(conn) == 2000) for _ in range(2))
        await asyncio.gather(*both)

    asyncio.run(scenario())
    for one in connections:
        one.close()
    assert scalar(conn, "select count(*) from public.effect") == 2000
    assert scalar(conn, "select count(distinct n) from public.effect") == 2000
    assert scalar(conn, "select count(distinct worker_id) from pgqueue.transition where to_state = 'running'") == 2


def test_jobs_whose_claim_was_committed_but_never_answered_still_run(app: App, conn: Conn, dsn: str) -> None:
    @app.task(name="task")
    async def task() -> None: ...

    task.enqueue_many({} for _ in range(3))
    with Proxy.before(dsn, b"with recursive hop(priority) as") as proxy:
        app.dsn = proxy.dsn
        settings = {"lease_seconds": 1.0, "poll_seconds": 0.1, "shutdown_timeout": 1.0}
        try:
            asyncio.run(work(app, lambda: proxy.cut.is_set() and finished(conn) == 3, **settings))
        finally:
            app.dsn = dsn
    assert proxy.cut.is_set()


@pytest.mark.parametrize(
    ("result", "statement"), [(None, b"with ended as (\n    delete"), (7, b"with given as materialized")]
)
def test_an_outcome_whose_answer_was_lost_is_written_once(
    app: App, conn: Conn, dsn: str, result: int | None, statement: bytes
) -> None:
    @app.task(name="task")
    async def task() -> int | None:
        return result

    task.enqueue()
    with Proxy.before(dsn, statement) as proxy:
        app.dsn = proxy.dsn
        try:
            asyncio.run(work(app, lambda: proxy.cut.is_set() and finished(conn) == 1))
        finally:
            app.dsn = dsn
    assert scalar(conn, "select count(*) from pgqueue.transition where to_state = 'succeeded'") == 1


def test_nobody_notifies_a_worker_to_whom_jobs_come_often(app: App, conn: Conn) -> None:
    """A NOTIFY holds up all other commits of the database, so a busy worker polls until jobs come seldom again."""

    @app.task(name="task")
    async def task() -> None: ...

    async def scenario() -> None:
        worker = Worker(app, WorkerSettings())
        running = asyncio.create_task(worker.run())
        await until(lambda: waiting(conn), "the worker to wait")
        async with asyncio.timeout(QUICK):
            while waiting(conn):
                await asyncio.to_thread(task.enqueue)
        count = int(scalar(conn, "select count(*) from pgqueue.job"))
        await until(lambda: finished(conn) == count, "the jobs without a notification to run")
        await until(lambda: waiting(conn), "the worker to wait again")
        worker.stop()
        await running

    asyncio.run(scenario())


class CountingJobs(JobQueries):
    """The statements, with a count of claims."""

    claims = 0

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        self.claims += 1
        return super().claim(*args, **kwargs)

    def claim_beyond(self, *args: Any, **kwargs: Any) -> Any:
        self.claims += 1
        return super().claim_beyond(*args, **kwargs)


def claims_during(app: App, conn: Conn, busy: Any, beats: int, **settings: Any) -> int:
    """Return how often a worker claims between becoming `busy` and its `beats`-th heartbeat after that."""
    app.queries.jobs = counting = CountingJobs(Templates(app.schema), None)
    seen: set[Any] = set()
    at_start = [0]

    def look() -> bool:
        if not busy():
            return False
        at_start[0] = at_start[0] or counting.claims
        seen.add(scalar(conn, "select heartbeat_at from pgqueue.worker"))
        return len(seen) > beats

    asyncio.run(work(app, look, lease_seconds=1.0, poll_seconds=0.5, shutdown_timeout=0.1, **settings))
    return counting.claims - at_start[0]


def test_a_worker_does_not_spin_while_a_queue_with_a_backlog_is_at_its_limit(app: App, conn: Conn) -> None:
    started = asyncio.Event()

    @app.task(queue="bulk")
    async def task() -> None:
        started.set()
        await asyncio.sleep(3600)

    task.enqueue_many({} for _ in range(5))
    settings = {"queues": ["bulk", "fast"], "limits": {"bulk": 1}}
    assert claims_during(app, conn, started.is_set, beats=3, **settings) < 100


def test_a_worker_does_not_spin_while_somebody_else_holds_the_rows_that_are_due(app: App, conn: Conn, dsn: str) -> None:
    @app.task
    async def task() -> None: ...

    task.enqueue()
    with psycopg.connect(dsn) as holder:
        holder.execute("select from pgqueue.job_live for update")
        assert claims_during(app, conn, lambda: waiting(conn), beats=3) < 100


def test_a_worker_declared_lost_drops_its_job_and_runs_it_again_under_a_new_identity(app: App, conn: Conn) -> None:
    leases: list[int] = []

    @app.task
    async def task(ctx: Context) -> int:
        leases.append(ctx.attempt)
        if len(leases) == 1:
            conn.execute("update pgqueue.worker set lost_at = now()")
            await asyncio.sleep(3600)
        return ctx.attempt

    job = task.enqueue()
    asyncio.run(work(app, lambda: finished(conn) == 1, lease_seconds=1.0, shutdown_timeout=0.1))
    done = app.get(job.id)
    assert (done.result, done.crash_count) == (2, 1)
    assert [attempt.reason for attempt in done.attempts] == ["rescued", None]


# Holds up the registration of a worker as long as another session holds advisory lock 1.
SLOW_REGISTRATION = """
create function public.wait_for_lock() returns trigger language plpgsql
as 'begin perform pg_advisory_xact_lock(1); return new; end';
create trigger wait before insert on pgqueue.worker for each row execute function public.wait_for_lock()"""


def test_a_job_that_comes_while_a_worker_takes_a_new_identity_runs_under_the_new_one(
    app: App, conn: Conn, dsn: str
) -> None:
    @app.task
    async def task() -> None: ...

    async def scenario(gate: Conn) -> None:
        worker = Worker(app, WorkerSettings(lease_seconds=8.0, poll_seconds=0.1, shutdown_timeout=0.1))
        running = asyncio.create_task(worker.run())
        await until(lambda: waiting(conn), "the worker sleeps")
        conn.execute(SLOW_REGISTRATION)
        gate.execute("select pg_advisory_lock(1)")
        conn.execute("update pgqueue.worker set lost_at = now()")
        blocked = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
        await until(lambda: scalar(conn, blocked), "the worker registers anew")
        await asyncio.to_thread(task.enqueue)
        looks = "select count(*) from pgqueue.job_live where state = 'pending' and attempt = 0"
        assert scalar(conn, looks) == 1  # under the lost identity nothing can be claimed
        gate.execute("select pg_advisory_unlock(1)")
        try:
            await until(lambda: finished(conn) == 1, "the job has ended")
            alive = "select f.worker_id = w.id from pgqueue.job_finished f, pgqueue.worker w where w.lost_at is null"
            assert scalar(conn, alive) is True
        finally:
            worker.stop()
            await running

    with psycopg.connect(dsn, autocommit=True) as gate:
        asyncio.run(scenario(gate))
