"""What the dashboard reads: by the ends of indexes on a big backlog, and what it says."""

import psycopg
import pytest

from pgqueue import db
from pgqueue.queries.dashboard import MOST_FAILURES, Span
from pgqueue.queries.ties import MOST_LOOKED_AT, MOST_TIED, TieKeys, enqueued_of, without_rest
from tests.conftest import scalar
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


MIDNIGHT = "(now() at time zone 'UTC')::date::timestamp at time zone 'UTC'"
# Five days of every 25 seconds that are neither today nor the same weekday, and rows at the edges of both days.
DAYS = f"""
insert into pgqueue.activity
select {MIDNIGHT} - make_interval(secs => 25 * i), gen_random_uuid(), 't', 'q', 'succeeded', 1000, 1, 2, '[3:3]={{2}}',
       '[3:3]={{1000}}' from generate_series(1, 17280) as i;
insert into pgqueue.activity
select e.at, gen_random_uuid(), 't', 'q', e.outcome, e.jobs, 1, 2, '[3:3]={{2}}',
       case when e.slow > 0 then array[e.jobs - e.slow, e.slow] else array[e.jobs] end
from (values
    ({MIDNIGHT}, 'succeeded', 94, 0), ({MIDNIGHT}, 'retried', 3, 3), ({MIDNIGHT}, 'failed', 2, 2),
    (now(), 'failed', 1, 1),
    ({MIDNIGHT} - interval '1 microsecond', 'failed', 500, 500), (now() + interval '1 microsecond', 'failed', 500, 500),
    ({MIDNIGHT}, 'released', 500, 500),
    ({MIDNIGHT} - interval '7 days', 'succeeded', 40, 1), (now() - interval '7 days', 'failed', 10, 1),
    ({MIDNIGHT} - interval '169 hours', 'failed', 500, 500),
    ({MIDNIGHT} - interval '7 days' - interval '1 microsecond', 'failed', 500, 500),
    (now() - interval '7 days' + interval '1 microsecond', 'failed', 500, 500)) as e(at, outcome, jobs, slow)"""


def test_today_stands_beside_the_same_part_of_the_same_weekday(conn: Conn) -> None:
    with conn.transaction():  # in which now() is one moment
        conn.execute(DAYS)
        db.run(conn, QUERIES.dashboard.look(2.0))
        days = [db.run(conn, QUERIES.dashboard.day_so_far(weeks)) for weeks in (0, 1)]
        plan = explain(conn, QUERIES.dashboard.day_so_far(1), generic=False)
    conn.execute("deallocate all")
    assert [(day.ended, day.failed) for day in days] == [(100, 3), (50, 10)]
    assert [day.wait_p95 for day in days] == pytest.approx([2**0.75 / 1e6, 2**0.25 / 1e6])  # of 6 %, and of 4 %
    scans = [node for node in nodes(plan) if "activity" in str(node.get("Relation Name"))]
    assert {scan["Node Type"] for scan in scans if scan["Actual Loops"]} == {"Index Scan"}
    assert sum(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) for scan in scans) == 2  # of 17,000


def test_a_day_without_an_attempt_is_empty(conn: Conn) -> None:
    assert db.run(conn, QUERIES.dashboard.day_so_far(0)) == (0, 0, None)


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


def test_parts_of_a_span_are_together_the_span(conn: Conn) -> None:
    conn.execute(WEEKS)
    span = Span(14_400, 42)
    assert span.days == [(0, 6), (6, 12), (12, 18), (18, 24), (24, 30), (30, 36), (36, 42)]
    assert Span(900, 96).days == [(0, 96)]
    with conn.transaction():
        whole = db.run(conn, QUERIES.dashboard.activity(span, queue="q1"))
        parts = [
            step for part in span.days for step in db.run(conn, QUERIES.dashboard.activity(span, queue="q1", part=part))
        ]
        plan = explain(conn, QUERIES.dashboard.activity(span, part=(6, 12)), generic=False)
    assert sorted(parts) == sorted(whole)
    assert sum(step.jobs for step in parts) > 19_000
    conn.execute("deallocate all")
    scans = [node for node in nodes(plan) if "activity" in str(node.get("Relation Name"))]
    read = sum(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) for scan in scans)
    assert read <= 2 * 1441  # of 22,000: those of one day


