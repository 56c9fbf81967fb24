"""Batches that are inserted block by block, that stay open, and that others add to."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgqueue import App, Batch, InvalidWorkflow, Limit, WorkflowEnded
from pgqueue.client import chunks
from pgqueue.client.canvas import batch as batches
from tests.conftest import drain, scalar, work
from tests.harness import Conn
from tests.worker.test_canvases import settled


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CHUNK", 100)
    monkeypatch.setattr(chunks, "CHUNK", 100)


@pytest.fixture
def got() -> list[Any]:
    return []


@pytest.fixture
def tasks(app: App, got: list[Any]) -> Any:
    class Tasks:
        @staticmethod
        @app.task(name="part")
        async def part(n: int) -> int:
            return n

        @staticmethod
        @app.task(name="keep")
        async def keep(value: Any) -> None:
            got.append(value)

        @staticmethod
        @app.task(name="over")
        async def over() -> None:
            got.append("over")

    return Tasks


def calls(count: int, first: int = 0) -> Iterator[dict[str, int]]:
    return ({"n": n} for n in range(first, first + count))


def test_a_streamed_batch_gives_its_callback_all_results_in_order(
    app: App, conn: Conn, tasks: Any, got: list[Any]
) -> None:
    with app.batch(on_success=tasks.keep.s(), on_complete=tasks.over.s()) as batch:
        batch.add(tasks.part.s(0))
        batch.add_many(tasks.part, calls(450, 1))
        assert len(batch) == 451
        assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    assert batch.run is not None
    assert batch.run.status().jobs == 453
    asyncio.run(work(app, settled(conn, batch.run), poll_seconds=30))
    assert sorted(got, key=str) == [list(range(451)), "over"]
    assert batch.run.state == "succeeded"


def test_an_error_in_the_block_enqueues_nothing(app: App, conn: Conn, tasks: Any, connect: Callable[[], Conn]) -> None:
    def failing() -> Iterator[dict[str, int]]:
        yield from calls(250)
        raise ValueError("no")

    def fill(batch: Batch) -> None:
        with batch:
            batch.add_many(tasks.part, failing())

    with pytest.raises(ValueError, match="no"):
        fill(app.batch())
    other = connect()
    with pytest.raises(ValueError, match="no"):
        fill(app.batch().using(other))
    other.execute("create table public.mine ()")
    other.commit()
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    assert scalar(conn, "select count(*) from pgqueue.workflow") == 0


def test_a_streamed_batch_exists_if_and_only_if_its_caller_commits(
    app: App, conn: Conn, tasks: Any, connect: Callable[[], Conn]
) -> None:
    other = connect()
    with app.batch().using(other) as batch:
        batch.add_many(tasks.part, calls(250))
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    other.commit()
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 250
    with app.batch().using(other) as batch:
        batch.add_many(tasks.part, calls(250))
    other.rollback()
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 250


def test_an_async_batch_is_streamed(app: App, conn: Conn, tasks: Any, got: list[Any]) -> None:
    async def scene() -> int:
        async with app.batch(on_success=tasks.keep.s()) as batch:
            await batch.aadd(tasks.part.s(0))
            await batch.aadd_many(tasks.part, calls(250, 1))
        assert batch.run is not None
        assert batch.run.id is not None
        return batch.run.id

    workflow = asyncio.run(scene())
    assert scalar(conn, "select jobs from pgqueue.workflows") == 252
    asyncio.run(work(app, lambda: scalar(conn, "select settled from pgqueue.workflow where id = %s", workflow)))
    drain(app, conn)
    assert got == [list(range(251))]


def test_an_open_batch_is_added_to_by_another_process_and_ends_when_it_is_sealed(
    app: App, conn: Conn, tasks: Any, got: list[Any]
) -> None:
    with app.batch(on_success=tasks.keep.s(), sealed=False) as batch:
        batch.add(tasks.part.s(0))
    run = batch.run
    assert run is not None
    drain(app, conn)
    assert (run.state, got) == ("running", [])
    with app.batch(into=run.id) as more:
        more.add_many(tasks.part, calls(150, 1))
        more.add(tasks.part.s(151))
    with app.batch(into=run.id) as more:
        more.add(tasks.part.s(152))
    drain(app, conn)
    assert run.state == "running"
    assert run.seal()
    asyncio.run(work(app, settled(conn, run), poll_seconds=30))
    assert (run.state, got) == ("succeeded", [list(range(153))])
    with pytest.raises(WorkflowEnded), app.batch(into=run.id) as more:
        more.add(tasks.part.s(1))
    with pytest.raises(InvalidWorkflow, match="has no callbacks"):
        app.batch(into=run.id, on_success=tasks.over.s())


def test_a_batch_of_jobs_with_turns_of_their_own_is_streamed(app: App, conn: Conn, got: list[Any]) -> None:
    @app.task(name="keyed", limit=Limit(5, by="n"))
    async def keyed(n: int) -> None:
        got.append(n)

    with app.batch() as batch:
        batch.add_many(keyed, calls(250))
    assert scalar(conn, "select count(*) from pgqueue.job_live where lane is not null") == 250
    assert scalar(conn, "select jobs from pgqueue.workflows") == 250


def test_an_open_batch_of_nothing_waits_for_its_seal(app: App, conn: Conn, tasks: Any, got: list[Any]) -> None:
    with app.batch(on_complete=tasks.over.s(), sealed=False) as batch:
        pass
    assert batch.run is not None
    assert (batch.run.state, batch.run.seal()) == ("running", True)
    asyncio.run(work(app, settled(conn, batch.run), poll_seconds=30))
    assert (batch.run.state, got) == ("succeeded", ["over"])
    assert [job.state for job in app.workflows.jobs(batch.run.id or 0)] == ["succeeded"]


@pytest.mark.parametrize("into", ["7", True, 0, 2**70])
def test_what_is_no_id_of_a_workflow_cannot_be_added_to(app: App, into: Any) -> None:
    with pytest.raises(InvalidWorkflow, match="give the id of a workflow"):
        app.batch(into=into)
