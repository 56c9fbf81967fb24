"""Jobs that wait for signals and events: none is lost or given twice, a timeout stays, and no slot is taken."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from pgqueue import App, Context, InvalidOption, InvalidStep, JobState, Limit, UnknownJob, WrongState
from pgqueue.cli import cli
from pgqueue.codecs import AESGCM
from pgqueue.queries.signals import SignalQueries
from tests.conftest import eventually, scalar
from tests.harness import Conn, working

ASLEEP = "select count(*) from pgqueue.job_live where state = 'pending' and attempt = 0 and run_at > now()"


def run_until(app: App, condition: Callable[[], Any], *then: Callable[[], Any], **settings: Any) -> None:
    """Work until a condition holds; do each thing then, and go on until the last of them returns true."""

    async def run() -> None:
        async with working(app, **settings):
            await eventually(condition)
            for act in then:
                await eventually(act)

    asyncio.run(run())


def test_a_job_waits_for_its_signal_without_a_slot(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def approve(ctx: Context) -> dict[str, str]:
        found: dict[str, str] = ctx.wait_signal("approved")
        return found

    job = approve.enqueue()
    run_until(
        app,
        lambda: scalar(conn, ASLEEP) == 1,
        lambda: app.signal(job.id, "approved", {"by": "ann"}),
        lambda: app.get(job.id).result == {"by": "ann"},
        concurrency=1,
    )
    assert scalar(conn, "select count(*) from pgqueue.signal") == 0
    assert scalar(conn, "select worker_id is null from pgqueue.transition where reason = 'asleep'") is False


def test_signals_before_the_wait_are_taken_in_order_and_once(app: App, conn: Conn) -> None:
    @app.task(max_attempts=3, retry=0)
    def collect(ctx: Context) -> list[Any]:
        found = [ctx.wait_signal("n", timeout=0) for _ in range(4)]
        found.append(ctx.wait_signal("other", timeout=0))
        runs.append(found)
        if len(runs) == 1:
            raise OSError
        return found

    runs: list[list[Any]] = []
    job = collect.enqueue()
    for n in (1, 2, 3):
        app.signal(job.id, "n", n)
    app.signal(job.id, "other")
    run_until(app, lambda: app.get(job.id).state.is_terminal)
    assert runs == [[1, 2, 3, None, True]] * 2


def test_a_timeout_is_recorded_and_a_later_signal_is_for_the_next_wait(app: App, conn: Conn) -> None:
    @app.task(max_attempts=3, retry=0)
    async def approve(ctx: Context) -> list[Any]:
        first = await ctx.await_signal("approved", timeout=0.05)
        await ctx.astep("sent", app.asignal, ctx.job_id, "approved", "late")
        if len(runs) < 2:
            runs.append(1)
            raise OSError
        return [first, await ctx.await_signal("approved")]

    runs: list[int] = []
    job = approve.enqueue()
    run_until(app, lambda: app.get(job.id).state.is_terminal)
    assert app.get(job.id).result == [None, "late"]


def test_a_long_timeout_ends_a_wait_without_a_slot(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def approve(ctx: Context) -> str:
        return "in time" if ctx.wait_signal("approved", timeout=1.3) else "too late"

    job = approve.enqueue()
    run_until(app, lambda: scalar(conn, ASLEEP) == 1, lambda: app.get(job.id).state.is_terminal)
    assert app.get(job.id).result == "too late"
    assert scalar(conn, "select timed_out from pgqueue.step") is True


def test_a_wait_beside_one_that_takes_its_signal_late_lets_it_finish(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the job would sleep for days, and the signal that it has taken would wake nobody."""
    take = SignalQueries.take

    @app.task(max_attempts=1)
    async def both(ctx: Context) -> Any:
        async def chain() -> Any:
            found = await ctx.await_signal("go")
            return await ctx.astep("after", str, found)

        waits = [asyncio.create_task(chain()), asyncio.create_task(ctx.asleep("nap", days=3))]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if waits[0].done():
            waits[1].cancel()
            return waits[0].result()
        return await waits[1]

    def slow(self: SignalQueries, waits: Any) -> Any:
        asked.append(app.signal(job.id, "go", "now"))
        return take(self, waits)

    asked: list[int] = []
    job = both.enqueue()
    monkeypatch.setattr(SignalQueries, "take", slow)
    run_until(app, lambda: app.get(job.id).state.is_terminal)
    assert app.get(job.id).result == "now"


