"""The jobs of workflows, durable steps and events in the stress run. What they do, they write down as deeds."""

import asyncio
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

import pgqueue

from . import metered_shop
from .shop import Payload, app, direct

__all__ = ["app"]

# A deed is written by a task, on a connection of its own unless it belongs to a transaction of the job, under the lease
# by which the task believes to run. The log of steps has each version of each recorded step, and that of settlings each
# moment from which on what waits for a group knows of its end, or for which it runs again. That of endings has the
# transaction of each end but those of dead letters, by the time at which it began: a job ends again after a retry.
TABLES = """
create schema if not exists stress;
create table stress.deed (id bigserial primary key, at timestamptz not null default clock_timestamp(),
    job_id bigint not null, lease bigint not null, kind text not null, name text not null, value jsonb);
create table stress.step_log (seq bigserial primary key, at timestamptz not null default clock_timestamp(),
    op text not null, old jsonb, new jsonb);
create function stress.record_step() returns trigger language plpgsql as $$
begin
    insert into stress.step_log (op, old, new) values (left(tg_op, 1),
        case when tg_op <> 'INSERT' then to_jsonb(old) end, case when tg_op <> 'DELETE' then to_jsonb(new) end);
    return null;
end $$;
create trigger chk after insert or update or delete on pgqueue.step
    for each row execute function stress.record_step();
create table stress.settling (seq bigserial primary key, at timestamptz not null default clock_timestamp(),
    workflow_id bigint not null, settled boolean not null);
create function stress.record_settling() returns trigger language plpgsql as $$
begin
    insert into stress.settling (workflow_id, settled) values (new.id, new.settled);
    return null;
end $$;
create trigger chk after update of settled on pgqueue.workflow
    for each row when (new.settled is distinct from old.settled) execute function stress.record_settling();
create table stress.ending (job_id bigint not null, finished_at timestamptz not null);
create function stress.record_ending() returns trigger language plpgsql as $$
begin
    insert into stress.ending (job_id, finished_at) values (new.id, new.finished_at);
    return null;
end $$;
create trigger chk_ended after insert on pgqueue.job_finished
    for each row execute function stress.record_ending();
"""
DEED = "insert into stress.deed (job_id, lease, kind, name, value) values (%s, %s, %s, %s, %s)"
REDRIVES = "select count(*) from pgqueue.transition where job_id = %s and from_state = 'failed'"
LONG_LIVED: dict[str, Any] = {"max_attempts": 1000, "max_crashes": 1000, "retry": pgqueue.Constant(0)}
NODES = ("node", "node_async", "node_exact", "node_metered")
CALLBACK = "callback"
SAGAS = ("saga", "saga_async", "saga_metered")
UNDO = "undone"
SUBSCRIBERS = {"hears_all": ["woven.#"], "hears_paid": ["*.paid", "woven.paid"], "hears_each": ["woven.*"]}
TOPICS = {
    "woven.paid": {"hears_all", "hears_paid", "hears_each"}, "woven.made": {"hears_all", "hears_each"},
    "other.paid": {"hears_paid"}, "other": set(),
}  # fmt: skip
CALLED = ("called", "called_async")
CALLS = ("call", "gather")  # the kinds of steps that call other tasks, by which their names begin
CALL_DEPTH = 2  # sagas that are called by sagas
TASKS = (*NODES, CALLBACK, *SAGAS, UNDO, *SUBSCRIBERS, *CALLED)


def deed(ctx: pgqueue.Context, kind: str, name: str, value: Any = None) -> None:
    """Write down what a job has done, or seen."""
    with direct() as conn:
        conn.execute(DEED, _deed(ctx, kind, name, value))


def _deed(ctx: pgqueue.Context, kind: str, name: str, value: Any) -> tuple[Any, ...]:
    return ctx.job_id, ctx._job.lease, kind, name, Jsonb(value)


def dies(ctx: pgqueue.Context, payload: Payload) -> bool:
    """Whether a job dies this time: it does until it was brought back so many times. Asks the log, so that kills change
    nothing about it."""
    if not payload["dies"]:
        return False
    with direct() as conn:
        row = conn.execute(REDRIVES, (ctx.job_id,)).fetchone()
    assert row is not None
    return bool(row[0] < payload["dies"])


def _work(ctx: pgqueue.Context, got: Any, n: int, payload: Payload) -> int:
    deed(ctx, "run", str(n), got)
    time.sleep(payload["seconds"])
    if dies(ctx, payload):
        raise pgqueue.Fail("as planned")
    if ctx.attempt <= payload["failures"]:
        raise RuntimeError("not yet")
    return n


@app.task(name="node", **LONG_LIVED)
def node(ctx: pgqueue.Context, got: Any = None, *, op: str, n: int, payload: Payload) -> int:
    return _work(ctx, got, n, payload)


@app.task(name="node_async", **LONG_LIVED)
async def node_async(ctx: pgqueue.Context, got: Any = None, *, op: str, n: int, payload: Payload) -> int:
    return await asyncio.to_thread(_work, ctx, got, n, payload)