def test_waits_of_all_queues_are_summed_in_one_reading(conn: Conn) -> None:
    conn.execute(WEEKS)
    found = db.run(conn, QUERIES.dashboard.waits(Span(600, 3)))
    assert {wait.queue for wait in found} == {"q1", "q2"}
    assert {wait.ago for wait in found} <= {0, 1, 2}
    assert sum(wait.jobs for wait in found) in range(2 * 2 * 21, 2 * 2 * 24)  # three of four outcomes, of 30 minutes
    assert sum(wait.wait_seconds for wait in found) == sum(wait.jobs for wait in found)
    conn.execute("vacuum analyze pgqueue.activity")
    with conn.transaction():
        db.run(conn, QUERIES.dashboard.look(2.0))
        plan = explain(conn, QUERIES.dashboard.waits(Span(600, 3)), generic=False)
    conn.execute("deallocate all")
    assert {node["Node Type"] for node in nodes(plan) if "activity" in str(node.get("Relation Name"))} == {"Index Scan"}
    assert buffers(plan) < 200


def test_what_workers_announce_is_read_of_those_that_live(conn: Conn) -> None:
    alike = [add_worker(conn), add_worker(conn)]
    other = add_worker(conn)
    conn.execute("update pgqueue.worker set tasks = '{t,t@2}' where id = %s", [other])
    add_worker(conn, lost=True)
    add_worker(conn, beat_seconds_ago=3600)
    found = sorted(db.run(conn, QUERIES.dashboard.announced()), key=lambda each: each.tasks)
    assert [(each.workers, each.tasks) for each in found] == [(sorted(alike), ["t"]), ([other], ["t", "t@2"])]


def test_indexes_of_a_history_are_the_sums_of_its_days(conn: Conn) -> None:
    conn.execute(WEEKS)
    found = {each.name: each for each in db.run(conn, QUERIES.dashboard.indexes(500))}
    size = (
        "select sum(pg_relation_size(i.inhrelid))::bigint from pg_inherits i"
        " where i.inhparent = 'pgqueue.activity_at'::regclass"
    )
    assert found["activity_at"].bytes == scalar(conn, size) > 100_000
    assert found["activity_at"].table == "activity"
    assert found["job_live_ready"].table == "job_live"
    assert not [name for name in found if "_20" in name or name.startswith("activity_default")]
    (largest,) = db.run(conn, QUERIES.dashboard.indexes(1))
    assert largest.bytes == max(each.bytes for each in found.values())


TRACE = "4bf92f35" * 4
KEYED = """
insert into pgqueue.idempotency_key (key, request, job_id, created_at, expires_at)
values (%s, %s, 2, now(), now() + interval '1 hour')"""


def test_ties_of_a_job_are_found_by_keys_and_a_trace_within_a_bound(conn: Conn) -> None:
    """Jobs of its trace in each of the tables; the calls and the key whatever else there is."""
    jobs = f"""
        insert into pgqueue.job_live (id, task, queue, headers)
        select i, 't', 'q',
            case when i in (1, 3, 5000) then '{{"traceparent": "00-{TRACE}-00f067aa0ba902b7-01"}}'::jsonb
                                 when i = 4 then '{{"$dead_letter": 1}}' when i = 6 then '{{"$dead_letter": "x; 1"}}'
                                 else '{{}}' end
        from generate_series(1, 20000) i"""
    conn.execute(jobs)
    conn.execute(
        "insert into pgqueue.step (job_id, name, kind, number, attempt, lease) values (2, 's', 'call', 7, 1, 1)"
    )
    conn.execute(
        "insert into pgqueue.call (child_id, job_id, step, number, place)"
        " select i, 2, 's', 7, i from generate_series(10, 60) i"
    )
    conn.execute(KEYED, ["0" * 32, 1])
    conn.execute("vacuum analyze pgqueue.job_live")
    found = db.run(conn, QUERIES.dashboard.ties(TieKeys(2, "0" * 32)))
    assert [tie.id for tie in found if tie.kind == "called"] == list(range(10, 30))  # and no more are read
    assert {(tie.name, tie.task, tie.queue, tie.state) for tie in found if tie.kind == "called"} == {
        ("s", "t", "q", "pending")
    }
    assert [tie.id for tie in found if tie.kind == "key" and tie.until is not None] == [2]
    assert [(tie.kind, tie.id) for tie in db.run(conn, QUERIES.dashboard.ties(TieKeys(11)))] == [("caller", 2)]
    assert [(tie.kind, tie.id) for tie in db.run(conn, QUERIES.dashboard.ties(TieKeys(4)))] == [("letter", 1)]
    assert db.run(conn, QUERIES.dashboard.ties(TieKeys(6))) == []
    traced = TieKeys(1, None, TRACE)
    assert [(tie.kind, tie.id) for tie in db.run(conn, QUERIES.dashboard.ties(traced))] == [("traced", 3)]
    assert MOST_LOOKED_AT < 5000
    with conn.transaction():
        db.run(conn, QUERIES.dashboard.look(2.0))
        plan = explain(conn, QUERIES.dashboard.ties(traced), generic=False)
    conn.execute("deallocate all")
    scans = [node for node in nodes(plan) if node.get("Relation Name") == "job_live" and node["Actual Loops"]]
    assert max(node["Actual Rows"] for node in scans) <= MOST_LOOKED_AT
    assert not [
        node
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and node["Actual Loops"] and "job_live" in str(node)
    ]
    assert buffers(plan) < 400