def test_an_event_reaches_all_that_wait_for_its_key_each_once(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    async def pay(ctx: Context, key: str) -> list[Any]:
        first = await ctx.await_event("payment", key=key)
        return [first, await ctx.await_event("payment", key=key, timeout=0)]

    jobs = [pay.enqueue(key=key) for key in ("a", "a", "b")]
    run_until(
        app,
        lambda: scalar(conn, ASLEEP) == 3,
        lambda: app.signal_event("payment", key="a", data=1),
        lambda: [app.get(job.id).result for job in jobs[:2]] == [[1, None]] * 2,
    )
    assert app.get(jobs[2].id).phase == "waiting"
    assert scalar(conn, "select count(*) from pgqueue.awaited_event where seen") == 1


def test_an_event_before_the_wait_is_seen_and_one_before_the_job_is_not(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def pay(ctx: Context) -> Any:
        return [ctx.wait_event("payment", key="a", timeout=0) for _ in range(2)]

    app.signal_event("payment", key="a", data="before")
    job = pay.enqueue()
    app.signal_event("payment", key="a", data="after")
    run_until(app, lambda: app.get(job.id).state.is_terminal)
    assert app.get(job.id).result == ["after", None]


def test_a_signal_of_a_transaction_that_rolls_back_reaches_nobody(app: App, conn: Conn) -> None:
    @app.task
    def approve(ctx: Context) -> None:
        ctx.wait_signal("approved")

    job = approve.enqueue()
    with conn.transaction(force_rollback=True):
        app.using(conn).signal(job.id, "approved")
    assert scalar(conn, "select count(*) from pgqueue.signal") == 0


def test_what_cannot_be_sent_is_refused(app: App, conn: Conn) -> None:
    @app.task
    def approve(ctx: Context) -> None: ...

    job = approve.enqueue()
    with pytest.raises(UnknownJob, match="no job 99 is waiting or running"):
        app.signal(99, "approved")
    with pytest.raises(InvalidStep, match="signal name ''"):
        app.signal(job.id, "")
    with pytest.raises(InvalidStep, match=r"event key 1\.5 cannot be used: a float is no key"):
        app.signal_event("payment", key=1.5)
    app.cancel(job.id)
    with pytest.raises(WrongState, match=f"job {job.id} is cancelled: a signal is for a job that waits or runs"):
        app.signal(job.id, "approved")
    job = approve.enqueue()
    with pytest.raises(InvalidOption, match="with None, which a wait returns after its timeout"):
        app.signal(job.id, "approved", None)
    with pytest.raises(InvalidOption, match="cannot be sent with this data"):
        app.signal(job.id, "approved", object())


def test_sql_sends_signals_and_events(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def pay(ctx: Context) -> list[Any]:
        return [ctx.wait_signal("go"), ctx.wait_event("payment", key="7")]

    job = pay.enqueue()
    run_until(
        app,
        lambda: scalar(conn, ASLEEP) == 1,
        lambda: scalar(conn, "select pgqueue.signal(%s, 'go')", job.id),
        lambda: scalar(conn, "select count(*) from pgqueue.step where done") == 1,
        lambda: scalar(conn, "select pgqueue.signal_event('payment', '7', '{\"cents\": 5}')"),
        lambda: app.get(job.id).result == [True, {"cents": 5}],
    )


def test_a_wait_inside_the_function_of_a_step_is_refused(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def nested(ctx: Context) -> None:
        ctx.step("outer", lambda: ctx.sleep("inner", days=1))

    job = nested.enqueue()
    run_until(app, lambda: app.get(job.id).state.is_terminal)
    error = app.get(job.id).error
    assert error is not None
    assert "'inner' waits inside the function of step 'outer'" in error.message


def test_a_waiting_job_does_not_expire_and_can_be_cancelled(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def wait(ctx: Context) -> None:
        ctx.wait_signal("never")

    job = wait.using(expires=timedelta(seconds=60)).enqueue()
    run_until(app, lambda: scalar(conn, ASLEEP) == 1)
    assert scalar(conn, "select expires_at is null from pgqueue.job_live")
    assert app.cancel(job.id)


def test_why_says_for_what_a_job_waits_and_until_when(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    async def wait(ctx: Context) -> None:
        await asyncio.gather(
            ctx.await_signal("approved"), ctx.await_event("payment", key="7", timeout=900), ctx.asleep("nap", days=2)
        )

    job = wait.enqueue()
    run_until(app, lambda: scalar(conn, ASLEEP) == 1)
    texts = [reason.text for reason in app.why(job.id).reasons]
    assert "It waits for a signal 'approved', without a timeout." in texts
    assert any(text.startswith("It waits for an event 'payment' with the key '7', until ") for text in texts)
    assert any(text.startswith("It sleeps ('nap') until ") for text in texts)
    shown = CliRunner().invoke(cli, ["jobs", "show", str(job.id)], env={"PGQUEUE_DSN": app.dsn}).output
    assert "It waits for a signal 'approved', without a timeout." in shown
    as_json = CliRunner().invoke(cli, ["jobs", "show", str(job.id), "--json"], env={"PGQUEUE_DSN": app.dsn}).output
    assert [wait["name"] for wait in json.loads(as_json)["waits"] if "name" in wait] == ["approved", "payment"]


def test_a_waiting_job_holds_no_slot_of_a_limit_and_takes_its_turn_again(app: App, conn: Conn) -> None:
    order: list[str] = []

    @app.task(max_attempts=1, limit=Limit(1))
    def one(ctx: Context, name: str) -> None:
        order.append(f"{name} begins")
        ctx.wait_signal("go")
        order.append(f"{name} ends")

    first, second = one.enqueue(name="a"), one.enqueue(name="b")
    waiting = "select count(*) = 2 from pgqueue.job_live where state = 'blocked' and run_at > now() and lease > 0"
    free = "select (select sum(taken) from pgqueue.limit_use) = (select sum(freed) from pgqueue.limit_freed)"
    run_until(
        app,
        lambda: scalar(conn, waiting),
        lambda: scalar(conn, free),
        lambda: app.signal(second.id, "go"),
        lambda: app.get(second.id).state.is_terminal,
        lambda: app.signal(first.id, "go"),
        lambda: app.get(first.id).state.is_terminal,
    )
    assert sorted(order[:2]) == ["a begins", "b begins"]
    assert [one for one in order if "ends" in one] == ["b ends", "a ends"]


def test_a_published_event_wakes_the_jobs_that_wait_for_it_and_reaches_subscribers(app: App, conn: Conn) -> None:
    got: list[Any] = []

    @app.task(on="payment")
    def book(cents: int) -> None:
        got.append(cents)

    @app.task(max_attempts=1)
    def order(ctx: Context, number: int) -> Any:
        return ctx.wait_event("payment", key=number)

    app.events.declare()
    app.publish("payment", {"cents": 3}, key=3)  # before anybody has ever waited for the topic
    jobs = [order.enqueue(n) for n in (1, 2, 2)]
    run_until(
        app,
        lambda: scalar(conn, ASLEEP) == 3,
        lambda: app.publish("payment", {"cents": 1}, key="1"),
        lambda: conn.execute("select pgqueue.publish('payment', '{\"cents\": 2}', '2')"),
        lambda: all(app.get(job.id).state == JobState.SUCCEEDED for job in jobs) and len(got) == 3,
    )
    assert [app.get(job.id).result for job in jobs] == [{"cents": 1}, {"cents": 2}, {"cents": 2}]
    assert sorted(got) == [1, 2, 3]
    assert scalar(conn, "select array_agg(name) from pgqueue.awaited_topic where complete") == ["payment"]


def test_an_event_published_between_enqueue_and_the_first_wait_of_all_is_found(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def order(ctx: Context) -> Any:
        return ctx.wait_event("order.paid", key=7, timeout=60)

    app.publish("order.paid", {"n": 0}, key=7)  # before it was enqueued: not for this job
    job = order.enqueue()
    app.publish("order.paid", {"n": 1}, key=7)
    app.publish("order.paid", {"n": 2}, key=8)
    run_until(app, lambda: app.get(job.id).state == JobState.SUCCEEDED)
    assert app.get(job.id).result == {"n": 1}


def test_a_sealed_event_is_opened_by_who_waits_for_it(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"k": b"0" * 32}, "k"))

    @app.task(max_attempts=1)
    def order(ctx: Context) -> Any:
        return ctx.wait_event("payment", key=1)

    job = order.enqueue()
    app.publish("payment", {"card": "1234"}, key=1)
    run_until(app, lambda: app.get(job.id).state == JobState.SUCCEEDED)
    assert app.get(job.id).result == {"card": "1234"}
    assert "1234" not in scalar(conn, "select string_agg(data::text, '') from pgqueue.awaited_event")
    app.close()
