"""Connections of ctx.transaction(): clean for each task, and one transaction from begin to end."""

import threading
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.sql import SQL

from pgqueue import App, Context
from tests.conftest import drain, scalar
from tests.harness import Conn

SETS = (
    "set app.tenant = 'one'; set search_path = elsewhere; set statement_timeout = '9min'; set role pg_monitor;"
    "create temp table mine (n int); prepare mine as select 1; listen mine; select pg_advisory_lock(42)"
)
FOUND = """select concat_ws(' ', coalesce(current_setting('app.tenant', true), ''), current_setting('search_path'),
    current_setting('statement_timeout'), current_user = session_user, to_regclass('pg_temp.mine'),
    (select count(*) from pg_prepared_statements), (select count(*) from pg_listening_channels()),
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), pg_backend_pid())"""


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_what_a_task_sets_does_not_reach_the_next(app: App, conn: Conn, asynchronous: bool) -> None:
    found: list[Any] = []
    kept: list[Any] = []

    @app.task(name="sync")
    def both(ctx: Context) -> None:
        with ctx.transaction() as lent:
            found.append(lent.execute(FOUND).fetchone())
            lent.execute(SETS)
            lent.row_factory = dict_row
            lent.execute("reset role")
            kept.append(lent)

    @app.task(name="async")
    async def aboth(ctx: Context) -> None:
        async with ctx.atransaction() as lent:
            found.append(await (await lent.execute(FOUND)).fetchone())
            await lent.execute(SETS)
            lent.row_factory = dict_row
            await lent.execute("reset role")
            kept.append(lent)

    app.backend.pools._size = 1  # so that both are lent the same connection
    for _ in range(2):
        app.enqueue("async" if asynchronous else "sync")
    drain(app, conn, concurrency=1)
    assert found[0] == found[1], "the same server process, as it was"
    assert all(lent.info.status == psycopg.pq.ConnStatus.BAD for lent in kept), "kept beyond the block: closed"


@pytest.mark.parametrize(
    "ends", ["rollback", "commit", "select 1; commit", "/* now */ COMMIT and chain", SQL("commit")]
)
def test_sql_that_ends_the_transaction_is_refused_and_nothing_remains(app: App, conn: Conn, ends: Any) -> None:
    conn.execute("create table public.effect (n int)")

    @app.task(name="pay", max_attempts=1)
    def pay(ctx: Context) -> None:
        with ctx.transaction() as lent:
            lent.execute("insert into public.effect values (1)")
            lent.execute(ends)

    job = pay.enqueue()
    drain(app, conn)
    assert (app.get(job.id).state, scalar(conn, "select count(*) from public.effect")) == ("failed", 0)
    assert "inside ctx.transaction()" in str(app.get(job.id).error)


@pytest.mark.parametrize("ends", ["select 1; end; begin", "select 1; end transaction; start transaction",
                                  r"select E'a\'b'; commit; begin; select 'x'"])  # fmt: skip
def test_another_transaction_than_that_of_the_block_completes_no_job(app: App, conn: Conn, ends: str) -> None:
    @app.task(name="pay", max_attempts=1)
    def pay(ctx: Context) -> None:
        with ctx.transaction() as lent:
            lent.execute(ends.encode())

    job = pay.enqueue()
    drain(app, conn)
    assert app.get(job.id).state == "failed"
    assert "inside" in str(app.get(job.id).error)


def test_a_transaction_that_was_ended_in_another_way_completes_no_job(app: App, conn: Conn) -> None:
    @app.task(name="pay", max_attempts=1)
    def pay(ctx: Context) -> None:
        with ctx.transaction() as lent:
            psycopg.Cursor(lent).execute("rollback")  # past the check of statements

    job = pay.enqueue()
    drain(app, conn)
    assert app.get(job.id).state == "failed"


def test_savepoints_and_blocks_of_code_are_no_end_of_a_transaction(app: App, conn: Conn) -> None:
    @app.task(name="pay", max_attempts=1)
    def pay(ctx: Context) -> None:
        result: list[str] = []
        with ctx.transaction(result=result) as lent:
            lent.execute("savepoint a")
            lent.execute("do $$ begin perform 1; end $$")
            lent.execute("rollback to savepoint a")
            lent.execute("select '; commit'")
            with lent.transaction():
                result += ["set", "inside"]

    job = pay.enqueue()
    drain(app, conn)
    assert (app.get(job.id).state, app.get(job.id).result) == ("succeeded", ["set", "inside"])


def test_jobs_that_enqueue_inside_their_transaction_do_not_wait_for_each_other(app: App, conn: Conn) -> None:
    gate = threading.Barrier(8)

    @app.task(name="child")
    def child() -> None: ...

    @app.task(name="parent", max_attempts=1)
    def parent(ctx: Context) -> None:
        with ctx.transaction():
            gate.wait(20)  # all eight have a connection
            child.enqueue()

    parent.enqueue_many([{}] * 8)
    drain(app, conn)
    assert scalar(conn, "select count(*) from pgqueue.job where task = 'parent' and state = 'succeeded'") == 8