MADE = """
insert into pgqueue.job_live (id, task, queue, headers)
select i, 't', 'q', case when i % 400 = 0 then '{"$by": 7}' when i % 2 = 1 then '{"$by": 8}' else '{}' end::jsonb
from generate_series(1, 20000) i"""
MADE_AND_ENDED = """
insert into pgqueue.job_finished (id, task, queue, priority, args, headers, run_at, created_at, attempt, max_attempts,
                                  lease, state, finished_at)
select 30000 + i, 't', 'q', 0, '{}', case when i = 9 then '{"$by": 7}' else '{}' end::jsonb, now(), now(), 1, 1, 1,
       'succeeded', now() - make_interval(days => i)
from generate_series(1, 20) i"""


def test_what_a_task_has_enqueued_is_found_by_an_index_of_such_jobs(conn: Conn) -> None:
    """In each of the tables, page by page; calls are told apart, and jobs of another one are not read."""
    conn.execute(MADE)
    conn.execute(MADE_AND_ENDED)
    conn.execute(DEAD.replace("30000", "3"))
    conn.execute(
        "update pgqueue.dead_letter set headers = '{\"$by\": 7}' where id = (select min(id) from pgqueue.dead_letter)"
    )
    conn.execute("insert into pgqueue.call (child_id, job_id, step, number, place) values (400, 7, 's', 1, 0)")
    conn.execute("vacuum analyze pgqueue.job_live, pgqueue.job_finished, pgqueue.dead_letter")
    pages, after = [], 0
    while True:
        ties = db.run(conn, QUERIES.dashboard.ties(TieKeys(7, after=after)))
        found, rest = without_rest(ties, MOST_TIED)
        pages.append([tie.id for tie in enqueued_of(found, "made")])
        if rest is None:
            break
        after = rest
    assert [len(page) for page in pages] == [MOST_TIED, MOST_TIED, 11]
    made = {*range(800, 20001, 400), 30009, scalar(conn, "select min(id) from pgqueue.dead_letter")}
    assert {job for page in pages for job in page} == made
    assert [(tie.kind, tie.id) for tie in db.run(conn, QUERIES.dashboard.ties(TieKeys(800)))] == [("maker", 7)]
    with conn.transaction():
        db.run(conn, QUERIES.dashboard.look(2.0))
        plan = explain(conn, QUERIES.dashboard.ties(TieKeys(7)), generic=False)
    conn.execute("deallocate all")
    used = {str(node.get("Index Name")) for node in nodes(plan) if node["Actual Rows"] and node["Actual Loops"]}
    assert {"job_live_by", "dead_letter_by"} < used
    assert max(node["Actual Rows"] for node in nodes(plan)) < 100
    assert buffers(plan) < 400


def test_a_maker_that_is_no_id_is_none(conn: Conn) -> None:
    """SQL that writes the tables itself writes into headers what it wants."""
    for job, maker in enumerate(['"7"', '"; 1"', "1e30", "-7", "[7]", "null"], 1):
        headers = f'{{"$by": {maker}}}'
        conn.execute(
            "insert into pgqueue.job_live (id, task, queue, headers) values (%s, 't', 'q', %s)", [job, headers]
        )
        read = db.run(conn, QUERIES.jobs.get(job))
        assert read is not None
        assert read.enqueued_by is None
        ties = db.run(conn, QUERIES.dashboard.ties(TieKeys(job)))
        assert [tie.id for tie in ties] == ([7] if job == 1 else []), maker
    assert [tie for tie in db.run(conn, QUERIES.dashboard.ties(TieKeys(7))) if tie.kind == "made"] == []
