"""The views of queues and workers: what they count, and that they cost the same on any backlog."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import db
from pgqueue.queries.queues import QueueLoad
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_worker, insert_job
from tests.statements.test_explain import backlog, backlogs, buffers, explain, nodes

__all__ = ["backlog", "backlogs"]  # fixtures
NOW = datetime.now(UTC)


def loads(conn: Conn) -> dict[str, QueueLoad]:
    return {load.queue: load for load in db.run(conn, QUERIES.queues.list())}


def serving(conn: Conn, *queues: str, **columns: Any) -> None:
    """Insert a worker that serves these queues, with other columns as given."""
    worker = add_worker(conn)
    for name, value in {"queues": list(queues), **columns}.items():
        conn.execute(f"update pgqueue.worker set {name} = %s where id = %s".encode(), (value, worker))


def test_a_queue_shows_its_jobs_by_whether_they_are_due(conn: Conn) -> None:
    worker, now = add_worker(conn), datetime.now(UTC)
    for minutes in (5, 3, 1):
        insert_job(conn, queue="mail", priority=minutes, run_at=now - timedelta(minutes=minutes))
    insert_job(conn, queue="mail", run_at=NOW + timedelta(days=1), attempt=1)
    insert_job(conn, queue="mail", state="running", attempt=1, lease=1, worker_id=worker, claimed_at=NOW)
    insert_job(conn, queue="later", run_at=NOW + timedelta(days=1))
    found = loads(conn)
    mail, later = found["mail"], found["later"]
    assert (mail.due, mail.running, mail.scheduled, mail.due_capped) == (3, 1, 1, False)
    assert mail.oldest_due_seconds is not None
    assert 300 <= mail.oldest_due_seconds < 400
    assert (later.due, later.scheduled, later.oldest_due_seconds) == (0, 1, None)


def test_a_queue_counts_the_living_workers_that_claim_its_jobs(conn: Conn) -> None:
    serving(conn, "mail")
    serving(conn, "m*l", "mail", slots=3)  # by its name and by a pattern: one worker all the same
    serving(conn, "m_i*", slots=100)  # an underscore stands for itself
    serving(conn, "mail", stopping=True)
    serving(conn, "mail", quiet_at=NOW)
    serving(conn, "mail", lost_at=NOW)
    serving(conn, "mail", heartbeat_at=NOW - timedelta(minutes=5))
    serving(conn, "mail", kind="scheduler")
    found = loads(conn)
    assert (found["mail"].workers, found["mail"].slots) == (2, 11)
    assert set(found) == {"mail"}


@pytest.mark.parametrize(("until", "paused"), [(None, True), (timedelta(hours=1), True), (timedelta(hours=-1), False)])
def test_a_pause_is_over_once_its_end_has_passed(conn: Conn, until: timedelta | None, paused: bool) -> None:
    conn.execute(
        "insert into pgqueue.queue (name, paused_at, paused_until, paused_by) values (%s, now(), %s, 'a')",
        ("mail", until and NOW + until),
    )
    mail = loads(conn)["mail"]
    assert (mail.paused_at is not None, mail.paused_by) == (paused, "a" if paused else None)


def test_counts_stop_at_a_bound_and_say_so(conn: Conn) -> None:
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'deep' from generate_series(1, 12000)")
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'flat' from generate_series(1, 10000)")
    found = loads(conn)
    assert (found["deep"].due, found["deep"].due_capped) == (10000, True)
    assert (found["flat"].due, found["flat"].due_capped) == (10000, False)


def test_what_the_view_reads_is_bounded_whatever_the_statistics(backlog: Conn) -> None:
    plan = explain(backlog, QUERIES.queues.list(), generic=False)
    scans = [node for node in nodes(plan) if node.get("Relation Name") == "job_live"]
    indexes = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    assert {name for name in indexes if name.startswith("job_live")} == {
        "job_live_ready", "job_live_running", "job_live_turn",
    }  # fmt: skip
    assert "Seq Scan" not in {node["Node Type"] for node in scans}
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) < 100_000 + 10_000
    assert buffers(plan) < 110_000


def test_a_worker_is_shown_with_what_it_tells_of_itself(conn: Conn) -> None:
    kinds = {"alive": {}, "quiet": {"quiet_at": NOW}, "stopping": {"stopping": True, "quiet_at": NOW},
             "silent": {"heartbeat_at": NOW - timedelta(minutes=5)}, "lost": {"lost_at": NOW}}  # fmt: skip
    for status, columns in kinds.items():
        serving(conn, status, release=status, rss_bytes=5, health_address="h:1", **columns)
    rows = conn.execute("select status, release, rss_bytes, health_address from pgqueue.worker_health").fetchall()
    assert sorted(rows) == sorted((status, status, 5, "h:1") for status in kinds)


@pytest.mark.parametrize("column", ["requested = 'dance'", "requested = 'stop', requested_at = 'infinity'"])
def test_a_request_that_no_process_understands_is_refused(conn: Conn, column: str) -> None:
    add_worker(conn)
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute(f"update pgqueue.worker set {column}".encode())


def test_each_view_of_the_fleet_has_a_comment(conn: Conn) -> None:
    for view in ("queue_load", "worker_health"):
        assert scalar(conn, "select obj_description(%s::regclass)", f"pgqueue.{view}")
