"""Waiting for a job to end: however the job ends, the wait is woken and returns or raises its outcome."""

import asyncio
import os
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, Context, JobFailed, JobWasCancelled, NotAllowed, ResultMissing, WaitTimeout, group
from pgqueue.worker.duties.announcer import Announcer
from tests.client.waiting.looks import WAITED, end
from tests.conftest import DEADLINE, drain, eventually, scalar
from tests.harness import Conn, InThread, insert_job, wait_for, working


def test_each_wait_is_woken_by_an_event_however_soon_the_job_ends(no_polling: None, app: App, add: Any) -> None:
    """All without a poll: from the first wait, which no worker knows of, to jobs that end while the wait begins."""

    async def body() -> None:
        async with working(app):
            for n in range(60):
                job = await add.aenqueue(n, 1)
                if n % 2:
                    assert await job.await_result(DEADLINE) == n + 1
                else:
                    assert await asyncio.to_thread(job.wait, timedelta(seconds=DEADLINE)) == n + 1
        await app.aclose()

    asyncio.run(body())


@pytest.mark.parametrize("kind", ["thread", "async", "process", "transaction", "atransaction", "child transaction"])
def test_every_way_to_succeed_wakes(
    no_polling: None, app: App, conn: Conn, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = "select count(*) from pgqueue.queue"
    told, step, job_awaited = threading.Event(), Announcer.step, Announcer.job_awaited

    async def look(announcer: Announcer) -> float:
        delay = await step(announcer)
        if announcer._waiters_until:
            told.set()
        return delay

    def hear(announcer: Announcer) -> None:
        job_awaited(announcer)
        told.set()

    monkeypatch.setattr(Announcer, "step", look)
    monkeypatch.setattr(Announcer, "job_awaited", hear)

    def ready(own: Conn) -> None:
        while not scalar(own, gate):
            threading.Event().wait(0.01)

    if kind == "async":

        @app.task(name="t")
        async def t() -> str:
            await eventually(lambda: scalar(conn, gate))
            return "done"
    elif kind == "atransaction":

        @app.task(name="t")
        async def t(ctx: Context) -> None:
            await eventually(lambda: scalar(conn, gate))
            async with ctx.atransaction(result="done"):
                pass
    elif "transaction" in kind:

        @app.task(name="t", isolation="process" if "child" in kind else "thread")
        def t(ctx: Context) -> None:
            with psycopg.connect(app.dsn, autocommit=True) as own:
                ready(own)
            with ctx.transaction(result="done"):
                pass
    else:

        @app.task(name="t", isolation=kind)
        def t() -> str:
            with psycopg.connect(app.dsn, autocommit=True) as own:
                ready(own)
            return "done"

    async def body() -> None:
        async with working(app):
            waiting = asyncio.create_task((await t.aenqueue()).await_result(DEADLINE))
            await eventually(lambda: scalar(conn, WAITED), "the wait to be known")
            await eventually(told.is_set, "the worker to know of it")
            conn.execute("insert into pgqueue.queue (name) values ('go on')")
            assert await waiting == "done"
        await app.aclose()

    asyncio.run(body())
    assert scalar(conn, WAITED) == 0


def test_a_failure_raises_with_the_error(app: App) -> None:
    @app.task(name="bad", retry=[0.01])
    def bad() -> None:
        raise ValueError("no good")

    async def body() -> JobFailed:
        async with working(app):
            job = await bad.aenqueue()
            with pytest.raises(
                JobFailed, match=rf"job {job.id} bad failed \(exhausted\): ValueError: no good"
            ) as caught:
                await job.await_result(DEADLINE)
        await app.aclose()
        return caught.value

    failed = asyncio.run(body())
    assert (failed.task, failed.reason) == ("bad", "exhausted")
    assert failed.error is not None
    assert (failed.error.type, failed.error.message) == ("ValueError", "no good")


def test_a_waiting_job_that_is_cancelled_wakes_at_the_commit(no_polling: None, app: App, conn: Conn, dsn: str) -> None:
    job = app.enqueue("nobody.knows")
    waiting = InThread(lambda: job.wait(DEADLINE))
    wait_for(lambda: scalar(conn, WAITED), "the wait to be known")
    wait_for(lambda: app.waits._hub and app.waits._hub.snapshot(job.id), "the first look")
    with psycopg.connect(dsn) as borrowed:
        app.using(borrowed).cancel(job.id, "not wanted")
        assert not waiting.done
    with pytest.raises(JobWasCancelled, match="was cancelled: not wanted"):
        waiting.result()


def test_a_running_job_that_is_cancelled_wakes(no_polling: None, app: App) -> None:
    @app.task(name="long")
    async def long() -> None:
        await asyncio.sleep(3600)

    async def body() -> None:
        async with working(app):
            job = await long.aenqueue()
            waiting = asyncio.create_task(job.await_result(DEADLINE))
            await eventually(lambda: app.get(job.id).state == "running")
            await app.acancel(job.id)
            with pytest.raises(JobWasCancelled, match="cancelled by request"):
                await waiting
        await app.aclose()

    asyncio.run(body())


def test_a_job_that_has_ended_needs_no_waiter(no_polling: None, app: App, conn: Conn, add: Any) -> None:
    job = add.enqueue(1, 2)
    drain(app, conn)
    assert [job.wait(DEADLINE), app.wait(job.id, DEADLINE), app.get(job.id).wait(DEADLINE)] == [3, 3, 3]


def test_retried_jobs_are_waited_for_until_their_end(no_polling: None, app: App, conn: Conn) -> None:
    @app.task(name="twice", retry=[0.01])
    async def twice(ctx: Context) -> int:
        await eventually(lambda: scalar(conn, WAITED))
        if ctx.attempt == 1:
            raise ConnectionError
        return ctx.attempt

    async def body() -> None:
        async with working(app):
            assert await (await twice.aenqueue()).await_result(DEADLINE) == 2
        await app.aclose()

    asyncio.run(body())


@pytest.mark.parametrize("kept", [None, 0])
def test_of_what_is_not_kept_the_end_is_still_noticed(app: App, kept: int | None) -> None:
    @app.task(name="t", retention=kept, store_result=False)
    async def t() -> str:
        return "thrown away"

    async def body() -> None:
        async with working(app):
            assert await (await t.aenqueue()).await_result(DEADLINE) is None
        await app.aclose()

    asyncio.run(body())


def test_a_result_that_could_not_be_stored_is_said_to_be_missing(app: App, conn: Conn) -> None:
    @app.task(name="t")
    def t() -> object:
        return {"x": float("nan")}

    job = t.enqueue()
    drain(app, conn)
    with pytest.raises(ResultMissing, match=r"has succeeded, but its result is not stored: result\.x: nan is not JSON"):
        job.wait(DEADLINE)


def test_all_of_many_come_in_order_and_the_first_failure_is_raised(app: App, conn: Conn, add: Any) -> None:
    ids = add.enqueue_many([{"a": n, "b": 0} for n in range(5)])
    lost = app.enqueue("nobody.knows").id
    with pytest.raises(WaitTimeout, match=rf"job {ids[0]} .*\(6 of 6 have not\)"):
        app.wait_all([*ids, lost], 0.1)
    app.cancel(lost)
    drain(app, conn)
    assert app.wait_all(reversed(ids), DEADLINE) == [4, 3, 2, 1, 0]
    assert asyncio.run(app.await_all([], DEADLINE)) == []
    with pytest.raises(JobWasCancelled):
        asyncio.run(app.await_all([*ids, lost], DEADLINE))


def test_of_a_job_that_is_known_to_be_gone_nothing_is_awaited(app: App, conn: Conn) -> None:
    once = app.task(name="t", max_attempts=1)(lambda: 1 / 0).using(idempotency_key="once")
    once.enqueue()
    drain(app, conn)
    conn.execute("delete from pgqueue.dead_letter")
    with pytest.raises(ResultMissing, match="job 1 t has ended, and nothing is kept of it"):
        once.enqueue().wait()


PAGES = Path(__file__).parents[3] / "docs"
DOCS = (PAGES / "results.md").read_text()


def test_the_example_in_the_docs_runs(app: App, add: Any) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)

    async def body() -> None:
        async with working(app):
            await asyncio.to_thread(exec, compile(code, "results.md", "exec"), {"app": app, "add": add})

    asyncio.run(body())


