"""What an operator asks of workers: to go quiet, to resume, to stop. The row decides, the NOTIFY is a hint."""

import asyncio
import mmap
import uuid
from pathlib import Path

import pytest

from pgqueue import App, InvalidOption, UnknownWorker
from pgqueue.process.memory import resident_bytes
from pgqueue.scheduler import Scheduler, SchedulerSettings
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import DEADLINE, eventually, scalar
from tests.harness import Conn, Process, add_worker, insert_job, wait_for, working

STATUS = "select status from pgqueue.worker_health"
WAITING = "select count(*) = 1 from pgqueue.worker where waiting"
ASK = "update pgqueue.worker set requested = %s, requested_at = clock_timestamp()"
SHOP = """
import pgqueue
app = pgqueue.App(release="2026.11")

@app.task(name="t")
def t() -> None: ...
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def ended(conn: Conn) -> int:
    return int(scalar(conn, "select count(*) from pgqueue.job_finished"))


def test_a_quiet_worker_claims_nothing_and_ends_what_runs_until_it_is_asked_to_resume(app: App, conn: Conn) -> None:
    running, release = asyncio.Event(), asyncio.Event()

    @app.task(name="t")
    async def t() -> None:
        running.set()
        await release.wait()

    async def scenario() -> None:
        async with working(app, concurrency=1):
            insert_job(conn, task="t")
            conn.execute("notify pgqueue, 'default'")
            await running.wait()
            (asked,) = await app.workers.aquiet(everyone=True, by="alice")
            assert asked.status == "alive"
            await eventually(lambda: scalar(conn, STATUS) == "quiet")
            release.set()
            await eventually(lambda: ended(conn) == 1)
            waiting = insert_job(conn, task="t")
            conn.execute("notify pgqueue, 'default'")
            beats = "select heartbeat_at from pgqueue.worker"
            before = scalar(conn, beats)
            conn.execute(f"select pg_notify('pgqueue', '!request {asked.id}')")  # a stranger's: nothing new is asked
            await eventually(lambda: scalar(conn, beats) > before)
            assert scalar(conn, "select state from pgqueue.job_live where id = %s", waiting) == "pending"
            assert scalar(conn, STATUS) == "quiet"
            await app.workers.aresume(str(asked.id)[:8])
            await eventually(lambda: ended(conn) == 2)
            await eventually(lambda: scalar(conn, STATUS) == "alive")

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["quiet", "stop"])
def test_a_request_whose_notification_was_lost_is_followed_with_the_next_heartbeat(
    app: App, conn: Conn, what: str
) -> None:
    async def scenario() -> None:
        worker = Worker(app, WorkerSettings(lease_seconds=1.0))
        running = asyncio.create_task(worker.run())
        await eventually(lambda: scalar(conn, WAITING))
        conn.execute(ASK, (what,))
        if what == "quiet":
            await eventually(lambda: scalar(conn, STATUS) == "quiet")
            worker.stop()
        assert await asyncio.wait_for(running, DEADLINE)

    asyncio.run(scenario())


def test_a_request_is_followed_once(app: App, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    """SIGTSTP and `resume` of one who did not know of it: a request that was followed is not followed again."""

    caplog.set_level("INFO")

    async def scenario() -> None:
        worker = Worker(app, WorkerSettings(lease_seconds=1.0))
        running = asyncio.create_task(worker.run())
        await eventually(lambda: scalar(conn, WAITING))
        conn.execute(ASK, ("resume",))
        await eventually(lambda: "resumed" in caplog.text)
        worker.quiet()
        await eventually(lambda: scalar(conn, STATUS) == "quiet")
        since = scalar(conn, "select quiet_at from pgqueue.worker")
        beats = "select count(*) from pgqueue.worker where heartbeat_at > quiet_at + interval '0.6 s'"
        await eventually(lambda: scalar(conn, beats))
        assert (scalar(conn, STATUS), scalar(conn, "select quiet_at from pgqueue.worker")) == ("quiet", since)
        worker.stop()
        await running

    asyncio.run(scenario())


def test_one_worker_stops_and_the_others_go_on(app: App, conn: Conn) -> None:
    async def scenario() -> None:
        workers = [Worker(app, WorkerSettings()) for _ in range(2)]
        first, second = (asyncio.create_task(worker.run()) for worker in workers)
        await eventually(lambda: scalar(conn, "select count(*) = 2 from pgqueue.worker where waiting"))
        one = workers[0]._running
        assert one is not None
        await app.workers.astop(one._core.identity.id)
        assert await asyncio.wait_for(first, DEADLINE)
        assert not second.done()
        assert scalar(conn, "select count(*) from pgqueue.worker") == 1
        workers[1].stop()
        await second

    asyncio.run(scenario())


def test_a_scheduler_is_stopped_and_never_quiet(app: App, conn: Conn) -> None:
    async def scenario() -> None:
        scheduler = Scheduler(app, SchedulerSettings())
        running = asyncio.create_task(scheduler.run())
        await eventually(lambda: scalar(conn, "select count(*) from pgqueue.worker where kind = 'scheduler'"))
        (row,) = await app.workers.alist()
        with pytest.raises(InvalidOption, match="a scheduler claims no jobs"):
            await app.workers.aquiet(row.id)
        assert await app.workers.aquiet(everyone=True) == []
        await app.workers.astop(f"{row.host}:{row.pid}")
        assert await asyncio.wait_for(running, DEADLINE)

    asyncio.run(scenario())


def test_who_is_meant_must_be_said_and_be_one_that_lives(app: App, conn: Conn) -> None:
    ids = [uuid.UUID(f"abcd000{n}-0000-0000-0000-000000000000") for n in range(3)]
    for given in ids:
        made = add_worker(conn, lost=given == ids[2])
        conn.execute("update pgqueue.worker set id = %s, host = 'h' || %s where id = %s", (given, str(given)[7], made))
    for which in (None, "abcd"):
        with pytest.raises(InvalidOption):
            app.workers.stop(which)
    with pytest.raises(InvalidOption):
        app.workers.stop("h0", everyone=True)
    for which in ("h2", str(ids[2]), "nobody", "abc", str(uuid.uuid4())):
        with pytest.raises(UnknownWorker):
            app.workers.stop(which)
    assert scalar(conn, "select count(*) from pgqueue.worker where requested is not null") == 0
    assert [w.host for w in app.workers.stop("h0", by="alice")] == ["h0"]
    assert [w.host for w in app.workers.quiet("ABCD0001")] == ["h1"]
    asked = conn.execute("select host, requested, requested_by from pgqueue.worker where requested = 'stop'").fetchall()
    assert asked == [("h0", "stop", "alice")]


def test_a_worker_tells_its_release_its_memory_and_where_its_probe_answers(shop: Path, dsn: str, conn: Conn) -> None:
    with Process(shop, dsn, "work", "-A", "shop:app", "--health-port", "0", "--lease", "1") as worker:
        told = "select release, rss_bytes, health_address from pgqueue.worker_health where rss_bytes is not null"
        worker.alive_until(lambda: conn.execute(told).fetchone(), "a heartbeat")
        row = conn.execute(told).fetchone()
        assert row is not None
        release, rss_bytes, address = row
        assert release == "2026.11"
        assert 10 * 2**20 < rss_bytes < 2**30
        assert f"http://{address}/ready" in worker.log()


def test_the_release_comes_from_the_environment_where_the_app_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert App().release is None
    monkeypatch.setenv("PGQUEUE_RELEASE", "r1")
    assert (App().release, App(release="r2").release) == ("r1", "r2")
    with pytest.raises(InvalidOption):
        App(release="r\n1")


def test_the_memory_of_a_process_is_that_of_its_pages() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 32 * 2**20) as pages:  # new ones, whatever the allocator has kept of earlier tests
        pages.write(b"x" * len(pages))
        after = resident_bytes()
    assert before is not None
    assert after is not None
    assert 30 * 2**20 < after - before < 80 * 2**20


def test_a_supervisor_does_not_restart_a_worker_that_was_stopped_and_ends_with_the_last(
    shop: Path, dsn: str, conn: Conn, app: App
) -> None:
    pids = "select array_agg(pid order by started_at) from pgqueue.worker where lost_at is null"
    with Process(shop, dsn, "work", "-A", "shop:app", "--processes", "2", "--lease", "2") as parent:
        parent.alive_until(lambda: len(scalar(conn, pids) or []) == 2, "two workers")
        first, second = scalar(conn, pids)
        (row,) = [worker for worker in app.workers.list() if worker.pid == first]
        app.workers.stop(row.id)
        parent.alive_until(lambda: scalar(conn, pids) == [second], "the end of one")
        parent.alive_until(lambda: "was stopped by an operator" in parent.log(), "the word of it")
        app.workers.stop(everyone=True)
        assert parent.wait() == 0
        assert parent.log().count("worker process") == 4  # two started, two stopped
    assert wait_for(lambda: scalar(conn, "select count(*) = 0 from pgqueue.worker"), "no row")


def test_a_worker_without_a_supervisor_that_was_stopped_ends_with_status_0(shop: Path, dsn: str, conn: Conn) -> None:
    with Process(shop, dsn, "work", "-A", "shop:app", "--lease", "1") as worker:
        worker.alive_until(lambda: scalar(conn, WAITING), "a worker that claims")
        conn.execute(ASK, ("stop",))
        assert worker.wait() == 0
