"""Called jobs that end and tell nobody: a client of an older release has ended them, or somebody has deleted rows."""

import asyncio
import logging

import pytest

from pgqueue import App, CallFailed, Context, db
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.jobs.step import NewStep
from pgqueue.queries import Queries
from pgqueue.queries.jobs import cancel
from pgqueue.queries.workflows.gone import CallPlace
from pgqueue.worker.duties import gone_finder
from tests.conftest import scalar, work
from tests.harness import QUERIES, WORKER, Conn, add_worker, new_job
from tests.stress.rewriting import rewrite

ASLEEP = "select exists (select from pgqueue.job_live where run_at > now() + interval '1 year' and attempt = 0)"
START = CallPlace()


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def cancel_as_before_calls(conn: Conn, monkeypatch: pytest.MonkeyPatch, job: int) -> None:
    """Cancel a job by the statement of a release that knows no calls."""
    with monkeypatch.context() as patch:
        patch.setattr(cancel, "CANCEL", cancel.CANCEL)
        rewrite(cancel, ["CANCEL"], ("from tied where ties & 4 > 0", "from tied where false"))
        assert db.run(conn, Queries("pgqueue").jobs.cancel([job], "by an older release"))


def test_a_caller_goes_on_after_an_older_client_has_cancelled_what_it_called(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("PAUSE", 0.0), ("REST", 0), ("INTERVAL", 0.05)):
        monkeypatch.setattr(gone_finder, name, seconds)

    @app.task(queue="unserved")
    def thumb() -> int:
        return 1

    @app.task(max_attempts=1)
    def album(ctx: Context) -> str:
        try:
            return str(ctx.call("thumb", thumb.s()))
        except CallFailed as error:
            return f"{error.state} {error.reason}"

    job = album.enqueue()

    def cancelled_and_answered() -> bool:
        called = scalar(conn, "select id from pgqueue.job_live where queue = 'unserved'")
        if called is not None and scalar(conn, ASLEEP):
            cancel_as_before_calls(conn, monkeypatch, called)
        return bool(called is None and scalar(conn, "select count(*) from pgqueue.job_live") == 0)

    with caplog.at_level(logging.ERROR, "pgqueue.worker"):
        asyncio.run(work(app, cancelled_and_answered, queues=["default"]))
    assert app.get(job.id).result == "cancelled by an older release"
    assert "ended and told nobody" in caplog.text


def calling(conn: Conn, children: int) -> tuple[ClaimedJob, list[int]]:
    """A running job that has called others."""
    add_worker(conn, worker=WORKER)
    db.run(conn, QUERIES.jobs.enqueue([new_job()]))
    (caller,) = db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 1}, 1))
    with conn.transaction():
        rows = db.run(conn, QUERIES.jobs.enqueue([new_job() for _ in range(children)]))
        step = NewStep("thumbs", "call", "[null]")
        db.run(conn, QUERIES.calls.record(caller, step, [row.id for row in rows], list(range(children))))
    return caller, [row.id for row in rows]


def told(conn: Conn, at_most: int = 100, after: CallPlace = START) -> list[int]:
    found, _ = db.run(conn, QUERIES.workflows.tell_gone(WORKER, at_most, after))
    return sorted(call.id for call in found)


def test_only_calls_whose_job_is_gone_are_told(conn: Conn) -> None:
    caller, (deleted, ended, running, waiting) = calling(conn, 4)
    taken = {job.id: job for job in db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 3}, 3))}
    db.run(conn, QUERIES.jobs.resolve_tied([(taken[ended], PLAIN_SUCCESS)]))
    assert told(conn) == []
    conn.execute("delete from pgqueue.job_live where id = %s", (deleted,))
    assert told(conn) == [deleted]
    assert told(conn) == []
    open_ones = "select array_agg(child_id order by child_id) from pgqueue.call where not ended"
    assert scalar(conn, open_ones) == [running, waiting]
    assert scalar(conn, "select not seen from pgqueue.call where child_id = %s", deleted)
    assert caller.id not in told(conn)


def test_a_walk_over_calls_goes_on_where_it_has_ended(conn: Conn) -> None:
    _, children = calling(conn, 4)
    conn.execute("delete from pgqueue.job_live where id = any(%s)", (children,))
    walk = QUERIES.workflows.tell_gone(WORKER, 3, START)
    found, reached = db.run(conn, walk)
    assert sorted(call.id for call in found) == children[:3]
    assert reached is not None
    assert told(conn, 3, CallPlace(reached[0], reached[1])) == children[3:]
    assert db.run(conn, walk) == ([], None)


def test_a_call_that_is_told_while_its_job_comes_back_is_told_of_the_next_end_too(conn: Conn) -> None:
    caller, (child,) = calling(conn, 1)
    conn.execute("update pgqueue.call set ended = true, seen = true")
    (step,) = db.run(conn, QUERIES.calls.collect([(caller, "thumbs")]))
    assert step is not None
    assert not step.done
    (job,) = db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 1}, 1))
    db.run(conn, QUERIES.jobs.resolve_tied([(job, PLAIN_SUCCESS)]))
    assert job.id == child
    assert scalar(conn, "select ended and not seen from pgqueue.call")
