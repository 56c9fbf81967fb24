"""What the dashboard reads: by the ends of indexes on a big backlog, and what it says."""

import psycopg
import pytest

from pgqueue import db
from pgqueue.queries.dashboard import MOST_FAILURES, Span
from tests.harness import QUERIES, Conn, add_worker
from tests.statements.test_explain import buffers, explain, nodes

DEAD = """
insert into pgqueue.dead_letter (id, task, queue, priority, args, run_at, created_at, attempt, max_attempts, lease,
    reason, error, fingerprint, failed_at)
select nextval('pgqueue.job_id'), 't' || i % 5, 'q', 0, '{}', now(), now(), 1, 1, 1, 'exhausted',
    '{"type": "E", "message": "m"}', 'f' || i % 7, now() - make_interval(secs => i)
from generate_series(1, 30000) as i"""


def test_signs_and_groups_come_from_the_new_end_of_an_index(conn: Conn) -> None:
    conn.execute(DEAD)
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'q' from generate_series(1, 20000)")
    conn.execute("vacuum analyze pgqueue.dead_letter, pgqueue.job_live")
    add_worker(conn, lost=True)
    for query, pages in ((QUERIES.dashboard.signs(), 1500), (QUERIES.dashboard.failures(20), 12_000)):
        with conn.transaction():
            db.run(conn, QUERIES.dashboard.look(2.0))
            plan = explain(conn, query, generic=False)
        conn.execute("deallocate all")
        used = {node.get("Index Name") for node in nodes(plan)}
        assert "dead_letter_failed_at" in used
        assert not [node for node in nodes(plan) if node["Node Type"] == "Seq Scan" and "dead_letter" in str(node)]
        assert buffers(plan) < pages


def test_signs_say_what_is_wrong_and_groups_stop_at_a_bound(conn: Conn) -> None:
    conn.execute(DEAD)
    add_worker(conn, lost=True)
    signs = {(sign.kind, sign.name): sign for sign in db.run(conn, QUERIES.dashboard.signs())}
    assert signs["worker", "h:1"].word == "lost"
    assert signs["dead", None].number == 1000  # and no more are counted
    groups = db.run(conn, QUERIES.dashboard.failures(20))
    assert sum(group.jobs for group in groups) == MOST_FAILURES
    assert {group.group for group in groups} == {f"f{number}" for number in range(7)}
    assert (groups[0].error, groups[0].message) == ("E", "m")


def test_activity_is_summed_by_steps_of_a_queue_or_task(conn: Conn) -> None:
    conn.execute(
        "insert into pgqueue.activity select now() - make_interval(secs => 60 * i + 5), gen_random_uuid(), 't',"
        " 'q' || i % 2, 'succeeded', 3, 1, 2, '{3}', '{3}' from generate_series(0, 9) as i"
    )
    steps = db.run(conn, QUERIES.dashboard.activity(Span(60, 5)))
    assert sorted((step.ago, step.jobs) for step in steps) == [(ago, 3) for ago in range(5)]
    assert len(db.run(conn, QUERIES.dashboard.activity(Span(60, 10), queue="q1"))) == 5
    assert db.run(conn, QUERIES.dashboard.activity(Span(60, 10), task="other")) == []
    assert [health.task for health in db.run(conn, QUERIES.dashboard.tasks(5))] == ["t"]


WEEKS = """
insert into pgqueue.activity
select now() - make_interval(mins => m), gen_random_uuid(), 't' || q, 'q' || q,
       case when m % 4 = 0 then 'failed' when m % 4 = 1 then 'released' else 'succeeded' end, 2, 1, 2, '[3:3]={2}',
       case when m % 60 < 2 then '[21:22]={1,1}' else '[21:21]={2}' end::int[]
from generate_series(1, 11000) as m cross join generate_series(1, 2) as q"""


def test_two_hours_are_compared_without_the_week_between_them(conn: Conn) -> None:
    conn.execute(WEEKS)
    conn.execute("vacuum analyze pgqueue.activity")
    with conn.transaction():
        db.run(conn, QUERIES.dashboard.look(2.0))
        found = db.run(conn, QUERIES.dashboard.hours_compared())
        plan = explain(conn, QUERIES.dashboard.hours_compared(), generic=False)
    conn.execute("deallocate all")
    # Of each 60 minutes, 15 failed and 30 succeeded, twice; 15 were given back.
    for hour in (found[0], found[1]):
        assert hour.ended in (2 * 2 * 44, 2 * 2 * 45, 2 * 2 * 46)  # the hour's edges fall between two rows
        assert hour.failed in (2 * 2 * 14, 2 * 2 * 15, 2 * 2 * 16)
        assert hour.wait_p95 == pytest.approx(2**10.25 / 1e6)
    scans = [node for node in nodes(plan) if node["Node Type"].startswith("Index")]
    read = sum(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) for scan in scans)
    assert read < 400  # of 22,000
    assert buffers(plan) < read + 20  # a page for each row at most, and those of the index


def test_tasks_of_a_queue_and_days_of_failures_are_summed(conn: Conn) -> None:
    conn.execute(WEEKS)
    (found,) = db.run(conn, QUERIES.dashboard.tasks_of_queue("q1", 5))
    assert (found.task, found.runs, found.failed) == ("t1", 2 * 44, 2 * 14)
    assert db.run(conn, QUERIES.dashboard.tasks_of_queue("q3", 5)) == []
    conn.execute(DEAD.replace("secs => i", "hours => i % 240"))
    days = db.run(conn, QUERIES.dashboard.days_of_failures())
    assert {day.task for day in days} == {f"t{number}" for number in range(5)}
    assert 7 * MOST_FAILURES / 10 * 0.5 < sum(day.jobs for day in days) <= MOST_FAILURES
    assert {day.ago for day in days} <= set(range(8))


def test_days_of_failures_come_from_the_new_end_of_an_index(conn: Conn) -> None:
    conn.execute(DEAD)
    conn.execute("vacuum analyze pgqueue.dead_letter")
    with conn.transaction():
        db.run(conn, QUERIES.dashboard.look(2.0))
        plan = explain(conn, QUERIES.dashboard.days_of_failures(), generic=False)
    conn.execute("deallocate all")
    assert "dead_letter_failed_at" in {node.get("Index Name") for node in nodes(plan)}
    assert max(node["Actual Rows"] for node in nodes(plan)) <= MOST_FAILURES


def test_a_look_writes_nothing_and_knows_a_database_that_takes_no_writes(conn: Conn) -> None:
    with conn.transaction():
        assert db.run(conn, QUERIES.dashboard.look(2.0)) is False
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), conn.transaction():
            conn.execute("delete from pgqueue.job_live")
    conn.execute("set default_transaction_read_only = on")
    with conn.transaction():
        assert db.run(conn, QUERIES.dashboard.look(2.0)) is True
