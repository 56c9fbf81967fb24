"""What a paused task costs: claims pass over its jobs at once, and walk over none once they are set aside."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgqueue import db
from pgqueue.queries.pauses import PauseSettings
from tests.conftest import Databases, scalar
from tests.harness import QUERIES, WORKER, Conn
from tests.statements.test_explain import buffers, explain, job_scans, nodes, rows_read, sorted_rows
from tests.statements.turns import keyed, metered

ROOMS = {"default": 10}
JOBS = 20_000
BACKLOG = f"""
alter table pgqueue.job_live set (autovacuum_enabled = off);
insert into pgqueue.job_live (task, queue, run_at)
select 'shop.sync', 'default', now() - interval '2 hours' from generate_series(1, {JOBS})
union all
select 't', 'default', now() - interval '1 hour' from generate_series(1, 3000);
"""
PAUSED = PauseSettings(None, None, None, "alice")


@pytest.fixture(scope="module", params=["never analysed", "analysed"])
def dsn_of_backlog(template: str, server_dsn: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database in whose one lane the jobs of a task lie before all others."""
    databases = Databases(server_dsn)
    made = databases.make(template)
    with psycopg.connect(made, autocommit=True) as conn:
        conn.execute(BACKLOG)
        if request.param == "analysed":
            conn.execute("analyze")
    yield made
    databases.drop_all()


@pytest.fixture
def backlog(dsn_of_backlog: str) -> Iterator[Conn]:
    """A connection to it, in a transaction that is rolled back."""
    with psycopg.connect(dsn_of_backlog) as conn:
        yield conn
        conn.rollback()


def claim(**place: Any) -> Any:
    return QUERIES.jobs.claim(WORKER, ROOMS, 10)


def claim_beyond() -> Any:
    return QUERIES.jobs.claim_beyond(WORKER, ROOMS, 10, {("default", 0): ("-infinity", 0)})  # type: ignore[dict-item]


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("make", [claim, claim_beyond])
def test_a_claim_goes_past_the_jobs_of_a_paused_task(backlog: Conn, make: Any, generic: bool) -> None:
    db.run(backlog, QUERIES.pauses.pause_tasks(["shop.sync"], PAUSED))
    plan = explain(backlog, make(), generic=generic)
    assert plan["Actual Rows"] == 10
    assert job_scans(plan) == {"job_live_ready", "job_live_pkey"}
    assert sorted_rows(plan) <= 10
    tasks = "select distinct task::text from pgqueue.job_live where state = 'running'"
    assert backlog.execute(tasks).fetchall() == [("t",)]


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("make", [claim, claim_beyond])
def test_where_no_task_is_paused_the_names_are_read_once_for_each_statement(
    backlog: Conn, make: Any, generic: bool
) -> None:
    plan = explain(backlog, make(), generic=generic)
    reads = [node for node in nodes(plan) if node.get("Relation Name") == "task_control"]
    assert [node["Actual Loops"] for node in reads] == [1]
    assert rows_read(plan) <= 60


def test_once_the_jobs_are_set_aside_a_claim_reads_as_little_as_without_them(template: str, server_dsn: str) -> None:
    databases = Databases(server_dsn)
    with psycopg.connect(databases.make(template), autocommit=True) as conn:
        conn.execute(BACKLOG)
        with conn.transaction(force_rollback=True):
            before = explain(conn, claim(), generic=True)
        db.run(conn, QUERIES.pauses.pause_tasks(["shop.sync"], PAUSED))
        moved = []
        while not moved or moved[-1]:
            moved.append(db.run(conn, QUERIES.pauses.set_aside(["default"], 1000, 4000)))
        assert moved == [1000] * (JOBS // 1000) + [0]
        conn.execute("vacuum pgqueue.job_live")
        conn.execute("deallocate all")
        with conn.transaction(force_rollback=True):
            after = explain(conn, claim(), generic=True)
        assert (after["Actual Rows"], rows_read(after)) == (10, rows_read(before))
        assert buffers(after) <= buffers(before) + 10
    databases.drop_all()


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_setting_aside_looks_at_the_beginning_of_a_lane_alone(backlog: Conn, generic: bool) -> None:
    db.run(backlog, QUERIES.pauses.pause_tasks(["t"], PAUSED))  # its jobs lie behind 20,000 others
    plan = explain(backlog, QUERIES.pauses.set_aside(["default", "none"], 1000, 500), generic=generic)
    assert job_scans(plan) <= {"job_live_ready", "job_live_turn", "job_live_pkey"}
    assert rows_read(plan) <= 510
    assert buffers(plan) < 200


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_setting_aside_metered_jobs_looks_at_the_beginning_of_their_lanes_alone(conn: Conn, generic: bool) -> None:
    metered(conn, keyed("s"), 5000)
    db.run(conn, QUERIES.pauses.pause_tasks(["shop.sync"], PAUSED))
    conn.execute("analyze pgqueue.job_live")
    plan = explain(conn, QUERIES.pauses.set_aside(["default", "none"], 1000, 500), generic=generic)
    assert job_scans(plan) <= {"job_live_ready", "job_live_turn", "job_live_pkey"}
    assert rows_read(plan) <= 510
    assert buffers(plan) < 200


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_setting_aside_reads_no_job_where_nothing_is_paused(backlog: Conn, generic: bool) -> None:
    plan = explain(backlog, QUERIES.pauses.set_aside(["default"], 1000, 4000), generic=generic)
    assert rows_read(plan) == 0


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_what_was_set_aside_is_found_by_its_task_and_brought_back_in_order(backlog: Conn, generic: bool) -> None:
    db.run(backlog, QUERIES.pauses.pause_tasks(["shop.sync"], PAUSED))
    while db.run(backlog, QUERIES.pauses.set_aside(["default"], 5000, 5000)):
        pass
    plan = explain(backlog, QUERIES.pauses.tasks(), generic=generic)
    assert job_scans(plan) == {"job_live_paused"}
    assert buffers(plan) < 50
    db.run(backlog, QUERIES.pauses.resume_tasks(["shop.sync"], "alice"))
    backlog.execute("deallocate all")
    plan = explain(backlog, QUERIES.pauses.bring_back(["shop.sync"], 100), generic=generic)
    assert job_scans(plan) <= {"job_live_paused", "job_live_pkey"}
    assert rows_read(plan) <= 300
    back = "select count(*) from (select state from pgqueue.job_live where task = 'shop.sync' order by run_at, id"
    assert scalar(backlog, f"{back} limit 100) as first where state = 'pending'") == 100


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize(("limit", "rows"), [(1000, 2100), (1_000_000, 400)])
def test_the_depth_of_a_queue_reads_what_was_set_aside_to_a_bound(
    backlog: Conn, limit: int, rows: int, generic: bool
) -> None:
    backlog.execute(
        "insert into pgqueue.job_live (task, queue, state, waits_for) select 'a', 'other', 'blocked', 'pause'"
        f" from generate_series(1, {JOBS})"
    )
    backlog.execute("update pgqueue.job_live set state = 'blocked', waits_for = 'pause' where task = 'shop.sync'")
    plan = explain(backlog, QUERIES.jobs.depth("default", limit), generic=generic)
    assert "job_live_paused_queue" in job_scans(plan)
    assert rows_read(plan) <= rows
    assert sorted_rows(plan) == 0
