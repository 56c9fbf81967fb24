"""Celery's canvas on workflows: chains, groups, chords, callbacks, mapping, and the same run eagerly."""

import asyncio
from collections.abc import Callable
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from pgqueue.celery import Celery, Task, chain, chord, group, signature
from pgqueue.celery.exceptions import TaskRevokedError
from pgqueue.errors import InvalidWorkflow
from tests.conftest import scalar, work
from tests.harness import Conn


@pytest.fixture
def done() -> list[Any]:
    """What the tasks have seen."""
    return []


@pytest.fixture
def tasks(celery: Celery, done: list[Any]) -> SimpleNamespace:
    """The tasks of these tests."""

    @celery.task
    def add(a: int, b: int) -> int:
        return a + b

    @celery.task
    def total(parts: list[int]) -> int:
        return sum(parts)

    @celery.task
    def keep(value: Any = None, *, note: str = "") -> Any:
        done.append((value, note) if note else value)
        return value

    @celery.task
    def anything(*args: Any, **kwargs: Any) -> list[Any]:
        done.append((args, kwargs))
        return list(args)

    @celery.task
    def fail(value: Any = None) -> None:
        raise ValueError("no")

    @celery.task
    def told(request: Any, exc: Any, traceback: Any) -> None:
        done.append((request.id, type(exc).__name__, str(exc), "ValueError" in str(traceback)))

    @celery.task
    def told_id(task_id: str) -> None:
        done.append(("failed", task_id))

    return SimpleNamespace(add=add, total=total, keep=keep, anything=anything, fail=fail, told=told, told_id=told_id)


@pytest.fixture
def run_all(celery: Celery, conn: Conn) -> Callable[[], None]:
    """Run a worker until every job has ended."""
    quiet = "select count(*) = 0 from pgqueue.job_live"
    return lambda: asyncio.run(work(celery.pgqueue, lambda: scalar(conn, quiet), poll_seconds=0.05)) and None


Run = Callable[[], None]


def test_a_chain_hands_results_on(tasks: SimpleNamespace, run_all: Run, done: list[Any]) -> None:
    result = chain(tasks.add.s(1, 2), tasks.add.s(10), tasks.add.s(b=100), tasks.keep.s(note="end")).apply_async()
    run_all()
    assert done == [(113, "end")]
    assert result.get(timeout=10) == 113
    assert [each.get(timeout=10) for each in (result.parent, result.parent.parent, result.parent.parent.parent)] == [
        113,
        13,
        3,
    ]
    assert result.parent.parent.parent.parent is None


def test_functions_of_any_signature_take_results_too(tasks: SimpleNamespace, run_all: Run, done: list[Any]) -> None:
    (tasks.add.s(1, 2) | tasks.anything.s("x", key=date(2026, 1, 2)) | tasks.keep.s()).delay()
    run_all()
    assert done == [((3, "x"), {"key": date(2026, 1, 2)}), [3, "x"]]


def test_groups_and_chords_gather_in_order(tasks: SimpleNamespace, run_all: Run, done: list[Any]) -> None:
    plain = group(tasks.add.s(n, n) for n in range(5)).apply_async()
    by_call = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)])(tasks.total.s())
    by_pipe = (group(tasks.add.s(1), tasks.add.s(2)) | tasks.total.s() | tasks.add.s(1000)).delay(100)
    nested = chain(
        chord([tasks.add.s(n, 0) for n in (3, 1, 2)], tasks.keep.s()), tasks.keep.s(note="told")
    ).apply_async()
    empty = chord([], tasks.total.s()).apply_async()
    run_all()
    assert plain.get(timeout=10) == [0, 2, 4, 6, 8]
    assert (plain.successful(), plain.completed_count(), len(plain)) == (True, 5, 5)
    assert by_call.get(timeout=10) == 6
    assert by_call.parent.get(timeout=10) == [2, 4]
    assert by_pipe.get(timeout=10) == 1203
    assert by_pipe.parent.get(timeout=10) == 203
    assert by_pipe.parent.parent.get(timeout=10) == [101, 102]
    assert nested.get(timeout=10) == [3, 1, 2]
    assert empty.get(timeout=10) == 0
    assert done == [[3, 1, 2], ([3, 1, 2], "told")]


def test_immutable_signatures_take_no_result(tasks: SimpleNamespace, run_all: Run, done: list[Any]) -> None:
    (tasks.add.s(1, 2) | tasks.keep.si("mine") | tasks.keep.s().set(immutable=True)).apply_async()
    run_all()
    assert done == ["mine", None]


def test_link_gets_the_result_and_link_error_the_failure(tasks: SimpleNamespace, run_all: Run, done: list[Any]) -> None:
    tasks.add.apply_async(
        (1, 2), link=[tasks.keep.s(note="linked"), tasks.keep.si("quiet")], link_error=tasks.told_id.s()
    )
    failed = tasks.fail.apply_async((1,), link=tasks.keep.s(), link_error=[tasks.told.s(), tasks.told_id.s()])
    run_all()
    assert (3, "linked") in done
    assert "quiet" in done
    assert (failed.id, "ValueError", "no", True) in done
    assert ("failed", failed.id) in done
    assert len(done) == 4
    assert failed.state == "FAILURE"


def test_what_comes_after_a_failure_never_runs_and_its_result_raises_the_error(
    tasks: SimpleNamespace, run_all: Run, done: list[Any]
) -> None:
    result = chain(tasks.add.s(1, 2), tasks.fail.s(), tasks.keep.s()).on_error(tasks.told_id.s()).apply_async()
    body = chord([tasks.add.s(1, 2), tasks.fail.s()], tasks.keep.s().on_error(tasks.told.s())).apply_async()
    run_all()
    assert result.state == "REVOKED"
    with pytest.raises(ValueError, match="no"):
        result.get(timeout=10)
    assert body.state == "REVOKED"
    with pytest.raises(ValueError, match="no"):
        body.get(timeout=10)
    assert ("failed", result.parent.id) in done
    failed = next(each for each in body.parent if each.failed())
    assert (failed.id, "ValueError", "no", True) in done
    assert len(done) == 2


