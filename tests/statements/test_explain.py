"""Plans of the hot statements on a big backlog: which index, no scan or sort of the backlog, few pages."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import db
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.keys import Unique
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries import Query
from pgqueue.queries.chosen import Page
from pgqueue.queries.jobs.claim import Portion
from pgqueue.queries.jobs.list import LISTS
from pgqueue.schedules.plan import Every
from pgqueue.schedules.schedule import Schedule
from pgqueue.tasks.rules import Rules
from tests.conftest import Databases
from tests.harness import QUERIES, WORKER, Conn, claimed

QUEUES = ["q0", "q1", "q2"]
ROOMS = dict.fromkeys(QUEUES, 10)
BACKLOG = """
insert into pgqueue.job_live (task, queue, priority, run_at)
select 't', 'q' || i % 3, i % 7, now() - make_interval(secs => i / 100.0) from generate_series(1, 200000) as i
union all
select 't', 'q' || i % 3, i % 7, now() + interval '1 day' from generate_series(1, 100000) as i;
insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds, lost_at)
select gen_random_uuid(), 'worker', 'h', 1, '0', '{q0}', '{t}', 8, 30, case when i = 1 then now() end
from generate_series(1, 3) as i;
insert into pgqueue.job_live (task, queue, state, attempt, lease, worker_id, claimed_at)
select 't', 'q0', 'running', 1, 1, w.id, now() from pgqueue.worker w, generate_series(1, 20);
insert into pgqueue.job_live (task, queue, state, waits_for)
select 'unknown' || i % 2, 'q0', 'blocked', 'task' from generate_series(1, 3000) as i;
insert into pgqueue.job_live (task, queue, state, waits_for, headers, run_at)
select 'newer', 'q0', 'blocked', 'task', '{"$version": 2}', now() - interval '1 hour' from generate_series(1, 20000);
insert into pgqueue.waiter select i, now() + interval '1 minute' from generate_series(1, 3000) as i;
insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick)
select 's' || i, 't', 'q0', 60, now() + make_interval(days => case when i < 10 then -1 else 1 end)
from generate_series(1, 5000) as i;
insert into pgqueue.idempotency_key (key, job_id, expires_at)
select encode(substr(sha256(convert_to('t' || chr(10) || 'k' || i, 'UTF8')), 1, 16), 'hex')::uuid, i,
       now() + interval '1 day'
