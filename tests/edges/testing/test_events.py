"""Publishing in a test makes the jobs of the app's subscribers, `drain` runs them, and nothing of it stays."""

import asyncio
from typing import Any

import pytest

from pgqueue import App, Event, Ordered
from pgqueue.testing import Drained, Jobs
from tests.conftest import scalar
from tests.harness import Conn


@pytest.fixture
def got(app: App) -> list[Any]:
    """What the subscribers of the app get."""
    seen: list[Any] = []

    @app.task(name="mail", on="order.*")
    def mail(order_id: int) -> None:
        seen.append(("mail", order_id))

    @app.task(name="audit", on="#", ordered=Ordered("event.key"))
    async def audit(event: Event) -> None:
        seen.append(("audit", event.topic, event.key))

    return seen


def test_publishing_makes_jobs_and_drain_runs_them(app: App, jobs: Jobs, got: list[Any], conn: Conn) -> None:
    published = app.publish("order.paid", {"order_id": 7, "more": 1}, key=7)
    jobs.assert_enqueued("mail", {"order_id": 7})
    assert {job.id for job in jobs.all()} == set(published.jobs)
    assert jobs.drain() == Drained(succeeded=2)
    assert sorted(got) == [("audit", "order.paid", "7"), ("mail", 7)]
    assert scalar(conn, "select count(*) from pgqueue.published_event") == 0
    assert scalar(conn, "select count(*) from pgqueue.subscription") == 0


def test_inline_runs_the_jobs_when_the_event_is_published(app: App, jobs: Jobs, got: list[Any]) -> None:
    with jobs.inline():
        app.publish("order.paid", {"order_id": 7})
        assert len(got) == 2
        asyncio.run(app.apublish_many([("order.paid", {"order_id": 8}), ("user.left", {})]))
    assert sorted(got) == [
        ("audit", "order.paid", None), ("audit", "order.paid", None), ("audit", "user.left", None), ("mail", 7),
        ("mail", 8),
    ]  # fmt: skip


def test_a_rollback_in_the_test_takes_the_event_and_its_jobs(app: App, jobs: Jobs, got: list[Any]) -> None:
    app.publish("order.paid", {"order_id": 7})
    jobs.conn.rollback()
    assert jobs.all() == []
    assert app.events.list() == []
    assert got == []


def test_a_task_that_subscribes_during_the_test_gets_what_was_published_before_by_a_replay(
    app: App, jobs: Jobs, got: list[Any]
) -> None:
    app.publish("order.paid", {"order_id": 7})
    jobs.drain()

    @app.task(name="late", on="order.paid")
    def late(order_id: int) -> None:
        got.append(("late", order_id))

    app.events.declare()
    assert app.events.replay(late).jobs == 1
    app.publish("order.paid", {"order_id": 8})
    jobs.drain()
    assert [seen for seen in got if seen[0] == "late"] == [("late", 7), ("late", 8)]