def test_an_errback_of_the_last_step_of_a_chain_is_not_that_of_the_whole(
    tasks: SimpleNamespace, run_all: Run, done: list[Any]
) -> None:
    chain(tasks.fail.s(), tasks.keep.s().on_error(tasks.told_id.s())).apply_async()
    run_all()
    assert done == []


def test_map_starmap_and_chunks_call_the_task_many_times_in_a_job(
    tasks: SimpleNamespace, run_all: Run, conn: Conn, done: list[Any]
) -> None:
    mapped = tasks.total.map([[1, 2], [3]]).apply_async()
    starred = tasks.add.starmap([(1, 2), (3, 4)]).delay()
    parts = tasks.add.chunks(zip(range(10), range(10), strict=True), 4)()
    assert scalar(conn, "select count(*) from pgqueue.job") == 5
    run_all()
    assert mapped.get(timeout=10) == [3, 3]
    assert starred.get(timeout=10) == [3, 7]
    assert parts.get(timeout=10) == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]


def test_a_task_replaces_itself_and_adds_to_its_chord(
    celery: Celery, tasks: SimpleNamespace, run_all: Run, done: list[Any]
) -> None:
    @celery.task(bind=True)
    def split(self: Task, numbers: list[int]) -> Any:
        raise self.replace(chord([tasks.add.s(n, 0) for n in numbers], tasks.total.s()))

    @celery.task(bind=True)
    def more(self: Task, n: int) -> int:
        self.add_to_chord(tasks.add.s(n, 1))
        return n

    replaced = (split.s([1, 2, 3]) | tasks.add.s(10)).apply_async()
    added = chord([more.s(5), tasks.add.s(0, 0)], tasks.total.s()).apply_async()
    run_all()
    assert replaced.get(timeout=10) == 16
    assert added.get(timeout=10) == 11


def test_signatures_are_values(celery: Celery, tasks: SimpleNamespace, conn: Conn) -> None:
    one = tasks.add.s(2, b=3)
    later = one.set(countdown=60, queue="slow")
    assert (one.options, later.options) == ({}, {"countdown": 60, "queue": "slow"})
    job = later.apply_async().job()
    assert (job.queue, job.phase) == ("slow", "scheduled")
    assert signature(tasks.add.name, args=(1,), kwargs={"b": 2}, app=celery)() == 3
    assert tasks.add.s(2).clone((40,))() == 42
    assert tasks.add.signature((1, 2), immutable=True, countdown=5).options == {"countdown": 5}
    assert repr(chain(tasks.add.s(1, 2), tasks.keep.s())).endswith("keep()")


def test_wrong_canvases_are_refused_when_they_are_built(tasks: SimpleNamespace, conn: Conn) -> None:
    for build in (
        lambda: chain(),
        lambda: chain(tasks.add.s(1), 5),
        lambda: group([1]),
        lambda: group(tasks.add.s(1)).link(tasks.keep.s()),
    ):
        with pytest.raises(InvalidWorkflow):
            build()
    with pytest.raises(InvalidWorkflow, match="without a body"):
        chord([tasks.add.s(1, 2)])()


@pytest.mark.parametrize("eager", [False, True])
def test_one_program_has_the_same_results_with_jobs_and_eagerly(
    celery: Celery, tasks: SimpleNamespace, run_all: Run, done: list[Any], eager: bool
) -> None:
    celery.conf.task_always_eager = eager
    results = [
        tasks.add.delay(1, 2),
        chain(tasks.add.s(1, 2), tasks.add.s(3)).apply_async(),
        group(tasks.add.s(1, 1), tasks.add.s(2, 2)).apply_async(),
        chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.total.s()).apply_async(),
        (group(tasks.add.s(1, 1), tasks.add.s(2, 2)) | tasks.total.s() | tasks.add.s(1)).apply_async(),
        tasks.add.chunks([(1, 2), (3, 4), (5, 6)], 2).apply_async(),
        tasks.total.map([[1], [2, 3]]).apply_async(),
    ]
    failed = tasks.fail.apply_async((1,))
    if not eager:
        run_all()
    assert [each.get(timeout=10) for each in results] == [3, 6, [2, 4], 6, 7, [[3, 7], [11]], [1, 5]]
    with pytest.raises(ValueError, match="no"):
        failed.get(timeout=10)
    assert (failed.state, failed.failed()) == ("FAILURE", True)


def test_apply_runs_here_with_its_retries(celery: Celery, conn: Conn) -> None:
    seen: list[int] = []

    @celery.task(bind=True, max_retries=2)
    def again(self: Task, n: int) -> int:
        seen.append(self.request.retries)
        assert self.request.is_eager
        if self.request.retries < n:
            raise self.retry(exc=OSError("not yet"), countdown=600)
        return 7

    assert again.apply((1,)).get() == 7
    assert seen == [0, 1]
    with pytest.raises(OSError, match="not yet"):
        again.apply((5,)).get()
    with pytest.raises(OSError, match="not yet"):
        again.apply((5,), throw=True)
    assert scalar(conn, "select count(*) from pgqueue.job") == 0


def test_revoking_a_group_ends_what_waits(tasks: SimpleNamespace, run_all: Run) -> None:
    result = group(tasks.add.s(n, n).set(countdown=600) for n in range(3)).apply_async()
    result.revoke()
    assert [each.state for each in result] == ["REVOKED"] * 3
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
