"""One process that serves many schemas: fair slots, few connections, and troubles that stay with their schema."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, migrate
from pgqueue.client.chosen_schemas import ChosenSchemas
from pgqueue.errors import InvalidOption
from pgqueue.worker import WorkerSettings
from pgqueue.worker.fleet import Fleet, fleet, member, rest
from tests.conftest import DEADLINE, Databases, eventually, scalar
from tests.harness import Conn, Process

SCHEMAS = ("tenant_a", "tenant_b", "tenant_c")


LAST_BEAT = (
    "select query from pg_stat_activity where datname = current_database()"
    " and application_name = 'pgqueue worker heartbeat' and query like '%tenant_a%set heartbeat_at%'"
)
# Whether the newest beat of a heartbeat is one that looks for what is due: those of several schemas share a connection.
RESTS = (
    "select exists (select from pg_stat_activity where datname = current_database()"
    " and application_name = 'pgqueue worker heartbeat' and query like '%set heartbeat_at%'"
    " and query like '%due.seconds%')"
)
SHOP = """
import time
from pgqueue import App, Context

app = App()

@app.task(name="bill", max_attempts=3)
def bill(ctx: Context) -> int:
    if ctx.attempt == 1:
        time.sleep(600)
    return ctx.attempt
"""


@pytest.fixture(scope="module")
def fleet_template(server_dsn: str, template: str) -> Iterator[str]:
    """The name of a database with pgqueue and three tenants."""
    databases = Databases(server_dsn)
    dsn = databases.make(template)
    for schema in SCHEMAS:
        migrate.upgrade(dsn, schema)
    yield str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
    databases.drop_all()


@pytest.fixture
def dsn(server_dsn: str, fleet_template: str) -> Iterator[str]:
    databases = Databases(server_dsn)
    yield databases.make(fleet_template)
    databases.drop_all()


@asynccontextmanager
async def serving(app: App, *given: str, **settings: Any) -> AsyncIterator[Fleet]:
    """Run a fleet while the block lasts."""
    fleet = Fleet(app, ChosenSchemas(given), WorkerSettings(**settings))
    running = asyncio.create_task(fleet.run())
    try:
        yield fleet
    finally:
        fleet.stop()
        async with asyncio.timeout(DEADLINE):
            assert await running


def left(conn: Conn, schema: str) -> int:
    return int(scalar(conn, f"select count(*) from {schema}.job_live"))


def test_a_backlog_in_one_schema_does_not_hold_up_another(app: App, conn: Conn) -> None:
    ran: list[str] = []

    @app.task(name="bill")
    async def bill(tenant: str) -> None:
        await asyncio.sleep(0.001)
        ran.append(tenant)

    app.on("tenant_a").using().enqueue("bill", {"tenant": "a"})
    with app.on("tenant_a").current():
        bill.enqueue_many([{"tenant": "a"}] * 2000)

    async def run() -> None:
        async with serving(app, "tenant_a", "tenant_b", concurrency=4):
            await eventually(lambda: len(ran) > 200, "the backlog to be worked on")
            began = len(ran)
            for _ in range(5):
                await app.on("tenant_b").aenqueue("bill", {"tenant": "b"})
            await eventually(lambda: ran.count("b") == 5, "the five jobs")
            assert len(ran) - began < 800
            await eventually(lambda: len(ran) == 2006, "the whole backlog")

    asyncio.run(run())
    assert (left(conn, "tenant_a"), left(conn, "tenant_b")) == (0, 0)


def test_two_backlogs_have_equal_parts_of_the_slots(app: App, conn: Conn) -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    together: list[tuple[int, int]] = []

    @app.task(name="bill")
    async def bill(tenant: str) -> None:
        running[tenant] += 1
        most[tenant] = max(most[tenant], running[tenant])
        together.append((running["a"], running["b"]))
        await asyncio.sleep(0.02)
        running[tenant] -= 1

    def enqueue() -> None:
        for tenant in "ab":
            with app.on(f"tenant_{tenant}").current():
                bill.enqueue_many([{"tenant": tenant}] * 200)

    async def run() -> None:
        async with serving(app, "tenant_a", "tenant_b", concurrency=4):
            there = "select (select count(*) from tenant_a.worker) + (select count(*) from tenant_b.worker)"
            await eventually(lambda: scalar(conn, there) == 2, "the engines of both")
            await asyncio.to_thread(enqueue)
            await eventually(lambda: len(together) == 400, "all jobs")

    asyncio.run(run())
    assert max(a + b for a, b in together) == 4
    middle = together[180:220]  # while both have jobs
    assert sum(max(a, b) <= 2 for a, b in middle) > 30


def test_one_slot_goes_round_among_three_backlogs(app: App) -> None:
    ran: list[str] = []

    @app.task(name="bill")
    async def bill(tenant: str) -> None:
        ran.append(tenant)
        await asyncio.sleep(0.005)

    for schema in SCHEMAS:
        with app.on(schema).current():
            bill.enqueue_many([{"tenant": schema}] * 30)

    async def run() -> None:
        async with serving(app, "tenant_*", concurrency=1):
            await eventually(lambda: len(ran) == 90, "all jobs")

    asyncio.run(run())
    assert all(count >= 8 for count in Counter(ran[:60]).values())
    assert set(ran[:60]) == set(SCHEMAS)


def test_what_a_job_enqueues_stays_in_its_schema(app: App, conn: Conn) -> None:
    @app.task(name="parent", queue="default")
    def parent(ctx: Context) -> None:
        follow.enqueue()
        with ctx.transaction():
            follow.enqueue()

    @app.task(name="follow", queue="other")
    def follow() -> None: ...

    async def run() -> None:
        async with serving(app, "tenant_a", "tenant_b"):
            await app.on("tenant_a").aenqueue("parent")
            await eventually(lambda: left(conn, "tenant_a") == 2, "the jobs that the task has enqueued")

    asyncio.run(run())
    assert (left(conn, "tenant_b"), left(conn, "pgqueue")) == (0, 0)


def test_connections_do_not_grow_with_the_schemas(app: App, conn: Conn) -> None:
    done: list[str] = []

    @app.task(name="bill")
    def bill(tenant: str) -> None:
        done.append(tenant)

    async def run() -> None:
        async with serving(app, *SCHEMAS, "pgqueue") as served:
            for schema in (*SCHEMAS, "pgqueue"):
                await app.on(schema).aenqueue("bill", {"tenant": schema})
            await eventually(lambda: len(done) == 4, "a job in each schema")
            await eventually(lambda: sum(left(conn, schema) for schema in (*SCHEMAS, "pgqueue")) == 0, "the outcomes")
            found = conn.execute(
                "select application_name, count(*) from pg_stat_activity where datname = current_database()"
                " and application_name like 'pgqueue worker%' group by 1"
            ).fetchall()
            of = dict(found)

            def counted() -> bool:  # a moment after the outcomes are committed
                reading = served.reading()
                ended = [] if reading is None else [(key[2], count.jobs) for key, count in reading.ended]
                return reading is not None and (ended, reading.slots, reading.busy) == ([("succeed", 4)], 8, 0)

            await eventually(counted, "four jobs to be counted, and all slots to be free")
            assert of["pgqueue worker listen"] == 1
            assert of["pgqueue worker heartbeat"] <= 2
            assert of["pgqueue worker"] <= 6
            assert sum(of.values()) <= 11

    asyncio.run(run())


def test_an_idle_schema_rests_and_a_notification_or_the_heartbeat_wakes_it(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "AWAKE_SECONDS", 0.3)
    done: list[int] = []

    @app.task(name="bill")
    async def bill(n: int) -> None:
        done.append(n)

    def resting() -> bool:
        """Whether the heartbeat of each schema is the one that looks."""
        return "due.seconds" in (scalar(conn, LAST_BEAT) or "")

    async def run() -> None:
        async with serving(app, "tenant_a", lease_seconds=2.0, poll_seconds=0.1):
            await eventually(resting, "the schema to rest")
            await app.on("tenant_a").aenqueue("bill", {"n": 1})  # a notification
            await eventually(lambda: done == [1], "the job")
            await eventually(resting, "the schema to rest again")
            conn.execute("set session_replication_role = replica")
            conn.execute(  # as a job whose time has come: nobody is notified
                "insert into tenant_a.job_live (task, queue, args, run_at) values ('bill', 'default', '{\"n\": 2}',"
                " now() + interval '1 s')"
            )
            await eventually(lambda: done == [1, 2], "the job that nobody was notified of")

    asyncio.run(run())


def test_a_schema_that_is_missing_or_dropped_holds_up_no_other_and_is_told_once(
    app: App, dsn: str, conn: Conn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "PATIENCE", 1)
    caplog.set_level(logging.INFO, "pgqueue")
    done: list[str] = []

    @app.task(name="bill")
    async def bill(tenant: str) -> None:
        done.append(tenant)

    async def ran(schema: str) -> None:
        before = len(done)
        await app.on(schema).aenqueue("bill", {"tenant": schema})
        await eventually(lambda: len(done) > before, f"a job in {schema}")

    async def run() -> None:
        async with serving(app, "tenant_a", "tenant_b", "not_there", poll_seconds=0.1):
            await ran("tenant_a")
            await ran("tenant_b")
            await asyncio.to_thread(conn.execute, "drop schema tenant_b cascade")  # a duty may hold a lock meanwhile
            await eventually(lambda: "schema tenant_b is not served" in caplog.text, "the schema to be missed")
            await ran("tenant_a")
            await asyncio.to_thread(migrate.upgrade, dsn, "not_there")
            await asyncio.to_thread(migrate.upgrade, dsn, "tenant_b")
            await ran("not_there")
            await ran("tenant_b")

    asyncio.run(run())
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("pgqueue")]
    assert [line for line in told if "not_there" in line and "is not served" in line] == [
        line for line in told if "not_there" in line
    ][:1]
    assert sum("tenant_b" in line for line in told) == 1
    assert all("run `pgqueue migrate`" in line for line in told)


def test_a_new_schema_that_matches_the_pattern_is_served(
    app: App, dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "REREAD_SECONDS", 0.1)
    done: list[str] = []

    @app.task(name="bill")
    async def bill(tenant: str) -> None:
        done.append(tenant)

    async def run() -> None:
        async with serving(app, "tenant_*") as served:
            await eventually(lambda: set(served.schemas) == set(SCHEMAS), "the schemas that there are")
            await asyncio.to_thread(migrate.upgrade, dsn, "tenant_new")
            await app.on("tenant_new").aenqueue("bill", {"tenant": "new"})
            await eventually(lambda: done == ["new"], "its job")
            await asyncio.to_thread(conn.execute, "drop schema tenant_new cascade")
            await eventually(lambda: set(served.schemas) == set(SCHEMAS), "the schema to be left out")
            await asyncio.to_thread(migrate.upgrade, dsn, "tenant_new")
            await app.on("tenant_new").aenqueue("bill", {"tenant": "back"})
            await eventually(lambda: done == ["new", "back"], "its job, when it has come back")

    asyncio.run(run())


def test_a_schema_whose_tables_are_locked_holds_up_no_other(app: App, connect: Callable[..., Conn]) -> None:
    done: list[str] = []

    @app.task(name="bill")
    async def bill(tenant: str) -> None:
        done.append(tenant)

    async def run() -> None:
        async with serving(app, "tenant_a", "tenant_b", lease_seconds=4.0, poll_seconds=0.1) as served:
            await app.on("tenant_b").aenqueue("bill", {"tenant": "b"})
            await eventually(lambda: done == ["b"], "the schema to be served")
            holder = connect()
            holder.execute("lock table tenant_b.worker, tenant_b.job_live in access exclusive mode")
            for n in range(8):
                await app.on("tenant_a").aenqueue("bill", {"tenant": "a"})
                await eventually(lambda n=n: done.count("a") == n + 1, "a job in the other schema")  # type: ignore[misc]
                await asyncio.sleep(0.3)
            assert served.health().ready
            holder.rollback()
            await app.on("tenant_b").aenqueue("bill", {"tenant": "b"})
            await eventually(lambda: done.count("b") == 2, "the schema to work again")

    asyncio.run(run())


def test_jobs_of_a_process_that_is_killed_are_rescued_in_each_schema_also_where_the_others_rest(
    app: App, dsn: str, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "AWAKE_SECONDS", 0.3)
    (tmp_path / "shop.py").write_text(SHOP)

    @app.task(name="bill")
    async def bill() -> int:
        return 2

    jobs = [app.on(schema).enqueue("bill").id for schema in ("tenant_a", "tenant_b")]
    fleet_options = ("work", "-A", "shop:app", "--schema", "tenant_a", "--schema", "tenant_b", "--lease", "2")

    def running() -> int:
        counts = (f"(select count(*) from {schema}.job_live where state = 'running')" for schema in SCHEMAS[:2])
        return int(scalar(conn, f"select {' + '.join(counts)}"))

    async def run(process: Process) -> None:
        await eventually(lambda: running() == 2, "the jobs to run")
        async with serving(app, "tenant_a", "tenant_b", lease_seconds=2.0, poll_seconds=0.1):
            await eventually(lambda: scalar(conn, RESTS), "the others to rest")
            process.kill()
            for schema, job in zip(SCHEMAS, jobs, strict=False):
                view = app.on(schema)
                await eventually(lambda view=view, job=job: view.get(job).state == "succeeded", "the rescue")  # type: ignore[misc]
                assert view.get(job).crash_count == 1

    with Process(tmp_path, dsn, *fleet_options) as process:
        asyncio.run(run(process))


def test_tasks_in_child_processes_are_refused(app: App) -> None:
    @app.task(name="resize", isolation="process")
    def resize() -> None: ...

    with pytest.raises(InvalidOption, match=r"isolation='process' \(resize\)"):
        Fleet(app, ChosenSchemas(["tenant_*"]))


def test_the_hooks_of_a_worker_run_once_for_all_schemas(app: App) -> None:
    ran: list[str] = []
    app.on_worker_start(lambda: ran.append("start"))
    app.on_worker_stop(lambda: ran.append("stop"))

    async def run() -> None:
        async with serving(app, "tenant_a", "tenant_b") as served:
            await eventually(lambda: served.health().ready, "the fleet to be ready")

    asyncio.run(run())
    assert ran == ["start", "stop"]