@app.task(name="node_exact", **LONG_LIVED)
def node_exact(ctx: pgqueue.Context, got: Any = None, *, op: str, n: int, payload: Payload) -> None:
    _work(ctx, got, n, payload)
    with ctx.transaction(result=n) as conn:
        conn.execute(DEED, _deed(ctx, "exact", str(n), None))


@app.task(name="node_metered", limit=pgqueue.Limit(3), **LONG_LIVED)
def node_metered(ctx: pgqueue.Context, got: Any = None, *, op: str, n: int, payload: Payload) -> int:
    return _work(ctx, got, n, payload)


@app.task(name=CALLBACK, **LONG_LIVED)
def callback(ctx: pgqueue.Context, got: Any, *, op: str, n: int, payload: Payload) -> int:
    return _work(ctx, got, n, payload)


@app.task(name=UNDO, **LONG_LIVED)
def undone(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> None:
    """Undo a step; the first attempt may fail."""
    deed(ctx, "undone", payload["step"], payload["job"])
    if ctx.attempt <= payload["failures"]:
        raise RuntimeError("not yet")


def did(ctx: pgqueue.Context, name: str) -> str:
    """The function of a step: what it returns is different each time."""
    nonce = uuid.uuid4().hex
    deed(ctx, "did", name, nonce)
    time.sleep(random.uniform(0, 0.02))
    return nonce


async def adid(ctx: pgqueue.Context, name: str) -> str:
    return await asyncio.to_thread(did, ctx, name)


def reserved(conn: psycopg.Connection[Any], ctx: pgqueue.Context, name: str) -> str:
    """The function of a step whose effect and record are one transaction."""
    nonce = uuid.uuid4().hex
    conn.execute(DEED, _deed(ctx, "tx", name, nonce))
    return nonce


async def areserved(conn: psycopg.AsyncConnection[Any], ctx: pgqueue.Context, name: str) -> str:
    nonce = uuid.uuid4().hex
    await conn.execute(DEED, _deed(ctx, "tx", name, nonce))
    return nonce


def _undo(ctx: pgqueue.Context, op: str, name: str) -> Any:
    """The call that undoes a step."""
    return undone.s(op=op, n=0, payload={"job": ctx.job_id, "step": name, "failures": len(name) % 2})


@app.task(name="called", **LONG_LIVED)
def called(ctx: pgqueue.Context, got: Any = None, *, op: str, n: int, payload: Payload) -> int:
    return _work(ctx, got, n, payload)


@app.task(name="called_async", **LONG_LIVED)
async def called_async(ctx: pgqueue.Context, got: Any = None, *, op: str, n: int, payload: Payload) -> int:
    return await asyncio.to_thread(_work, ctx, got, n, payload)


def _failed(error: pgqueue.CallFailed) -> Any:
    return {"failed": error.state}


def _saga(ctx: pgqueue.Context, op: str, payload: Payload) -> str:
    for kind, name, seconds in payload["script"]:
        match kind:
            case "call" | "gather":
                planned = calls_of(op, name, payload.get("depth", 0))
                signatures = [call.signature(op, ctx.job_id, name) for call in planned]
                try:
                    value: Any = ctx.gather(name, signatures) if kind == "gather" else ctx.call(name, *signatures)
                except pgqueue.CallFailed as error:
                    value = _failed(error)
            case "sleep":
                value = ctx.sleep(name, seconds)  # type: ignore[func-returns-value]
            case "signal":
                value = ctx.wait_signal(name.partition("#")[0], timeout=seconds)
            case "event":
                value = ctx.wait_event(name, key=op, timeout=seconds)
            case "tx":
                value = ctx.step(name, reserved, ctx, name, transaction=True)
            case "undo":
                value = ctx.step(name, did, ctx, name, undo=_undo(ctx, op, name))
            case _:
                value = ctx.step(name, did, ctx, name)
        deed(ctx, "saw", name, value)
    if dies(ctx, payload):
        raise pgqueue.Fail("as planned")
    if payload["compensates"]:
        ctx.compensate()
    return op


@app.task(name="saga", **LONG_LIVED)
def saga(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> str:
    return _saga(ctx, op, payload)


@app.task(name="saga_metered", limit=pgqueue.Limit(2), **LONG_LIVED)
def saga_metered(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> str:
    return _saga(ctx, op, payload)


@app.task(name="saga_async", **LONG_LIVED)
async def saga_async(ctx: pgqueue.Context, op: str, n: int, payload: Payload) -> str:
    for kind, name, seconds in payload["script"]:
        match kind:
            case "call" | "gather":
                planned = calls_of(op, name, payload.get("depth", 0))
                signatures = [call.signature(op, ctx.job_id, name) for call in planned]
                try:
                    if kind == "gather":
                        value: Any = await ctx.agather(name, signatures)
                    else:
                        value = await ctx.acall(name, *signatures)
                except pgqueue.CallFailed as error:
                    value = _failed(error)
            case "sleep":
                value = await ctx.asleep(name, seconds)  # type: ignore[func-returns-value]
            case "signal":
                value = await ctx.await_signal(name.partition("#")[0], timeout=seconds)
            case "event":
                value = await ctx.await_event(name, key=op, timeout=seconds)
            case "tx":
                value = await ctx.astep(name, areserved, ctx, name, transaction=True)
            case "undo":
                value = await ctx.astep(name, adid, ctx, name, undo=_undo(ctx, op, name))
            case _:
                value = await ctx.astep(name, adid, ctx, name)
        await asyncio.to_thread(deed, ctx, "saw", name, value)
    if await asyncio.to_thread(dies, ctx, payload):
        raise pgqueue.Fail("as planned")
    if payload["compensates"]:
        await ctx.acompensate()
    return op


@app.task(name="hears_all", on=SUBSCRIBERS["hears_all"], **LONG_LIVED)
def hears_all(ctx: pgqueue.Context, event: pgqueue.Event) -> None:
    deed(ctx, "heard", "hears_all", event.id)


@app.task(name="hears_paid", on=SUBSCRIBERS["hears_paid"], **LONG_LIVED)
def hears_paid(ctx: pgqueue.Context, event: pgqueue.Event) -> None:
    deed(ctx, "heard", "hears_paid", event.id)


@app.task(name="hears_each", on=SUBSCRIBERS["hears_each"], ordered="event.key", **LONG_LIVED)
def hears_each(ctx: pgqueue.Context, event: pgqueue.Event) -> None:
    deed(ctx, "heard", "hears_each", event.id)


@dataclass(frozen=True)
class PlannedCall:
    """One call of a step: of a job, of a saga, or of a chord. `n`: the number of its last job, whose result it is."""

    kind: str
    n: int
    depth: int
    chance: int

    @property
    def numbers(self) -> list[int]:
        """The numbers of its jobs."""
        return [self.n, self.n + 1, self.n + 2] if self.kind == "chord" else [self.n]

    def value(self, op: str) -> Any:
        """What it returns if all goes well."""
        return self._op(op) if self.kind == "saga" else self.n

    def signature(self, op: str, caller: int, step: str) -> Any:
        """Return the call of a step of a job."""
        chance = random.Random(self.chance)
        payload: Payload = {"by": caller, "step": step, "seconds": chance.choice([0, 0, 0.03]), "failures": 0}
        payload |= {"dies": chance.choices((0, 99), (93, 7))[0], "failures": int(chance.random() < 0.1)}
        task: Any = chance.choice([called, called, called_async])
        match self.kind:
            case "saga":
                payload |= {"script": list(scripts(chance, self.depth + 1)), "depth": self.depth + 1}
                payload["compensates"] = False
                return chance.choice([saga, saga_async]).s(op=self._op(op), n=self.n, payload=payload)
            case "chord":
                members = [task.s(op=op, n=self.n + more, payload=payload | {"dies": 0}) for more in (1, 2)]
                return pgqueue.chord(members, called.s(op=op, n=self.n, payload=payload))
            case _:
                return task.s(op=op, n=self.n, payload=payload)

    def _op(self, op: str) -> str:
        return f"{op}/{self.n}"


def calls_of(op: str, step: str, depth: int) -> list[PlannedCall]:
    """Draw what a step of a saga calls: the same each time that its task runs."""
    chance = random.Random(f"{op}.{step}")
    kinds, weights = ("job", "chord", "saga"), (70, 15, 15 if depth < CALL_DEPTH else 0)
    count = chance.choice([0, 1, 2, 3, 5]) if step.startswith("gather") else 1
    return [
        PlannedCall(chance.choices(kinds, weights)[0], 1000 * depth + 10 * place, depth, chance.randrange(10**9))
        for place in range(count)
    ]


def scripts(chance: random.Random, depth: int = 0) -> Iterator[tuple[str, str, float | None]]:
    """Draw what a durable task does: steps, sleeps, waits and calls, by the names under which they are recorded."""
    waits = 0
    kinds = ("step", "undo", "tx", "sleep", "signal", "event", "call", "gather")
    weights = (20, 20, 20, 15, 20, 5, 12, 8) if depth < CALL_DEPTH else (20, 20, 20, 15, 5, 0, 0, 0)
    for number in range(chance.randint(1, 7 if not depth else 3)):
        kind = chance.choices(kinds, weights)[0]
        name = f"{kind}{number}"
        match kind:
            case "sleep":
                yield kind, name, round(chance.choice([0.01, 1.1, 1.5]), 2)
            case "signal":
                waits += 1
                yield kind, "go" if waits == 1 else f"go#{waits}", chance.choice([None, None, 0.2, 1.5])
            case "event":
                yield kind, name, 2.0
            case _:
                yield kind, name, None


assert metered_shop.app is app  # the workers of a run know the jobs of all shops
