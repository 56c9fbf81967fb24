"""RateLimited: the attempt is given back, and the resolution says which bucket lets nobody start for so long."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from pgqueue import App, Limit, RateLimited, Snooze
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.lifecycle import Resolution, decide
from pgqueue.jobs.outcome import AskedRateLimited
from pgqueue.tasks.spec import TaskSpec
from pgqueue.tasks.versions import with_own
from pgqueue.worker.running.calling import outcome_of_error
from tests.conftest import scalar, work
from tests.harness import Conn, claimed

FLOW = Flow(("queue:q", "stripe", "t#2/acme", "t/acme"))


class Unasked:
    def delay(self, attempt: int) -> float:
        raise AssertionError("no policy is asked")


@pytest.fixture
def spec() -> TaskSpec:
    app = App("unused", limits={"q": Limit(9)})
    stripe = app.limit("stripe", 20)

    @app.task(name="t", limit=[stripe, Limit(1, by="tenant"), Limit(2, by=lambda tenant: tenant)], queue="q")
    def t(tenant: str) -> None: ...

    return t.spec


def closes(spec: TaskSpec, error: BaseException, headers: str | None) -> Resolution:
    job = claimed(1, 1)
    job.headers = headers
    return decide(job, outcome_of_error(spec, error), Unasked())


CARRIED = with_own('{"a": "$flow"}', NewJob("t", "{}", "q", 0, 3, flow=FLOW))


@pytest.mark.parametrize(
    ("limit", "buckets"),
    [(None, ("t#2/acme",)), ("t", ("t/acme",)), ("stripe", ("stripe",)), ("queue:q", ("queue:q",)), ("nobody", ())],
)
def test_it_closes_the_bucket_of_the_limit_that_is_meant(spec: TaskSpec, limit: Any, buckets: tuple[str, ...]) -> None:
    resolution = closes(spec, RateLimited(30, limit), CARRIED)
    assert resolution == Resolution("snooze", "rate limited", 30.0, refund=True, closes=buckets)


def test_a_limit_may_be_given_itself(spec: TaskSpec) -> None:
    stripe = App("unused").limit("stripe", 20)
    assert closes(spec, RateLimited(timedelta(minutes=1), stripe), CARRIED).closes == ("stripe",)


@pytest.mark.parametrize("headers", [None, "{}", '{"a": "$flow"}'])
def test_a_job_that_no_rule_concerns_is_snoozed(spec: TaskSpec, headers: str | None) -> None:
    assert closes(spec, RateLimited(30), headers) == Resolution("snooze", "rate limited", 30.0, refund=True)


def test_among_snoozes_it_decides(spec: TaskSpec) -> None:
    group = ExceptionGroup("several", [Snooze(5), RateLimited(30, "stripe")])
    assert outcome_of_error(spec, group) == AskedRateLimited(30.0, "stripe")


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_plain_job_runs_again_and_spends_no_attempt(app: App, conn: Conn, isolation: str) -> None:
    @app.task(name="t", max_attempts=1, isolation=isolation)
    def t() -> None:
        raise RateLimited(0.01)

    t.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select lease >= 2 from pgqueue.job_live")))
    moves = "select count(*) from pgqueue.transition where to_state = 'pending' and reason = 'rate limited'"
    assert scalar(conn, moves) >= 1
