"""Calls that a type checker must refuse, each on the line that is marked."""

from typing import Any

import psycopg

from pgqueue import App, Context, Workflow, chain, chord, group
from pgqueue.celery import Celery, Task, shared_task
from pgqueue.http import target

app = App()


@app.task
def plain(order_id: int, to: str = "x") -> None: ...


@app.task(queue="email")
def configured(order_id: int) -> None: ...


@app.task
async def on_the_loop(order_id: int, *, vip: bool = False) -> str:
    return "x"


@app.task
def with_context(ctx: Context, order_id: int) -> None: ...


@app.task(priority=5)
async def async_with_context(ctx: Context, order_id: int) -> None: ...


celery = Celery("shop")


@celery.task(bind=True, max_retries=3)
def in_celerys_words(self: Task, order_id: int) -> str:
    return str(order_id)


@shared_task
def shared(name: str) -> None: ...


def takes_two(args: dict[str, Any], more: int) -> dict[str, Any]:
    return args


class NoCodec:
    def seal(self, plain: bytes, about: bytes) -> bytes:
        return plain


def calls(conn: psycopg.Connection[Any], ctx: Context) -> None:
    plain.enqueue(order_id="x")  # ERROR wrong type
    plain.enqueue("x")  # ERROR wrong type by position
    plain.enqueue()  # ERROR missing
    plain.enqueue(order_id=1, cc="y")  # ERROR unknown
    plain.enqueue(1, "a", 2)  # ERROR too many
    plain(order_id="x")  # ERROR wrong type in a direct call
    plain.using(conn).enqueue(order_id="x")  # ERROR wrong type after using
    plain.using(priority="high").enqueue(1)  # ERROR wrong option
    plain.using(urgent=True).enqueue(1)  # ERROR unknown option
    plain.using(conn=conn).enqueue(1)  # ERROR the connection is positional
    plain.enqueue_many([1])  # ERROR no mapping
    configured.enqueue(order_id="x")  # ERROR wrong type of a configured task
    configured.enqueue()  # ERROR missing of a configured task
    on_the_loop.enqueue(order_id="x")  # ERROR wrong type of an async task
    on_the_loop.enqueue(1, True)  # ERROR keyword only
    with_context.enqueue(ctx, 1)  # ERROR the caller passes no context
    with_context.enqueue(order_id="x")  # ERROR wrong type beside a context
    with_context.enqueue()  # ERROR missing beside a context
    with_context(1)  # ERROR a direct call gives the context
    with_context(order_id=1)  # ERROR a direct call gives the context
    with_context(ctx)  # ERROR missing beside a context in a direct call
    with_context(1, ctx)  # ERROR the context comes first
    async_with_context.enqueue(ctx, order_id=1)  # ERROR the caller passes no context
    app.task(priority="high")  # ERROR wrong setting
    app.task(nonsense=1)  # ERROR unknown setting
    app.task(plain, queue="a")  # ERROR a function or options
    app.using(max_retries=1)  # ERROR unknown option by name
    plain.using(version=2)  # ERROR of tasks by name alone
    app.schedule(60, jiter=1)  # ERROR unknown option of a schedule
    app.schedules.pause("s", until="tomorrow")  # ERROR a moment is a datetime
    app.schedules.create("s", plain, 60, jitter="x")  # ERROR wrong option of a schedule
    app.task(version="2")  # ERROR a version is a number
    app.task(version=2, upcasters={1: takes_two})  # ERROR an upcaster takes one dict
    App(codec=NoCodec())  # ERROR a codec seals and opens
    app.enqueue(plain)  # ERROR an argument is missing
    app.enqueue(takes_two, 1, 2, 3)  # ERROR too many
    app.using(conn).enqueue(plain, "x")  # ERROR wrong type of a function's argument
    app.task(limit=5)  # ERROR a limit is one
    app.task(limit=["stripe"])  # ERROR limits are given, not named
    app.task(ordered=5)  # ERROR a parameter or a function
    app.task(on=5)  # ERROR a pattern, or a list of them
    app.publish("a", [1])  # ERROR data has names
    app.publish_many(["a"])  # ERROR a topic and its data
    app.task(rate_scope="host")  # ERROR fleet or worker
    app.limit("stripe", "20")  # ERROR a number
    App(limits={"email": 50})  # ERROR a Limit or a Rate


