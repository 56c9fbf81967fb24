"""Plans of the statements about turns: which index, and that jobs behind a full bucket are never walked over."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgqueue import db
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries.turns.claim import Line
from tests.conftest import Databases
from tests.harness import QUERIES, WORKER, Conn
from tests.statements.test_explain import buffers, explain, job_scans, nodes, rows_read, sorted_rows
from tests.statements.turns import claim_turns, keyed

FULL, FREE = keyed("r/full"), keyed("r/free")
FILL = """
insert into pgqueue.job_live (task, queue, state, waits_for, lane, headers, run_at)
select 't', 'default', 'blocked', 'turn', %(lane)s, %(headers)s, now() - make_interval(secs => i / 1000.0)
from generate_series(1, %(jobs)s) as i"""


CHANGE = """
update pgqueue.limit_use set version = version + 1
where name = 'r/free' and version >= (select max(version) from pgqueue.limit_use where name = 'r/free')"""


def fill(conn: Conn) -> None:
    conn.execute("alter table pgqueue.job_live set (autovacuum_enabled = off)")
    conn.execute("insert into pgqueue.limit_rule (name, max_running) values ('r', 5)")
    db.run(conn, QUERIES.turns.make_buckets([*FULL.buckets, *FREE.buckets]))
    conn.execute("update pgqueue.limit_use set taken = 5 where name = 'r/full'")
    for flow, jobs in ((FULL, 100_000), (FREE, 200)):
        headers = json.dumps({"$flow": flow.header()})
        conn.execute(FILL, {"lane": flow.lane, "headers": headers, "jobs": jobs})
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'default' from generate_series(1, 200)")


@pytest.fixture(scope="module")
def filled(server_dsn: str, template: str) -> Iterator[dict[str, str]]:
    """100,000 jobs behind a full bucket, without statistics, with those of an empty table, and with true ones."""
    databases = Databases(server_dsn)
    made = {}
    for statistics in ("never analysed", "analysed when empty", "analysed"):
        made[statistics] = databases.make(template)
        with psycopg.connect(made[statistics], autocommit=True) as conn:
            if statistics == "analysed when empty":
                conn.execute("analyze")
            fill(conn)
            if statistics == "analysed":
                conn.execute("analyze")
    yield made
    databases.drop_all()


@pytest.fixture(params=["never analysed", "analysed when empty", "analysed"])
def duty(filled: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Conn]:
    """A connection of the kind that duties have, in a transaction that is rolled back."""
    with psycopg.connect(filled[request.param], options="-c enable_seqscan=off -c jit=off") as conn:
        yield conn
        conn.rollback()


generic = pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])


def lines(most: int) -> list[Line]:
    return [Line(flow.lane, 0, json.dumps(flow.buckets), most) for flow in (FULL, FREE)]


@generic
def test_a_claim_does_not_walk_over_jobs_behind_a_full_bucket(duty: Conn, generic: bool) -> None:
    plan = explain(duty, QUERIES.turns.claim(WORKER, "default", lines(20), room=20, slots=20), generic=generic)
    assert job_scans(plan) <= {"job_live_turn", "job_live_pkey"}
    assert sorted_rows(plan) <= 20
    assert rows_read(plan) <= 40
    assert buffers(plan) < 300


@generic
def test_a_look_reads_a_job_of_each_lane(duty: Conn, generic: bool) -> None:
    plan = explain(duty, QUERIES.turns.look([("default", -(2**63))], 100), generic=generic)
    assert job_scans(plan) == {"job_live_turn"}
    assert plan["Actual Rows"] == 2
    assert buffers(plan) < 100


@generic
def test_claims_of_plain_jobs_read_no_metered_ones(duty: Conn, generic: bool) -> None:
    plan = explain(duty, QUERIES.jobs.claim(WORKER, {"default": 20}, 20), generic=generic)
    assert job_scans(plan) <= {"job_live_ready", "job_live_pkey"}
    assert rows_read(plan) <= 70


@generic
@pytest.mark.parametrize("mixed", [False, True])
def test_a_resolve_of_metered_jobs_goes_by_primary_keys(duty: Conn, generic: bool, mixed: bool) -> None:
    jobs = claim_turns(duty, [FREE])
    ends = [Resolution("retry", "error", 1.0) if mixed and n % 2 else PLAIN_SUCCESS for n in range(len(jobs))]
    plan = explain(duty, QUERIES.jobs.resolve(list(zip(jobs, ends, strict=True))), generic=generic)
    assert job_scans(plan) == {"job_live_pkey"}
    assert buffers(plan) < 400


def test_counters_are_found_at_once_however_many_versions_a_snapshot_keeps(duty: Conn, filled: dict[str, str]) -> None:
    """Each update of a counter leaves a dead row, which a long transaction keeps."""
    dsn = filled["analysed"]
    with psycopg.connect(dsn) as pinning, psycopg.connect(dsn, autocommit=True) as conn:
        pinning.execute("set transaction isolation level repeatable read")
        pinning.execute("select 1 from pgqueue.limit_use")
        for _ in range(2000):
            conn.execute(CHANGE)
        conn.execute("set enable_seqscan = off")
        with conn.transaction(force_rollback=True):
            plan = explain(conn, QUERIES.turns.claim(WORKER, "default", lines(2), room=2, slots=2), generic=True)
    read = [node for node in nodes(plan) if node.get("Relation Name") == "limit_use"]
    assert read
    assert max(_pages(node) for node in read) < 60


def _pages(node: dict[str, Any]) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])