from generate_series(1, 20000) as i;
insert into pgqueue.job_live (task, queue, unique_key, unique_live)
select 't', 'alone', sha256(convert_to('t' || chr(10) || 'k' || i, 'UTF8')), true from generate_series(1, 5000) as i;
insert into pgqueue.job_live (task, queue, expires_at)
select 't', 'late', now() - interval '1 second' from generate_series(1, 3000) as i"""

# Two thousand workflows of some jobs each, which run. Their worker is that of no other test: what a test inserts stays
# in the index as dead entries.
GROUPS = """
insert into pgqueue.workflow (id, root_id, name, open_gates) select i, i, 'w', 1 from generate_series(1, 2000) as i;
insert into pgqueue.gate (id, workflow_id, members, remaining, first_id, last_id)
select i, i, %(members)s, %(members)s, 1, 1 from generate_series(1, 2000) as i;
insert into pgqueue.job_live (task, queue, state, attempt, lease, worker_id, claimed_at, ties, gate_id, workflow_id)
select 't', 'q0', 'running', 1, 1, '00000000-0000-0000-0000-00000000000f', now(), 2, i, i
from generate_series(1, 2000) as i, generate_series(1, %(members)s)"""


@pytest.fixture(scope="module")
def backlogs(server_dsn: str, template: str) -> Iterator[dict[str, str]]:
    """The same backlog without statistics, with those of an empty table, and with current ones."""
    databases = Databases(server_dsn)
    made = {"never analysed": databases.make(template), "analysed when empty": databases.make(template)}
    for statistics, dsn in made.items():
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("alter table pgqueue.job_live set (autovacuum_enabled = off)")
            if statistics == "analysed when empty":
                conn.execute("analyze")
            conn.execute(BACKLOG)
    copied = str(conninfo_to_dict(made["never analysed"])["dbname"])
    made["analysed"] = databases.make(copied)
    with psycopg.connect(made["analysed"], autocommit=True) as conn:
        conn.execute("analyze")
    yield made
    databases.drop_all()


@pytest.fixture(params=["never analysed", "analysed when empty", "analysed"])
def backlog(backlogs: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Conn]:
    """A connection to a backlog, in a transaction that is rolled back."""
    with psycopg.connect(backlogs[request.param]) as conn:
        yield conn
        conn.rollback()


Node = dict[str, Any]


def explain(conn: Conn, query: Query[Any], *, generic: bool) -> Node:
    """Run a statement under EXPLAIN ANALYZE, prepared, with a custom or the generic plan."""
    names = list(dict.fromkeys(re.findall(rb"%\((\w+)\)[sb]", query.sql)))
    text = re.sub(rb"%\((\w+)\)[sb]", lambda m: b"$%d" % (names.index(m[1]) + 1), query.sql).replace(b"%%", b"%")
    conn.execute(f"set local plan_cache_mode = force_{'generic' if generic else 'custom'}_plan")
    conn.execute(b"prepare explained as " + text)
    values = [query.params[name.decode()] for name in names]
    call = "execute explained" + (f"({', '.join(['%s'] * len(values))})" if values else "")
    row = (
        psycopg.ClientCursor(conn).execute(f"explain (analyze, buffers, format json) {call}", values or None).fetchone()
    )
    assert row is not None
    plan: Node = row[0][0]["Plan"]
    return plan


def nodes(plan: Node) -> Iterator[Node]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def job_scans(plan: Node) -> set[str]:
    """Return the indexes by which job_live is read; a scan without one by its type."""
    scans = [n for n in nodes(plan) if "Scan" in n["Node Type"]]
    reads = [n for n in scans if n.get("Relation Name") == "job_live" or n.get("Index Name", "").startswith("job_live")]
    return {n.get("Index Name", n["Node Type"]) for n in reads if n["Node Type"] != "Bitmap Heap Scan"}


def rows_read(plan: Node) -> int:
    """Return how many rows of job_live were read, also those that a filter removed."""
    scans = [n for n in nodes(plan) if n.get("Relation Name") == "job_live"]
    return int(sum((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"] for n in scans))


def sorted_rows(plan: Node) -> int:
    """Return the most rows that any sort received."""
    sorts = [n for n in nodes(plan) if "Sort" in n["Node Type"]]
    return max((child["Actual Rows"] for n in sorts for child in n["Plans"]), default=0)


def buffers(plan: Node) -> int:
    """Return the pages touched by the statement and by the data-modifying CTEs that it does not read."""
    parts = [plan, *(n for n in nodes(plan) if n["Node Type"] == "ModifyTable")]
    return max(n["Shared Hit Blocks"] + n["Shared Read Blocks"] for n in parts)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_claim_reads_the_ready_index_sorts_no_backlog_and_touches_few_pages(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.claim(WORKER, ROOMS, 10), generic=generic)
    assert plan["Actual Rows"] == 10
    assert job_scans(plan) <= {"job_live_ready", "job_live_pkey"}
    assert "job_live_ready" in job_scans(plan)
    assert sorted_rows(plan) <= 10
    assert buffers(plan) < 500


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_claim_that_finds_nothing_touches_few_pages(backlog: Conn, generic: bool) -> None:
    backlog.execute("delete from pgqueue.job_live where run_at <= now()")
    query = QUERIES.jobs.claim(WORKER, {"none": 10, "nor this": 10}, 10)
    assert buffers(explain(backlog, query, generic=generic)) < 100


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_claim_by_shares_reads_the_ready_index_for_each_of_its_portions(backlog: Conn, generic: bool) -> None:
    first, rest = [Portion(queue, 3, 0) for queue in QUEUES], [Portion(queue, 9, 3) for queue in QUEUES]
    portions = [Portion("none", 9, 0), *first, *rest]
    plan = explain(backlog, QUERIES.jobs.claim(WORKER, portions, 10), generic=generic)
    assert plan["Actual Rows"] == 10
    assert job_scans(plan) <= {"job_live_ready", "job_live_pkey"}
    assert sorted_rows(plan) <= 10
    assert buffers(plan) < 700


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize(("max_wait", "jobs", "most"), [(60.0, 10, 500), (1e6, 0, 200)], ids=["some", "none"])
def test_a_claim_of_the_oldest_hops_along_the_ready_index_and_walks_no_lane(
    backlog: Conn, max_wait: float, jobs: int, most: int, generic: bool
) -> None:
    plan = explain(backlog, QUERIES.jobs.claim_oldest(WORKER, ROOMS, 10, max_wait), generic=generic)
    assert plan["Actual Rows"] == jobs
    assert job_scans(plan) <= {"job_live_ready", "job_live_pkey"}
    assert rows_read(plan) <= 100
    assert sorted_rows(plan) <= 10
    assert buffers(plan) < most


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_next_due_hops_along_the_ready_index(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.next_due(QUEUES), generic=generic)
    assert job_scans(plan) == {"job_live_ready", "job_live_turn"}
    assert sorted_rows(plan) <= 21
    assert buffers(plan) < 300


@pytest.mark.parametrize("state", ["failed", "running", "succeeded", "cancelled"])
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_list_of_a_state_that_few_jobs_are_in_walks_over_no_others(backlog: Conn, generic: bool, state: str) -> None:
    backlog.execute("insert into pgqueue.dead_letter (id, task, queue, reason) select i, 't', 'q0', 'x'"
                    " from generate_series(1000000, 1000030) as i")  # fmt: skip
    db.run(backlog, QUERIES.jobs.prefer_indexes())
    query = QUERIES.jobs.list(JobFilter(state=state), None, 20)
    plan = explain(backlog, query, generic=generic)
    assert plan["Actual Rows"] == {"failed": 20, "running": 20}.get(state, 0)
    assert job_scans(plan) <= {"job_live_running", "job_live_pkey"}
    # Before 17 Postgres descends an index once for each id of a list, in each partition.
    assert buffers(plan) < (400 if backlog.info.server_version >= 170000 else 600)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("state", [None, *sorted(LISTS)])
def test_a_list_that_nothing_fits_looks_at_a_bounded_number_of_jobs(
    backlogs: dict[str, str], monkeypatch: pytest.MonkeyPatch, state: str | None, generic: bool
) -> None:
    monkeypatch.setattr("pgqueue.queries.jobs.list.MOST_LOOKED", 5000)
    nobody = JobFilter(state=state, task="nobody")
    for statistics, dsn in backlogs.items():
        with psycopg.connect(dsn) as conn:
            db.run(conn, QUERIES.jobs.prefer_indexes())
            plan = explain(conn, QUERIES.jobs.list(nobody, None, 20), generic=generic)
            assert rows_read(plan) <= 20_100, statistics  # 10,001 of the kind, and as many or 5,000 again
            conn.rollback()


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("kind", ["cancel", "retry", "promote", "edit"])
def test_a_preview_that_nothing_fits_looks_at_a_bounded_number_of_jobs(
    backlogs: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, generic: bool
) -> None:
    monkeypatch.setattr("pgqueue.queries.chosen.MOST_LOOKED", 5000)
    for statistics, dsn in backlogs.items():
        with psycopg.connect(dsn) as conn:
            db.run(conn, QUERIES.jobs.prefer_indexes())
            page = Page(20, db.run(conn, QUERIES.chosen.unseen(kind, 0)))
            assert page.unseen_below is not None
            for query, most in (
                (QUERIES.chosen.unseen(kind, 0), 5001),
                (QUERIES.chosen.preview(kind, 0, JobFilter(task="nobody"), page), 5000),
            ):
                assert rows_read(explain(conn, query, generic=generic)) == most, statistics
                conn.execute("deallocate explained")
            conn.rollback()


@pytest.mark.parametrize("state", sorted(LISTS))
@pytest.mark.parametrize(("queue", "before"), [(None, None), (None, 150_000), ("q0", None), ("none", None)])
def test_a_list_has_the_newest_jobs_of_a_state_whether_few_or_many_are_in_it(
    backlogs: dict[str, str], state: str, queue: str | None, before: int | None
) -> None:
    naive = """select array(select id from pgqueue.job where (phase = %s or state = %s)
        and (%s::text is null or queue = %s) and (%s::bigint is null or id < %s) order by id desc limit 20)"""
    with psycopg.connect(backlogs["analysed"]) as conn:
        conn.execute("update pgqueue.job_live set attempt = 1 where id % 7777 = 0 and state = 'pending'")
        db.run(conn, QUERIES.jobs.prefer_indexes())
        jobs = db.run(conn, QUERIES.jobs.list(JobFilter(state=state, queue=queue), before, 20))
        row = conn.execute(naive, [state, state, queue, queue, before, before]).fetchone()
        conn.rollback()
    assert row == ([job.id for job in jobs],)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_rescue_reads_only_running_rows(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.rescue(WORKER), generic=generic)
    assert job_scans(plan) <= {"job_live_running", "job_live_pkey"}
    assert "job_live_running" in job_scans(plan)
    assert buffers(plan) < 1000


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_adopt_reads_only_parked_rows_of_its_tasks(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.adopt(WORKER, ROOMS, ["unknown1", "other"], 10), generic=generic)
    assert plan["Actual Rows"] == 10
    assert job_scans(plan) <= {"job_live_parked", "job_live_pkey"}
    assert "job_live_parked" in job_scans(plan)
    assert buffers(plan) < 500


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_jobs_of_a_version_that_is_not_known_cost_nothing_however_many_wait(backlog: Conn, generic: bool) -> None:
    plan = explain(
        backlog, QUERIES.jobs.adopt(WORKER, ROOMS, ["newer", "other"], 10, {"other": ["1", "2", "3"]}), generic=generic
    )
    assert plan["Actual Rows"] == 0
    assert job_scans(plan) <= {"job_live_parked", "job_live_pkey"}
    assert buffers(plan) < 100


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_of_a_version_that_is_known_adopt_reads_what_it_takes(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.adopt(WORKER, ROOMS, ["newer"], 10, {"newer": ["1", "2"]}), generic=generic)
    assert plan["Actual Rows"] == 10
    assert job_scans(plan) <= {"job_live_parked", "job_live_pkey"}
    assert sorted_rows(plan) <= 10
    assert buffers(plan) < 500


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("other", [PLAIN_SUCCESS, Resolution("retry", "error", 1.0)], ids=["alike", "mixed"])
def test_resolve_finds_its_rows_by_primary_key(backlog: Conn, generic: bool, other: Resolution) -> None:
    rows = backlog.execute("select id, lease from pgqueue.job_live where state = 'running' limit 20").fetchall()
    batch = [(claimed(*row), (PLAIN_SUCCESS, other)[i % 2]) for i, row in enumerate(rows)]
    plan = explain(backlog, QUERIES.jobs.resolve(batch), generic=generic)
    assert plan["Actual Rows"] == 20
    assert job_scans(plan) == {"job_live_pkey"}
    assert buffers(plan) < 1000


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("members", [20, 1])
def test_members_of_a_group_are_counted_by_primary_keys(backlog: Conn, members: int, generic: bool) -> None:
    psycopg.ClientCursor(backlog).execute(GROUPS, {"members": members})
    rows = backlog.execute("select id, lease from pgqueue.job_live where gate_id = 70 and state = 'running'").fetchall()
    batch = [(claimed(*row, ties=2), PLAIN_SUCCESS) for row in rows]
    plan = explain(backlog, QUERIES.jobs.succeed_counted(batch), generic=generic)
    assert plan["Actual Rows"] == members + 1  # and the workflow that has ended
    assert job_scans(plan) == {"job_live_pkey"}
    assert rows_read(plan) == 2 * members  # each is found and deleted
    assert (reads(plan, "gate"), reads(plan, "workflow")) == ({"gate_pkey"}, {"workflow_pkey"})
    assert buffers(plan) < 1000


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_giving_back_strays_reads_only_the_rows_of_the_worker(backlog: Conn, generic: bool) -> None:
    ((worker,),) = backlog.execute("select worker_id from pgqueue.job_live where state = 'running' limit 1").fetchall()
    backlog.execute("update pgqueue.job_live set cancel_requested_at = now() where worker_id = %s", (worker,))
    plan = explain(backlog, QUERIES.jobs.release_strays(worker, []), generic=generic)
    assert plan["Actual Rows"] == 20
    assert job_scans(plan) <= {"job_live_running", "job_live_pkey"}
    assert buffers(plan) < 1000


def with_conditions(count: int, **rules: Any) -> list[NewJob]:
    """Jobs whose keys are in use already."""
    jobs = [
        NewJob("t", "{}", "q0", 0, 3, conditions=Rules(**rules).conditions("t", dict, {}, at)) for at in range(count)
    ]
    return sorted(jobs, key=lambda job: str(job.conditions))


def reads(plan: Node, table: str) -> set[str]:
    """Return how a table is read: its indexes, or the type of scan."""
    scans = [n for n in nodes(plan) if "Scan" in n["Node Type"] and n["Node Type"] != "Bitmap Heap Scan"]
    return {n.get("Index Name", n["Node Type"]) for n in scans
            if n.get("Relation Name") == table or n.get("Index Name", "").startswith(table)}  # fmt: skip


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_keys_are_found_by_one_probe_each(backlog: Conn, generic: bool) -> None:
    jobs = with_conditions(200, key=tuple(f"k{n}" for n in range(1, 201)))
    for query in (
        QUERIES.jobs.find_key_holders(jobs),
        QUERIES.jobs.free_expired_keys(jobs),
        QUERIES.jobs.give_back_keys(list(range(200)), jobs),
    ):
        backlog.execute("deallocate all")
        plan = explain(backlog, query, generic=generic)
        assert reads(plan, "idempotency_key") == {"idempotency_key_pkey"}
        assert buffers(plan) < 1500
    unique = with_conditions(200, unique_key=tuple(f"k{n}" for n in range(1, 201)))
    for query in (
        QUERIES.jobs.find_unique_holders(unique),
        QUERIES.jobs.free_expired_unique_keys(unique),
        QUERIES.jobs.replace(list(range(1, 201)), unique),
    ):
        backlog.execute("deallocate all")
        plan = explain(backlog, query, generic=generic)
        assert job_scans(plan) <= {"job_live_unique", "job_live_pkey"}
        assert buffers(plan) < 6000


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("window", [None, 60], ids=["unique", "unique in a window"])
def test_a_thousand_jobs_with_conditions_are_compared_by_hash(backlog: Conn, window: int | None, generic: bool) -> None:
    rule = Unique(window=window)
    jobs = with_conditions(1000, unique_key=tuple(f"new{n}" for n in range(1000)), unique=rule)
    plan = explain(backlog, QUERIES.jobs.enqueue_conditionally(jobs), generic=generic)
    assert plan["Actual Rows"] == 1000
    joins = [n for n in nodes(plan) if n["Node Type"] == "Nested Loop"]
    assert all(n["Actual Rows"] * n["Actual Loops"] <= 1000 for n in joins)
    assert not [n for n in nodes(plan) if n.get("Rows Removed by Join Filter", 0) > 1000]


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_the_sweeper_reads_only_what_has_expired(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.expire(100), generic=generic)
    assert plan["Actual Rows"] == 100
    assert job_scans(plan) <= {"job_live_expires", "job_live_pkey"}
    assert buffers(plan) < 4000
    backlog.execute("deallocate all")
    backlog.execute("update pgqueue.idempotency_key set expires_at = now() where job_id <= 1000")
    plan = explain(backlog, QUERIES.jobs.prune_keys(3), generic=generic)
    assert [100 < n["Actual Rows"] < 600 for n in nodes(plan) if n["Node Type"] == "ModifyTable"] == [True]
    assert reads(plan, "idempotency_key") == {"idempotency_key_sample", "Tid Range Scan", "idempotency_key_pkey"}
    assert buffers(plan) < 3000


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_depth_reads_a_bounded_part_of_one_index(backlog: Conn, generic: bool) -> None:
    for limit, kind, pages in ((1000, "", 1500), (1_000_000, "_sample", 5000)):
        backlog.execute("deallocate all")
        plan = explain(backlog, QUERIES.jobs.depth("q0", limit), generic=generic)
        empty = {"job_live_paused", "job_live_paused_queue"}  # test_task_pauses reads them when they are not
        assert job_scans(plan) - empty == {f"job_live{kind or '_ready'}", f"job_live_turn{kind}"}
        assert buffers(plan) < pages


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_count_reads_jobs_that_wait_from_indexes_alone(backlog: Conn, generic: bool) -> None:
    db.run(backlog, QUERIES.jobs.prefer_indexes())
    plan = explain(backlog, QUERIES.jobs.count(1000), generic=generic)
    scans = {(n["Index Name"], n["Node Type"]) for n in nodes(plan) if n.get("Index Name", "").startswith("job_live")}
    assert ("job_live_ready", "Index Only Scan") in scans
    fetched = {index for index, kind in scans if kind != "Index Only Scan"}
    assert fetched <= {"job_live_retrying", "job_live_running", "job_live_parked", "job_live_paused"}


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("verb", ["look", "read_jobs", "announce_ended"])
def test_waiting_finds_jobs_by_primary_key(backlog: Conn, verb: str, generic: bool) -> None:
    ids = list(range(1, 100)) + [10**9 + n for n in range(100)]
    query = {"look": QUERIES.waits.read_snapshots(ids, [True] * len(ids)), "read_jobs": QUERIES.waits.read_jobs(ids)}
    query["announce_ended"] = QUERIES.waits.announce_ended(ids)
    plan = explain(backlog, query[verb], generic=generic)
    assert job_scans(plan) == {"job_live_pkey"}
    assert buffers(plan) < 2500


def test_who_catches_up_probes_the_key_for_each_waiter(backlog: Conn) -> None:
    plan = explain(backlog, QUERIES.waits.announce_missed(), generic=True)
    assert job_scans(plan) == {"job_live_pkey"}


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_results_expire_in_the_partitions_that_hold_them(backlog: Conn, generic: bool) -> None:
    backlog.execute(
        "insert into pgqueue.job_finished (id, task, queue, state, result, finished_at)"
        " select i, 't', 'q0', 'succeeded', '1', now() - make_interval(days => i % 2) from generate_series(1, 20000) i"
    )
    backlog.execute(
        "insert into pgqueue.result_expiry select id, finished_at, now() from pgqueue.job_finished where id % 200 = 0"
    )
    plan = explain(backlog, QUERIES.jobs.drop_expired_results(50), generic=generic)
    assert plan["Actual Rows"] == 1
    scans = [
        n for n in nodes(plan) if n.get("Relation Name", "").startswith("job_finished") and "Scan" in n["Node Type"]
    ]
    assert {n["Node Type"] for n in scans if n["Actual Loops"]} <= {"Index Scan", "Bitmap Heap Scan"}
    assert len({n["Relation Name"] for n in scans if n["Actual Loops"]}) == 1
    assert buffers(plan) < 2500


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_lock_due_reads_the_index_of_next_ticks(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.schedules.lock_due(100), generic=generic)
    assert plan["Actual Rows"] == 9
    assert "schedule_wake" in {n.get("Index Name") for n in nodes(plan)}
    assert "Seq Scan" not in {n["Node Type"] for n in nodes(plan)}
    assert buffers(plan) < 100


def test_declaring_schedules_again_writes_nothing(backlog: Conn) -> None:
    schedule = Schedule("s1", Every(60), NewJob("t", "{}", "q0", 0, 20))
    query = QUERIES.schedules.declare([(schedule, datetime.now(UTC))])
    backlog.execute(query.sql, query.params)
    before = backlog.execute("select ctid from pgqueue.schedule where name = 's1'").fetchone()
    backlog.execute(query.sql, query.params)
    assert backlog.execute("select ctid from pgqueue.schedule where name = 's1'").fetchone() == before
