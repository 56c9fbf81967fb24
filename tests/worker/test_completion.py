"""ctx.transaction(): business writes and the completion of the job commit together, or not at all."""

import asyncio

import psycopg
import pytest

from pgqueue import App, ConfigError, Context, LeaseLost
from pgqueue.events import AttemptEvent, JobClaimed, JobStarted, JobSucceeded
from tests.conftest import drain, scalar, work
from tests.harness import Conn, claimed

EFFECTS = "select count(*) from public.effect"


@pytest.fixture
def effects(conn: Conn) -> Conn:
    conn.execute("create table public.effect (job_id bigint not null, note text)")
    return conn


def test_writes_and_completion_commit_together(app: App, effects: Conn) -> None:
    @app.task(name="pay")
    def pay(ctx: Context) -> str:
        with ctx.transaction(result={"paid": True}) as conn:
            conn.execute("insert into public.effect values (%s, 'paid')", [ctx.job_id])
        return "what is returned later changes nothing"

    job = pay.enqueue()
    drain(app, effects)
    assert scalar(effects, EFFECTS) == 1
    done = app.get(job.id)
    assert (done.state, done.result, len(done.attempts)) == ("succeeded", {"paid": True}, 1)


def test_a_value_that_cannot_be_stored_any_more_is_named_in_the_log(
    app: App, effects: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="pay")
    def pay(ctx: Context, value: int | None) -> int | None:
        with ctx.transaction():
            pass
        return value

    pay.enqueue(None)
    drain(app, effects)
    assert "ctx.transaction" not in caplog.text
    pay.enqueue(7)
    drain(app, effects)
    assert "pay returned a value after ctx.transaction(), which is not stored" in caplog.text


def test_the_async_twin_does_the_same(app: App, effects: Conn) -> None:
    @app.task(name="pay")
    async def pay(ctx: Context) -> None:
        async with ctx.atransaction() as conn:
            await conn.execute("insert into public.effect values (%s, 'paid')", [ctx.job_id])

    job = pay.enqueue()
    drain(app, effects)
    assert (scalar(effects, EFFECTS), app.get(job.id).state) == (1, "succeeded")


def test_an_error_in_the_block_leaves_nothing_and_is_retried(app: App, effects: Conn) -> None:
    @app.task(name="pay", retry=[0.01])
    def pay(ctx: Context) -> None:
        with ctx.transaction() as conn:
            conn.execute("insert into public.effect values (%s, 'paid')", [ctx.job_id])
            if ctx.attempt == 1:
                raise ConnectionError("card reader")

    job = pay.enqueue()
    drain(app, effects)
    assert (scalar(effects, EFFECTS), app.get(job.id).attempt) == (1, 2)


def test_an_error_after_the_block_does_not_undo_the_completion(app: App, effects: Conn) -> None:
    @app.task(name="pay", retry=[0.01])
    def pay(ctx: Context) -> None:
        with ctx.transaction() as conn:
            conn.execute("insert into public.effect values (%s, 'paid')", [ctx.job_id])
        raise RuntimeError("too late to matter")

    ends: list[AttemptEvent] = []
    app.on(AttemptEvent)(ends.append)
    job = pay.enqueue()
    drain(app, effects)
    assert [type(event) for event in ends] == [JobClaimed, JobStarted, JobSucceeded]
    assert (scalar(effects, EFFECTS), app.get(job.id).state, app.get(job.id).attempt) == (1, "succeeded", 1)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_with_the_lease_lost_nothing_of_the_transaction_remains(app: App, effects: Conn, asynchronous: bool) -> None:
    raised: list[type[BaseException]] = []
    steal = b"update pgqueue.job_live set lease = lease + 1 where state = 'running'"

    def take_away() -> None:
        with psycopg.connect(app.dsn, autocommit=True) as thief:
            thief.execute(steal)

    @app.task(name="sync")
    def pay(ctx: Context) -> None:
        try:
            with ctx.transaction() as conn:
                take_away()
                conn.execute("insert into public.effect values (%s, 'paid')", [ctx.job_id])
        except LeaseLost as error:
            raised.append(type(error))

    @app.task(name="async")
    async def apay(ctx: Context) -> None:
        try:
            async with ctx.atransaction() as conn:
                await asyncio.to_thread(take_away)
                await conn.execute("insert into public.effect values (%s, 'paid')", [ctx.job_id])
        except LeaseLost as error:
            raised.append(type(error))

    (apay if asynchronous else pay).enqueue()
    asyncio.run(work(app, lambda: raised))
    assert scalar(effects, EFFECTS) == 0
    assert scalar(effects, "select count(*) from pgqueue.job where state = 'succeeded'") == 0


def test_outside_a_worker_it_says_so(app: App) -> None:
    context = Context(claimed(1, 1))
    with pytest.raises(ConfigError, match="worker"):
        context.transaction()
