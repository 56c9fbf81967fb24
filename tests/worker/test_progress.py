"""Progress: reported by the task, read from outside, fenced."""

import asyncio
import threading

import psycopg
import pytest

from pgqueue import App, Context, InvalidOption, db
from pgqueue.db.link import Link
from pgqueue.events import Event, StaleWrite
from pgqueue.worker.duties.progress_writer import ProgressWriter
from tests.conftest import drain, eventually, scalar, work
from tests.harness import QUERIES, Conn, claimed, insert_job

FAR = {"done": 3, "total": 10, "note": "rows"}


@pytest.mark.parametrize("kind", ["thread", "async", "process"])
def test_a_running_job_shows_how_far_it_is_and_a_finished_one_does_not(app: App, conn: Conn, kind: str) -> None:
    if kind == "async":

        @app.task(name="t")
        async def t(ctx: Context) -> None:
            ctx.progress(3, 10, "rows")
            while not scalar_in_thread(app, "select count(*) from pgqueue.queue"):
                await asyncio.sleep(0.01)

    else:

        @app.task(name="t", isolation=kind)
        def t(ctx: Context) -> None:
            ctx.progress(3, 10, "rows")
            with psycopg.connect(app.dsn, autocommit=True) as own:
                while not scalar(own, "select count(*) from pgqueue.queue"):
                    threading.Event().wait(0.01)

    job = app.enqueue("t")
    seen: list[object] = []

    async def run() -> None:
        def said() -> bool:
            progress = app.get(job.id).progress
            if progress and not seen:
                seen.append(progress)
                conn.execute("insert into pgqueue.queue (name) values ('go on')")
            return app.get(job.id).state == "succeeded"

        await work(app, said)

    asyncio.run(run())
    assert seen == [FAR]
    assert app.get(job.id).progress is None


def scalar_in_thread(app: App, query: str) -> int:
    with psycopg.connect(app.dsn, autocommit=True) as own:
        return int(scalar(own, query))


def test_a_new_attempt_begins_with_no_progress(app: App, conn: Conn) -> None:
    job = app.enqueue("t", {})
    conn.execute("update pgqueue.job_live set progress = '{}' where id = %s", (job.id,))
    db.run(conn, QUERIES.jobs.claim(claimed(1, 1).worker_id, {"default": 1}, 1))
    assert scalar(conn, "select progress is null from pgqueue.job_live")


def test_progress_under_a_lost_lease_is_not_written_and_told_as_a_stale_write(conn: Conn, dsn: str) -> None:
    worker = claimed(1, 1).worker_id
    now = scalar(conn, "select now()")
    job = insert_job(conn, state="running", worker_id=worker, claimed_at=now, lease=2, attempt=2)
    events: list[Event] = []

    async def report() -> None:
        link = Link(db.Database(dsn), "pgqueue test")
        progress = ProgressWriter(link, QUERIES, events.append)
        progress.note(claimed(job, 1), '{"done": 1}')
        running = asyncio.create_task(progress.run())
        await eventually(lambda: events, "the stale write")
        progress.note(claimed(job, 2), '{"done": 2}')
        await eventually(lambda: scalar(conn, "select progress ->> 'done' = '2' from pgqueue.job_live"), "the next")
        progress.stop()
        await running
        await link.close()

    asyncio.run(report())
    assert [type(event) for event in events] == [StaleWrite]


def test_words_between_two_writes_are_dropped_but_for_the_newest(dsn: str, conn: Conn, app: App) -> None:
    @app.task(name="chatty")
    def chatty(ctx: Context) -> None:
        for n in range(100_000):
            ctx.progress(n)

    chatty.enqueue()
    drain(app, conn)
    assert scalar(conn, "select count(*) from pgqueue.job_finished") == 1


@pytest.mark.parametrize("done", [float("nan"), float("inf")])
def test_what_json_does_not_have_is_refused(done: float) -> None:
    context = Context(claimed(1, 1))
    with pytest.raises(InvalidOption, match="finite"):
        context.progress(done)
    context.progress(1, None, "a NUL \x00 and a lone \ud800")  # outside a worker it goes nowhere
