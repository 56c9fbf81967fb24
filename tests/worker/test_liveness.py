"""Which workers live, which are lost, and what a worker does whose heartbeats do not arrive."""

import asyncio
import threading
import time
from fractions import Fraction
from typing import Any

import psycopg
import pytest

from pgqueue import App, ConfigError, Context, InvalidOption, ReadOnlyDatabase, db
from pgqueue.db.link import Link
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.process.health import Health, Probe
from pgqueue.process.heartbeat import Identity, describe_process
from pgqueue.scheduler import Scheduler, SchedulerSettings
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.core import Served, WorkerCore
from pgqueue.worker.duties.rescuer import Rescuer
from pgqueue.worker.duties.watchdog import Watchdog
from pgqueue.worker.signals import WorkerSignals
from pgqueue.worker.slots import Slots
from tests.conftest import eventually, scalar, work
from tests.harness import QUERIES, WORKER, Conn, add_worker, insert_job, new_job, wait_for


class Clocked:
    """A rescuer whose waits the test decides."""

    def __init__(self, dsn: str, lease: float) -> None:
        served, slots = Served(("default",), ()), Slots(1, ["default"], {})
        core = WorkerCore.of(App(dsn), WorkerSettings(lease_seconds=lease), served, slots)
        self.identity = core.identity
        self.link = Link(db.Database(dsn), "pgqueue test")
        self.rescuer = Rescuer(self.link, core, WorkerSignals())

    async def step(self) -> None:
        await self.rescuer.step()
        await self.link.close()


def test_a_worker_that_has_just_started_declares_nobody_lost(conn: Conn, dsn: str) -> None:
    add_worker(conn, beat_seconds_ago=3600)
    asyncio.run(Clocked(dsn, lease=30.0).step())
    assert scalar(conn, "select count(*) from pgqueue.worker where lost_at is not null") == 0


def test_after_a_lease_of_its_own_it_does(conn: Conn, dsn: str) -> None:
    add_worker(conn, beat_seconds_ago=3600)
    clocked = Clocked(dsn, lease=30.0)
    clocked.rescuer._declare_from = 0.0
    asyncio.run(clocked.step())
    assert scalar(conn, "select count(*) from pgqueue.worker where lost_at is not null") == 1


