"""Jobs that run, and callers, add to a workflow that runs."""

import asyncio
from typing import Any

import pytest

import pgqueue
from pgqueue import App, InvalidWorkflow, Workflow, WorkflowEnded, chord, group
from tests.conftest import scalar, work
from tests.harness import Conn, add_worker
from tests.worker.test_canvases import run_all, settled


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def done() -> list[Any]:
    return []


@pytest.fixture
def tasks(app: App, done: list[Any]) -> Any:
    class Tasks:
        @staticmethod
        @app.task(name="part")
        def part(n: int) -> int:
            return n

        @staticmethod
        @app.task(name="total")
        async def total(parts: list[int]) -> int:
            return sum(parts)

        @staticmethod
        @app.task(name="keep")
        def keep(value: Any) -> Any:
            done.append(value)
            return value

        @staticmethod
        @app.task(name="fail", max_attempts=1)
        def fail(n: int = 0) -> int:
            raise pgqueue.Fail("no")

    return Tasks


def finish(app: App, conn: Conn) -> None:
    """Run a worker until no job lives."""
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live"), poll_seconds=30))


def test_a_workflow_does_not_end_before_what_its_job_has_added(
    app: App, conn: Conn, tasks: Any, done: list[Any]
) -> None:
    @app.task(name="grow")
    def grow(ctx: pgqueue.Context, n: int) -> None:
        one = ctx.add(tasks.part.s(n))
        two = ctx.add(tasks.part.s(n + 1) | tasks.part.s())
        three = ctx.add(tasks.keep.s([one, two]))
        ctx.add(tasks.keep.s("last"), after=[three, ctx.add(tasks.part.s(3)).ended])

    flow = group(grow.s(5)).on_success(tasks.keep.s("over"))
    assert run_all(app, conn, flow) == ["succeeded"]
    assert done == [[5, 6], "last", "over"]
    assert scalar(conn, "select jobs from pgqueue.workflows") == 8


def test_an_async_job_of_no_workflow_gets_one_of_its_own(app: App, conn: Conn, tasks: Any, done: list[Any]) -> None:
    @app.task(name="grow")
    async def grow(ctx: pgqueue.Context) -> int:
        header = await ctx.aadd(group(tasks.part.s(n) for n in range(3)), name="header")
        body = await ctx.aadd(tasks.total.s(header))
        await ctx.aadd(tasks.keep.s(body))
        return 1

    job = grow.enqueue()
    finish(app, conn)
    assert (job.wait(5), done) == (1, [3])
    assert scalar(conn, "select state from pgqueue.workflows where name = 'grow'") == "succeeded"


def test_another_attempt_adds_nothing_twice(app: App, conn: Conn, tasks: Any, done: list[Any]) -> None:
    @app.task(name="grow", retry=pgqueue.Constant(0), max_attempts=3)
    def grow(ctx: pgqueue.Context) -> None:
        first = ctx.add(tasks.part.s(1))
        if "tried" not in done:
            done.append("tried")
            raise ValueError("once more")
        ctx.add(tasks.keep.s(first))

    assert run_all(app, conn, grow.s() | tasks.keep.si("after")) == ["succeeded"]
    assert sorted(done, key=str) == [1, "after", "tried"]
    assert scalar(conn, "select count(*) from pgqueue.job_finished where task = 'part'") == 1


def test_what_is_added_treats_failures_as_the_group_of_its_job(
    app: App, conn: Conn, tasks: Any, done: list[Any]
) -> None:
    @app.task(name="grow")
    def grow(ctx: pgqueue.Context) -> None:
        failing = ctx.add(tasks.fail.s())
        ctx.add(tasks.keep.s("never"), after=failing)
        ctx.add(tasks.keep.s("how"), after=failing.failed)

    flow = Workflow("held", on_failure="hold")
    flow.add(grow.s())
    run = flow.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 2 from pgqueue.job_live") and scalar(
        conn, "select count(*) = 1 from pgqueue.dead_letter")))  # fmt: skip
    assert run.state == "running"
    app.dead.discard(pgqueue.DeadFilter(task="fail"), reason="not needed")
    asyncio.run(work(app, settled(conn, run)))
    assert (run.state, done) == ("failed", ["how"])


