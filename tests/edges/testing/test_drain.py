"""Jobs of a test, run by the worker's statements: in which order, until when, and with which errors."""

import asyncio
from typing import Any

import pytest

from pgqueue import App, Cancel, Fail, Retry, Snooze, TimedOut
from pgqueue.testing import Drained, Jobs
from tests.conftest import scalar
from tests.edges.testing.looks import failure, moves


def test_drain_writes_the_transitions_that_a_worker_writes(app: App, jobs: Jobs) -> None:
    @app.task(retry=[60], max_attempts=2)
    def t(how: str) -> str:
        if how == "raise":
            raise ValueError("no")
        return how

    good, bad = t.enqueue("well"), t.enqueue("raise")
    assert jobs.drain() == Drained(succeeded=1, retried=1)
    assert moves(jobs, good.id) == [
        (None, "pending", 0, None),
        ("pending", "running", 1, None),
        ("running", "succeeded", 1, None),
    ]
    assert moves(jobs, bad.id)[1:] == [("pending", "running", 1, None), ("running", "pending", 1, "error")]
    assert (app.get(good.id).state, app.get(good.id).result) == ("succeeded", "well")
    seen = app.get(bad.id)
    assert (seen.phase, seen.attempt, [e.type for e in seen.errors]) == ("retrying", 1, ["ValueError"])
    assert jobs.drain(with_scheduled=True) == Drained(failed=1)
    assert moves(jobs, bad.id)[-1] == ("running", "failed", 2, "exhausted")
    assert scalar(jobs.conn, "select reason from pgqueue.dead_letter") == "exhausted"


def test_every_verdict_is_counted_and_has_its_effect(app: App, jobs: Jobs) -> None:
    verdicts: dict[str, BaseException] = {
        "retry": Retry(delay=60), "snooze": Snooze(60), "fail": Fail("no"), "cancel": Cancel("no"),
        "exit": SystemExit(3),
    }  # fmt: skip

    @app.task(max_attempts=2, retry=[60])
    async def t(how: str) -> None:
        raise verdicts[how]

    ids = {how: t.enqueue(how).id for how in verdicts}
    app.enqueue("nobody knows")
    assert jobs.drain() == Drained(retried=2, snoozed=1, failed=1, cancelled=1, parked=1)
    assert jobs.drain().total == 0
    states = {how: (app.get(job_id).state, app.get(job_id).attempt) for how, job_id in ids.items()}
    assert states == {
        "retry": ("pending", 1), "snooze": ("pending", 0), "fail": ("failed", 1), "cancel": ("cancelled", 1),
        "exit": ("pending", 1),
    }  # fmt: skip
    app.task(name="nobody knows")(lambda: None)
    assert jobs.drain() == Drained(succeeded=1)  # adopted


def test_jobs_run_in_the_order_of_a_worker_and_so_do_those_they_enqueue(app: App, jobs: Jobs) -> None:
    ran: list[Any] = []

    @app.task
    def sync(name: str) -> None:
        ran.append(name)
        if name == "b":
            asyn.using(priority=9).enqueue("from b")

    @app.task
    async def asyn(name: str) -> None:
        ran.append(name)
        if name == "from b":
            await asyn.aenqueue("from that")

    sync.enqueue("c")
    sync.using(priority=1).enqueue("b")
    sync.using(priority=2).enqueue("a")
    sync.using(delay=60).enqueue("later")
    assert jobs.drain().succeeded == 5
    assert ran == ["a", "b", "from b", "c", "from that"]


def test_until_empty_false_runs_what_is_due_now(app: App, jobs: Jobs) -> None:
    @app.task
    def again(n: int) -> None:
        again.enqueue(n + 1)

    again.enqueue_many([{"n": 1}, {"n": 11}])
    assert jobs.drain(until_empty=False).succeeded == 2
    assert sorted(job.args["n"] for job in jobs.enqueued(again)) == [2, 12]


