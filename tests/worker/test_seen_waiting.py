"""Jobs that wait are seen as such: in lists, counts, views, filters, over HTTP and on the command line."""

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from pgqueue import App, Context, Job, JobFilter, Limit, Snooze, WrongState
from pgqueue.cli import cli, output
from pgqueue.cli.status import read_status
from pgqueue.web import status_of
from tests.conftest import eventually, scalar
from tests.harness import Conn, insert_job, working

PHASES = {
    "nap": "sleeping", "metered": "sleeping", "approve": "waiting", "pay": "waiting", "parent": "waiting",
    "both": "waiting", "snoozed": "scheduled", "child": "scheduled", "first": "scheduled", "second": "blocked",
}  # fmt: skip
RESTS = """select count(*) from pgqueue.job_live where attempt = 0 and lease > 0 and run_at > now()
and (state = 'pending' or waits_for = 'turn')"""


@pytest.fixture
def jobs(app: App, conn: Conn) -> dict[str, Job]:
    """A job of each kind that waits, by the name of its task, after a worker has run them; none is due."""

    @app.task(name="nap")
    def nap(ctx: Context) -> None:
        ctx.sleep("nap", days=3)

    @app.task(name="metered", limit=Limit(5))
    def metered(ctx: Context) -> None:
        ctx.sleep("nap", days=3)

    @app.task(name="approve")
    def approve(ctx: Context) -> None:
        ctx.step("before", str)
        ctx.wait_signal("go")

    @app.task(name="pay")
    def pay(ctx: Context) -> None:
        ctx.wait_event("paid", key="7", timeout=86_400)

    @app.task(name="child")
    def child() -> None: ...

    @app.task(name="parent")
    def parent(ctx: Context) -> None:
        ctx.call("child", child.using(delay=86_400).s())

    @app.task(name="both")
    async def both(ctx: Context) -> None:
        await asyncio.gather(ctx.asleep("nap", days=3), ctx.await_signal("go"))

    @app.task(name="snoozed")
    def snoozed(ctx: Context) -> None:
        raise Snooze(86_400)

    @app.task(name="first")
    def first() -> None: ...

    @app.task(name="second")
    def second() -> None: ...

    for task in (nap, metered, approve, pay, parent, both, snoozed):
        task.enqueue()
    (first.using(delay=86_400).s() | second.si()).using(conn).enqueue()

    async def run() -> None:
        async with working(app):
            await eventually(lambda: scalar(conn, RESTS) == 7)

    asyncio.run(run())
    return {job.task: job for job in app.jobs.list(JobFilter())}


def test_the_phase_says_that_a_job_sleeps_or_waits(app: App, conn: Conn, jobs: dict[str, Job]) -> None:
    assert {name: job.phase for name, job in jobs.items()} == PHASES
    assert {name: app.get(job.id).phase for name, job in jobs.items()} == PHASES
    assert {name: status_of(job)["phase"] for name, job in jobs.items()} == PHASES
    assert dict(conn.execute("select task, phase from pgqueue.job_status").fetchall()) == PHASES
    previewed = app.jobs.preview("cancel", JobFilter(task="*"))
    assert {chosen.task: chosen.phase for chosen in previewed} == PHASES


@pytest.mark.parametrize("phase", ["sleeping", "waiting", "scheduled", "blocked"])
def test_a_filter_takes_the_phase(app: App, jobs: dict[str, Job], phase: str) -> None:
    fit = {name for name, other in PHASES.items() if other == phase} | ({"metered"} if phase == "blocked" else set())
    assert {job.task for job in app.jobs.list(JobFilter(state=phase))} == fit
    assert {job.task for job in app.jobs.preview("cancel", JobFilter(state=phase))} == fit
    assert app.jobs.list(JobFilter(state=phase, queue="other")) == []
    assert app.jobs.cancel(JobFilter(state=phase)).done == len(fit)


def test_counts_have_them_apart(app: App, conn: Conn, jobs: dict[str, Job], dsn: str) -> None:
    for most in (None, 100):
        (default,) = read_status(app, most).queues
        assert (default.sleeping, default.waiting, default.scheduled, default.blocked) == (2, 4, 3, 1)
        assert default.at_least == []
    (capped,) = read_status(app, 3).queues
    assert (capped.scheduled, capped.sleeping + capped.waiting) == (0, 3)  # beside the snoozed one
    assert {"scheduled", "sleeping", "waiting"} <= set(capped.at_least)
    load = conn.execute("select * from pgqueue.waiting_load").fetchone()
    assert load == ("default", 1, False, 2, 4, False)
    printed = CliRunner().invoke(cli, ["status", "--json", "--dsn", dsn])
    (queue,) = json.loads(printed.stdout)["queues"]
    assert (queue["sleeping"], queue["waiting"], queue["blocked"]) == (2, 4, 1)


def test_a_queue_that_holds_only_jobs_that_wait_is_in_the_status(app: App, conn: Conn) -> None:
    insert_job(conn, queue="alone", state="blocked", waits_for="jobs", waits_on=1)
    (alone,) = read_status(app, 100).queues
    assert (alone.queue, alone.blocked, alone.workers, alone.paused) == ("alone", 1, 0, False)
    app.pause(queue="alone")
    assert read_status(app, 100).queues[0].paused


def test_the_command_line_says_what_a_job_waits_for(
    jobs: dict[str, Job], dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "console", output.SafeConsole(width=200))

    def said(*words: Any) -> str:
        result = CliRunner().invoke(cli, [*map(str, words), "--dsn", dsn])
        assert result.exit_code == 0
        return " ".join(result.stdout.split())

    assert "waits for a signal 'go', without a timeout" in said("jobs", "show", jobs["approve"].id)
    assert "waiting" in said("jobs", "show", jobs["approve"].id)
    assert "It sleeps ('nap') until" in said("jobs", "show", jobs["metered"].id)
    assert "asleep" not in said("jobs", "show", jobs["first"].id)
    listed = said("jobs", "list", "--state", "blocked")
    assert "waits for other jobs of its workflow" in listed
    assert "second" in listed


def test_a_job_that_was_woken_cancelled_or_failed_sleeps_no_more(app: App, conn: Conn, jobs: dict[str, Job]) -> None:
    app.promote(jobs["nap"].id)
    assert app.get(jobs["nap"].id).phase == "pending"
    app.cancel(jobs["approve"].id)
    assert app.get(jobs["approve"].id).phase == "cancelled"
    conn.execute("update pgqueue.job_live set attempt = 1 where id = %s", (jobs["pay"].id,))
    assert app.get(jobs["pay"].id).phase == "retrying"
    (default,) = read_status(app, 100).queues
    assert (default.sleeping, default.waiting, default.retrying, default.pending) == (1, 2, 1, 1)
    with pytest.raises(WrongState, match=r"is sleeping and cannot be retried: it goes on when its time has come"):
        app.retry(jobs["metered"].id)
