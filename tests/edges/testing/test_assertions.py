"""Assertions about enqueued jobs: what they compare, and what they say when they fail."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from pgqueue import App
from pgqueue.testing import Jobs
from pgqueue.testing.asserting import ExpectedJob
from tests.edges.testing.looks import failure


def test_assert_enqueued_compares_python_values_json_and_options(app: App, jobs: Jobs) -> None:
    @app.task(queue="email", tags=["a", "b"])
    def send(order_id: int, on: date, wait: timedelta = timedelta(0)) -> None: ...

    at = datetime(2031, 1, 1, tzinfo=UTC)
    job = send.using(run_at=at, priority=5, max_attempts=2).enqueue(1, on=date(2030, 1, 2))
    send.using(delay=60).enqueue(2, on=date(2030, 1, 3))
    assert jobs.assert_enqueued(send).id == job.id
    assert jobs.assert_enqueued(send, {"on": date(2030, 1, 2)}).id == job.id
    jobs.assert_enqueued(send, {"on": "2030-01-02", "order_id": 1}, queue="email", priority=5, max_attempts=2)
    jobs.assert_enqueued(send.name, run_at=at + timedelta(seconds=0.5), tags=["b", "a"], state="scheduled", count=1)
    jobs.assert_enqueued(send, {"order_id": 2}, delay=60)
    jobs.assert_enqueued(send, {"order_id": 2}, delay=70, within=11)
    jobs.assert_enqueued(count=2)
    jobs.assert_not_enqueued(send, {"order_id": 3})
    jobs.assert_not_enqueued(send, {"order_id": 1}, queue="default")
    jobs.assert_not_enqueued("other")
    assert [job.args["order_id"] for job in jobs.enqueued(send)] == [1, 2]
    assert jobs.enqueued(send, {"order_id": 1}, priority=4) == []


def test_a_delay_is_compared_over_a_change_of_clocks(app: App, jobs: Jobs) -> None:
    """As where the timezone of the database is that of Paris: its summer time ends between the two."""
    app.task(name="t")(lambda: None).enqueue()
    created = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    at, run_at = (moment.astimezone(ZoneInfo("Europe/Paris")) for moment in (created, created + timedelta(hours=1)))
    job = replace(jobs.all()[0], created_at=at, run_at=run_at)
    assert ExpectedJob(delay=3600).differences(job, None) == []
    assert ExpectedJob(delay=60).differences(job, None) == ["run_at: wanted 2026-10-25 02:31:00 CEST, is 3540 s later"]


def test_a_failing_assertion_shows_what_was_enqueued_instead(app: App, jobs: Jobs) -> None:
    @app.task(name="shop.send", queue="email")
    def send(order_id: int, on: date = date(2030, 1, 1)) -> None: ...

    assert failure(lambda: jobs.assert_enqueued(send)).endswith("nothing was enqueued in this test")
    app.using(tags=["x"]).enqueue("shop.other", {"a": 1})
    send.using(delay=30).enqueue(41)
    said = failure(lambda: jobs.assert_enqueued(send, {"order_id": 42, "on": date(2030, 1, 1)}, queue="bulk", delay=60))
    lines = said.splitlines()
    assert lines[:3] == [
        "no job is waiting like this:",
        "  shop.send (order_id=42, on=datetime.date(2030, 1, 1)) queue=bulk delay=60",
        "enqueued were:",
    ]
    assert "shop.send(order_id=41) scheduled queue=email priority=0 run_at=20" in lines[3]
    assert lines[4:7] == [
        "      order_id: wanted 42, is 41",
        "      on: wanted datetime.date(2030, 1, 1), is not given",
        "      queue: wanted 'bulk', is 'email'",
    ]
    assert lines[7].startswith("      run_at: wanted 20")
    assert lines[7].endswith(" is 30 s earlier")
    assert "shop.other(a=1) pending queue=default" in lines[8]
    assert lines[8].endswith("tags=['x']")
    assert "2 jobs, not 1, are waiting like this" in failure(lambda: jobs.assert_enqueued(count=1))
    unwanted = failure(lambda: jobs.assert_not_enqueued(send))
    assert "nothing like this should be enqueued:\n  shop.send\nbut it is:\n  #" in unwanted


def test_what_has_run_no_longer_waits_and_the_failure_says_so(app: App, jobs: Jobs) -> None:
    @app.task
    def t() -> None: ...

    t.enqueue()
    jobs.drain()
    jobs.assert_not_enqueued(t)
    jobs.assert_enqueued(t, state="succeeded")
    jobs.assert_enqueued(t, state="any")
    assert "state: wanted waiting, is succeeded" in failure(lambda: jobs.assert_enqueued(t))