async def async_calls() -> int:
    await on_the_loop.aenqueue("x")  # ERROR wrong type
    await on_the_loop.aenqueue(order_id=1, vip="yes")  # ERROR wrong type of a keyword
    await plain.using().aenqueue(nothing=1)  # ERROR unknown
    await app.schedules.aresume()  # ERROR missing in an async twin
    await async_with_context(1)  # ERROR a direct call gives the context
    await async_with_context.aenqueue("x")  # ERROR wrong type beside a context
    return await on_the_loop(1)  # ERROR wrong result


@app.task
def number(text: str) -> int:
    return 1


@app.task
async def text(number: int, suffix: str) -> str:
    return "x"


@app.task
def joined(parts: list[str]) -> str:
    return ""


@app.task
def tidy() -> None: ...


def canvases() -> None:
    number.s(5)  # ERROR wrong type in a signature
    text.s(5)  # ERROR wrong type of what comes after the result
    text.s(suffx="a")  # ERROR unknown in a signature
    text.si(1)  # ERROR an immutable signature is whole
    number.s("a") | joined.s()  # ERROR the result does not fit
    number.s("a") | number.s("b")  # ERROR no parameter left for the result
    number.s("a") | tidy.s()  # ERROR no parameter at all
    number.s("a") | 5  # ERROR no canvas
    chain(number.s("a"), joined.s())  # ERROR the result does not fit in a chain
    chord([number.s("a")], joined.s())  # ERROR the list does not fit
    number.map([1])  # ERROR wrong values
    number.map(["a"]) | joined.s()  # ERROR the list of a group does not fit
    number.chunks(["a"], 2)  # ERROR the first parameter is no list
    group(1)  # ERROR no canvas in a group
    number.s("a").using(queue=5)  # ERROR wrong option of a signature
    number.s("a").using(urgent=True)  # ERROR unknown option of a signature
    (number.s("a") | tidy.si()).using(priority=5)  # ERROR an option of a job
    Workflow("w").using(priority=5)  # ERROR an option of a job
    Workflow("w", on_failure="die")  # ERROR cancel, stop or hold
    Workflow("w").add(number.s("a"), after="rows")  # ERROR a node, not its name
    Workflow("w").add(5)  # ERROR no part of a workflow
    app.batch(on_success=number)  # ERROR a signature, not a task
    app.batch(on_failure=tidy.s())  # ERROR unknown callback
    in_celerys_words.delay("a")  # ERROR wrong type
    in_celerys_words.delay(1, 2)  # ERROR too many arguments
    shared.delay()  # ERROR missing argument
    shared.apply_async(("a",), count_down=5)  # ERROR unknown option of a call
    celery.task(retry_backof=True)  # ERROR unknown option of a task
    abs(in_celerys_words.delay(1).get())  # ERROR it returns a text


def own_transactions(ctx: Context) -> None:
    ctx.transaction("a result")  # ERROR a result is given by name
    ctx.transaction(using=5)  # ERROR an alias of Django is text
    ctx.atransaction("a result")  # ERROR a result is given by name


def targets() -> None:
    hooks = target(app, "webhook")
    hooks.enqueue()  # ERROR missing argument
    hooks.enqueue("https://example.com", "TRACE")  # ERROR no such method
    hooks.enqueue("https://example.com", content="x")  # ERROR no such parameter
    hooks.using(dealy=5)  # ERROR unknown option of a call
    target(app, "other", alow=["10.0.0.0/8"])  # ERROR unknown option of a target
