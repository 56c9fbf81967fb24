"""A worker keeps its plans: made while the tables were empty, they still use an index when the tables are full."""

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgqueue import App, db
from pgqueue.db.database import PLANNING
from pgqueue.db.link import Link
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.queries import Query
from tests.conftest import Databases, scalar
from tests.harness import QUERIES, Conn, add_worker, claimed
from tests.statements.test_explain import Node, explain, job_scans, nodes
from tests.statements.test_flat import DUTIES, FLAT, HISTORY, LIVE, STATUS, look, too_much

TICK = datetime(2026, 1, 1, tzinfo=UTC)
READ = "select coalesce(sum(seq_tup_read), 0) from pg_stat_xact_user_tables where relname = 'job_live'"
BURST = """insert into pgqueue.job_live (task, queue, priority, run_at)
select 't', 'default', i % 3, now() - interval '1 minute' from generate_series(1, 20000) as i"""


def statements(worker: uuid.UUID) -> list[Query[Any]]:
    """The statements that a worker runs all the time."""
    rooms = {"default": 5}
    return [
        QUERIES.jobs.claim(worker, rooms, 5),
        QUERIES.jobs.claim_beyond(worker, rooms, 5, {("default", 0): (TICK, 0)}),
        QUERIES.jobs.adopt(worker, rooms, ["t"], 5),
        QUERIES.jobs.parked_labels(["t", "u"]),
        QUERIES.jobs.next_due(["default"]),
        QUERIES.jobs.resolve([(claimed(i, 1), PLAIN_SUCCESS) for i in range(5)]),
        QUERIES.jobs.release_strays(worker, []),
        QUERIES.jobs.rescue(worker),
        QUERIES.jobs.rescuable(),
    ]


@pytest.mark.parametrize("settings", ["", "-c plan_cache_mode=force_generic_plan"])
def test_plans_made_on_empty_tables_do_not_read_a_burst_row_by_row(dsn: str, conn: Conn, settings: str) -> None:
    conn.execute("alter table pgqueue.job_live set (autovacuum_enabled = off)")
    conn.execute("vacuum analyze")
    queries = statements(add_worker(conn))

    async def run() -> dict[str, int]:
        link = Link(App(f"{dsn} options='{settings}'").database, "test")
        for query in queries * 8:
            await link.run(query)
        conn.execute(BURST)
        read: dict[str, int] = {}
        async with link.connection() as own:
            assert (await (await own.execute("select count(*) from pg_prepared_statements")).fetchone()) is not None
            for query in queries:
                async with own.transaction(force_rollback=True):
                    await db.run_async(own, query)
                    row = await (await own.execute(READ)).fetchone()
                    read[query.sql[:40].decode()] = int(row[0]) if row else 0
        await link.close()
        return read

    assert set(asyncio.run(run()).values()) == {0}
    assert scalar(conn, "select count(*) from pgqueue.job_live where state = 'pending'") == 20000


FILL = """insert into pgqueue.job_live (task, queue, run_at)
select 't', 'default', now() - interval '1 hour' from generate_series(1, 5000)"""
STAGES = {
    "fresh": "analyze pgqueue.job_live",
    "full": f"{FILL}; vacuum analyze pgqueue.job_live",
    "nearly empty": f"{FILL}; delete from pgqueue.job_live where id % 1000 > 0; vacuum analyze pgqueue.job_live",
    "all run": f"{FILL}; update pgqueue.job_live set state = 'running', attempt = 1, lease = 1, claimed_at = now(),"
    " worker_id = gen_random_uuid(); vacuum analyze pgqueue.job_live",
}


