"""Metered jobs in tests of apps: they run in turn with others, one at a time, and their rules hold nothing back."""

from datetime import timedelta
from typing import Any

import pytest

from pgqueue import App
from pgqueue.jobs.flow import Flow
from pgqueue.testing import Drained, Jobs
from tests.edges.testing.looks import moves
from tests.harness import add_rule, insert_metered

ACME = Flow(("t/acme",))
IN_ORDER = Flow(("t#order/7",), order="t#order/7")
HOUR = timedelta(hours=1)


@pytest.fixture
def ran(app: App) -> list[int]:
    """The numbers with which the task has run."""
    numbers: list[int] = []
    app.task(name="t")(lambda n: numbers.append(n))
    return numbers


def metered(jobs: Jobs, flow: Flow, n: int, **columns: Any) -> int:
    """Enqueue a metered job that is due, or after a while."""
    later = columns.pop("later", timedelta(0))
    return insert_metered(jobs.conn, flow, args=f'{{"n": {n}}}', run_at=jobs.now() + later, **columns)


def test_metered_jobs_are_drained_with_the_others_by_priority_and_time(app: App, jobs: Jobs, ran: list[int]) -> None:
    app.enqueue("t", {"n": 2})
    first = metered(jobs, ACME, 1, priority=5)
    metered(jobs, ACME, 4, later=HOUR)
    metered(jobs, ACME, 3)
    assert [job.args["n"] for job in jobs.enqueued("t")] == [2, 1, 4, 3]
    assert app.get(first).flow == ACME
    assert jobs.drain() == Drained(succeeded=3)
    assert ran == [1, 2, 3]
    assert moves(jobs, first) == [("blocked", "running", 1, None), ("running", "succeeded", 1, None)]
    assert jobs.drain(with_scheduled=True) == Drained(succeeded=1)
    assert ran == [1, 2, 3, 4]


def test_no_limit_and_no_rate_holds_a_job_of_a_test_back(app: App, jobs: Jobs, ran: list[int]) -> None:
    add_rule(jobs.conn, "t", "acme", max_running=0, rate_count=1, rate_seconds=3600)
    for n in range(3):
        metered(jobs, ACME, n)
    assert jobs.drain() == Drained(succeeded=3)
    assert app.get(metered(jobs, ACME, 3)).phase == "blocked"
    assert "full" in app.why(jobs.all()[-1].id).codes


def test_jobs_in_order_run_in_order_and_wait_for_the_first(app: App, jobs: Jobs, ran: list[int]) -> None:
    metered(jobs, IN_ORDER, 1, later=HOUR)
    metered(jobs, IN_ORDER, 2)
    app.enqueue("t", {"n": 3})
    assert jobs.drain() == Drained(succeeded=1)
    assert ran == [3]
    jobs.travel(hours=1)
    assert jobs.drain() == Drained(succeeded=2)
    assert ran == [3, 1, 2]


def test_a_job_in_order_that_is_retried_keeps_its_place(app: App, jobs: Jobs) -> None:
    ran: list[int] = []

    @app.task(name="t", retry=[60])
    def t(n: int) -> None:
        ran.append(n)
        if ran == [1]:
            raise ConnectionError

    first = metered(jobs, IN_ORDER, 1)
    metered(jobs, IN_ORDER, 2)
    assert jobs.drain() == Drained(retried=1)
    assert (app.get(first).phase, app.get(first).waits_for) == ("retrying", "turn")
    assert jobs.drain(with_scheduled=True) == Drained(succeeded=2)
    assert ran == [1, 1, 2]


def test_one_metered_job_is_run_whenever_it_is_due(app: App, jobs: Jobs, ran: list[int]) -> None:
    job = metered(jobs, IN_ORDER, 1, later=HOUR)
    assert jobs.all()[0].phase == "scheduled"
    assert jobs.run(job).state == "succeeded"


@pytest.mark.parametrize("paused", ["rule", "key", "queue", "task"])
def test_a_pause_holds_metered_jobs(app: App, jobs: Jobs, ran: list[int], paused: str) -> None:
    add_rule(jobs.conn, "t", "acme")
    jobs.conn.execute(
        {
            "rule": "update pgqueue.limit_rule set paused_at = now()",
            "key": "insert into pgqueue.limit_key (rule, key, paused_at) values ('t', 'acme', now())",
            "queue": "insert into pgqueue.queue (name, paused_at) values ('default', now())",
            "task": "insert into pgqueue.task_control (task, paused_at) values ('t', now())",
        }[paused].encode()
    )
    metered(jobs, ACME, 1)
    metered(jobs, Flow(("t/other",)), 2)
    jobs.drain(with_scheduled=True)
    assert ran == {"rule": [], "key": [2]}.get(paused, [])


def test_the_phase_of_a_metered_job_follows_the_clock_of_the_test(app: App, jobs: Jobs) -> None:
    metered(jobs, ACME, 1, later=HOUR)
    jobs.travel(minutes=1)
    assert jobs.all()[0].phase == "scheduled"
    jobs.travel(hours=1)
    assert jobs.all()[0].phase == "blocked"
