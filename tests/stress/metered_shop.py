"""The jobs of the stress run that rules concern: limits, order, fair turns, rates, breakers, and full buckets."""

import asyncio
import time

import psycopg

import pgqueue
from pgqueue import db
from pgqueue.queries import Queries

from .shop import Payload, app, attempt, work

LIMITS = {"shared": 4, "limited": 2, "charged": 2}
STARTS, PERIOD = 8, 2.0
ENDS: dict[str, set[str]] = {
    "limited": {"succeeded"},
    "charged": {"succeeded"},
    "in_line": {"succeeded"},
    "paced": {"succeeded"},
    "for_tenants": {"succeeded"},
    "brittle": {"succeeded"},
    "skipped": {"succeeded", "cancelled"},
    "renewed": {"succeeded", "cancelled"},
    "shut_out": {"blocked"},
}


def key(payload: Payload) -> str:
    """The key of a job of any of these tasks."""
    return str(payload["key"])


shared = app.limit("shared", LIMITS["shared"])


async def _work(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        await asyncio.to_thread(work, ctx, op, told)
        await asyncio.sleep(payload["seconds"])
        if ctx.attempt <= payload["failures"]:
            raise pgqueue.Retry(delay=0.05) if n % 2 else RuntimeError("not yet")


@app.task(name="limited", limit=pgqueue.Limit(LIMITS["limited"], by=key))
async def limited(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    await _work(ctx, op, n, payload)


@app.task(name="charged", limit=[shared, pgqueue.Limit(LIMITS["charged"], by=key)])
def charged(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        runs = work(ctx, op, told)
        time.sleep(payload["seconds"])
        if runs <= payload["failures"]:
            raise pgqueue.Snooze(0.05) if n % 2 else RuntimeError("not yet")


@app.task(name="in_line", ordered=key)
async def in_line(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    await _work(ctx, op, n, payload)


@app.task(name="paced", limit=pgqueue.Limit(None, rate=pgqueue.Rate(STARTS, per=PERIOD, burst=2)))
async def paced(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    await _work(ctx, op, n, payload)


@app.task(name="for_tenants", fair=key, limit=shared)
async def for_tenants(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    await _work(ctx, op, n, payload)


@app.task(name="brittle", limit=pgqueue.Limit(None, by=key, breaker=pgqueue.Breaker(3, within=2, cooldown=0.2)))
async def brittle(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    await _work(ctx, op, n, payload)


@app.task(name="skipped", limit=pgqueue.Limit(1, by=key, on_full="skip"))
async def skipped(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    await _work(ctx, op, n, payload)


@app.task(name="renewed", limit=pgqueue.Limit(1, by=key, on_full="replace_waiting"))
async def renewed(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    await _work(ctx, op, n, payload)


@app.task(name="shut_out", limit=pgqueue.Limit(1))  # the run shuts it before anything is enqueued
async def shut_out(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    await _work(ctx, op, n, payload)


def declare(dsn: str) -> None:
    """Write the rules, as the first worker does, and shut one."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        db.run(conn, Queries("pgqueue").limits.declare(app.name, app.rules))
        conn.execute("update pgqueue.limit_rule set max_running = 0 where name = 'shut_out'")