def test_a_member_of_a_batch_adds_members(app: App, conn: Conn, tasks: Any, done: list[Any]) -> None:
    @app.task(name="grow")
    def grow(ctx: pgqueue.Context, n: int) -> int:
        if n:
            ctx.add(grow.s(n - 1))
        return n

    with app.batch(on_success=tasks.keep.s()) as batch:
        batch.add(grow.s(3))
    assert batch.run is not None
    asyncio.run(work(app, settled(conn, batch.run), poll_seconds=30))
    assert done == [[3, 2, 1, 0]]


def test_a_callback_of_a_workflow_that_has_ended_cannot_add(app: App, conn: Conn, tasks: Any, done: list[Any]) -> None:
    @app.task(name="late")
    def late(ctx: pgqueue.Context) -> None:
        with pytest.raises(WorkflowEnded):
            ctx.add(tasks.part.s(1))
        done.append("refused")

    assert run_all(app, conn, group(tasks.part.s(1), tasks.part.s(2)).on_complete(late.s())) == ["succeeded"]
    assert done == ["refused"]


def test_a_caller_adds_and_waits(app: App, conn: Conn, tasks: Any, done: list[Any]) -> None:
    flow = Workflow("grows", sealed=False)
    flow.add(tasks.part.s(1), name="first")
    run = flow.enqueue()
    two = run.add(tasks.part.s(2))
    all_of = run.add(tasks.keep.s([two, run.add(tasks.part.s(3))]), after=run.jobs[0])
    finish(app, conn)
    assert (run.state, done) == ("running", [[2, 3]])
    assert not run.status().sealed
    with conn.transaction():
        app.workflows.using(conn).add(run.id, tasks.keep.s("more"), after=all_of.ended)
        app.workflows.using(conn).add(run.id, Workflow.of(chord([tasks.part.s(4)], tasks.keep.s())))
    assert run.seal()
    asyncio.run(work(app, settled(conn, run)))
    assert (run.state, sorted(done[1:], key=str)) == ("succeeded", [[4], "more"])
    with pytest.raises(WorkflowEnded, match="nothing can be added"):
        run.add(tasks.part.s(1))


def test_what_cannot_be_added_is_refused(app: App, conn: Conn, tasks: Any) -> None:
    run = (tasks.part.s(1) | tasks.keep.s()).enqueue()
    other = tasks.part.s(1).enqueue()
    for bad, why in (
        (lambda: run.add(group()), "nothing to add"),
        (lambda: run.add("part"), "cannot be added"),
        (lambda: run.add(tasks.part.s(1), after="x"), "after='x'"),
        (lambda: run.add(tasks.part.s(1), after=other.jobs), "no job or group"),
        (lambda: run.add(tasks.keep.s(Workflow("w").add(tasks.part.s(1)))), "not added"),
    ):
        with pytest.raises(InvalidWorkflow, match=why):
            bad()
    with pytest.raises(pgqueue.InvalidArguments):
        run.add(tasks.part.s("no number"))
    assert run.status().jobs == 2


def test_no_job_adds_while_a_worker_lives_that_knows_nothing_of_it(app: App, conn: Conn, tasks: Any) -> None:
    """It would tell edges that are late, which are then told once more."""

    @app.task(name="grow", max_attempts=1)
    def grow(ctx: pgqueue.Context) -> None:
        ctx.add(tasks.part.s(2), after=ctx.add(tasks.part.s(1)))

    add_worker(conn, knows="0040")
    job = grow.enqueue()
    finish(app, conn)
    error = app.get(job.id).error
    assert error is not None
    assert "knows no jobs that are added to one that runs" in error.message
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