def test_a_drain_without_end_fails(app: App, jobs: Jobs) -> None:
    @app.task
    def again() -> None:
        again.enqueue()

    again.enqueue()
    said = failure(lambda: jobs.drain(limit=7))
    assert "7 attempts have run, and jobs are still due, such as #" in said
    (left,) = jobs.enqueued(again)
    assert (left.state, left.attempt) == ("pending", 0)


def test_an_error_that_is_asked_for_is_raised_once_it_is_recorded(app: App, jobs: Jobs) -> None:
    class Broken(Exception): ...

    @app.task(queue="a", max_attempts=1)
    async def fails() -> None:
        raise Broken("here")

    @app.task(queue="b")
    def fine(n: int) -> None: ...

    bad = fails.enqueue()
    fine.enqueue(1)
    with pytest.raises(Broken, match="here") as raised:
        jobs.drain(raise_errors=True)
    assert raised.traceback[-1].name == "fails"
    assert app.get(bad.id).state == "failed"
    jobs.assert_enqueued(fine, count=1)
    app.enqueue(fails.name)
    with pytest.raises(Broken):
        jobs.drain(raise_errors=True, until_empty=False)
    (left,) = jobs.enqueued(fine)  # was claimed with it and released
    assert (left.state, left.attempt) == ("pending", 0)
    assert jobs.drain().succeeded == 1


@pytest.mark.parametrize("verdict", [Retry(), Snooze(1), Fail("no"), Cancel("no")], ids=lambda v: type(v).__name__)
def test_a_verdict_is_no_error(app: App, jobs: Jobs, verdict: Exception) -> None:
    def t() -> None:
        raise verdict

    app.task(name="t")(t)
    app.enqueue("t")
    assert jobs.drain(raise_errors=True).total == 1


def test_arguments_that_do_not_fit_and_timeouts_are_raised_too(app: App, jobs: Jobs) -> None:
    @app.task(timeout=0.01)
    async def slow() -> None:
        await asyncio.sleep(5)

    app.task(name="typed")(_typed)
    slow.enqueue()
    with pytest.raises(TimedOut, match="longer than its timeout"):
        jobs.drain(raise_errors=True)
    bad = app.enqueue("typed", {"n": 1})
    jobs.conn.execute('update pgqueue.job_live set args = \'{"n": "x"}\' where id = %s', [bad.id])
    with pytest.raises(ValueError, match="valid integer"):
        jobs.drain(raise_errors=True)
    assert app.get(bad.id).reason == "invalid arguments"


def _typed(n: int) -> None: ...


def test_a_failing_test_assertion_inside_a_task_fails_the_test(app: App, jobs: Jobs) -> None:
    @app.task
    def t() -> None:
        pytest.fail("from the task")

    t.enqueue()
    with pytest.raises(pytest.fail.Exception, match="from the task"):
        jobs.drain()


@pytest.mark.parametrize("until_empty", [True, False])
def test_jobs_of_a_paused_task_are_left_until_it_is_resumed_or_the_pause_ends(
    app: App, jobs: Jobs, until_empty: bool
) -> None:
    @app.task
    def held(n: int) -> int:
        return n

    @app.task
    def free() -> None: ...

    first = held.enqueue(1)
    later = held.using(delay=60).enqueue(2)
    free.enqueue()
    app.pause(task=held.name, why="a test")
    assert jobs.drain(until_empty=until_empty).succeeded == 1
    if until_empty:
        assert jobs.drain(with_scheduled=True).total == 0  # and it comes to an end
    assert "a test" in str(app.why(first.id))
    app.resume(task=held.name)
    jobs.drain(with_scheduled=True)
    assert [app.get(job.id).result for job in (first, later)] == [1, 2]
    app.pause(task=held.name, until=3600)
    third = held.enqueue(3)
    assert jobs.drain().total == 0
    jobs.travel(3601)
    assert jobs.drain().succeeded == 1
    assert app.get(third.id).result == 3
