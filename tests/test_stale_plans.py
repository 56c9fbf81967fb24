"""A worker's plans outlive what they were made for: kept since its tables were empty, they still use an index."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import scalar
from harness import QUERIES, Conn, add_worker, claimed

from pgqueue import App, db
from pgqueue.lifecycle import SUCCEEDED
from pgqueue.link import Link
from pgqueue.queries import Query

TICK = datetime(2026, 1, 1, tzinfo=UTC)
READ = "select coalesce(sum(seq_tup_read), 0) from pg_stat_xact_user_tables where relname = 'job_live'"
BURST = """insert into pgqueue.job_live (task, queue, priority, run_at)
select 't', 'default', i % 3, now() - interval '1 minute' from generate_series(1, 20000) as i"""


def statements(worker: uuid.UUID) -> list[Query[Any]]:
    """What a worker asks all the time."""
    rooms = {"default": 5}
    return [
        QUERIES.claim(worker, rooms, 5),
        QUERIES.claim_beyond(worker, rooms, 5, {("default", 0): (TICK, 0)}),
        QUERIES.adopt(worker, rooms, ["t"], 5),
        QUERIES.next_due(["default"]),
        QUERIES.resolve([(claimed(i, 1), SUCCEEDED) for i in range(5)]),
        QUERIES.release_strays(worker, []),
        QUERIES.rescue(worker),
        QUERIES.lost_jobs(),
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
