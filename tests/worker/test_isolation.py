"""Tasks with isolation="process", through a whole worker."""

import asyncio
import ctypes
import faulthandler
import os
import signal
import threading

import pytest

from pgqueue import App, Context, InvalidTask, PgqueueError
from pgqueue.events import JobSucceeded, StaleWrite
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import drain, scalar, work
from tests.harness import Conn


def test_a_task_runs_in_another_process_and_its_result_is_stored(app: App, conn: Conn) -> None:
    @app.task(name="t", isolation="process")
    def t(n: int) -> dict[str, int]:
        return {"n": n, "pid": os.getpid()}

    jobs = t.enqueue_many({"n": n} for n in range(5))
    drain(app, conn)
    results = [app.get(job).result for job in jobs]
    assert [result["n"] for result in results] == list(range(5))
    assert os.getpid() not in {result["pid"] for result in results}


def _segfault() -> None:
    faulthandler.disable()  # pytest's would report the death of this process as one of the suite
    ctypes.string_at(0)


def _exit() -> None:
    os._exit(3)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "said"), [(_segfault, "SIGSEGV"), (_exit, "status 3"), (_kill, "SIGKILL")], ids=["segv", "exit", "kill"]
)
def test_what_kills_the_process_ends_that_attempt_alone(app: App, conn: Conn, end: object, said: str) -> None:
    @app.task(name="dies", isolation="process", retry=[0.01])
    def dies(ctx: Context) -> str:
        if ctx.attempt == 1:
            end()  # type: ignore[operator]
        return "second attempt"

    @app.task(name="lives", isolation="process")
    async def lives() -> str:
        return "beside it"

    first, second = dies.enqueue(), lives.enqueue()
    drain(app, conn)
    dead = app.get(first.id)
    assert (dead.state, dead.attempt, dead.crash_count) == ("succeeded", 2, 0)
    assert dead.errors[0].type == "pgqueue.ChildDied"
    assert said in dead.errors[0].message
    assert app.get(second.id).result == "beside it"


def test_a_timeout_terminates_the_process(app: App, conn: Conn) -> None:
    @app.task(name="t", isolation="process", timeout=0.3, max_attempts=1)
    def t() -> None:
        threading.Event().wait()

    job = t.enqueue()
    drain(app, conn)
    assert (app.get(job.id).attempts[0].reason, app.get(job.id).state) == ("exhausted", "failed")
    assert app.get(job.id).errors[0].type == "pgqueue.TimedOut"


def test_a_cancelled_job_is_terminated(app: App, conn: Conn) -> None:
    @app.task(name="t", isolation="process")
    def t() -> None:
        threading.Event().wait()

    job = t.enqueue()
    asked = []

    def cancelled() -> bool:
        if not asked and scalar(conn, "select state from pgqueue.job where id = %s", job.id) == "running":
            asked.append(app.cancel(job.id))
        return scalar(conn, "select state from pgqueue.job where id = %s", job.id) == "cancelled"

    asyncio.run(work(app, cancelled))


def test_a_transaction_completes_the_job_from_the_child(app: App, conn: Conn) -> None:
    conn.execute("create table public.effect (job_id bigint)")

    @app.task(name="t", isolation="process")
    def t(ctx: Context) -> None:
        with ctx.transaction(result="paid") as own:
            own.execute("insert into public.effect values (%s)", [ctx.job_id])

    job = t.enqueue()
    drain(app, conn)
    assert scalar(conn, "select job_id from public.effect") == job.id
    assert (app.get(job.id).state, app.get(job.id).result, app.get(job.id).attempt) == ("succeeded", "paid", 1)


def test_a_stopping_worker_gives_back_what_runs_in_a_child(app: App, conn: Conn) -> None:
    @app.task(name="t", isolation="process")
    def t() -> None:
        threading.Event().wait()

    job = t.enqueue()
    running = "select state = 'running' from pgqueue.job where id = %s"
    assert asyncio.run(work(app, lambda: scalar(conn, running, job.id), shutdown_timeout=0.2)) is True
    row = conn.execute("select state, attempt from pgqueue.job where id = %s", [job.id]).fetchone()
    assert row == ("pending", 0)


def test_a_hook_runs_in_each_child_before_its_first_job(app: App, conn: Conn) -> None:
    @app.on_child_start
    def load() -> None:
        os.environ["MODEL"] = "loaded"

    @app.task(name="t", isolation="process")
    def t() -> str:
        return os.environ["MODEL"]

    job = t.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == "loaded"
    assert "MODEL" not in os.environ


def test_another_word_than_thread_or_process_is_refused(app: App) -> None:
    with pytest.raises(InvalidTask, match="thread or process"):
        app.task(isolation="container")(lambda: None)


def _kill(pid: int) -> None:
    """Kill a child process, and wait until it is dead: until then it might take a request."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_worker_whose_fork_server_has_died_gives_the_job_back_and_fails(app: App, conn: Conn) -> None:
    @app.task(name="t", isolation="process", max_attempts=1)
    def t() -> None: ...

    job = t.enqueue()

    async def run() -> None:
        worker = Worker(app, WorkerSettings(shutdown_timeout=1.0))
        worker.prepare()
        _kill(worker._children._fork_server)
        with pytest.raises(PgqueueError, match="fork server"):
            await asyncio.wait_for(worker.run(), 30)

    asyncio.run(run())
    row = conn.execute("select state, attempt from pgqueue.job where id = %s", [job.id]).fetchone()
    assert row == ("pending", 0)


def test_an_async_task_runs_in_a_child_too(app: App, conn: Conn) -> None:
    @app.task(name="t", isolation="process")
    async def t() -> int:
        return os.getpid()

    job = t.enqueue()
    drain(app, conn)
    assert app.get(job.id).result not in (None, os.getpid())


def test_an_async_transaction_in_a_child_leaves_no_connection_behind(app: App, conn: Conn) -> None:
    @app.task(name="t", isolation="process")
    async def t(ctx: Context) -> None:
        async with ctx.atransaction() as own:
            await own.execute("select 1")

    def one_is_left() -> bool:
        ended = scalar(conn, "select count(*) = 5 from pgqueue.job_finished where state = 'succeeded'")
        left = "select count(*) from pg_stat_activity where application_name = 'pgqueue job'"
        return bool(ended) and scalar(conn, f"{left} and datname = current_database()") == 0

    t.enqueue_many({} for _ in range(5))
    asyncio.run(work(app, one_is_left))


def test_a_process_that_dies_after_its_transaction_has_ended_its_job(app: App, conn: Conn) -> None:
    seen: list[object] = []
    app.on(JobSucceeded)(seen.append)
    app.on(StaleWrite)(seen.append)

    @app.task(name="t", isolation="process")
    def t(ctx: Context) -> None:
        with ctx.transaction(result=7):
            pass
        _kill()

    @app.task(name="async", isolation="process")
    async def t_async(ctx: Context) -> None:
        async with ctx.atransaction(result=7):
            pass
        _kill()

    jobs = [t.enqueue(), t_async.enqueue()]
    drain(app, conn)
    assert [(app.get(job.id).state, app.get(job.id).result) for job in jobs] == [("succeeded", 7)] * 2
    assert [type(each) for each in seen] == [JobSucceeded] * 2
