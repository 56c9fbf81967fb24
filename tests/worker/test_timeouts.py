"""Locks, slow statements and errors of the server: it gives up when the worker does, and the others go on."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, db, group
from pgqueue.db import Database
from pgqueue.db.link import Link
from pgqueue.queries.base import Query
from pgqueue.worker.duties.resolver import Resolver
from tests.conftest import eventually, scalar
from tests.harness import QUERIES, Conn, working

SUCCEEDED = "select count(*) from pgqueue.job where task = 'quick' and state = 'succeeded'"
BACKENDS = """select count(*) from pg_stat_activity
where application_name like 'pgqueue worker%' and datname = current_database()"""
RESOLVERS = """select count(*) from pg_stat_activity
where application_name = 'pgqueue worker resolve' and datname = current_database()"""
BLOCKED = RESOLVERS + " and wait_event_type = 'Lock'"
XACTS = "select xact_rollback from pg_stat_database where datname = current_database()"
Open = Callable[..., Conn]


def test_an_outcome_whose_row_a_caller_has_locked_holds_up_no_other(
    app: App, conn: Conn, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that cancelled a running job stays open. The job's row is locked; all others end meanwhile."""
    monkeypatch.setattr("pgqueue.db.database.LOCK_SECONDS", 0.2)
    monkeypatch.setattr("pgqueue.worker.duties.resolver.LOCKED_SECONDS", 0.05)
    go_on = asyncio.Event()

    @app.task(name="held")
    async def held() -> None:
        await go_on.wait()

    @app.task(name="quick")
    async def quick() -> None: ...

    async def scenario() -> None:
        running = "select count(*) from pgqueue.job where task = 'held' and state = 'running'"
        async with working(app, concurrency=4):
            job = held.enqueue()
            await eventually(lambda: scalar(conn, running), "it to run")
            with connect() as caller, caller.transaction():
                assert app.using(caller).cancel(job.id) is False
                go_on.set()  # its outcome waits for the caller
                await eventually(lambda: scalar(conn, BLOCKED), "the proof that its outcome waits")
                quick.enqueue_many([{}] * 20)
                await eventually(lambda: scalar(conn, SUCCEEDED) == 20, "the others to end")
                assert scalar(conn, "select state from pgqueue.job where id = %s", job.id) == "running"
                assert scalar(conn, RESOLVERS) == 1
            await eventually(lambda: scalar(conn, running) == 0, "its own outcome")
        assert scalar(conn, "select state from pgqueue.job where id = %s", job.id) == "succeeded"
        assert scalar(conn, "select count(*) from pgqueue.transition where job_id = %s", job.id) == 3

    asyncio.run(scenario())


def break_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the connection break when an outcome that was set aside is to be written as one with ties."""
    late, broken = Resolver._resolve_late, list[bool]()

    async def break_or_write(resolver: Resolver, batch: Any, moved: set[int]) -> Any:
        set_aside = [job for job, _ in batch if job.id not in moved and (job.id, job.lease) not in resolver._locked]
        if set_aside and not broken:
            broken.append(True)
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return await late(resolver, batch, moved)

    monkeypatch.setattr(Resolver, "_resolve_late", break_or_write)


@pytest.mark.parametrize("kind", ["plain", "member", "the connection breaks"])
def test_an_outcome_whose_row_gets_a_tie_from_an_open_transaction_is_written_after_it(
    app: App, conn: Conn, connect: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Somebody adds a job behind one that runs, and commits after the outcome was set aside."""
    monkeypatch.setattr("pgqueue.db.database.LOCK_SECONDS", 0.2)
    monkeypatch.setattr("pgqueue.worker.duties.resolver.LOCKED_SECONDS", 0.05)
    if kind == "the connection breaks":
        break_once(monkeypatch)
    go_on = asyncio.Event()

    @app.task(name="held")
    async def held() -> None:
        await go_on.wait()

    @app.task(name="quick")
    async def quick() -> None: ...

    async def scenario() -> None:
        running = "select count(*) from pgqueue.job where task = 'held' and state = 'running'"
        async with working(app, concurrency=4):
            job = group([held.s()]).enqueue().jobs[0] if kind == "member" else held.enqueue().id
            await eventually(lambda: scalar(conn, running), "it to run")
            with connect() as adder, adder.transaction():
                db.run(adder, QUERIES.workflows.mark_late_of([job]))
                go_on.set()
                await eventually(lambda: scalar(conn, BLOCKED), "the proof that its outcome waits")
                quick.enqueue_many([{}] * 20)
                await eventually(lambda: scalar(conn, SUCCEEDED) == 20, "the others to end, and it to be set aside")
            await eventually(lambda: scalar(conn, running) == 0, "its own outcome")
        assert scalar(conn, "select state from pgqueue.job where id = %s", job) == "succeeded"
        assert scalar(conn, "select count(*) from pgqueue.transition where job_id = %s", job) == 3

    asyncio.run(scenario())
    assert "is lost" not in caplog.text