@pytest.mark.parametrize("generic", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_a_claim_is_one_walk_and_one_scan_whatever_the_last_vacuum_found(
    dsn: str, conn: Conn, stage: str, generic: bool
) -> None:
    conn.execute("alter table pgqueue.job_live set (autovacuum_enabled = off)")
    worker = add_worker(conn)
    with psycopg.connect(dsn) as pinning, psycopg.connect(dsn, options=PLANNING) as duty:
        pinning.execute("set transaction isolation level repeatable read")
        scalar(pinning, "select 1 from pgqueue.worker")
        for statement in STAGES[stage].split("; "):
            conn.execute(statement)
        beyond = {("default", 0): (TICK, 0)}
        for query in (
            QUERIES.jobs.claim(worker, {"default": 9}, 9),
            QUERIES.jobs.claim_beyond(worker, {"default": 9}, 9, beyond),
        ):
            plan = explain(duty, query, generic=generic)
            duty.execute("deallocate explained")
            assert job_scans(plan) <= {"job_live_ready", "job_live_pkey"}
            assert not [node for node in nodes(plan) if node["Node Type"].startswith(("Bitmap", "Hash", "Merge"))]
            (moving,) = [node for node in nodes(plan) if node.get("Index Name") == "job_live_pkey"]
            assert "ANY" in moving["Index Cond"]
            assert moving["Actual Loops"] == 1


# A scan that starts at some place of an index steps over the dead entries there, whatever the plan.
WALKS = {
    "jobs.claim": "from the beginning of each lane; in between a worker claims beyond what it knows to be dead",
    "jobs.claim_oldest": "from the beginning of each lane, in one of sixteen claims and for a twentieth of the time",
    "jobs.count_turns": "each lane to its end, or until it has counted enough",
    "pauses.left": "what each worker runs",
    "turns.claim": "from the place of each lane: a worker knows it, this test gives none",
    "turns.claim shares": "from the place of each lane, likewise",
    "turns.claim lane": "from the place of the lane, likewise",
    "turns.look": "from the beginning of each lane, for a twentieth of the time",
    "turns.find_drift": "what each worker runs",
    "turns.reconcile": "what each worker runs",
    "turns.cancel_holders": "what each worker runs, where a rule says so of a full bucket",
    "turns.cancel_behind": "from the beginning of a lane, where a rule says so of a full bucket",
    "jobs.claim_beyond": "from where this worker has read to: here others have, since",
    "jobs.next_due": "from the beginning of each lane",
    "jobs.find_queues": "from the beginning of each queue",
    "jobs.depth": "from the beginning of each lane, until it has counted enough",
    "workers.list": "counts what each runs",
    "why.ahead": "each lane from its beginning to the place of the job, or until it has counted enough",
    "activity.due_turns": "each lane to its end, or until it has counted enough",
    "activity.rates": "each lane from a minute ago on, or until it has counted enough",
    "jobs.count": "each lane to its end, or until it has counted enough",
    "workflows.doom_stuck": "a batch of the jobs of workflows: each ten minutes, for a fiftieth of the time",
}
# Small indexes that a statement reads from their beginning, and that hold no more than what runs, is set aside, or is
# doomed.
WHOLE = {
    "pauses.left": "the first worker that runs jobs, and then from one to the next",
    "pauses.tasks": "the first task of which jobs are set aside, and then from one to the next",
    "turns.cancel_holders": "what runs: where a rule says that a running job gives way",
    "turns.find_drift": "what runs: every twenty seconds, where metered jobs are",
    "turns.reconcile": "what runs: where a counter differs from it",
    "why.buckets": "what runs: asked by hand",
    "workflows.look": "the first job that is doomed: where workflows live, for a twentieth of the time",
    "workflows.cascade": "what is doomed: where a look has found some",
}
TABLES = ("job_live", "idempotency_key", "result_expiry", "waiter")
MORE = """
insert into pgqueue.waiter select i, now() + interval '1 minute' from generate_series(1, 100000) as i;
insert into pgqueue.job_live (task, queue, state, attempt, lease, worker_id, claimed_at)
select 't', 'q0', 'running', 1, 1, w.id, now() from pgqueue.worker w, generate_series(1, 30000)"""


@pytest.fixture(scope="module")
def emptied(server_dsn: str, template: str) -> Iterator[str]:
    """A database that was full and, to VACUUM, is empty; an open snapshot keeps the deleted rows."""
    databases = Databases(server_dsn)
    dsn = databases.make(template)
    with psycopg.connect(dsn) as pinning, psycopg.connect(dsn, autocommit=True) as conn:
        for table in TABLES:
            conn.execute(f"alter table pgqueue.{table} set (autovacuum_enabled = off)")
        for statements in (LIVE, HISTORY, MORE):
            conn.execute(statements.format(size=100_000))
        pinning.execute("set transaction isolation level repeatable read")
        scalar(pinning, "select 1 from pgqueue.job_live limit 1")
        for table in TABLES:
            conn.execute(f"delete from pgqueue.{table}")
            conn.execute(f"vacuum analyze pgqueue.{table}")
        yield dsn
    databases.drop_all()


@pytest.mark.parametrize("generic", [True, False], ids=["generic", "custom"])
def test_no_statement_walks_over_what_is_dead_to_find_rows_by_a_key(emptied: str, generic: bool) -> None:
    with psycopg.connect(emptied, options=PLANNING) as duty, psycopg.connect(emptied) as other:
        plans = {name: look(duty if name in DUTIES else other, name, generic=generic) for name in FLAT}
    costs = {name: too_much(plan) for name, plan in plans.items()}
    assert {name: cost for name, cost in costs.items() if cost and name not in WALKS} == {}
    walks = {name: [node["Index Name"] for node in nodes(plan) if walking(node)] for name, plan in plans.items()}
    assert {name: found for name, found in walks.items() if found and name not in STATUS | WHOLE.keys()} == {}


def walking(node: Node) -> bool:
    """Whether a node reads an index from end to end, if it is executed."""
    return node.get("Index Name", "").startswith(TABLES) and "Index Cond" not in node


COMPILING = "set jit = on; set jit_above_cost = 0; set jit_inline_above_cost = 0; set jit_optimize_above_cost = 0"


def test_a_look_at_the_queue_is_not_compiled(conn: Conn) -> None:
    """Before Postgres 18 a scan that `prefer_indexes` can only discourage has a cost at which the server compiles."""
    conn.execute(COMPILING)
    with conn.transaction():
        db.run(conn, QUERIES.jobs.prefer_indexes())
        shown = conn.execute(b"explain (analyze, format json) " + QUERIES.workers.list().sql).fetchone()
        assert shown is not None
        assert "JIT" not in shown[0][0]
        assert scalar(conn, "show jit") == "off"
    assert scalar(conn, "show jit") == "on"