def test_a_row_that_cannot_be_rescued_holds_up_no_other(conn: Conn, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    worker = add_worker(conn, lost=True)
    now = scalar(conn, "select now()")
    running = {"state": "running", "worker_id": worker, "claimed_at": now, "lease": 1, "attempt": 1, "max_attempts": 1}
    first, bad, last = (insert_job(conn, **running) for _ in range(3))
    conn.execute(f"alter table pgqueue.dead_letter add check (id <> {bad})".encode())
    asyncio.run(Clocked(dsn, lease=30.0).step())
    assert conn.execute("select id from pgqueue.dead_letter order by id").fetchall() == [(first,), (last,)]
    assert scalar(conn, "select state from pgqueue.job_live where id = %s", bad) == "running"
    assert f"job {bad} of a lost worker cannot be rescued: CheckViolation" in caplog.text


def test_one_that_could_not_reach_the_database_waits_a_lease_again(conn: Conn, dsn: str) -> None:
    add_worker(conn, beat_seconds_ago=3600)

    async def through_an_outage() -> None:
        clocked = Clocked(dsn, lease=30.0)
        clocked.rescuer._declare_from = 0.0
        conn.execute("alter table pgqueue.worker rename to away")
        with pytest.raises(Exception, match="pgqueue migrate"):
            await clocked.rescuer.step()
        conn.execute("alter table pgqueue.away rename to worker")
        await clocked.step()

    asyncio.run(through_an_outage())
    assert scalar(conn, "select count(*) from pgqueue.worker where lost_at is not null") == 0


def test_two_workers_of_the_same_host_and_pid_are_two(conn: Conn, dsn: str) -> None:
    """As after a container's restart, where each boot has the same name and is process 1."""
    boots = [Clocked(dsn, 30) for _ in range(2)]
    infos = [boot.identity.info for boot in boots]
    assert (infos[0].host, infos[0].pid) == (infos[1].host, infos[1].pid)
    jobs = []
    for info in infos:
        db.run(conn, QUERIES.workers.register(info))
        db.run(conn, QUERIES.jobs.enqueue([new_job()]))
        jobs += db.run(conn, QUERIES.jobs.claim(info.id, {"default": 1}, 1))

    conn.execute("update pgqueue.worker set heartbeat_at = now() - interval '1 hour' where id = %s", (infos[0].id,))
    assert [lost.id for lost in db.run(conn, QUERIES.workers.declare_lost())] == [infos[0].id]
    assert [db.run(conn, QUERIES.workers.heartbeat(info.id)).alive for info in infos] == [False, True]
    assert [rescued.id for rescued in db.run(conn, QUERIES.jobs.rescue(infos[1].id))] == [jobs[0].id]
    (again,) = db.run(conn, QUERIES.jobs.claim(infos[1].id, {"default": 1}, 1))
    assert (again.id, again.lease) == (jobs[0].id, 2)
    done = Resolution("succeed")
    assert db.run(conn, QUERIES.jobs.resolve([(job, done) for job in (*jobs, again)])) == {again.id, jobs[1].id}
    workers = conn.execute("select distinct worker_id from pgqueue.job where state = 'succeeded'").fetchall()
    assert workers == [(infos[1].id,)]


def test_a_worker_that_was_declared_lost_can_claim_nothing(conn: Conn) -> None:
    worker = add_worker(conn, lost=True)
    db.run(conn, QUERIES.jobs.enqueue([new_job()]))
    insert_job(conn, task="t", state="blocked", waits_for="task")
    assert db.run(conn, QUERIES.jobs.claim(worker, {"default": 5}, 5)) == []
    assert db.run(conn, QUERIES.jobs.adopt(worker, {"default": 5}, ["t"], 5)) == []
    assert len(db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 5}, 5))) == 1


def test_the_watch_stops_a_worker_that_cannot_be_heard_and_lets_it_go_on(dsn: str) -> None:
    said: list[str] = []

    async def look() -> None:
        clocked = Clocked(dsn, lease=30.0)
        signals = WorkerSignals(
            heartbeat_overdue=lambda: said.append("overdue"), heartbeat_recovered=lambda: said.append("recovered")
        )
        watch = Watchdog(clocked.link, clocked.identity, signals)
        await watch.step()
        clocked.identity._beaten_at -= 24
        await watch.step()
        await watch.step()
        clocked.identity._beaten_at += 24
        await watch.step()

    asyncio.run(look())
    assert said == ["overdue", "recovered"]


