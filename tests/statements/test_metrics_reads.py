"""What the exporter reads is bounded on any backlog: its views stop, also with statistics of empty tables."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import db
from pgqueue.queries import Query
from tests.conftest import Databases
from tests.harness import QUERIES, every_statement
from tests.statements.test_explain import explain, job_scans
from tests.statements.test_flat import examined

BACKLOG = """
insert into pgqueue.job_live (task, queue, run_at)
select 't', 'q' || i % 2, now() - make_interval(secs => i / 100.0) from generate_series(1, 80000) as i
union all
select 't', 'q' || i % 2, now() + interval '1 day' from generate_series(1, 80000) as i;
insert into pgqueue.job_live (task, queue, attempt, run_at)
select 't', 'q0', 1, now() + interval '1 hour' from generate_series(1, 100) as i;
insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds)
select gen_random_uuid(), 'worker', 'h', i, '0', '{q0}', '{t}', 8, 30 from generate_series(1, 20) as i;
insert into pgqueue.job_live (task, queue, state, attempt, lease, worker_id, claimed_at)
select 't', 'q0', 'running', 1, 1, w.id, now() from pgqueue.worker w, generate_series(1, 700);
insert into pgqueue.job_live (task, queue, state, waits_for)
select 'unknown' || i % 2, 'q0', 'blocked', 'task' from generate_series(1, 20000) as i;
insert into pgqueue.dead_letter (id, task, queue, reason, failed_at)
select -i, 't', 'q' || i % 3, 'error', now() - make_interval(secs => i) from generate_series(1, 20000) as i;
insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick)
select 's' || i, 't', 'q0', 60, now() + make_interval(secs => i) from generate_series(-5, 20) as i;
insert into pgqueue.schedule_fire (schedule, tick, outcome, reason)
select 's' || i % 20, now() - make_interval(secs => 60 * i), 'missed', 'why' from generate_series(1, 20000) as i;
insert into pgqueue.job_live (task, queue, state, waits_for, waits_on)
select 't', 'q' || i % 2, 'blocked', 'jobs', 1 from generate_series(1, 40000) as i;
insert into pgqueue.job_live (id, task, queue, lease, run_at)
select -i, 't', 'q0', 1, now() + interval '1 day' from generate_series(1, 20000) as i;
insert into pgqueue.step (job_id, name, kind, done, waits, attempt, lease)
select -i, 's', 'signal', false, 'go', 1, 1 from generate_series(1, 20000) as i;
insert into pgqueue.workflow (id, root_id, name, open_gates, state, ended_at)
select -i, -i, 'w', 1 - i % 2, case i % 2 when 0 then 'running' else 'succeeded' end, case i % 2 when 1 then now() end
from generate_series(1, 40000) as i;
insert into pgqueue.signal (job_id, name, data) select -i, 'go', '1' from generate_series(1, 20000) as i;
insert into pgqueue.awaited_event (name, key, data) select 'paid', 'k', '1' from generate_series(1, 20000) as i;
insert into pgqueue.call (child_id, job_id, step, number, ended)
select i, -i, 's', i, true from generate_series(1, 20000) as i;
insert into pgqueue.named_lock (key, owner, token, holder, expires_at)
select 'k' || i, gen_random_uuid(), i, 'h', now() + make_interval(mins => 30 * (i % 3 - 1))
from generate_series(1, 60000) as i"""

TABLES = (
    "job_live", "dead_letter", "schedule_fire", "worker", "schedule", "step", "workflow", "signal", "awaited_event",
    "call", "named_lock",
)  # fmt: skip
METRICS: dict[str, Query[Any]] = {
    "queues": QUERIES.metrics.queues(),
    "waiting": QUERIES.metrics.waiting(),
    "workflows": QUERIES.metrics.workflows(),
    "letters": QUERIES.metrics.letters(),
    "locks": QUERIES.metrics.locks(10_000),
    "workers": QUERIES.metrics.workers(),
    "dead": QUERIES.metrics.dead(),
    "parked": QUERIES.metrics.parked(),
    "schedules": QUERIES.metrics.schedules(),
    "snapshot": QUERIES.metrics.snapshot(),
    "tables": QUERIES.metrics.tables(),
    "partitions": QUERIES.metrics.partitions(),
    "revision": QUERIES.metrics.revision(),
}
# Rows of the tables that grow. `queues`: of each of two lanes 10,000 due jobs, and twice as many of later, for the view
# of retries reads those again; 10,000 running and 10,000 parked ones.
MOST_ROWS = {"queues": 81_000, "dead": 10_000, "parked": 10_000, "schedules": 100} | {
    "waiting": 42_000,  # of two queues 10,000 each, 10,000 that are asleep, each with its step, and the hops
    "workflows": 11_001,  # 10,001 that live and 1,000 that have ended; no dead letter of theirs
    "letters": 30_002,
    "locks": 10_001,  # whether they are held or have expired
}
INDEXES = {
    "queues": {"job_live_ready", "job_live_running", "job_live_parked", "job_live_turn"},
    "parked": {"job_live_parked"},
    "waiting": {"job_live_for_jobs", "job_live_asleep"},
}


@pytest.fixture(scope="module")
def made(server_dsn: str, template: str) -> Iterator[dict[str, str]]:
    """The same backlog under statistics of when the tables were empty, and under true ones."""
    databases = Databases(server_dsn)
    stale = databases.make(template)
    with psycopg.connect(stale, autocommit=True) as conn:
        for table in TABLES:
            conn.execute(f"alter table pgqueue.{table} set (autovacuum_enabled = off)".encode())
        conn.execute("analyze")
        conn.execute(BACKLOG.encode())
    analysed = databases.make(str(conninfo_to_dict(stale)["dbname"]))
    with psycopg.connect(analysed, autocommit=True) as conn:
        conn.execute("analyze")
    yield {"stale": stale, "analysed": analysed}
    databases.drop_all()


def test_every_statement_of_the_exporter_is_looked_at() -> None:
    assert {f"metrics.{name}" for name in METRICS} == {n for n in every_statement() if n.startswith("metrics.")}


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("statistics", ["stale", "analysed"])
@pytest.mark.parametrize("name", METRICS)
def test_what_the_exporter_reads_is_bounded(made: dict[str, str], name: str, statistics: str, generic: bool) -> None:
    with psycopg.connect(made[statistics]) as conn:
        db.run(conn, QUERIES.jobs.prefer_indexes())
        plan = explain(conn, METRICS[name], generic=generic)
        conn.rollback()
    assert examined(plan) <= MOST_ROWS.get(name, 0)
    assert job_scans(plan) <= INDEXES.get(name, set())
