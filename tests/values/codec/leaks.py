"""Tasks that put a secret into every place where a job keeps data: arguments, results, errors, reasons, schedules."""

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from typing import Any

import pgqueue
from pgqueue import App, Context
from pgqueue.db.link import Link
from pgqueue.scheduler import SchedulerSettings, Ticker, declare
from tests.conftest import drain
from tests.harness import Conn, insert_job

SECRET = "correct horse battery staple"
K1, K2 = secrets.token_bytes(32), secrets.token_bytes(32)
Make = Callable[..., App]


def dump(conn: Conn) -> str:
    """Every row of every table of the schema, as text."""
    tables = conn.execute(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'pgqueue'"
    ).fetchall()
    assert len(tables) > 20
    return "\n".join(
        str(row[0]) for (table,) in tables for row in conn.execute(f"select t::text from {table} as t".encode())
    )


def leaky_tasks(app: App) -> dict[str, pgqueue.Task[..., Any]]:
    """Register tasks that put a secret into everything a job keeps; return those that take it as `word`."""
    return _returning(app) | _failing(app)


def _returning(app: App) -> dict[str, pgqueue.Task[..., Any]]:
    """Tasks that succeed and return the secret, at once or in the second attempt."""

    @app.task(name="returns")
    def returns(word: str) -> dict[str, str]:
        return {"word": word}

    @app.task(name="returns_async")
    async def returns_async(word: str) -> str:
        return word

    @app.task(name="child", isolation="process", retry=[0.01])
    def child(ctx: Context, word: str) -> str:
        ctx.progress(1, 2, word)
        if ctx.attempt == 1:
            raise ValueError(word)
        return word

    @app.task(name="retries", retry=[0.01])
    def retries(ctx: Context, word: str) -> str:
        if ctx.attempt == 1:
            raise LookupError(word)
        return word

    @app.task(name="completes")
    def completes(ctx: Context, word: str) -> None:
        with ctx.transaction(result=word):
            pass

    tasks = [returns, returns_async, child, retries, completes]
    return {task.name: task for task in tasks}


def _failing(app: App) -> dict[str, pgqueue.Task[..., Any]]:
    """Tasks that put the secret into errors and reasons. `narrow` is for a job whose arguments do not fit."""

    @app.task(name="dies", max_attempts=1)
    def dies(word: str) -> None:
        try:
            raise KeyError(word)
        except KeyError as error:
            raise RuntimeError("no " + word) from error

    @app.task(name="snoozes")
    def snoozes(ctx: Context, word: str) -> None:
        if not os.environ.pop("PGQUEUE_TEST_SNOOZED", None):
            return
        raise pgqueue.Snooze(0.01, f"not yet: {word}")

    @app.task(name="cancels")
    def cancels(word: str) -> None:
        raise pgqueue.Cancel(f"unwanted: {word}")

    @app.task(name="fails")
    def fails(word: str) -> None:
        raise pgqueue.Fail(f"bad: {word}")

    @app.task(name="asks_again", max_attempts=2)
    async def asks_again(ctx: Context, word: str) -> None:
        if ctx.attempt == 1:
            raise pgqueue.Retry(word, delay=0.01)

    @app.task(name="narrow")
    def narrow(n: int) -> None: ...

    return {task.name: task for task in (dies, snoozes, cancels, fails, asks_again)}


async def fire_schedule(app: App, conn: Conn, task: pgqueue.Task[..., Any]) -> None:
    """Declare a schedule with a secret, twice, and fire it."""
    app.schedules._declared.clear()
    app.schedule(3600, name="secretive", args={"word": SECRET})(task)
    link = Link(app.database, "test")
    await declare(app, link)
    await declare(app, link)
    conn.execute("update pgqueue.schedule set next_tick = '2026-01-01Z'")
    assert await Ticker(app, link, SchedulerSettings()).fire() == 1
    await link.close()


def run_leaky_tasks(app: App, conn: Conn) -> dict[str, int]:
    """Run each of the tasks with the secret, and the same as bulk and by a schedule; return the jobs by task."""
    os.environ["PGQUEUE_TEST_SNOOZED"] = "1"
    tasks = leaky_tasks(app)
    jobs = {name: task.enqueue(word=SECRET).id for name, task in tasks.items()}
    tasks["returns"].enqueue_many([{"word": SECRET}, {"word": SECRET}])
    asyncio.run(app.aclose())
    app.enqueue("elsewhere", {"word": SECRET})
    insert_job(conn, task="narrow", args=json.dumps({"n": "x"}))
    asyncio.run(fire_schedule(app, conn, tasks["returns"]))
    drain(app, conn, concurrency=4)
    return jobs
