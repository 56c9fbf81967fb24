"""Durable steps: a step is recorded once, under the lease, and found again by its name."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, Fail, JobState, StepMismatch
from pgqueue.codecs import AESGCM
from pgqueue.events import StepsUnused
from tests.conftest import drain, eventually, scalar, work
from tests.harness import Conn, Proxy, working

STEPS = "select array_agg(name order by number) from pgqueue.step where job_id = %s"


def test_a_step_that_is_recorded_does_not_run_again(app: App, conn: Conn) -> None:
    calls: Counter[str] = Counter()

    def call(name: str, answer: int = 0) -> int:
        calls[name] += 1
        return answer

    @app.task(max_attempts=5, retry=0)
    def order(ctx: Context) -> int:
        first = ctx.step("first", call, "first", answer=1)
        second = ctx.step("second", call, "second", answer=2)
        calls["outside"] += 1
        if calls["outside"] < 3:
            raise OSError
        return first + second

    job = order.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == 3
    assert calls == {"first": 1, "second": 1, "outside": 3}


def test_steps_of_async_tasks_may_run_together(app: App, conn: Conn) -> None:
    calls: Counter[str] = Counter()

    async def fetch(name: str) -> str:
        calls[name] += 1
        await asyncio.sleep(0.01 if name == "a" else 0)
        return name.upper()

    @app.task(max_attempts=5, retry=0)
    async def gather(ctx: Context) -> list[str]:
        found = await asyncio.gather(*(ctx.astep(name, fetch, name) for name in "abc"))
        calls["outside"] += 1
        if calls["outside"] == 1:
            raise OSError
        return found

    job = gather.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == ["A", "B", "C"]
    assert calls == {"a": 1, "b": 1, "c": 1, "outside": 2}


def test_a_name_used_again_is_numbered_and_a_failed_use_does_not_count(app: App, conn: Conn) -> None:
    calls: list[int] = []

    def flaky(n: int) -> int:
        calls.append(n)
        if len(calls) == 2:
            raise OSError
        return n

    @app.task(max_attempts=5, retry=0)
    def pages(ctx: Context) -> list[int]:
        return [ctx.step("page", flaky, n) for n in range(3)]

    job = pages.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == [0, 1, 2]
    assert calls == [0, 1, 1, 2]
    assert scalar(conn, STEPS, job.id) == ["page", "page#2", "page#3"]


def test_a_name_used_twice_at_once_is_refused(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    async def twice(ctx: Context) -> None:
        await asyncio.gather(ctx.astep("a", asyncio.sleep, 0.05), ctx.astep("a", asyncio.sleep, 0.05))

    job = twice.enqueue()
    drain(app, conn)
    found = app.get(job.id)
    assert found.error is not None
    assert "step 'a' of job 1 is used twice at the same time" in found.error.message


@dataclass
class Charge:
    id: str
    cents: int


def test_a_value_comes_back_as_the_annotation_of_its_function_says(app: App, conn: Conn) -> None:
    seen: list[Any] = []

    def charge() -> Charge:
        return Charge("ch_1", 100)

    @app.task(max_attempts=2, retry=0)
    def pay(ctx: Context) -> None:
        seen.append(ctx.step("charge", charge))
        seen.append(ctx.step("pair", lambda: (1, 2)))
        if len(seen) == 2:
            raise OSError

    pay.enqueue()
    drain(app, conn)
    assert seen == [Charge("ch_1", 100), [1, 2]] * 2


def test_a_step_in_a_transaction_has_its_effect_exactly_once(app: App, conn: Conn) -> None:
    conn.execute("create table public.stock (n int)")
    attempts: list[int] = []

    def reserve(own: psycopg.Connection[Any], n: int) -> int:
        own.execute("insert into public.stock values (%s)", (n,))
        if len(attempts) == 1:
            raise OSError
        return n

    @app.task(max_attempts=5, retry=0)
    def order(ctx: Context) -> int:
        attempts.append(1)
        kept = ctx.step("reserve", reserve, 7, transaction=True)
        if len(attempts) < 4:
            raise OSError
        return kept

    job = order.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == 7
    assert conn.execute("select n from public.stock").fetchall() == [(7,)]


@pytest.mark.parametrize("transaction", [True, False])
def test_what_is_recorded_already_wins_and_undoes_the_transaction(app: App, conn: Conn, transaction: bool) -> None:
    """As where the answer to a commit was lost, and the task tries again in the same attempt."""
    conn.execute("create table public.stock (n int)")

    def reserve(own: psycopg.Connection[Any] | None = None) -> str:
        if own is not None:
            own.execute("insert into public.stock values (1)")
        conn.execute(
            "insert into pgqueue.step (job_id, name, kind, value, attempt, lease)"
            " select id, 'reserve', 'value', '\"first\"', 1, 1 from pgqueue.job_live"
        )
        return "second"

    @app.task(max_attempts=1)
    def order(ctx: Context) -> str:
        return ctx.step("reserve", reserve, transaction=transaction)

    job = order.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == "first"
    assert scalar(conn, "select count(*) from public.stock") == 0


def test_an_async_step_in_a_transaction_commits_with_its_record(app: App, conn: Conn) -> None:
    conn.execute("create table public.stock (n int)")
    attempts: list[int] = []

    async def reserve(own: psycopg.AsyncConnection[Any], n: int) -> int:
        await own.execute("insert into public.stock values (%s)", (n,))
        return n

    @app.task(max_attempts=5, retry=0)
    async def order(ctx: Context) -> int:
        attempts.append(1)
        kept = await ctx.astep("reserve", reserve, 7, transaction=True)
        if len(attempts) < 3:
            raise OSError
        return kept

    job = order.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == 7
    assert conn.execute("select n from public.stock").fetchall() == [(7,)]


def test_attempts_count_failures_since_the_last_recorded_step(app: App, conn: Conn) -> None:
    fails: Counter[str] = Counter()

    def flaky(name: str) -> None:
        fails[name] += 1
        if fails[name] <= 2:
            raise OSError(name)

    @app.task(max_attempts=3, retry=0)
    def long(ctx: Context) -> None:
        for name in "abcd":
            ctx.step(name, flaky, name)

    @app.task(max_attempts=3, retry=0)
    def short(ctx: Context) -> None:
        ctx.step("first", int)
        raise OSError

    one, two = long.enqueue(), short.enqueue()
    drain(app, conn)
    assert app.get(one.id).state == JobState.SUCCEEDED
    assert app.get(two.id).state == JobState.FAILED
    assert len(app.get(two.id).attempts) == 3


def test_another_kind_of_step_makes_a_dead_letter_at_once_and_a_redrive_goes_on(app: App, conn: Conn) -> None:
    deployed: list[str] = ["old"]

    @app.task(max_attempts=5, retry=0)
    def order(ctx: Context) -> str:
        if deployed[-1] == "bad":
            ctx.sleep("charge", 1000)
        charge = ctx.step("charge", lambda: "ch_1")
        if deployed[-1] == "old":
            deployed.append("bad")
            raise OSError
        return charge

    job = order.enqueue()
    drain(app, conn)
    found = app.get(job.id)
    assert (found.state, found.reason, len(found.attempts)) == ("failed", "step mismatch", 2)
    assert found.error is not None
    assert found.error.type == "pgqueue.StepMismatch"
    assert "is recorded as a step, and the task asks for a sleep" in found.error.message
    deployed.append("good")
    app.retry(job.id)
    drain(app, conn)
    assert app.get(job.id).result == "ch_1"


def test_a_recorded_value_that_no_longer_fits_makes_a_dead_letter_and_a_redrive_goes_on(app: App, conn: Conn) -> None:
    deployed: list[str] = ["old"]

    def named() -> str:
        return "tomorrow"

    def dated() -> date:
        return date(2026, 1, 1)

    @app.task(max_attempts=5, retry=0)
    def order(ctx: Context) -> str:
        due = ctx.step("due", dated if deployed[-1] == "bad" else named)
        if deployed[-1] == "old":
            deployed.append("bad")
            raise OSError
        return str(due)

    job = order.enqueue()
    drain(app, conn)
    found = app.get(job.id)
    assert (found.state, found.reason, len(found.attempts)) == ("failed", "step mismatch", 2)
    assert found.error is not None
    assert "the value recorded of step 'due' is not what its function returns now" in found.error.message
    deployed.append("good")
    app.retry(job.id)
    drain(app, conn)
    assert app.get(job.id).result == "tomorrow"


def test_a_job_that_an_older_version_has_begun_goes_its_way_in_a_newer_one(dsn: str, conn: Conn) -> None:
    old, new = App(dsn), App(dsn)

    @old.task(name="order", retry=3600)
    def order(ctx: Context) -> None:
        ctx.step("reserve", int)
        raise OSError

    @new.task(name="order", version=2, upcasters={1: dict})
    def newer(ctx: Context) -> str:
        if ctx.started_version == 1:
            ctx.step("reserve", int)
            return "the old way"
        ctx.step("reserve all", int)
        return "the new way"

    job = order.enqueue()
    asyncio.run(work(old, lambda: scalar(conn, "select phase = 'retrying' from pgqueue.job")))
    assert new.retry(job.id)
    later = newer.enqueue()
    drain(new, conn)
    assert [new.get(each.id).result for each in (job, later)] == ["the old way", "the new way"]
    old.close()
    new.close()


def test_rerun_forgets_a_step_and_those_after_it(app: App, conn: Conn) -> None:
    calls: list[str] = []
    broken = [True]

    @app.task(max_attempts=1)
    def order(ctx: Context) -> None:
        for name in "abc":
            ctx.step(name, calls.append, name)
        if broken[0]:
            raise Fail("no")

    job = order.enqueue()
    drain(app, conn)
    broken[0] = False
    app.rerun(job.id, from_step="b")
    drain(app, conn)
    assert app.get(job.id).state == JobState.SUCCEEDED
    assert calls == ["a", "b", "c", "b", "c"]


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_job_in_a_thread_or_a_child_records_steps(app: App, conn: Conn, kind: str) -> None:
    @app.task(isolation=kind, max_attempts=3, retry=0)
    def order(ctx: Context) -> list[int]:
        found = [ctx.step("n", int, n) for n in range(3)]
        if ctx.header("failed") is None and ctx.step("once", lambda: True) and scalar_attempts(ctx) < 2:
            raise OSError
        return found

    def scalar_attempts(ctx: Context) -> int:
        return len(app.get(ctx.job_id).attempts)

    job = order.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == [0, 1, 2]
    assert scalar(conn, STEPS, job.id) == ["n", "n#2", "n#3", "once"]


def test_a_record_of_a_job_whose_lease_is_lost_is_refused(app: App, conn: Conn) -> None:
    raised: list[str] = []

    @app.task(max_attempts=5, retry=0)
    def order(ctx: Context) -> None:
        if raised:
            return
        conn.execute("update pgqueue.job_live set lease = lease + 1")
        try:
            ctx.step("late", int)
        except Exception as error:
            raised.append(type(error).__name__)
            conn.execute("update pgqueue.job_live set lease = lease - 1")
            raise

    job = order.enqueue()
    drain(app, conn)
    assert raised == ["LeaseLost"]
    assert scalar(conn, STEPS, job.id) is None


def test_steps_of_many_jobs_are_recorded_by_few_statements(app: App, conn: Conn) -> None:
    @app.task
    async def order(ctx: Context) -> None:
        for n in range(5):
            await ctx.astep(f"s{n}", int)

    order.enqueue_many([{} for _ in range(200)])
    drain(app, conn, concurrency=100)
    assert scalar(conn, "select count(*) from pgqueue.step") == 1000
    # Records of one statement have one transaction.
    assert scalar(conn, "select count(distinct xmin::text) from pgqueue.step") < 200


def test_sync_steps_in_an_event_loop_are_refused(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    async def order(ctx: Context) -> None:
        ctx.step("a", int)

    job = order.enqueue()
    drain(app, conn)
    error = app.get(job.id).error
    assert error is not None
    assert "ctx.astep()" in error.message


def test_a_sleep_takes_no_slot_and_no_attempt(app: App, conn: Conn) -> None:
    begun: list[str] = []

    @app.task(max_attempts=1)
    def nap(ctx: Context) -> str:
        begun.append("nap")
        ctx.sleep("short", 0.01)
        ctx.sleep("long", seconds=1.2)
        return "rested"

    @app.task(max_attempts=1)
    def other() -> None:
        begun.append("other")

    job = nap.enqueue()
    other.enqueue()
    drain(app, conn, concurrency=1)
    found = app.get(job.id)
    assert found.result == "rested"
    assert begun == ["nap", "other", "nap"]
    assert scalar(conn, "select wake_at <= %s from pgqueue.step where name = 'long'", found.finished_at)


def test_a_task_that_catches_exceptions_still_sleeps(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def nap(ctx: Context) -> str:
        try:
            ctx.sleep("long", days=30)
        except Exception:  # noqa: BLE001 - as a careless task does
            return "never"
        return "rested"

    job = nap.enqueue()

    async def run() -> None:
        async with working(app):
            await eventually(lambda: app.get(job.id).phase == "sleeping" and app.get(job.id).attempts)

    asyncio.run(run())
    wait = scalar(conn, "select run_at - now() > interval '29 days' from pgqueue.job_live where attempt = 0")
    assert wait is True


def test_steps_beside_a_sleep_are_recorded_before_the_attempt_ends(app: App, conn: Conn) -> None:
    calls: Counter[str] = Counter()

    async def slow() -> str:
        calls["slow"] += 1
        await asyncio.sleep(0.2)
        return "done"

    @app.task(max_attempts=1)
    async def both(ctx: Context) -> str:
        done, _ = await asyncio.gather(ctx.astep("slow", slow), ctx.asleep("nap", 1.1))
        return done

    job = both.enqueue()
    drain(app, conn)
    assert app.get(job.id).result == "done"
    assert calls == {"slow": 1}


def test_steps_that_a_task_no_longer_uses_are_an_event(app: App, conn: Conn) -> None:
    told: list[tuple[str, ...]] = []
    app.on(StepsUnused)(lambda event: told.append(event.names))
    runs: list[int] = []

    @app.task(max_attempts=2, retry=0, version=2, upcasters={1: dict})
    def order(ctx: Context) -> int:
        runs.append(1)
        if len(runs) == 1:
            ctx.step("old", int)
            ctx.step("kept", int)
            raise OSError
        ctx.step("kept", int)
        return ctx.started_version

    job = order.enqueue()
    drain(app, conn)
    assert told == [("old",)]
    assert app.get(job.id).result == 2


def test_a_codec_seals_what_is_recorded_and_sent(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"k": b"0" * 32}))
    runs: list[int] = []

    @app.task(name="undo", max_attempts=1)
    def undo(secret: str) -> None:
        runs.append(len(secret))

    @app.task(max_attempts=2, retry=0)
    def order(ctx: Context) -> list[str]:
        runs.append(1)
        first = ctx.step("secret", lambda: "s3cret", undo=undo.s("s3cret"))
        found = [first, ctx.wait_signal("go"), ctx.wait_event("payment", key="7")]
        if len(runs) == 1:
            raise OSError
        raise Fail(str(found == ["s3cret"] * 3))

    job = order.enqueue()
    app.signal(job.id, "go", "s3cret")
    app.signal_event("payment", key="7", data="s3cret")
    drain(app, conn)
    error = app.get(job.id).error
    assert error is not None
    assert error.message == "True"
    assert runs == [1, 1, 6]
    everything = "select string_agg(t::text, ' ') from (select * from pgqueue.{}) as t"
    for table in ("step", "undo", "awaited_event", "job_finished", "transition"):
        stored = scalar(conn, everything.format(table)) or ""
        assert "s3cret" not in stored, table
    app.close()


def test_a_record_is_made_although_its_first_answer_is_lost(dsn: str, conn: Conn) -> None:
    with Proxy.before(dsn, b'insert into "pgqueue".step') as proxy:
        app = App(proxy.dsn)
        calls: list[int] = []

        @app.task(max_attempts=1)
        def order(ctx: Context) -> None:
            ctx.step("once", calls.append, 1)

        job = App(dsn).enqueue(order.name)
        asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live")))
        assert proxy.cut.is_set()
        app.close()
    assert calls == [1]
    assert scalar(conn, STEPS, job.id) == ["once"]
    assert scalar(conn, "select state from pgqueue.job where id = %s", job.id) == "succeeded"


def test_records_wait_for_a_job_that_a_caller_has_locked_and_hold_up_no_other(app: App, conn: Conn, dsn: str) -> None:
    gate = asyncio.Event()

    @app.task(max_attempts=1)
    async def order(ctx: Context) -> None:
        await gate.wait()
        await ctx.astep("once", int)

    locked, free = order.enqueue(), order.enqueue()

    async def run() -> None:
        async with working(app):
            await eventually(lambda: scalar(conn, "select count(*) = 2 from pgqueue.job_live where state = 'running'"))
            with psycopg.connect(dsn) as other:
                other.execute("select from pgqueue.job_live where id = %s for update", (locked.id,))
                gate.set()
                await eventually(lambda: app.get(free.id).state == "succeeded")
                assert scalar(conn, STEPS, locked.id) is None
            await eventually(lambda: app.get(locked.id).state == "succeeded")

    asyncio.run(run())


def test_step_mismatch_is_an_error_of_pgqueue() -> None:
    assert StepMismatch.__module__ == "pgqueue"