def test_a_heartbeat_that_fails_and_works_again_says_both_once(
    conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pgqueue")
    identity = Clocked(dsn, lease=1.0).identity
    beat, left = identity.beat, [ConnectionError("gone"), ConnectionError("gone")]

    def beat_or_fail() -> None:
        if left:
            raise left.pop()
        beat()

    monkeypatch.setattr(identity, "beat", beat_or_fail)
    identity.start()
    wait_for(lambda: "heartbeat works again" in caplog.text, "the word of it")
    beaten = identity._beaten_at
    wait_for(lambda: identity._beaten_at > beaten, "another beat")
    identity.stop()
    said = [record.message for record in caplog.records if record.message.startswith("heartbeat")]
    assert said == ["heartbeat failed, trying again: ConnectionError: gone", "heartbeat works again"]


def test_a_worker_whose_heartbeat_hangs_drops_its_jobs_and_takes_them_again(app: App, conn: Conn, dsn: str) -> None:
    starts: list[int] = []
    stopped = threading.Event()

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        starts.append(ctx.attempt)
        if len(starts) == 1:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

    t.enqueue()
    with psycopg.connect(dsn) as blocker:

        async def until_dropped() -> None:
            settings = WorkerSettings(lease_seconds=1.0, poll_seconds=0.1)
            worker = Worker(app, settings)
            running = asyncio.create_task(worker.run())
            await eventually(lambda: starts, "the first start")
            blocker.execute("select from pgqueue.worker for update")  # the heartbeat waits for this row
            await eventually(stopped.is_set, "the job to be cancelled")
            blocker.rollback()
            done = "select count(*) = 1 from pgqueue.job where state = 'succeeded'"
            await eventually(lambda: scalar(conn, done), "the second run")
            worker.stop()
            await running

        asyncio.run(until_dropped())
    assert len(starts) == 2


def test_a_policy_whose_delay_is_a_strange_number_holds_up_no_other_job(app: App, conn: Conn) -> None:
    class Strange:
        def delay(self, attempt: int) -> Any:
            return Fraction(1, 2)

    @app.task(name="bad", retry=Strange(), max_attempts=2)
    async def bad() -> None:
        raise ValueError

    @app.task(name="good")
    async def good(n: int) -> None: ...

    bad.enqueue()
    good.enqueue_many({"n": n} for n in range(20))
    ended = "select count(*) = 21 from pgqueue.job where state in ('succeeded', 'failed')"
    asyncio.run(work(app, lambda: scalar(conn, ended), concurrency=30))


def test_a_resolver_that_dies_stops_its_worker(app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(name="t")
    async def t() -> None: ...

    t.enqueue()

    async def run() -> None:
        worker = Worker(app, WorkerSettings(shutdown_timeout=1.0))
        running = asyncio.create_task(worker.run())
        await eventually(lambda: worker._running is not None, "the start")
        running_worker = worker._running
        assert running_worker is not None

        monkeypatch.setattr(running_worker._resolver, "_next_batch", _die)
        with pytest.raises(Dying):
            await running

    asyncio.run(run())
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


class Dying(BaseException):
    """What no duty survives: each Exception ends one step only."""


def _die() -> Any:
    raise Dying


def test_cancelling_a_worker_leaves_nothing_running(app: App, conn: Conn) -> None:
    async def run() -> set[str]:
        running = asyncio.create_task(Worker(app, WorkerSettings(shutdown_timeout=0.5)).run())
        await eventually(lambda: scalar(conn, "select count(*) = 1 from pgqueue.worker where waiting"), "the start")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return {task.get_name() for task in asyncio.all_tasks()} - {asyncio.current_task().get_name()}  # type: ignore[union-attr]

    assert asyncio.run(run()) == set()
    left = "select count(*) from pg_stat_activity where application_name like 'pgqueue worker%%' and datname = %s"
    wait_for(lambda: scalar(conn, left, conn.info.dbname) == 0, "the backends to be gone")


def test_a_task_that_swallows_its_cancellation_does_not_hold_up_the_end(app: App, conn: Conn) -> None:
    started, freed = threading.Event(), threading.Event()

    @app.task(name="stubborn")
    async def stubborn() -> None:
        started.set()
        while not freed.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    job = stubborn.enqueue()

    async def run() -> bool:
        worker = Worker(app, WorkerSettings(shutdown_timeout=0.2))
        running = asyncio.create_task(worker.run())
        await eventually(started.is_set, "the start")
        worker.stop()
        ended = await running
        freed.set()
        return ended

    began = time.monotonic()
    assert asyncio.run(run()) is False
    assert time.monotonic() - began < 25
    assert scalar(conn, "select state from pgqueue.job where id = %s", job.id) == "pending"


@pytest.mark.parametrize(
    "bad",
    [
        {"queues": "default"}, {"queues": []}, {"lease_seconds": -5}, {"poll_seconds": -1},
        {"shutdown_timeout": float("nan")}, {"concurrency": 2.5}, {"limits": {"default": 0}},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_when_they_are_made(app: App, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="cannot be used: give"):
        Worker(app, WorkerSettings(**bad))


def test_a_blocked_event_loop_is_told_with_what_blocks_it(app: App, caplog: pytest.LogCaptureFixture) -> None:
    seen = threading.Event()

    @app.task(name="blocks")
    async def blocks() -> None:
        for _ in range(1000):
            if "the event loop has been blocked" in caplog.text:
                seen.set()
                return
            time.sleep(0.01)  # noqa: ASYNC251 - what an async task must not do

    job = blocks.enqueue()
    asyncio.run(work(app, lambda: app.get(job.id).state == "succeeded", lease_seconds=1.0))
    assert seen.is_set()
    assert "in blocks: an async task must not block" in caplog.text
    assert app.get(job.id).attempt == 1


def test_each_beat_tells_when_each_duty_last_worked(app: App, conn: Conn) -> None:
    worked = "select duties -> 'claim' is not null and duties -> 'rescue' is not null from pgqueue.worker"
    asyncio.run(work(app, lambda: scalar(conn, worked), lease_seconds=0.4))


def test_hooks_run_around_a_workers_work_and_one_that_fails_at_the_start_ends_it(app: App, conn: Conn) -> None:
    order: list[str] = []

    @app.on_worker_start
    async def warm() -> None:
        order.append("start")

    @app.on_worker_stop
    def cool() -> None:
        order.append("stop")
        raise RuntimeError("logged, and nothing else")

    @app.task(name="t")
    def t() -> None:
        order.append("job")

    t.enqueue()
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 1 from pgqueue.job_finished")))
    assert order == ["start", "job", "stop"]

    @app.on_worker_start
    def cold() -> None:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        asyncio.run(Worker(app, WorkerSettings()).run())
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_a_connection_to_a_server_that_has_become_read_only_is_dropped(conn: Conn, dsn: str) -> None:
    """F24: after a failover the old connection leads to a standby; only a new one finds the new primary."""
    worker = add_worker(conn)

    async def demote_under_a_link() -> None:
        link = Link(db.Database(dsn), "pgqueue test")
        async with link.connection() as borrowed:
            await borrowed.execute("set default_transaction_read_only = on")
        with pytest.raises(ReadOnlyDatabase):
            await link.run(QUERIES.workers.set_stopping(worker))
        await link.run(QUERIES.workers.set_stopping(worker))
        await link.close()

    asyncio.run(demote_under_a_link())
    assert scalar(conn, "select stopping from pgqueue.worker")
    identity = Identity(db.Database(dsn), QUERIES, describe_process("worker", 30.0, [], [], 1))
    identity.start()
    identity._conn.execute("set default_transaction_read_only = on")  # type: ignore[union-attr]
    with pytest.raises(ReadOnlyDatabase):
        identity.beat()
    identity.beat()
    identity.stop()


@pytest.mark.parametrize("make", [Worker, Scheduler], ids=["worker", "scheduler"])
def test_an_outage_of_the_database_makes_a_process_unready_and_leaves_it_live(
    app: App, conn: Conn, server_dsn: str, make: type[Worker | Scheduler]
) -> None:
    lease = 1.0
    process = (
        Worker(app, WorkerSettings(lease_seconds=lease))
        if make is Worker
        else Scheduler(app, SchedulerSettings(lease_seconds=lease))
    )
    database = conn.info.dbname

    async def run() -> None:
        running = asyncio.create_task(process.run())
        await eventually(lambda: process.health().ready, "the process to be ready")
        with psycopg.connect(server_dsn, autocommit=True) as server:
            server.execute(f"alter database {database} allow_connections false".encode())
            server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [database])
            await eventually(lambda: not process.health().ready, "the process not to be ready")
            assert process.health().live
            server.execute(f"alter database {database} allow_connections true".encode())
        await eventually(lambda: process.health().ready, "the process to be ready again")
        assert process.health().live
        process.stop()
        await running

    asyncio.run(run())


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("127.0.0.1", -1), ("bad..host", 0)])
def test_a_probe_that_cannot_listen_says_where_and_why(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=f"^/live and /ready cannot be served on {host}:{port}: ."):
        asyncio.run(Probe(lambda: Health(True, True)).start(host, port))


def test_a_probe_whose_port_is_taken_says_so() -> None:
    async def start_twice() -> None:
        first, second = (Probe(lambda: Health(True, True)) for _ in range(2))
        port = await first.start("127.0.0.1", 0)
        try:
            with pytest.raises(ConfigError, match=f"cannot be served on 127.0.0.1:{port}: .*in use"):
                await second.start("127.0.0.1", port)
        finally:
            await first.close()

    asyncio.run(start_twice())
