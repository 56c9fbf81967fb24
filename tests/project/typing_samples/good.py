"""Calls that a type checker must accept."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Never, assert_type
from uuid import UUID

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, scoped_session

import pgqueue
from pgqueue import (
    App,
    AttemptEnd,
    Canvas,
    Context,
    EnqueueCall,
    Enqueuer,
    Exponential,
    Job,
    Node,
    Signature,
    TaskOptions,
    Workflow,
    chain,
    chord,
    group,
    testing,
)
from pgqueue.http import Secret, target, verify

app = App()


@app.task
def plain(order_id: int, to: str = "x") -> dict[str, int]:
    return {"a": order_id}


@app.task(queue="email", retry=Exponential(base=2), max_attempts=8, tags=["a"])
def configured(order_id: int) -> None: ...


@app.task
async def on_the_loop(customer: UUID, *, vip: bool = False) -> str:
    return str(customer)


@app.task
def with_context(ctx: Context, order_id: int) -> int:
    return ctx.attempt + order_id


@app.task(queue="a")
async def async_with_context(ctx: Context, order_id: int) -> None: ...


@app.schedule("*/5 * * * *", timezone="Europe/Paris", args={"order_id": 1})
@app.task
def scheduled(order_id: int) -> None: ...


def upcast(args: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": args["id"]}


@app.task(version=3, upcasters={1: upcast, 2: lambda args: {**args, "n": 1}}, aliases=["old"], max_args_bytes=500)
def versioned(order_id: int, n: int) -> None: ...


limited = App(limits={"email": pgqueue.Limit(50), "bulk": pgqueue.Rate(1000, per=60)})
stripe = limited.limit("stripe", 20, rate="100/s", breaker=pgqueue.Breaker(5, within=timedelta(minutes=1)))


@limited.task(limit=[stripe, pgqueue.Limit(2, by="customer")], fair=lambda customer: customer, rate_limit="10/m")
def metered(customer: str) -> None:
    raise pgqueue.RateLimited(30, limit=stripe)


@limited.task(limit=pgqueue.Rate(10, per=1, by="order_id"), ordered=pgqueue.Ordered("order_id", on_retry="pass"))
async def in_order(order_id: int) -> None: ...


@limited.task(on=["order.*", "refund.#"], ordered="event.key")
def book(event: pgqueue.Event, order_id: int) -> None: ...


published: pgqueue.Published = limited.publish("order.paid", {"order_id": 1}, key=1)
several: list[pgqueue.Published] = limited.using(headers={"a": "b"}).publish_many([("a", {}), ("a.b", {"x": 1}, 7)])
replayed: pgqueue.Replayed = limited.events.replay(book, patience=1)
made_jobs: tuple[int, ...] = published.jobs


@limited.task(ordered="order_id", rate_limit=2.5, rate_scope="worker", breaker=pgqueue.Breaker(3))
async def in_order_too(order_id: int) -> None: ...


class Codec:
    def seal(self, plain: bytes, about: bytes) -> str:
        return plain.hex()

    def open(self, sealed: str, about: bytes) -> bytes:
        return bytes.fromhex(sealed)


sealed = App(codec=Codec())


@app.around_attempt
def traced(ctx: Context) -> Callable[[AttemptEnd], None]:
    return lambda end: None


@app.on_attempt_end
def reported(end: AttemptEnd) -> None:
    assert_type(end.error, BaseException | None)


@app.around_enqueue
def enqueueing(call: EnqueueCall) -> None:
    call.headers["a"] = "b"


encrypted = App(codec=pgqueue.codecs.AESGCM({"k1": b""}, current="k1"))


def calls(conn: psycopg.Connection[Any]) -> None:
    assert_type(plain.enqueue(1), Job)
    assert_type(plain.enqueue(order_id=1, to="a"), Job)
    assert_type(plain(1), dict[str, int])
    assert_type(plain.using(conn, delay=timedelta(1)).enqueue(order_id=1), Job)
    assert_type(plain.using(run_at=datetime.now(UTC)).enqueue_many([{"order_id": 1}]), list[int])
    plain.using(conn, headers={"tenant": "7"}).enqueue(1)
    assert_type(metered.using(conn, limit_key="acme", fair_key=7).enqueue("acme"), Job)
    in_order.using(ordering_key=UUID(int=1)).enqueue(order_id=1)
    limited.using(limit_key={"t": "acme"}).enqueue("anything")
    configured.enqueue(5)
    on_the_loop.enqueue(UUID(int=1), vip=True)
    with_context.enqueue(1)
    with_context.enqueue(order_id=1)
    with_context.using(conn, priority=5).enqueue(order_id=1)
    async_with_context.enqueue(1)
    assert_type(with_context(testing.context(with_context), 1), int)
    with_context(testing.context(with_context, attempt=2), order_id=1)
    scheduled.enqueue(order_id=1)
    versioned.enqueue(order_id=1, n=2)
    assert_type(versioned.json_schema(), dict[str, Any])
    app.using(conn, version=2).enqueue("anything", {"a": 1})
    assert_type(app.enqueue("anything", {"a": 1}), Job)
    assert_type(app.enqueue(upcast, {"id": 1}), Job)
    app.using(conn, delay=5).enqueue(with_context, order_id=1)
    assert_type(app.get(1), Job)
    app.schedules.using(conn).create("s", scheduled, "0 6 * * *", timezone="UTC", misfire="all(3)", expires="next")
    assert_type(app.schedules.run("s"), Job)
    assert_type(app.using().cancel(1, reason="x"), bool)
    assert_type([status.name for status in app.schedules.list(after="a")], list[str])
    with app.lock("k", ttl=timedelta(minutes=1), wait=None) as lock:
        assert_type(lock.token, int)
    assert_type([held.holder for held in app.locks.list("sync:*")], list[str])
    defaults: TaskOptions = {"queue": "a", "priority": None}
    app.task(**defaults)(calls)


def steps(ctx: Context) -> None:
    assert_type(ctx.step("n", plain, 1), dict[str, int])
    assert_type(ctx.step("n", str, 1, transaction=True), str)
    ctx.sleep("nap", days=3)
    ctx.sleep("nap", timedelta(days=3))
    assert_type(app.signal(1, "approved", {"by": "ann"}), int)
    assert_type(app.rerun(1, from_step="n"), Job)
    assert_type(ctx.call("one", on_the_loop.s(UUID(int=1))), str)
    assert_type(ctx.gather("more", [on_the_loop.s(UUID(int=1))]), list[str])
    assert_type(ctx.call("group", group([on_the_loop.s(UUID(int=1))])), list[str])
    ctx.wait_event("payment", key=7, timeout=60)


async def async_steps(ctx: Context) -> None:
    assert_type(await ctx.astep("n", on_the_loop, UUID(int=1)), str)
    assert_type(await ctx.astep("n", str, 1), str)
    await ctx.asleep("nap", hours=1)
    assert_type(await ctx.acall("one", plain.s(1)), dict[str, int])
    assert_type(await ctx.agather("more", [plain.s(1), plain.s(2)]), list[dict[str, int]])
    assert_type(await app.using().asignal_event("payment", key="7"), int)


async def async_calls(conn: psycopg.AsyncConnection[Any]) -> None:
    assert_type(await plain.using(conn).aenqueue(1), Job)
    assert_type(await on_the_loop.aenqueue(customer=UUID(int=1)), Job)
    assert_type(await async_with_context.aenqueue(1), Job)
    assert_type(await async_with_context(testing.context(async_with_context), 1), None)
    running: Coroutine[Any, Any, str] = on_the_loop(UUID(int=1))
    assert_type(await running, str)
    assert_type(await on_the_loop(UUID(int=1)), str)
    assert_type(await plain.aenqueue_many([{"order_id": 1}]), list[int])
    assert_type(await app.using(conn).aget(1), Job)
    async with app.lock("k", wait=0.5) as lock:
        assert_type(lock.held, bool)
    assert_type((await app.locks.arelease("k", token=7)).job_id, int | None)
    assert_type(await app.schedules.using(conn).arun("s", by="me"), Job)


def takes(enqueuer: Enqueuer[[int], None]) -> None:
    enqueuer.enqueue(1)


@app.task
def fetch(ctx: Context, url: str) -> bytes:
    return url.encode()


@app.task
async def parse(raw: bytes, strict: bool = False) -> list[int]:
    return list(raw)


@app.task(queue="bulk")
def store(rows: list[int], place: str) -> str:
    return place


@app.task
def total(sums: list[str], *, name: str) -> int:
    return len(sums)


@app.task
def untyped(a, b=None):  # type: ignore[no-untyped-def]
    return a


def canvases(conn: psycopg.Connection[Any]) -> None:
    assert_type(fetch.s("u"), Signature[Never, bytes])
    assert_type(parse.s(), Signature[bytes, list[int]])
    assert_type(store.s("here"), Signature[list[int], str])
    assert_type(store.s([1], "here"), Signature[Never, str])
    assert_type(store.si([1], "here"), Signature[object, str])
    assert_type(parse.using(queue="a").s(strict=True).using(priority=5), Signature[bytes, list[int]])
    flow = fetch.s("u") | parse.s(strict=True) | store.s("here")
    assert_type(flow, Canvas[Never, str])
    flow.using(conn, name="a").enqueue()
    flow.on_error(plain.si(1)).enqueue()
    fetch.s("u").using(conn, queue="a").enqueue()
    each = store.map([[1], [2]], place="here")
    assert_type(each | total.s(name="x"), Canvas[Never, int])
    assert_type(chord([store.s([n], "a") for n in range(3)], total.s(name="x")), Canvas[Never, int])
    assert_type(chord([fetch.s("u") | parse.s() | store.s("a")], total.s(name="x")), Canvas[Never, int])
    assert_type(chain(fetch.s("u"), parse.s(), store.s("here")), Canvas[Never, str])
    assert_type(chain(chord(each, total.s(name="x")), configured.s()), Canvas[Never, None])
    group(group(store.s([1], "a"), store.s([2], "b")), each) | total.s(name="x")
    group(plain.s(1), fetch.s("u"), store.s([1], "a")).enqueue()
    in_chunks: Canvas[Never, list[str]] = store.chunks(range(9), 5, "here")
    in_chunks | total.s(name="x")
    group(fetch.s(u) for u in ("a", "b"))
    chain([plain.s(1), plain.si(2)])
    fetch.s("u") | group(parse.s(), parse.s(strict=True)) | plain.si(1)
    untyped.s(1) | untyped.s() | untyped.s(b=2)


def workflows(conn: psycopg.Connection[Any]) -> None:
    wf = Workflow("import", on_failure="stop")
    raw = wf.add(fetch.s("u"), name="raw")
    assert_type(raw, Node[bytes])
    rows = wf.add(parse.s(raw=raw))
    assert_type(rows, Node[list[int]])
    wf.add(store.s(rows, "here"), after=[raw.ended, rows])
    wf.add(total.s([rows, raw], name="x"), after=raw.failed)
    assert_type(wf.add(Workflow.of(store.map([[1]], "a")), after=rows), Node[list[str]])
    wf.on_error(plain.si(1)).using(conn).enqueue()
    with app.batch(on_success=plain.si(1), on_dead=plain.si(2)).using(conn) as batch:
        batch.add(plain.s(1))
        batch.add_many(plain, [{"order_id": 1}])


@app.task
def in_own_transactions(ctx: Context, session: Session, scoped: scoped_session[Session]) -> None:
    with ctx.transaction(result={"a": 1}) as conn:
        assert_type(conn, psycopg.Connection[Any])
    with ctx.transaction(session, result=1) as same:
        assert_type(same, Session)
    with ctx.transaction(scoped) as registry:
        assert_type(registry, scoped_session[Session])
    with ctx.transaction(using="default") as django:
        django.cursor()


@app.task
async def in_own_async_transactions(ctx: Context, session: AsyncSession, plain: AsyncConnection) -> None:
    async with ctx.atransaction() as conn:
        assert_type(conn, psycopg.AsyncConnection[Any])
    async with ctx.transaction(session, result=1) as same:
        assert_type(same, AsyncSession)
    async with ctx.transaction(plain) as other:
        assert_type(other, AsyncConnection)


async def targets(conn: psycopg.Connection[Any]) -> None:
    hooks = target(app, "webhook", secrets={"a": b"x" * 32}, sign="a", queue="hooks", allow=["10.0.0.0/8"])
    headers: dict[str, str | Secret] = {"Authorization": Secret("a")}
    assert_type(hooks.using(conn, delay=5).enqueue("https://example.com", "PUT", headers, body={"a": [1]}), Job)
    assert_type(await hooks.aenqueue("https://example.com", body="text"), Job)
    chain(hooks.s("https://example.com", headers={"X-A": "b"}), plain.si(1)).enqueue()
    assert_type(verify(b"", {}, ["whsec_"], tolerance=60), str)
