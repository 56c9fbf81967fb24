"""A job is replaced by a canvas: what waited for it waits for that, and gets its result."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest

import pgqueue
from pgqueue import App, JobFailed, JobWasCancelled, Workflow, chain, chord, db, group
from pgqueue.codecs import AESGCM
from tests.conftest import scalar, work
from tests.harness import Conn
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
            if "mended" in done:
                return n
            raise pgqueue.Fail("no")

        @staticmethod
        @app.task(name="split", max_attempts=1)
        def split(ctx: pgqueue.Context, n: int) -> int:
            done.append("split")
            return ctx.replace(chord([Tasks.part.s(each) for each in range(n)], Tasks.total.s()))

        @staticmethod
        @app.task(name="fan", max_attempts=1)
        async def fan(ctx: pgqueue.Context, n: int) -> list[int]:
            return ctx.replace(group(Tasks.part.s(each) for each in range(n)))

        @staticmethod
        @app.task(name="deep", max_attempts=1)
        def deep(ctx: pgqueue.Context, n: int) -> int:
            return ctx.replace(Tasks.deep.s(n - 1) if n > 1 else Tasks.part.s(7))

        @staticmethod
        @app.task(name="breaks", max_attempts=1)
        def breaks(ctx: pgqueue.Context, n: int = 0) -> int:
            done.append("breaks")
            return ctx.replace(Tasks.part.si(1) | Tasks.fail.si(5))

        @staticmethod
        @app.task(name="waits", max_attempts=1)
        def waits(ctx: pgqueue.Context) -> int:
            return ctx.replace(Tasks.part.using(delay=1000).s(1) | Tasks.part.s())

    return Tasks


def finish(app: App, conn: Conn) -> None:
    """Run a worker until no job lives."""
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live"), poll_seconds=30))


def test_what_follows_a_replaced_job_gets_the_result_of_the_canvas(
    app: App, conn: Conn, tasks: Any, done: list[Any]
) -> None:
    assert run_all(app, conn, tasks.split.s(4) | tasks.keep.s()) == ["succeeded"]
    assert done == ["split", 6]


def test_a_member_of_a_chord_is_replaced_and_its_result_stands_in_its_place(
    app: App, conn: Conn, tasks: Any, done: list[Any]
) -> None:
    flow = chord([tasks.part.s(1), tasks.split.s(3), tasks.fan.s(2), tasks.part.s(9)], tasks.keep.s())
    assert run_all(app, conn, flow) == ["succeeded"]
    assert done == ["split", [1, 3, [0, 1], 9]]


def test_members_of_a_large_group_are_replaced(app: App, conn: Conn, tasks: Any, done: list[Any]) -> None:
    members = [tasks.split.s(2) if each % 9 == 0 else tasks.part.s(each) for each in range(70)]
    assert run_all(app, conn, chord(members, tasks.keep.s())) == ["succeeded"]
    assert [each for each in done if each != "split"] == [[1 if each % 9 == 0 else each for each in range(70)]]


def test_what_replaces_a_job_may_be_replaced_itself(app: App, conn: Conn, tasks: Any, done: list[Any]) -> None:
    assert run_all(app, conn, chord([tasks.deep.s(3), tasks.deep.s(1)], tasks.keep.s())) == ["succeeded"]
    assert done == [[7, 7]]


def test_a_plain_job_is_replaced_and_its_caller_gets_the_result(app: App, conn: Conn, tasks: Any) -> None:
    job = tasks.split.enqueue(5)
    finish(app, conn)
    assert job.wait(5) == 10
    assert app.get(job.id).attempt == 1
    assert scalar(conn, "select state from pgqueue.workflows") == "succeeded"
    assert scalar(conn, "select jobs from pgqueue.workflows") == 7


def test_a_canvas_of_nothing_ends_the_job_at_once(app: App, conn: Conn, tasks: Any) -> None:
    job = tasks.fan.enqueue(0)
    finish(app, conn)
    assert job.wait(5) == []


def test_a_canvas_that_fails_makes_its_job_a_dead_letter_and_a_retry_runs_what_failed(
    app: App, conn: Conn, tasks: Any, done: list[Any]
) -> None:
    flow = chain(tasks.breaks.s(), tasks.keep.s()).on_error(tasks.keep.s("handled"))
    run = flow.enqueue()
    asyncio.run(work(app, settled(conn, run)))
    assert run.state == "failed"
    assert done == ["breaks", "handled"]
    assert scalar(conn, "select reason from pgqueue.dead_letter where task = 'breaks'") == "stand-in failed"
    done.append("mended")
    assert run.retry() == 3
    asyncio.run(work(app, settled(conn, run)))
    assert run.state == "succeeded"
    assert done == ["breaks", "handled", "mended", 5]


def test_a_dead_letter_of_the_canvas_is_redriven_and_the_job_ends(
    app: App, conn: Conn, tasks: Any, done: list[Any]
) -> None:
    job = tasks.breaks.enqueue()
    finish(app, conn)
    with pytest.raises(JobFailed):
        job.wait(5)
    done.append("mended")
    failed = scalar(conn, "select id from pgqueue.dead_letter where task = 'fail'")
    app.retry(failed)
    finish(app, conn)
    assert job.wait(5) == 5


def test_a_workflow_that_holds_holds_for_the_canvas_of_its_job(
    app: App, conn: Conn, tasks: Any, done: list[Any]
) -> None:
    flow = Workflow("held", on_failure="hold")
    flow.add(tasks.keep.s(flow.add(tasks.breaks.s())))
    run = flow.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) from pgqueue.dead_letter")))
    assert run.state == "running"
    done.append("mended")
    app.retry(scalar(conn, "select id from pgqueue.dead_letter"))
    asyncio.run(work(app, settled(conn, run)))
    assert (run.state, done) == ("succeeded", ["breaks", "mended", 5])


def test_a_cancelled_workflow_ends_what_runs_in_the_place_of_its_jobs(app: App, conn: Conn, tasks: Any) -> None:
    @app.task(name="later")
    def later(ctx: pgqueue.Context) -> int:
        return ctx.replace(tasks.part.using(delay=1000).s(1) | tasks.part.s())

    inner = Workflow("inner", on_failure="stop")
    inner.add(later.s())
    outer = Workflow("outer")
    outer.add(inner)
    run = outer.enqueue()
    waits = "select count(*) from pgqueue.job_live where task = 'later' and waits_for = 'jobs'"
    asyncio.run(work(app, lambda: scalar(conn, waits), poll_seconds=30))
    run.cancel("enough")
    asyncio.run(work(app, settled(conn, run)))
    assert run.state == "cancelled"


def test_a_stopped_group_stops_what_runs_in_the_place_of_its_members(app: App, conn: Conn, tasks: Any) -> None:
    @app.task(name="later")
    def later(ctx: pgqueue.Context) -> int:
        return ctx.replace(tasks.part.using(delay=1000).s(1) | tasks.part.s())

    inner = Workflow("inner", on_failure="stop")
    inner.add(later.s())
    inner.add(tasks.fail.using(delay=1).s())
    outer = Workflow("outer")
    outer.add(inner)
    run = outer.enqueue()
    asyncio.run(work(app, settled(conn, run)))
    assert run.state == "failed"
    assert scalar(conn, "select count(*) from pgqueue.job_finished where state = 'cancelled'") == 3


def test_a_cancelled_job_stops_what_runs_in_its_place(app: App, conn: Conn, tasks: Any) -> None:
    @app.task(name="later")
    def later(ctx: pgqueue.Context) -> int:
        return ctx.replace(tasks.part.using(delay=1000).s(1) | tasks.part.s())

    job = later.enqueue()
    waits = "select count(*) from pgqueue.job_live where task = 'later' and waits_for = 'jobs'"
    asyncio.run(work(app, lambda: scalar(conn, waits)))
    assert app.cancel(job.id)
    finish(app, conn)
    with pytest.raises(JobWasCancelled):
        job.wait(5)
    assert scalar(conn, "select count(*) from pgqueue.job_finished where state = 'cancelled'") == 3


def test_a_metered_job_is_replaced(app: App, conn: Conn, tasks: Any) -> None:
    @app.task(name="metered", limit=pgqueue.Limit(1))
    def metered(ctx: pgqueue.Context) -> int:
        return ctx.replace(tasks.part.s(3))

    jobs = [metered.enqueue() for _ in range(3)]
    finish(app, conn)
    assert [job.wait(5) for job in jobs] == [3, 3, 3]


def test_why_says_what_runs_in_the_place_of_a_job_and_that_a_workflow_is_open(app: App, conn: Conn, tasks: Any) -> None:
    @app.task(name="later")
    def later(ctx: pgqueue.Context) -> int:
        return ctx.replace(tasks.part.using(delay=1000).s(1) | tasks.part.s())

    with app.batch(on_complete=tasks.keep.si("over"), sealed=False) as batch:
        batch.add(later.s())
    waits = "select id from pgqueue.job_live where task = 'later' and waits_for = 'jobs'"
    asyncio.run(work(app, lambda: scalar(conn, waits)))
    (reason, *_) = app.why(scalar(conn, waits)).reasons
    assert reason.code == "replaced"
    assert reason.text.startswith("It was replaced by part ")
    callback = scalar(conn, "select id from pgqueue.job_live where task = 'keep'")
    (reason, *_) = app.why(callback).reasons
    assert "batch" in reason.text
    assert "(open) to end" in reason.text


def test_a_task_in_a_child_process_replaces_its_job_and_adds(app: App, conn: Conn, tasks: Any, done: list[Any]) -> None:
    @app.task(name="forked", isolation="process")
    def forked(ctx: pgqueue.Context) -> int:
        ctx.add(tasks.keep.s("added"))
        return ctx.replace(chord([tasks.part.s(1), tasks.part.s(2)], tasks.total.s()))

    job = forked.enqueue()
    finish(app, conn)
    assert (job.wait(5), done) == (3, ["added"])


def test_sealed_results_are_handed_on(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"k": b"0" * 32}))

    @app.task(name="part")
    def part(n: int) -> int:
        return n

    @app.task(name="fan")
    def fan(ctx: pgqueue.Context) -> list[int]:
        return ctx.replace(group(part.s(1), part.s(2)))

    job = fan.enqueue()
    finish(app, conn)
    assert job.wait(5) == [1, 2]
    assert "[1, 2]" not in scalar(conn, "select result::text from pgqueue.job_finished where id = %s", job.id)
    app.close()


def test_what_runs_in_the_place_of_a_callback_goes_on_when_the_workflow_is_cancelled(
    app: App, conn: Conn, tasks: Any
) -> None:
    @app.task(name="idle", queue="idle")
    def idle() -> int:
        return 1

    @app.task(name="callback")
    def callback(ctx: pgqueue.Context) -> int:
        return ctx.replace(idle.s() | group([idle.si(), idle.si() | tasks.total.si([1])]) | tasks.total.si([2]))

    run = group([tasks.part.s(1).on_success(callback.si()), idle.s()]).using().enqueue()
    replaced = "select count(*) = 1 from pgqueue.workflow where replaces is not null"
    asyncio.run(work(app, lambda: scalar(conn, replaced), queues=["default"]))
    run.cancel()
    none = "select count(*) = 0 from pgqueue.job_live"
    asyncio.run(work(app, lambda: scalar(conn, none), queues=["default", "idle"]))
    assert run.state == "cancelled"
    assert scalar(conn, "select result from pgqueue.job where task = 'callback'") == 2


def test_a_job_that_ends_with_its_transaction_cannot_be_replaced(app: App, conn: Conn, tasks: Any) -> None:
    @app.task(name="both", max_attempts=1)
    def both(ctx: pgqueue.Context) -> None:
        with ctx.transaction(result=ctx.replace(tasks.part.s(1))):
            pass

    job = both.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live")))
    error = app.get(job.id).error
    assert error is not None
    assert "the job ends with ctx.transaction()" in error.message


def test_a_picture_shows_what_stands_in_for_a_job_where_the_job_stands(app: App, conn: Conn, tasks: Any) -> None:
    flow = Workflow("w")
    flow.add(Workflow.of(chord([tasks.deep.s(2), tasks.part.s(1)], tasks.keep.s()), name="inner"))
    run = flow.enqueue()
    finish(app, conn)
    assert run.id is not None
    drawn = app.workflows.draw(run.id)
    parents = {group["name"]: group["parent"] for group in json.loads(drawn.json())["groups"]}
    assert parents == {"w": None, "inner": 0, "deep": 1, "part": 2}
    ids = [job.id for job in app.workflows.jobs(run.id)]
    assert f"group inner\n   ├─ part {ids[1]}: succeeded" in drawn.text()
    assert "   ├─ group deep\n   │  ├─ group part\n" in drawn.text()
    assert f'subgraph g2["deep"]\n  n3["deep {ids[3]}: succeeded"]\n  subgraph g3["part"]' in drawn.mermaid()
    assert [group.replaces for group in db.run(conn, app.queries.workflows.groups(run.id, 9))][:2] == [None, None]


def test_a_picture_shows_what_stands_in_for_a_job_that_waits_or_has_failed(app: App, conn: Conn, tasks: Any) -> None:
    for part, states in ((tasks.breaks.s(), ("failed", "failed")), (tasks.waits.s(), ("blocked", "pending"))):
        run = part.on_complete(tasks.keep.si(1)).enqueue()
        there = partial(
            scalar, conn, "select count(*) > 1 from pgqueue.job where workflow_id = %s and state = any(%s)",
            run.id, list(states),
        )  # fmt: skip
        asyncio.run(work(app, there))
        groups = json.loads(app.workflows.draw(run.id).json())["groups"]
        assert [group["parent"] for group in groups] == [None, 0]
