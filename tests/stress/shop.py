"""The jobs of the stress run. Each writes to its journal and, on a connection of its own, an effect row."""

import asyncio
import ctypes
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

import pgqueue

from .journal import Journal, digest

Payload = dict[str, Any]
RETRY = pgqueue.Exponential(base=0.1, factor=1.5, max=1.0)
app = pgqueue.App(retry=RETRY, max_attempts=20, max_crashes=20)
local = threading.local()

# In which states each task may end. One whose attempts were all eaten by faults may end as a dead letter too.
ENDS: dict[str, set[str]] = {
    "fast": {"succeeded"},
    "fast_async": {"succeeded"},
    "slow": {"succeeded"},
    "slow_async": {"succeeded"},
    "blocks": {"succeeded"},
    "flaky": {"succeeded"},
    "snoozing": {"succeeded"},
    "always": {"failed"},
    "rejects": {"failed"},
    "cancels": {"cancelled"},
    "hostile": {"failed"},
    "odd_result": {"succeeded"},
    "murder": {"failed"},
    "crashes": {"failed"},
    "times_out": {"failed"},
    "exact": {"succeeded"},
    "exact_async": {"succeeded"},
    "exact_child": {"succeeded"},
    "later": {"succeeded"},
    "perishable": {"succeeded", "cancelled"},
    "tick": {"succeeded"},
    "bad_arguments": {"failed"},
    "nobody_knows": {"blocked"},
}
EXACT = ("exact", "exact_async", "exact_child")  # their effects are written in ctx.transaction()


@cache
def journal() -> Journal:
    """Return this process's journal, opened when first needed."""
    return Journal(Path(os.environ["STRESS_DIRECTORY"]) / f"jobs-{os.environ['STRESS_PROCESS']}.jsonl")


@contextmanager
def direct() -> Iterator[psycopg.Connection[Any]]:
    """Lend this thread's connection to the database, past the gate of its process."""
    try:
        if getattr(local, "conn", None) is None:
            local.conn = psycopg.connect(os.environ["STRESS_DIRECT_DSN"], autocommit=True, connect_timeout=5)
        yield local.conn
    except psycopg.Error:
        conn, local.conn = getattr(local, "conn", None), None
        if conn is not None:
            conn.close()
        raise


def effect(job_id: int, attempt: int, op: str) -> tuple[int, bool]:
    """Write an effect row; return how many the job has by now, and whether its business row exists."""
    with direct() as conn:
        params = (job_id, attempt, os.environ["STRESS_PROCESS"])
        conn.execute("insert into stress.effect (job_id, attempt, process) values (%s, %s, %s)", params)
        row: tuple[int, bool] = conn.execute(
            "select (select count(*) from stress.effect where job_id = %s),"
            " exists (select from stress.orders where op = %s)",
            (job_id, op),
        ).fetchone()  # type: ignore[assignment]
    return row


