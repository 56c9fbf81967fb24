"""Jobs of the stress run that add others to their workflow, and let others run in their place."""

import asyncio
import random
import time
from typing import Any

import pgqueue

from . import woven_shop
from .shop import Payload
from .woven_shop import LONG_LIVED, app, deed, dies

__all__ = ["app"]

GROWERS = ("grower", "grower_async")
OVER = "over"
TASKS = (*woven_shop.TASKS, *GROWERS, OVER)
DEPTH = 2  # jobs that were added by jobs that were added


def _begin(ctx: pgqueue.Context, payload: Payload) -> None:
    deed(ctx, "run", payload["key"])
    time.sleep(payload["seconds"])


def _end(ctx: pgqueue.Context, payload: Payload) -> str:
    if dies(ctx, payload):
        raise pgqueue.Fail("as planned")
    if ctx.attempt <= payload["failures"]:
        raise RuntimeError("not yet")
    return str(payload["key"])


def _instead(ctx: pgqueue.Context, op: str, payload: Payload) -> Any:
    """What runs in the place of a job."""
    keys = [f"{ctx.job_id}.r{number}" for number in range(payload["instead"])]
    calls: list[Any] = [grower.s(op=op, n=0, payload=simple(key)) for key in keys[1:]]
    last: Any = grower.s(op=op, n=0, payload=simple(keys[0]))
    return ctx.replace(pgqueue.chord(calls, last) if calls else last)


@app.task(name="grower", **LONG_LIVED)
def grower(ctx: pgqueue.Context, got: Any = None, *, op: str, n: int, payload: Payload) -> str:
    """Add jobs to the workflow, and then succeed, fail, or let others run instead."""
    _begin(ctx, payload)
    before: Any = None
    for name, how, inner in payload["adds"]:
        call: Any = grower.s(op=op, n=n, payload=inner | {"key": f"{ctx.job_id}.{name}"})
        before = ctx.add(call, after=[before] if how == "after" and before else (), name=name)
        deed(ctx, "added", f"{ctx.job_id}.{name}", before.id)
    key = _end(ctx, payload)
    return _instead(ctx, op, payload) if payload["instead"] else key


@app.task(name="grower_async", **LONG_LIVED)
async def grower_async(ctx: pgqueue.Context, got: Any = None, *, op: str, n: int, payload: Payload) -> str:
    await asyncio.to_thread(_begin, ctx, payload)
    before: Any = None
    for name, how, inner in payload["adds"]:
        call: Any = grower_async.s(op=op, n=n, payload=inner | {"key": f"{ctx.job_id}.{name}"})
        before = await ctx.aadd(call, after=[before] if how == "after" and before else (), name=name)
        await asyncio.to_thread(deed, ctx, "added", f"{ctx.job_id}.{name}", before.id)
    key = await asyncio.to_thread(_end, ctx, payload)
    return _instead(ctx, op, payload) if payload["instead"] else key


@app.task(name=OVER, **LONG_LIVED)
def over(ctx: pgqueue.Context, *, op: str, n: int, payload: Payload) -> None:
    """Write down that a workflow is over."""
    deed(ctx, "over", op)


def simple(key: str) -> Payload:
    """The payload of a job that adds nothing."""
    return {"key": key, "seconds": 0, "dies": 0, "failures": 0, "adds": [], "instead": 0}


def drawn(key: str, chance: random.Random, depth: int = 0) -> Payload:
    """Draw what a job does: what it adds, whether others run in its place, and how it ends."""
    count = chance.choice([0, 0, 0, 1, 2]) if depth < DEPTH else 0
    adds = [
        (f"a{number}", chance.choice(["at once", "after"]), drawn("", chance, depth + 1)) for number in range(count)
    ]
    return {
        "key": key, "seconds": chance.choice([0, 0, 0.03]), "dies": chance.choices((0, 1, 99), (90, 5, 5))[0],
        "failures": int(chance.random() < 0.15), "adds": adds,
        "instead": chance.choice([1, 2, 3]) if chance.random() < 0.15 else 0,
    }  # fmt: skip
