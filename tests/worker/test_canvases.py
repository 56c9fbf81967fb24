"""Canvases from the call to the last job: enqueued, run by a worker, with results handed from job to job."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pgqueue import App, Fail, Workflow, WorkflowRun, chain, chord, group
from tests.conftest import scalar, work
from tests.harness import Conn


@pytest.fixture
def done() -> list[Any]:
    """What the tasks have seen."""
    return []


@pytest.fixture
def tasks(app: App, done: list[Any]) -> SimpleNamespace:
    """The tasks of these tests."""

    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    @app.task(name="total")
    async def total(parts: list[int]) -> int:
        return sum(parts)

    @app.task(name="keep")
    async def keep(value: Any) -> Any:
        done.append(value)
        return value

    @app.task(name="note")
    async def note(text: str) -> str:
        done.append(text)
        return text

    @app.task(name="fail", max_attempts=1)
    async def fail(value: int = 0) -> int:
        if "mended" in done:
            return value
        raise Fail("no")

    return SimpleNamespace(add=add, total=total, keep=keep, note=note, fail=fail)


def settled(conn: Conn, *runs: WorkflowRun) -> Callable[[], bool]:
    ids = [run.id for run in runs]
    return lambda: bool(
        scalar(conn, "select bool_and(settled) from pgqueue.workflow where id = any(%s)", ids)
        and scalar(conn, "select count(*) = 0 from pgqueue.job_live where workflow_id = any(%s)", ids)
    )


def run_all(app: App, conn: Conn, *flows: Any) -> list[str]:
    """Enqueue canvases, and run them to their ends; return how each ended."""
    runs = [flow.enqueue() for flow in flows]
    asyncio.run(work(app, settled(conn, *runs), poll_seconds=30))
    return [run.state for run in runs]


def test_a_chain_hands_results_on(app: App, conn: Conn, tasks: SimpleNamespace, done: list[Any]) -> None:
    flow = tasks.add.s(1, 2) | tasks.add.s(b=10) | tasks.add.s(100) | tasks.keep.s()
    assert run_all(app, conn, flow) == ["succeeded"]
    assert done == [113]


def test_a_chord_gives_its_body_the_results_in_order(
    app: App, conn: Conn, tasks: SimpleNamespace, done: list[Any]
) -> None:
    members = [tasks.add.s(n, 0) for n in range(200)]
    assert run_all(app, conn, chord(members, tasks.keep.s())) == ["succeeded"]
    assert done == [list(range(200))]


def test_canvases_nest_and_empty_and_single_groups_are_as_good_as_many(
    app: App, conn: Conn, tasks: SimpleNamespace, done: list[Any]
) -> None:
    inner = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.total.s())
    flows = (
        chain(chord([inner, tasks.add.s(3, 3)], tasks.total.s()), tasks.keep.s()),
        chord([], tasks.keep.s()),
        chord([tasks.add.s(7, 0)], tasks.keep.s()),
        tasks.add.s(1, 1) | group(tasks.add.s(b=10), tasks.add.s(b=20)) | tasks.total.s() | tasks.keep.s(),
    )
    assert run_all(app, conn, *flows) == ["succeeded"] * 4
    assert sorted(map(str, done)) == ["12", "34", "[7]", "[]"]


def test_callbacks_hear_how_it_ended(app: App, conn: Conn, tasks: SimpleNamespace, done: list[Any]) -> None:
    told = {"on_success": tasks.note.si("well"), "on_dead": tasks.note.si("dead"), "on_complete": tasks.note.si("over")}
    with app.batch(**told) as good:
        good.add_many(tasks.add, [{"a": n, "b": 1} for n in range(5)])
    with app.batch(**told) as bad:
        bad.add(tasks.fail.s(1))
        bad.add(tasks.add.s(1, 1))
    assert good.run is not None
    assert bad.run is not None
    asyncio.run(work(app, settled(conn, good.run, bad.run), poll_seconds=30))
    assert sorted(done) == ["dead", "over", "over", "well"]
    assert (good.run.state, bad.run.state) == ("succeeded", "failed")


def test_what_failed_is_retried_and_what_succeeded_does_not_run_again(
    app: App, conn: Conn, tasks: SimpleNamespace, done: list[Any]
) -> None:
    wf = Workflow("import", on_failure="cancel")
    first = wf.add(tasks.keep.s("first"))
    broken = wf.add(tasks.fail.s(5), after=first)
    wf.add(tasks.keep.s(broken))
    wf.add(tasks.note.s("alarm"), after=broken.failed)
    run = wf.enqueue()
    asyncio.run(work(app, settled(conn, run), poll_seconds=30))
    assert (run.state, done) == ("failed", ["first", "alarm"])
    done.append("mended")
    assert run.retry() == 2
    asyncio.run(work(app, settled(conn, run), poll_seconds=30))
    assert (run.state, done[3:]) == ("succeeded", [5])


def test_a_canvas_exists_with_the_callers_transaction_or_not_at_all(
    app: App, conn: Conn, connect: Callable[[], Conn], tasks: SimpleNamespace
) -> None:
    borrowed = connect()
    (tasks.add.s(1, 2) | tasks.keep.s()).using(borrowed, name="gone").enqueue()
    borrowed.rollback()
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    run = (tasks.add.s(1, 2) | tasks.keep.s()).using(borrowed, name="kept").enqueue()
    borrowed.commit()
    assert (run.status().name, run.state) == ("kept", "running")
    assert run.cancel("not wanted")
    assert run.wait(5) == "cancelled"


def test_sixteen_gates_count_a_wide_group_of_ten_thousand(
    app: App, conn: Conn, tasks: SimpleNamespace, done: list[Any]
) -> None:
    run = chord([tasks.add.s(n, 0) for n in range(10_000)], tasks.keep.s()).enqueue()
    assert scalar(conn, "select count(*) from pgqueue.gate") >= 16
    asyncio.run(work(app, settled(conn, run), poll_seconds=30, concurrency=100))
    assert done == [list(range(10_000))]


def test_a_worker_warns_of_results_that_are_larger_than_arguments_may_be(
    app: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    app.max_args_bytes = 2000

    @app.task
    async def word(n: int) -> str:
        return "w" * n

    @app.task
    async def count(words: list[str]) -> int:
        return len(words)

    small, large = (group(word.s(n), word.s(n)) | count.s() for n in (10, 2000))
    small.enqueue()
    large.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 6 from pgqueue.job where state = 'succeeded'")))
    (warning,) = [record.message for record in caplog.records if "results of other jobs" in record.message]
    assert "more than the 2000 that its arguments may have" in warning
