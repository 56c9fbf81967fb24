"""What reads metered jobs that wait stops at a bound: behind one full key, in many lanes, with whatever statistics."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import db
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.queries import Query
from tests.conftest import Databases
from tests.harness import QUERIES, Conn
from tests.statements.test_explain import buffers, explain, job_scans, rows_read

# One key with 60,000 jobs, 20,000 keys with one each, in order, and another queue with jobs of later alone.
BACKLOG = """
insert into pgqueue.job_live (task, queue, state, waits_for, lane, headers, run_at)
select 't', 'q0', 'blocked', 'turn', 5, '{"$flow": {"lane": 5, "buckets": ["t"]}}', now() - interval '1 hour'
from generate_series(1, 60000) as i;
insert into pgqueue.job_live (task, queue, state, waits_for, lane, headers, run_at)
select 't', 'q0', 'blocked', 'turn', -i, '{"$flow": {"lane": -7, "buckets": ["o/7"], "order": "o/7"}}', now()
from generate_series(1, 20000) as i;
insert into pgqueue.job_live (task, queue, state, waits_for, lane, headers, run_at)
select 't', 'q1', 'blocked', 'turn', 6, '{"$flow": {"lane": 6, "buckets": ["t"]}}', now() + interval '1 day'
from generate_series(1, 30000) as i;
insert into pgqueue.job_live (task, queue, priority) select 't', 'q0', i % 5 from generate_series(1, 1000) as i"""


@pytest.fixture(scope="module")
def made(server_dsn: str, template: str) -> Iterator[dict[str, str]]:
    """The same backlog without statistics, with those of an empty table, and with current ones."""
    databases = Databases(server_dsn)
    found = {"never analysed": databases.make(template), "analysed when empty": databases.make(template)}
    for statistics, dsn in found.items():
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("alter table pgqueue.job_live set (autovacuum_enabled = off)")
            if statistics == "analysed when empty":
                conn.execute("analyze")
            conn.execute(BACKLOG)
    found["analysed"] = databases.make(str(conninfo_to_dict(found["never analysed"])["dbname"]))
    with psycopg.connect(found["analysed"], autocommit=True) as conn:
        conn.execute("analyze")
    yield found
    databases.drop_all()


@pytest.fixture(params=["never analysed", "analysed when empty", "analysed"])
def backlog(made: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Conn]:
    """A connection to that backlog, in a transaction that is rolled back and prefers indexes."""
    with psycopg.connect(made[request.param]) as conn:
        db.run(conn, QUERIES.jobs.prefer_indexes())
        yield conn
        conn.rollback()


def lists(state: str) -> Query[Any]:
    return QUERIES.jobs.list(JobFilter(state=state), None, 20)


# What is read, by which indexes, and how many rows and pages at most.
READS: dict[str, tuple[Query[Any], set[str], int, int]] = {
    "count": (QUERIES.jobs.count_turns(1000), {"job_live_turn"}, 2100, 4000),
    "became due": (QUERIES.activity.due_turns(1000), {"job_live_turn"}, 6100, 25_000),
    "depth": (QUERIES.jobs.depth("q0", 2000), {"job_live_turn", "job_live_ready"}, 4100, 5000),
    "deep": (QUERIES.jobs.depth("q0", 20_000), {"job_live_turn_sample", "job_live_sample"}, 700, 1500),
    "queues to serve": (QUERIES.jobs.find_queues("", 1000, ["t"]), {"job_live_turn", "job_live_ready"}, 20, 200),
    "names of queues": (QUERIES.names.queues("q"), {"job_live_turn", "job_live_ready"}, 20, 200),
}


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("what", sorted(READS))
def test_metered_jobs_that_wait_are_read_to_a_bound_by_their_index(backlog: Conn, what: str, generic: bool) -> None:
    query, indexes, rows, pages = READS[what]
    plan = explain(backlog, query, generic=generic)
    assert job_scans(plan) - {"job_live_parked", "job_live_paused", "job_live_paused_queue"} <= indexes  # empty here
    assert rows_read(plan) <= rows
    assert buffers(plan) < pages


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("state", ["blocked", "scheduled", "retrying"])
def test_a_list_of_many_metered_jobs_finds_the_newest(backlog: Conn, state: str, generic: bool) -> None:
    plan = explain(backlog, lists(state), generic=generic)
    assert plan["Actual Rows"] == {"blocked": 20, "scheduled": 20, "retrying": 0}[state]
    scans = {"job_live_turn", "job_live_ready", "job_live_parked", "job_live_paused", "job_live_retrying"}
    scans |= {"job_live_pkey", "job_live_for_jobs"}
    assert job_scans(plan) <= scans
    assert rows_read(plan) < 250_000  # at most as many as a list looks at


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_drain_probes_each_lane_and_stops_at_its_bound(backlog: Conn, generic: bool) -> None:
    of_later = explain(backlog, QUERIES.queues.left("q1"), generic=generic)
    assert job_scans(of_later) <= {"job_live_turn", "job_live_ready", "job_live_running"}
    assert buffers(of_later) < 200
    backlog.execute("deallocate all")
    assert rows_read(explain(backlog, QUERIES.queues.left("q0"), generic=generic)) < 41_000


def test_the_view_of_queues_stops_at_its_bound(backlog: Conn) -> None:
    plan = explain(backlog, QUERIES.queues.list(), generic=False)
    assert rows_read(plan) < 50_000
    loads = {load.queue: load for load in db.run(backlog, QUERIES.queues.list())}
    assert (loads["q0"].turn, loads["q0"].turn_capped, loads["q0"].due) == (10_000, True, 1000)
    assert (loads["q1"].turn, loads["q1"].scheduled, loads["q1"].scheduled_capped) == (0, 10_000, True)