def test_the_roles_in_the_docs_can_wait_and_cancel_and_no_more(app: App, conn: Conn, dsn: str, add: Any) -> None:
    (grants,) = re.findall(r"^```sql\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    role = f"web_{os.getpid()}_{threading.get_ident()}"
    conn.execute(f"create role {role}".encode())
    waiting = App(make_conninfo(dsn, options=f"-c role={role}"))
    try:
        ended, pending = add.enqueue(1, 2), add.enqueue(3, 4)
        end(conn, ended.id, result="3")
        with pytest.raises(NotAllowed, match=r"docs/roles\.md"):
            waiting.wait(ended.id, DEADLINE)
        conn.execute(re.sub(r"to web;", f"to {role};", grants).encode())
        assert waiting.wait(ended.id, DEADLINE) == waiting.get(ended.id).result == 3
        with pytest.raises(WaitTimeout):
            waiting.wait(pending.id, 0.2)
        for forbidden in (lambda: waiting.enqueue("add"), lambda: waiting.cancel(pending.id)):
            with pytest.raises(NotAllowed):
                forbidden()
        (more,) = re.findall(r"^```sql\n(.*?)^```", (PAGES / "web.md").read_text(), re.MULTILINE | re.DOTALL)
        conn.execute(re.sub(r"to web;", f"to {role};", more).encode())
        assert waiting.cancel(pending.id)
        insert_job(conn, id=99, state="running", worker_id=uuid4(), claimed_at="2026-01-01Z", attempt=1, lease=1)
        assert not waiting.cancel(99)
    finally:
        waiting.close()
        conn.execute(f"drop owned by {role}; drop role {role}".encode())


def test_the_results_of_all_jobs_of_a_run_are_waited_for_in_the_order_of_its_jobs(app: App, conn: Conn) -> None:
    @app.task(name="double")
    def double(n: int) -> int:
        return 2 * n

    run = group([double.s(n) for n in (3, 1, 2)]).enqueue()
    with pytest.raises(WaitTimeout):
        app.wait_all(run.jobs, 0.05)
    drain(app, conn)
    assert app.wait_all(run.jobs, DEADLINE) == [6, 2, 4]
    assert app.wait_all([run.jobs[2], run.jobs[0]], DEADLINE) == [4, 6]