@contextmanager
def attempt(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> Iterator[Payload]:
    """Write the start and the end of an attempt to the journal, whatever happens in between."""
    about = {"job": ctx.job_id, "attempt": ctx.attempt, "lease": getattr(ctx, "lease", None), "task": ctx.task}
    process, seen = os.environ["STRESS_PROCESS"], digest({"op": op, "n": n, "payload": payload})
    journal().write(kind="start", process=process, op=op, digest=seen, **about)
    told: Payload = {}
    try:
        yield told
    except BaseException as error:
        journal().write(kind="end", process=process, outcome=type(error).__name__, **about, **told)
        raise
    journal().write(kind="end", process=process, outcome="ok", **about, **told)


def work(ctx: pgqueue.Context, op: str, told: Payload) -> int:
    """Do the work of a job; return how many effects it has by now."""
    count, visible = effect(ctx.job_id, ctx.attempt, op)
    told["visible"] = visible
    return count


def duration(ctx: pgqueue.Context, payload: Payload) -> float:
    """How long a slow job takes: a probe may want its second run to take longer."""
    return payload.get("again") or payload["seconds"] if ctx.attempt > 1 else payload["seconds"]


@app.task(name="fast")
def fast(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> Payload:
    with attempt(ctx, op, n, payload) as told:
        return {"effects": work(ctx, op, told)}


@app.task(name="fast_async")
async def fast_async(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        await asyncio.to_thread(work, ctx, op, told)


@app.task(name="slow", priority=1)
def slow(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        work(ctx, op, told)
        ends = time.monotonic() + duration(ctx, payload)
        while time.monotonic() < ends:
            ctx.check()
            time.sleep(0.05)


@app.task(name="slow_async")
async def slow_async(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        await asyncio.to_thread(work, ctx, op, told)
        await asyncio.sleep(duration(ctx, payload))


@app.task(name="flaky")
def flaky(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        work(ctx, op, told)
        if ctx.attempt <= payload["failures"]:
            raise pgqueue.Retry(delay=0.1) if n % 2 else RuntimeError("not yet")


@app.task(name="snoozing")
def snoozing(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        if work(ctx, op, told) <= payload["snoozes"]:
            raise pgqueue.Snooze(0.2)


@app.task(name="perishable", expires=0.3)
def perishable(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        work(ctx, op, told)


@app.task(name="always", max_attempts=2)
def always(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        work(ctx, op, told)
        raise RuntimeError("always")


@app.task(name="rejects")
def rejects(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        work(ctx, op, told)
        raise pgqueue.Fail("no use")


@app.task(name="cancels")
async def cancels(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        await asyncio.to_thread(work, ctx, op, told)
        raise pgqueue.Cancel("not wanted any more")


class Unprintable(Exception):
    """An error whose text cannot be read."""

    def __str__(self) -> str:
        return str(self)


HOSTILE: dict[str, BaseException] = {
    "nul": RuntimeError("a\x00b"),
    "surrogate": RuntimeError("\ud800"),
    "huge": RuntimeError("x" * 10_000_000),
    "unprintable": Unprintable(),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "stop": StopIteration(1),
    "cancelled": asyncio.CancelledError(),
}


@app.task(name="hostile", max_attempts=2)
def hostile(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload):
        raise HOSTILE[payload["kind"]]


ODD: dict[str, Any] = {"object": object(), "nul": "a\x00b", "nan": float("nan"), "surrogate": "\ud800"}


@app.task(name="odd_result")
def odd_result(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> Any:
    with attempt(ctx, op, n, payload) as told:
        work(ctx, op, told)
    return ODD[payload["kind"]]


EXACTLY_ONCE = "insert into stress.exact (job_id, attempt) values (%s, %s)"


@app.task(name="exact")
def exact(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload), ctx.transaction() as conn:
        conn.execute(EXACTLY_ONCE, (ctx.job_id, ctx.attempt))


@app.task(name="exact_async")
async def exact_async(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload):
        async with ctx.atransaction() as conn:
            await conn.execute(EXACTLY_ONCE, (ctx.job_id, ctx.attempt))


@app.task(name="exact_child", isolation="process")
def exact_child(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload), ctx.transaction() as conn:
        conn.execute(EXACTLY_ONCE, (ctx.job_id, ctx.attempt))


def _segfault() -> None:
    faulthandler.disable()
    ctypes.string_at(0)


CRASHES: dict[str, Callable[[], object]] = {
    "segfault": _segfault,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


@app.task(name="crashes", isolation="process", max_attempts=2)
def crashes(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    """F5: take the child process along."""
    with attempt(ctx, op, n, payload):
        CRASHES[payload["kind"]]()


@app.task(name="times_out", timeout=0.5, max_attempts=2)
async def times_out(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload):
        await asyncio.sleep(60)


@app.task(name="blocks")
async def blocks(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    """F6: block the event loop for longer than a lease."""
    with attempt(ctx, op, n, payload) as told:
        work(ctx, op, told)
        time.sleep(payload["seconds"])  # noqa: ASYNC251


@app.task(name="murder", max_attempts=2)
def murder(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    """F4: take the worker along."""
    with attempt(ctx, op, n, payload):
        os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("STRESS_RELEASE") == "2":  # workers of the first release park its jobs, and these adopt them

    @app.task(name="later")
    def later(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
        with attempt(ctx, op, n, payload) as told:
            work(ctx, op, told)


@app.schedule(1, name="second", args={"op": "tick", "n": 0, "payload": {}})
@app.task(name="tick")
def tick(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    with attempt(ctx, op, n, payload) as told:
        work(ctx, op, told)
