"""Calls from steps: a job calls others, waits for them without a slot, and gets their results."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from pgqueue import App, CallFailed, Context, DeadFilter, Fail, InvalidStep, JobState, chain, group
from pgqueue.codecs import AESGCM
from tests.conftest import drain, eventually, scalar, work
from tests.harness import Conn, add_worker, working

LEFT = (
    "select (select count(*) from pgqueue.job_live), (select count(*) from pgqueue.call where not (ended and seen)),"
    " (select count(*) from pgqueue.unwanted_call)"
)
CLEAN = (0, 0, 0)


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@dataclass
class Thumb:
    """What a called task returns."""

    photo: int
    size: str


def left(conn: Conn) -> tuple[Any, ...]:
    row = conn.execute(LEFT).fetchone()
    assert row is not None
    return row


def test_a_call_returns_what_the_task_returns_and_is_made_once(app: App, conn: Conn) -> None:
    runs: Counter[str] = Counter()

    @app.task
    def thumb(photo: int) -> Thumb:
        runs["thumb"] += 1
        return Thumb(photo, "small")

    @app.task(max_attempts=5, retry=0)
    def album(ctx: Context) -> str:
        runs["album"] += 1
        made = ctx.call("thumb", thumb.s(7))
        if runs["album"] < 4:
            raise OSError
        assert isinstance(made, Thumb)
        return f"{made.photo} {made.size}"

    job = album.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == "7 small"
    assert runs == {"thumb": 1, "album": 4}  # it called, was woken, and failed twice
    assert left(conn) == CLEAN
    assert scalar(conn, "select count(*) from pgqueue.workflow") == 0


def test_a_caller_has_neither_slot_nor_worker_while_it_waits(app: App, conn: Conn) -> None:
    @app.task
    def inner(n: int) -> int:
        return n + 1

    @app.task
    async def outer(ctx: Context, depth: int) -> int:
        return await ctx.acall("deeper", outer.s(depth - 1) if depth else inner.s(0))

    job = outer.enqueue(5)
    drain(app, conn, concurrency=1)
    assert app.get(job.id).result == 1
    assert left(conn) == CLEAN


def test_results_of_a_gather_stand_in_the_order_of_the_calls(app: App, conn: Conn) -> None:
    @app.task
    async def square(n: int) -> int:
        await asyncio.sleep(0.01 * (3 - n % 3))
        return n * n

    runs: Counter[str] = Counter()

    @app.task
    async def total(ctx: Context) -> list[Any]:
        runs["total"] += 1
        none = await ctx.agather("none", [])
        some = await ctx.agather("some", [square.s(n) for n in range(40)])
        return [none, sum(some), some[:4]]

    job = total.enqueue()
    drain(app, conn, concurrency=4)
    assert app.get(job.id).result == [[], sum(n * n for n in range(40)), [0, 1, 4, 9]]
    assert runs["total"] == 2  # the last end woke it, and no other
    assert left(conn) == CLEAN


def test_a_thousand_calls_wake_their_caller_once(app: App, conn: Conn) -> None:
    runs: Counter[str] = Counter()

    @app.task
    async def number(n: int) -> int:
        return n

    @app.task
    async def many(ctx: Context) -> bool:
        runs["many"] += 1
        return await ctx.agather("numbers", [number.s(n) for n in range(1000)]) == list(range(1000))

    job = many.enqueue()
    drain(app, conn)
    assert app.get(job.id).result is True
    assert runs["many"] == 2


def test_canvases_are_called_as_single_tasks_are(app: App, conn: Conn) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task
    def mixed(ctx: Context) -> list[Any]:
        one = ctx.call("chain", double.s(1) | double.s() | double.s())
        some = ctx.call("group", group(double.s(n) for n in range(3)))
        body = ctx.call("chord", group(double.s(n) for n in range(3)) | total.s())
        all_of = ctx.gather("all", [double.s(5), chain(double.s(6), double.s()), double.map([7, 8])])
        nothing = ctx.call("nothing", group([]))
        return [one, some, body, all_of, nothing]

    job = mixed.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == [8, [0, 2, 4], 6, [10, 24, [14, 16]], []]
    assert left(conn) == CLEAN


def test_a_call_that_fails_raises_what_names_its_dead_letter_and_can_be_caught(app: App, conn: Conn) -> None:
    caught: list[CallFailed] = []

    @app.task(max_attempts=1)
    def bad(n: int) -> int:
        raise ValueError(f"no {n}")

    @app.task
    def good(n: int) -> int:
        return n

    @app.task(max_attempts=5, retry=0)
    def careful(ctx: Context) -> str:
        try:
            ctx.gather("all", [good.s(1), bad.s(2), bad.s(3)])
        except CallFailed as error:
            caught.append(error)
        return "went on"

    @app.task(max_attempts=5, retry=0)
    def careless(ctx: Context) -> int:
        return ctx.call("bad", bad.s(9))

    one, other = careful.enqueue(), careless.enqueue()
    drain(app, conn)
    assert app.get(one.id).result == "went on"
    dead = scalar(conn, "select min(id) from pgqueue.dead_letter where task like '%%bad' and args->>'n' = '2'")
    (error,) = caught
    assert (error.step, error.job_id, error.state, error.reason) == ("all", dead, "failed", "exhausted")
    assert error.error is not None
    assert (error.error.type, error.error.message) == ("ValueError", "no 2")
    assert str(error).endswith("ValueError: no 2; 2 of 3 calls did not succeed")
    died = app.get(other.id)
    assert (died.state, died.reason) == (JobState.FAILED, "call failed")
    assert len(died.attempts) in (1, 2)  # at once, where the called jobs have ended by then, or after it had slept
    assert died.error is not None
    assert "ValueError: no 9" in died.error.message


def test_a_failed_chain_raises_for_its_last_job(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def bad() -> int:
        raise ValueError

    @app.task
    def after(n: int) -> int:
        return n

    @app.task
    def caller(ctx: Context) -> str:
        try:
            ctx.call("chain", bad.s() | after.s())
        except CallFailed as error:
            return f"{error.task.rpartition('.')[2]} {error.state} {error.reason}"
        return "no error"

    job = caller.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == "after cancelled skipped"


def test_what_is_recorded_of_a_call_stays_when_the_called_job_is_gone_or_run_again(app: App, conn: Conn) -> None:
    runs: Counter[str] = Counter()

    @app.task(max_attempts=1)
    def flaky() -> int:
        runs["flaky"] += 1
        if runs["flaky"] == 1:
            raise ValueError
        return 5

    @app.task(max_attempts=1)
    def caller(ctx: Context) -> str:
        try:
            ctx.call("flaky", flaky.s())
        except CallFailed:
            ctx.wait_signal("go")
            return "as before"
        return "another way"

    job = caller.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select run_at > now() + interval '1 year' and attempt = 0 and exists"
                                               " (select from pgqueue.step where kind = 'signal') from"
                                               " pgqueue.job_live where id = %s", job.id)))  # fmt: skip
    dead = scalar(conn, "select id from pgqueue.dead_letter")
    app.dead.redrive(DeadFilter(ids=[dead]))
    app.signal(job.id, "go")
    drain(app, conn)
    assert app.get(dead).result == 5
    assert app.get(job.id).result == "as before"


def test_results_are_sealed_where_the_app_has_a_codec(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"k": b"0" * 32}, "k"))

    @app.task(max_attempts=1)
    def secret(word: str) -> str:
        if word == "bad":
            raise ValueError("the secret error")
        return word.upper()

    @app.task
    def caller(ctx: Context) -> list[str]:
        found = ctx.gather("secret", [secret.s("hidden")])
        try:
            ctx.call("bad", secret.s("bad"))
        except CallFailed as error:
            found.append(str(error).rpartition(": ")[2])
        return found

    job = caller.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == ["HIDDEN", "the secret error"]
    stored = scalar(conn, "select string_agg(value::text, '') from pgqueue.step")
    assert "HIDDEN" not in stored
    assert "the secret error" not in stored
    app.close()


@pytest.mark.parametrize("ending", ["cancel", "fail"])
def test_called_jobs_are_cancelled_with_their_caller(app: App, conn: Conn, ending: str) -> None:
    started = asyncio.Event()

    @app.task
    async def runs_long() -> None:
        started.set()
        await asyncio.sleep(600)

    @app.task(queue="idle")
    def waits() -> None: ...

    @app.task
    def asleep(ctx: Context) -> None:
        ctx.call("deeper", waits.s())

    @app.task(max_attempts=1)
    async def caller(ctx: Context) -> None:
        async def fail() -> None:
            await ctx.await_signal("fail")
            raise Fail("given up")

        calls = ctx.agather("calls", [runs_long.s(), waits.s(), asleep.s()])
        await asyncio.gather(calls, ctx.acall("chain", waits.s() | waits.si()), fail())

    job = caller.enqueue()

    async def story() -> None:
        async with working(app, queues=["default"]):
            await started.wait()
            await eventually(lambda: scalar(conn, "select count(*) = 5 from pgqueue.call"))
            await eventually(
                lambda: scalar(conn, "select count(*) = 2 from pgqueue.job_live where run_at > now() + '1 year'")
            )
            if ending == "cancel":
                app.cancel(job.id)
            else:
                app.signal(job.id, "fail")
            await eventually(lambda: left(conn)[0] == 0)

    asyncio.run(story())
    assert app.get(job.id).state == (JobState.CANCELLED if ending == "cancel" else JobState.FAILED)
    states = conn.execute("select task, state, reason from pgqueue.job where id <> %s order by id", [job.id]).fetchall()
    assert {state for _, state, _ in states} == {"cancelled"}
    assert left(conn)[2] == 0
    assert scalar(conn, "select count(*) from pgqueue.step where kind = 'call' and not done") == 0


def test_a_caller_that_died_calls_anew_when_it_is_brought_back(app: App, conn: Conn) -> None:
    runs: Counter[str] = Counter()

    @app.task(queue="idle")
    def inner() -> int:
        return 1

    @app.task
    def caller(ctx: Context) -> int:
        runs["caller"] += 1
        return ctx.call("inner", inner.s())

    job = caller.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 1 from pgqueue.call"), queues=["default"]))
    app.cancel(job.id)
    asyncio.run(work(app, lambda: left(conn) == (0, 1, 0) or left(conn)[0] == 0, queues=["default"]))
    app.retry(job.id)
    drain(app, conn, queues=["default", "idle"])
    assert app.get(job.id).result == 1
    assert scalar(conn, "select count(*) from pgqueue.job where task like '%%inner'") == 2


def test_why_says_how_many_calls_are_open(app: App, conn: Conn) -> None:
    @app.task
    def quick() -> None: ...

    @app.task(queue="idle")
    def slow() -> None: ...

    @app.task
    def caller(ctx: Context) -> None:
        ctx.gather("calls", [quick.s(), slow.s(), slow.s()])

    job = caller.enqueue()
    asyncio.run(
        work(app, lambda: scalar(conn, "select count(*) = 1 from pgqueue.call where ended"), queues=["default"])
    )
    (reason, *_) = app.why(job.id).reasons
    ids = [row[0] for row in conn.execute("select child_id from pgqueue.call where not ended order by 1")]
    assert reason.code == "waits_for_calls"
    assert reason.text == f"It waits for 2 of 3 calls ('calls'): jobs {ids[0]}, {ids[1]}."


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda app: 7, "give a call of a task"),
        (lambda app: app.tasks_of_test.using(idempotency_key="k").s(1), "its step 'x' is its key"),
        (lambda app: other_task().s(1), "another app"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_is_written(
    app: App, conn: Conn, bad: Any, words: str
) -> None:
    errors: list[str] = []

    @app.task
    def one(n: int) -> int:
        return n

    app.tasks_of_test = one  # type: ignore[attr-defined]

    @app.task
    def caller(ctx: Context) -> None:
        try:
            ctx.call("x", bad(app))
        except InvalidStep as error:
            errors.append(str(error))

    caller.enqueue()
    drain(app, conn)
    assert len(errors) == 1
    assert words in errors[0]
    assert scalar(conn, "select count(*) from pgqueue.step") == 0


def other_task() -> Any:
    app = App("postgresql://nowhere")

    @app.task
    def theirs(n: int) -> int:
        return n

    return theirs


def test_no_call_is_made_while_a_worker_lives_that_knows_none(app: App, conn: Conn) -> None:
    @app.task
    def inner() -> None: ...

    @app.task(max_attempts=1)
    def caller(ctx: Context) -> None:
        ctx.call("inner", inner.s())

    add_worker(conn, knows="0040")
    job = caller.enqueue()
    drain(app, conn)
    died = app.get(job.id)
    assert died.error is not None
    assert "knows no calls of steps" in died.error.message
    assert scalar(conn, "select count(*) from pgqueue.job where task like '%%inner'") == 0


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_job_in_a_child_process_calls_others(app: App, conn: Conn, form: str) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    if form == "sync":

        @app.task(isolation="process", max_attempts=1)
        def caller(ctx: Context) -> list[int]:
            return [ctx.call("one", double.s(1)), *ctx.gather("more", [double.s(2), double.s(3)])]

    else:

        @app.task(isolation="process", max_attempts=1)
        async def caller(ctx: Context) -> list[int]:
            return [await ctx.acall("one", double.s(1)), *await ctx.agather("more", [double.s(2), double.s(3)])]

    job = caller.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == [2, 4, 6]


def test_a_call_that_is_rolled_back_has_inserted_nothing(app: App, conn: Conn) -> None:
    """The record of the step fails after the called job was inserted, as it does when a worker dies in between."""
    runs: Counter[str] = Counter()

    @app.task
    def inner() -> int:
        return 1

    @app.task(max_attempts=3, retry=0)
    def caller(ctx: Context) -> int:
        runs["caller"] += 1
        if runs["caller"] == 1:
            conn.execute("alter table pgqueue.call add constraint broken check (false) not valid")
        else:
            conn.execute("alter table pgqueue.call drop constraint if exists broken")
        return ctx.call("inner", inner.s())

    job = caller.enqueue()
    drain(app, conn, concurrency=1)  # what is called runs once its caller sleeps
    assert app.get(job.id).result == 1
    assert scalar(conn, "select count(*) from pgqueue.job where task like '%%inner'") == 1
    assert runs["caller"] == 3