def test_a_note_of_progress_about_a_locked_job_holds_up_no_other(
    app: App, conn: Conn, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.db.database.LOCK_SECONDS", 0.2)
    notes: dict[int, Callable[[int], None]] = {}
    done = asyncio.Event()
    progress = "select progress->>'done' from pgqueue.job where id = %s"

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        notes[ctx.job_id] = ctx.progress
        await done.wait()

    async def scenario() -> None:
        async with working(app):
            held, other = t.enqueue().id, t.enqueue().id
            await eventually(lambda: len(notes) == 2, "both to run")
            with connect() as caller, caller.transaction():
                app.using(caller).cancel(held)
                notes[held](1)
                notes[other](2)
                await eventually(lambda: scalar(conn, progress, other) == "2", "the note of the other")
                assert scalar(conn, progress, held) is None
                raise psycopg.Rollback
            await eventually(lambda: scalar(conn, progress, held) == "1", "its own note")
            done.set()

    asyncio.run(scenario())


def test_a_locked_table_takes_no_more_connections_and_the_worker_goes_on_after_it(
    app: App, conn: Conn, connect: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgqueue.db.database.LOCK_SECONDS", 0.05)
    caplog.set_level(logging.WARNING, "pgqueue")

    @app.task(name="quick")
    async def quick() -> None: ...

    async def scenario() -> None:
        async with working(app, poll_seconds=0.05):
            quick.enqueue()
            await eventually(lambda: scalar(conn, SUCCEEDED) == 1, "a job to run")
            before = scalar(conn, BACKENDS)
            with connect() as blocker, blocker.transaction():
                blocker.execute("lock table pgqueue.job_live in access exclusive mode")
                await eventually(
                    lambda: "claim failed, trying again: LockNotAvailable" in caplog.text, "a claim to give up"
                )
                await asyncio.sleep(0.5)  # several tries
                assert scalar(conn, BACKENDS) <= before
            quick.enqueue()
            await eventually(lambda: scalar(conn, SUCCEEDED) == 2, "a job after it")

    asyncio.run(scenario())


def test_the_server_ends_a_statement_of_a_link_before_the_link_does(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqueue.db.link.DEADLINE", 1.0)
    shown = Query(b"select current_setting('statement_timeout'), %(n)s::int", lambda rows: rows[0][0], {"n": 1})

    async def scenario() -> None:
        link = Link(Database(dsn), "pgqueue test")
        assert await link.run_long(shown, 30.0) == "29500ms"
        assert await link.run(shown) == "500ms"
        with pytest.raises(psycopg.errors.QueryCanceled):
            await link.run(Query(b"select pg_sleep(30)", list))
        assert await link.run(shown) == "500ms"  # on the same connection
        await link.close()

    asyncio.run(scenario())


def test_a_connection_whose_prepared_plans_no_longer_fit_is_made_anew(dsn: str, conn: Conn) -> None:
    """A migration changes the type of a column while an older worker runs."""
    conn.execute("create table public.widening (n int)")
    read = Query(b"select n, %(n)s::int from public.widening", list, {"n": 1})

    async def scenario() -> None:
        link = Link(Database(dsn), "pgqueue test")
        for _ in range(10):
            await link.run(read)
        conn.execute("alter table public.widening alter n type bigint")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not change result type"):
            await link.run(read)
        assert await link.run(read) == []
        await link.close()

    try:
        asyncio.run(scenario())
    finally:
        conn.execute("drop table public.widening")


TROUBLE = """
create sequence public.trouble;
create function public.trouble() returns trigger language plpgsql as $$
begin
    if nextval('public.trouble') <= {tries} then
        raise 'tuple concurrently updated' using errcode = 'XX000';
    end if;
    return new;
end $$;
create trigger trouble before insert on pgqueue.job_finished for each row execute function public.trouble()"""


@pytest.mark.parametrize(("tries", "result"), [(1, "precious"), (1000, None)], ids=["passes", "stays"])
def test_an_internal_error_is_tried_again_before_a_result_is_given_up(
    app: App, conn: Conn, tries: int, result: Any
) -> None:
    conn.execute(TROUBLE.replace("{tries}", str(tries)))

    @app.task(name="t")
    async def t() -> str:
        return "precious"

    job = t.enqueue()

    async def scenario() -> None:
        async with working(app):
            if result is not None:
                assert await job.await_result(30) == result
            else:  # it cannot be written at all; the worker goes on with other jobs
                await eventually(lambda: app.get(job.id).state == "failed", "the job to be given up")
                assert app.get(job.id).reason == "outcome refused"
                # Four tries with the result and a plain one; the dead letter is another table's.
                assert scalar(conn, "select last_value from public.trouble") == 5

    try:
        asyncio.run(scenario())
    finally:
        conn.execute(
            "drop trigger trouble on pgqueue.job_finished; drop function public.trouble(); drop sequence public.trouble"
        )
