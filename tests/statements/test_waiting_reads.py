"""What reads jobs that wait for others, or that are asleep, stops at a bound, with whatever statistics. And those jobs
are in the way of no claim, and no other job has an entry in their indexes."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import db
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.queries import Query
from tests.conftest import Databases, scalar
from tests.harness import QUERIES, WORKER, Conn, add_worker, insert_job
from tests.statements.test_explain import buffers, explain, job_scans, nodes, rows_read

# 100,000 jobs that wait for others, 40,000 that are asleep (three of four of them for an event, with steps beside it),
# 20,000 that were snoozed, and as many that were redriven and are due; 20,000 that were cancelled while they waited.
BACKLOG = """
insert into pgqueue.job_live (task, queue, state, waits_for, waits_on)
select 't', 'q' || i % 2, 'blocked', 'jobs', 1 from generate_series(1, 100000) as i;
insert into pgqueue.job_live (id, task, queue, lease, run_at)
select 200000 + i, 't', 'q0', 1, case i % 4 when 0 then now() + interval '1 day' else '9000-01-01Z' end
from generate_series(1, 40000) as i;
insert into pgqueue.step (job_id, name, kind, done, waits, wait_key, wake_at, attempt, lease)
select 200000 + i, 's', case i % 4 when 0 then 'sleep' else 'event' end, i % 4 = 0,
       case when i % 4 > 0 then 'paid' end, case when i % 4 > 0 then 'k' end,
       case i % 4 when 0 then now() + interval '1 day' end, 1, 1
from generate_series(1, 40000) as i
union all
select 200000 + i, 'v' || v, 'value', true, null, null, null, 1, 1
from generate_series(1, 40000) as i, generate_series(1, 3) as v
union all
select 900000 + i, 's', 'signal', false, 'go', null, null, 1, 1 from generate_series(1, 20000) as i;
insert into pgqueue.job_live (task, queue, lease, run_at)
select 't', 'q1', 2, now() + interval '1 hour' from generate_series(1, 20000) as i
union all select 't', 'q2', 2, now() - interval '1 hour' from generate_series(1, 20000) as i;
insert into pgqueue.job_live (task, queue, run_at)
select 't', 'q0', now() - interval '1 minute' from generate_series(1, 1000) as i
union all select 't', 'q0', now() + interval '1 day' from generate_series(1, 50) as i"""


@pytest.fixture(scope="module")
def made(server_dsn: str, template: str) -> Iterator[dict[str, str]]:
    """The same backlog without statistics, with those of an empty table, and with current ones."""
    databases = Databases(server_dsn)
    found = {"never analysed": databases.make(template), "analysed when empty": databases.make(template)}
    for statistics, dsn in found.items():
        with psycopg.connect(dsn, autocommit=True) as conn:
            for table in ("job_live", "step"):
                conn.execute(f"alter table pgqueue.{table} set (autovacuum_enabled = off)".encode())
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


def step_scans(plan: dict[str, Any]) -> set[str]:
    return {n.get("Index Name", n["Node Type"]) for n in nodes(plan) if n.get("Relation Name") == "step"}


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_count_stops_in_each_queue_and_looks_at_open_steps_alone(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.count_waiting(1000), generic=generic)
    assert job_scans(plan) == {"job_live_for_jobs", "job_live_asleep"}
    assert step_scans(plan) == {"step_open"}
    assert rows_read(plan) < 4000
    assert buffers(plan) < 12_000


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("state", ["blocked", "sleeping", "waiting"])
def test_a_list_of_many_finds_the_newest(backlog: Conn, state: str, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.list(JobFilter(state=state), None, 20), generic=generic)
    assert plan["Actual Rows"] == 20
    assert job_scans(plan) - {"job_live_parked", "job_live_paused", "job_live_turn"} <= {
        "job_live_for_jobs", "job_live_asleep", "job_live_pkey",
    }  # fmt: skip
    assert step_scans(plan) <= {"step_open"}
    assert rows_read(plan) < 200_000  # as many as a list looks at


def test_the_view_stops_at_its_bound(backlog: Conn) -> None:
    view = "select queue, for_jobs, for_jobs_capped, sleeping, waiting, asleep_capped from pgqueue.waiting_load"
    plan = explain(backlog, Query(view.encode(), list), generic=False)
    assert rows_read(plan) < 40_000
    assert step_scans(plan) == {"step_open"}
    loads = {row[0]: row[1:] for row in backlog.execute(view.encode()).fetchall()}
    assert loads["q1"] == (10_000, True, 0, 0, True)
    assert loads["q0"][:2] == (10_000, True)
    assert loads["q0"][2:] == (3334, 0, True)  # a third of 10,000 and one more, the earliest first
    assert loads.keys() == {"q0", "q1"}  # in q2 all are due


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_claim_reads_none_of_them(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.jobs.claim(WORKER, {"q0": 10}, 10), generic=generic)
    assert plan["Actual Rows"] == 10
    assert job_scans(plan) <= {"job_live_ready", "job_live_pkey"}
    assert rows_read(plan) < 100


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_the_phase_of_a_scheduled_job_looks_at_no_step(backlog: Conn, generic: bool) -> None:
    ids = [row[0] for row in backlog.execute("select id from pgqueue.job_live where lease = 0 limit 500").fetchall()]
    plan = explain(
        backlog, Query(b"select phase from pgqueue.job where id = any(%(ids)s)", list, {"ids": ids}), generic=generic
    )
    assert plan["Actual Rows"] == 500
    assert not [n for n in nodes(plan) if n.get("Relation Name") == "step" and n["Actual Loops"]]


SIZES = """select coalesce(sum(pg_relation_size(i.indexrelid)), 0)::bigint from pg_index i
where i.indexrelid in ('pgqueue.job_live_for_jobs'::regclass, 'pgqueue.job_live_asleep'::regclass,
                       'pgqueue.step_open'::regclass)"""


def test_a_job_that_does_not_wait_has_no_entry_in_their_indexes(conn: Conn) -> None:
    """So its insert, claim and end cost what they did: an index without the row is not opened to write."""
    empty = scalar(conn, SIZES)
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'q' from generate_series(1, 20000)")
    conn.execute("insert into pgqueue.job_live (task, queue, run_at)"
                 " select 't', 'q', now() + interval '1 day' from generate_series(1, 20000)")  # fmt: skip
    worker = add_worker(conn)
    job, *others = db.run(conn, QUERIES.jobs.claim(worker, {"q": 1000}, 1000))
    assert len(db.run(conn, QUERIES.jobs.resolve([(other, PLAIN_SUCCESS) for other in others]))) == 999
    conn.execute(
        "insert into pgqueue.step (job_id, name, kind, attempt, lease)"
        " select %s, 'n' || n, 'value', 1, 1 from generate_series(1, 20000) n", (job.id,))  # fmt: skip
    assert scalar(conn, SIZES) == empty
    insert_job(conn, state="blocked", waits_for="jobs", waits_on=1)
    assert scalar(conn, SIZES) > empty
