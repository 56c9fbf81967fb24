"""Claims in doubt: in flight beside the search for strays, by a process that was frozen, and jobs that cannot begin."""

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import App
from pgqueue.db.link import Link
from pgqueue.timing import monotonic
from pgqueue.worker import WorkerSettings
from pgqueue.worker.claiming.frontier import Frontier
from pgqueue.worker.claiming.full_scan import FullScan
from pgqueue.worker.claiming.producer import Producer
from pgqueue.worker.claiming.turn_claims import Part
from pgqueue.worker.core import Served, WorkerCore
from pgqueue.worker.duties.rescuer import Rescuer
from pgqueue.worker.running.executor import Executor
from pgqueue.worker.signals import WorkerSignals
from pgqueue.worker.slots import Slots
from tests.conftest import eventually, scalar, work
from tests.harness import Conn, insert_job

BLOCKED = "select exists (select from pg_stat_activity where %s = any(pg_blocking_pids(pid)))"


@pytest.fixture
def core(app: App, conn: Conn) -> Any:
    made = WorkerCore.of(app, WorkerSettings(), Served(("default",), ("t",)), Slots(4, ["default"], {}))
    made.identity.start()
    yield made
    made.identity.stop()


def test_a_full_scan_waits_while_the_producer_looks_for_strays(core: WorkerCore, conn: Conn, dsn: str) -> None:
    """Its jobs were claimed after the producer had listed those it holds, given back, and run twice."""
    job = insert_job(conn, task="t")
    stray = insert_job(
        conn, task="t", state="running", worker_id=core.identity.id, claimed_at="now", attempt=1, lease=1
    )
    taken: list[int] = []

    async def scenario() -> None:
        signals, frontier = WorkerSignals(), Frontier()
        signals.held_jobs = lambda: list(taken)
        signals.jobs_claimed = lambda jobs: taken.extend(each.id for each in jobs)
        links = [Link(core.app.database, "producer"), Link(core.app.database, "full scan")]
        full_scan = FullScan(links[1], core, signals, frontier)
        producer = Producer(links[0], core, signals, frontier, full_scan)
        producer.resume("a heartbeat got through")
        with psycopg.connect(dsn) as holder:
            holder.execute("select from pgqueue.job_live where id = %s for update", (stray,))
            releasing = asyncio.create_task(producer.step())
            await eventually(lambda: scalar(conn, BLOCKED, holder.info.backend_pid), "the search for strays to wait")
            full_scan.request()
            scanning = asyncio.create_task(full_scan.step())
            await asyncio.sleep(0)
            assert full_scan.claims.locked()
            assert not full_scan.scanning
            holder.rollback()
        await asyncio.gather(releasing, scanning)
        for link in links:
            await link.close()

    asyncio.run(scenario())
    assert sorted(taken) == [job, stray]
    released = "select job_id from pgqueue.transition where reason = 'released'"
    assert [row[0] for row in conn.execute(released)] == [stray]


def test_a_process_that_has_not_beaten_for_most_of_its_lease_claims_nothing(core: WorkerCore, conn: Conn) -> None:
    """One that was frozen for an hour has no row any more; its first claim was rescued at once, as a crash."""
    insert_job(conn, task="t")
    claimed: list[Any] = []

    async def scenario() -> None:
        signals, frontier = WorkerSignals(), Frontier()
        signals.jobs_claimed = claimed.extend
        links = [Link(core.app.database, "producer"), Link(core.app.database, "full scan")]
        full_scan = FullScan(links[1], core, signals, frontier)
        producer = Producer(links[0], core, signals, frontier, full_scan)
        core.identity._beaten_at -= 3600
        full_scan.request()
        await producer.step()
        await full_scan.step()
        assert not claimed
        core.identity.beat()
        await producer.step()
        for link in links:
            await link.close()

    asyncio.run(scenario())
    assert len(claimed) == 1


def test_a_job_that_cannot_be_begun_frees_its_slot(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [MemoryError("no memory for a thread's context")]
    start = Executor.start

    def fail_once(executor: Executor, *args: Any) -> bool:
        if failing:
            raise failing.pop()
        return start(executor, *args)

    monkeypatch.setattr(Executor, "start", fail_once)

    @app.task(retry=[0.01])
    def task() -> str:
        return "done"

    jobs = [task.enqueue().id, task.enqueue().id]
    asyncio.run(work(app, lambda: all(app.get(job).state == "succeeded" for job in jobs), concurrency=1))
    assert sorted(app.get(job).attempt for job in jobs) == [1, 2]


def test_a_restarted_worker_declares_others_lost_when_its_own_lease_has_passed(core: WorkerCore) -> None:
    """Not up to two fifths of a lease later, with the step after that."""

    async def delays() -> list[float]:
        now = monotonic()
        link = Link(core.app.database, "rescue")
        rescuer = Rescuer(link, core, WorkerSignals())
        rescuer._declare_from = now + 1.0
        found = [await rescuer.step()]
        rescuer._declare_from = now
        found.append(await rescuer.step())
        await link.close()
        return found

    soon, later = asyncio.run(delays())
    assert soon <= 1.0
    assert later > 7


def test_a_notification_while_plain_jobs_are_claimed_ends_their_rest(core: WorkerCore, conn: Conn, dsn: str) -> None:
    """The claim did not see the job of which it tells, and found none: beside metered jobs the next one is soon."""

    async def scenario() -> None:
        signals, frontier = WorkerSignals(), Frontier()
        links = [Link(core.app.database, "producer"), Link(core.app.database, "full scan")]
        producer = Producer(links[0], core, signals, frontier, FullScan(links[1], core, signals, frontier))
        parts = [Part(("default",)), Part((), "default")]
        with psycopg.connect(dsn) as holder:
            holder.execute("lock pgqueue.job_live in access exclusive mode")
            claiming = asyncio.create_task(producer._claim_in_parts(parts))
            await eventually(lambda: scalar(conn, BLOCKED, holder.info.backend_pid), "the claim to wait")
            producer.job_committed()
            holder.rollback()
        assert await claiming == 0
        assert producer._plain_from == 0.0
        for link in links:
            await link.close()

    asyncio.run(scenario())
