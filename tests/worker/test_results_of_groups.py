"""`Results[T]`: the results of a group come page by page, in order, and the worker holds none of them before."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue import App, Context, Outcome, Results, Workflow, chord, group
from pgqueue.client.result_pages import ResultPages
from pgqueue.codecs import AESGCM
from tests.conftest import scalar
from tests.harness import Conn
from tests.worker.test_canvases import run_all

MEMBERS = 2500  # more than a page
SUM = sum(range(MEMBERS))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many results each page had that was read."""
    sizes: list[int] = []
    queries_page = ResultPages.page

    def page(self: ResultPages, argument: str, after: int) -> Any:
        found = queries_page.__get__(self, ResultPages)(argument, after)
        sizes.append(-1 if found is None else len(found.items))
        return found

    monkeypatch.setattr(ResultPages, "page", page)
    return sizes


def number(n: int) -> int:
    return n


def test_the_results_of_a_large_group_are_read_in_order_a_page_at_a_time(
    app: App, conn: Conn, read: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    app.max_args_bytes = 1000
    one = app.task(name="one")(number)
    got: list[int] = []

    @app.task(name="total")
    def total(numbers: Results[int], factor: int) -> int:
        got.extend(numbers)
        return factor * sum(numbers)  # a second loop begins anew

    with caplog.at_level(logging.WARNING):
        assert run_all(app, conn, group(one.s(n=n) for n in range(MEMBERS)) | total.s(factor=2)) == ["succeeded"]
    assert got == list(range(MEMBERS))
    assert read[: len(read) // 2] == read[len(read) // 2 :]
    assert (max(read) <= 2000, sum(size for size in read if size > 0), read[-1]) == (True, 2 * MEMBERS, -1)
    assert scalar(conn, "select result from pgqueue.job_finished where task = 'total'") == 2 * SUM
    assert "bytes of results of other jobs" not in caplog.text  # as a list of them says


def test_an_async_task_reads_them_by_async_for(app: App, conn: Conn) -> None:
    one = app.task(name="one")(number)

    @app.task(name="total")
    async def total(numbers: Results[int]) -> list[int]:
        return [each async for each in numbers]

    assert run_all(app, conn, chord([one.s(n=n) for n in range(1200)], total.s())) == ["succeeded"]
    assert scalar(conn, "select result from pgqueue.job_finished where task = 'total'") == list(range(1200))


def test_a_result_that_does_not_fit_ends_the_job(app: App, conn: Conn) -> None:
    one = app.task(name="one")(lambda: "no number")

    @app.task(name="total")
    def total(numbers: Results[int]) -> int:
        return sum(numbers)

    assert run_all(app, conn, chord([one.s()] * 70, total.s())) == ["failed"]
    dead = conn.execute("select attempt, error ->> 'message' from pgqueue.dead_letter").fetchone()
    assert dead is not None
    assert dead[0] == 1
    assert dead[1].startswith("a result that is 'numbers' does not fit: Input should be a valid integer")


def test_a_callback_gets_how_each_member_ended(app: App, conn: Conn) -> None:
    ends: list[Outcome[int]] = []

    @app.task(name="one", max_attempts=1)
    def one(n: int) -> int:
        return 6 // n

    @app.task(name="after")
    def after(ended: Results[Outcome[int]]) -> None:
        ends.extend(ended)

    assert run_all(app, conn, group(one.s(n) for n in range(70)).on_complete(after.s())) == ["failed"]
    assert [(end.state, end.result) for end in ends[:3]] == [("failed", None), ("succeeded", 6), ("succeeded", 3)]
    assert len(ends) == 70
    assert ends[0].error is not None
    assert ends[0].error.type == "ZeroDivisionError"


def test_results_of_what_stood_in_and_of_no_group_come_as_well(app: App, conn: Conn) -> None:
    one = app.task(name="one")(number)

    @app.task(name="split")
    def split(ctx: Context) -> Any:
        return ctx.replace(group(one.s(n) | one.s() for n in range(80)))

    @app.task(name="total")
    def total(numbers: Results[int]) -> list[int]:
        return list(numbers)

    found = "select result from pgqueue.job_finished where task = 'total' order by id desc limit 1"
    for canvas, result in (
        (split.s() | total.s(), [*range(80)]),
        (group(one.s(n) | one.s() for n in range(80)) | total.s(), [*range(80)]),
        (group(one.s(n) | one.s() for n in range(3)) | total.s(), [0, 1, 2]),
        (group([one.s(7)]) | total.s(), [7]),
        (group([]) | total.s(), []),
        (total.s([4, 5]), [4, 5]),
    ):
        assert run_all(app, conn, canvas) == ["succeeded"]
        assert scalar(conn, found) == result


def test_results_of_a_group_in_a_list_are_those_of_its_only_item(app: App, conn: Conn) -> None:
    one = app.task(name="one")(number)
    got: list[list[int | None]] = []

    @app.task(name="rows")
    def rows(rows: Results[list[Outcome[int]]]) -> None:
        got.extend([end.result for end in row] for row in rows)

    workflow = Workflow("rows")
    numbers = workflow.add(group(one.s(n) for n in range(3)))
    workflow.add(rows.s([numbers.ended]))
    assert run_all(app, conn, workflow) == ["succeeded"]
    assert got == [[0, 1, 2]]


def test_an_upcaster_gets_the_results_before_the_task_does(app: App, conn: Conn) -> None:
    one = app.task(name="one")(number)
    got: list[int] = []

    @app.task(name="total", version=2, upcasters={1: lambda args: {"numbers": [10 * n for n in args["numbers"]]}})
    def total(numbers: Results[int]) -> None:
        got.extend(numbers)

    older = App(app.dsn)
    one_before, total_before = older.task(name="one")(number), older.task(name="total")(lambda numbers: None)
    assert run_all(app, conn, group(one_before.s(n) for n in range(3)) | total_before.s()) == ["succeeded"]
    assert run_all(app, conn, group(one.s(n) for n in range(3)) | total.s()) == ["succeeded"]
    assert got == [0, 10, 20, 0, 1, 2]


def test_a_task_in_a_child_process_gets_them_all_at_once(app: App) -> None:
    @app.task(name="inside", isolation="process")
    def inside(numbers: Results[int]) -> int:
        return sum(numbers)

    @app.task(name="beside")
    def beside(numbers: Results[int]) -> int:
        return sum(numbers)

    assert (app.tasks["inside"].paged, app.tasks["beside"].paged) == ({}, {"numbers": Results[int]})


def test_sealed_results_are_opened(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"k": b"0" * 32}))
    one = app.task(name="one")(number)

    @app.task(name="total")
    def total(numbers: Results[int]) -> None:
        got.extend(numbers)

    got: list[int] = []
    assert run_all(app, conn, chord([one.s(n) for n in range(70)], total.s())) == ["succeeded"]
    assert got == [*range(70)]
