"""Metrics: what a scrape of a worker and of the exporter says, and what it says when the database is gone."""

import asyncio
import re
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from pgqueue import App, metrics
from pgqueue.metrics import METRICS, MetricsServer, registry_of
from pgqueue.metrics.exporter import DatabaseMetrics
from pgqueue.metrics.names import JOB_SECONDS
from pgqueue.migrate import head
from pgqueue.process.counters import ProcessReading
from pgqueue.revisions import newest
from pgqueue.worker import Worker, WorkerSettings
from tests.client.test_dead import add_dead
from tests.conftest import eventually, scalar
from tests.harness import Conn, Process, add_worker, insert_job, wait_for

ENDED = "pgqueue_jobs_finished_total"
Scrape = dict[str, dict[tuple[str, ...], float]]


def scrape(text: str) -> Scrape:
    """The samples of a scrape, by name and values of labels in the order of the names of the labels."""
    found: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=15) as answer:
        return str(answer.read().decode())


def exported(app: App) -> str:
    return generate_latest(registry_of(app)).decode()


def test_a_worker_serves_what_it_did(app: App, conn: Conn) -> None:
    blocked = threading.Event()

    @app.task(name="t", queue="q", retry=0, max_attempts=2)
    def t(n: int) -> None:
        if n:
            raise ValueError

    @app.task(name="held", queue="q")
    def held() -> None:
        blocked.wait(30)

    async def scenario() -> Scrape:
        t.using(conn).enqueue_many([{"n": 0}] * 3 + [{"n": 1}])
        insert_job(conn, task="nobody knows 1", queue="q")
        held.using(conn).enqueue()
        worker = Worker(app, WorkerSettings(queues=["q"], concurrency=3))
        running = asyncio.create_task(worker.run())
        server = MetricsServer(worker.reading)
        port = server.start("127.0.0.1", 0)
        try:
            await eventually(lambda: scalar(conn, "select count(*) = 1 from pgqueue.dead_letter"))
            await eventually(lambda: scalar(conn, "select count(*) = 1 from pgqueue.job_live where state = 'running'"))
            while ("failed", "q", "t") not in (found := scrape(await asyncio.to_thread(get, port))).get(ENDED, {}):
                await asyncio.sleep(0.01)
            return found
        finally:
            blocked.set()
            worker.stop()
            await running
            server.close()

    found = asyncio.run(scenario())
    finished = found[ENDED]
    assert finished == {("succeeded", "q", "t"): 3, ("retried", "q", "t"): 1, ("failed", "q", "t"): 1}
    for name in ("run", "wait"):
        assert found[f"pgqueue_job_{name}_seconds_count"] == {("q", "t"): 5}
        assert len(found[f"pgqueue_job_{name}_seconds_bucket"]) == len(JOB_SECONDS) + 1 == 16
        assert 0 < found[f"pgqueue_job_{name}_seconds_sum"]["q", "t"] < 60
    assert (found["pgqueue_worker_slots"][()], found["pgqueue_worker_slots_busy"][()]) == (3, 1)
    assert found["pgqueue_claim_seconds_count"][()] > 0
    assert found["pgqueue_resolve_seconds_count"][()] > 0
    assert found["process_resident_memory_bytes"][()] > 0
    declared(found, "process")


def declared(found: Scrape, source: str) -> None:
    """Every sample of ours has a declared name, and every declared metric without condition is there."""
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in found if name.startswith("pgqueue_")}
    ours = {metric.name for metric in METRICS if metric.source == source}
    assert names - ours - {name.removesuffix("_created") for name in names} == set()
    missing = ours - names
    assert missing <= {"pgqueue_oldest_snapshot_seconds"}, missing


def test_a_blocked_event_loop_is_measured_and_does_not_hold_up_a_scrape(app: App) -> None:
    async def scenario() -> tuple[Scrape, Scrape]:
        server = MetricsServer(lambda: ProcessReading(7))
        port = server.start("127.0.0.1", 0)
        first = scrape(await asyncio.to_thread(get, port))
        answered: list[str] = []
        scraping = threading.Thread(target=lambda: answered.append(get(port)))
        await asyncio.sleep(0.3)  # the sleep that is measured has begun
        scraping.start()
        scraping.join()  # blocks the loop until the scrape is answered, with the last reading
        await asyncio.sleep(0.3)
        assert scrape(answered[0])["pgqueue_heartbeat_failures_total"][()] == 7
        try:
            return first, scrape(await asyncio.to_thread(get, port))
        finally:
            server.close()

    before, after = asyncio.run(scenario())
    grown = after["pgqueue_loop_blocked_seconds_total"][()] - before["pgqueue_loop_blocked_seconds_total"][()]
    assert grown > 0.5


# In a queue of their own: two jobs that wait for others, one that sleeps, and one that waits; workflows of each kind,
# the oldest of which lives for an hour, and a group that ended a minute ago; letters.
WAITS = """
insert into pgqueue.job_live (task, queue, state, waits_for, waits_on)
select 'known', 'w', 'blocked', 'jobs', 1 from generate_series(1, 2);
insert into pgqueue.job_live (id, task, queue, lease, run_at)
select -i, 'known', 'w', 1, now() + interval '1 day' from generate_series(1, 2) as i;
insert into pgqueue.step (job_id, name, kind, wake_at, attempt, lease)
values (-1, 's', 'sleep', now() + interval '1 day', 1, 1);
insert into pgqueue.step (job_id, name, kind, done, waits, attempt, lease)
values (-2, 's', 'signal', false, 'go', 1, 1);
insert into pgqueue.workflow (id, root_id, name, open_gates, state, sealed, stop_reason, created_at, ended_at)
values (-1, -1, 'w', 1, 'running', true, null, now() - interval '1 hour', null),
       (-2, -2, 'w', 1, 'running', false, null, now(), null),
       (-3, -3, 'w', 1, 'running', true, 'why', now(), null),
       (-4, -4, 'w', 1, 'running', true, null, now(), null),
       (-5, -5, 'w', 1, 'running', true, null, now(), null),
       (-6, -1, 'g', 0, 'failed', true, null, now(), now() - interval '1 minute');
insert into pgqueue.dead_letter (id, task, queue, reason, ties, workflow_id)
values (-10, 'known', 'q', 'error', 18, -4), (-11, 'known', 'q', 'error', 2, -1);
insert into pgqueue.signal (job_id, name, data, at) values (-2, 'go', '1', now() - interval '2 minutes');
insert into pgqueue.awaited_event (name, key, data, seen) values ('paid', '7', '1', true);
insert into pgqueue.call (child_id, job_id, step, number, ended) values (-20, -2, 'c', 1, true)"""


@contextmanager
def backlog(app: App, conn: Conn) -> Iterator[None]:
    app.task(name="known", queue="q")(lambda: None)
    conn.execute("insert into pgqueue.queue (name, paused_at) values ('calm', now())")
    conn.execute("insert into pgqueue.task_control (task, paused_at) values ('known', now()), ('a secret', now())")
    worker = add_worker(conn)
    conn.execute("update pgqueue.worker set queues = '{q}', slots = 5, tasks = '{known}' where id = %s", (worker,))
    add_worker(conn, lost=True)
    insert_job(conn, task="known", queue="q", run_at=_ago(conn, 100))
    insert_job(conn, task="known", queue="q", run_at=_ago(conn, -3600))
    insert_job(conn, task="known", queue="q", run_at=_ago(conn, -3600), attempt=1)
    insert_job(conn, task="known", queue="q", run_at=_ago(conn, 50), attempt=1)
    insert_job(conn, task="secret of a stranger", queue="q", state="blocked", waits_for="task")
    add_dead(conn, 1, task="known", queue="q")
    add_dead(conn, 2, task="another secret", queue="q")
    add_dead(conn, 3, task="a third secret", queue="q")
    app.schedules.create("nightly", "known", 3600)
    app.schedules.run("nightly")
    conn.execute("update pgqueue.schedule set next_tick = now() - interval '90 s'")
    conn.execute(WAITS)
    yield


def _ago(conn: Conn, seconds: float) -> Any:
    return scalar(conn, "select now() - make_interval(secs => %s)", seconds)


def test_the_exporter_tells_what_the_database_holds(app: App, conn: Conn, dsn: str) -> None:
    with backlog(app, conn), psycopg.connect(dsn) as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select 1")  # takes a snapshot
        found = scrape(exported(app))
    declared(found, "exporter")
    jobs = found["pgqueue_queue_jobs"]
    assert {state: jobs["q", state] for state in ("due", "scheduled", "retrying", "running", "blocked")} == {
        "due": 3,  # with the job of the schedule
        "scheduled": 1,
        "retrying": 1,
        "running": 0,
        "blocked": 1,
    }
    assert set(found["pgqueue_queue_jobs_capped"].values()) == {0}
    assert 100 <= found["pgqueue_queue_oldest_due_seconds"]["q",] < 200
    assert found["pgqueue_queue_oldest_due_seconds"]["calm",] == 0
    assert (found["pgqueue_queue_paused"]["calm",], found["pgqueue_queue_paused"]["q",]) == (1, 0)
    assert found["pgqueue_queue_slots"]["q",] == 5
    assert found["pgqueue_dead_letters"] == {("q", "known"): 3, ("q", "unknown"): 2}
    assert found["pgqueue_unknown_task_jobs"] == {("unknown", "1"): 1}
    assert found["pgqueue_task_paused"] == {("known",): 1, ("unknown",): 1}
    assert found["pgqueue_workers"] == {("worker", "alive", "0"): 1, ("worker", "lost", "0"): 1}
    assert 90 <= found["pgqueue_schedule_lag_seconds"]["nightly",] < 150
    assert found["pgqueue_schedule_last_fire_timestamp_seconds"]["nightly",] > 1.7e9
    assert found["pgqueue_schema_info"] == {(head(), head()): 1}
    assert found["pgqueue_up"][()] == 1
    assert found["pgqueue_oldest_snapshot_seconds"][()] > 0
    assert found["pgqueue_partition_days_ahead"]["transition",] >= 7
    assert found["pgqueue_table_bytes"]["job_live",] > 0
    assert found["pgqueue_queue_waiting_jobs"] == {("w", "for_jobs"): 2, ("w", "sleeping"): 1, ("w", "waiting"): 1}
    assert set(found["pgqueue_queue_waiting_jobs_capped"].values()) == {0}
    assert found["pgqueue_workflows"] == {("running",): 2, ("open",): 1, ("stopping",): 1, ("held",): 1}
    assert found["pgqueue_workflows_capped"][()] == 0
    assert 3600 <= found["pgqueue_workflow_oldest_seconds"][()] < 3700
    assert 60 <= found["pgqueue_workflow_unsettled_seconds"][()] < 120
    assert found["pgqueue_letters"] == {("signal",): 1, ("event",): 0, ("call",): 1}
    assert 120 <= found["pgqueue_letter_oldest_seconds"]["signal",] < 180
    assert found["pgqueue_letter_oldest_seconds"]["event",] == 0
    assert "secret" not in exported(app)


def test_a_queue_with_more_jobs_than_are_counted_is_marked(app: App, conn: Conn) -> None:
    conn.execute(
        "insert into pgqueue.job_live (task, queue, run_at) select 't', 'q', now() - interval '1 s'"
        " from generate_series(1, 10001)"
    )
    found = scrape(exported(app))
    assert found["pgqueue_queue_jobs"]["q", "due"] == 10_000
    assert found["pgqueue_queue_jobs_capped"]["q", "due"] == 1


def test_named_locks_are_counted_as_long_as_they_are_held(app: App, conn: Conn) -> None:
    assert read_locks(app) == (0, 0)
    conn.execute(
        "insert into pgqueue.named_lock (key, owner, token, holder, expires_at, waited_until)"
        " select 'k' || i, gen_random_uuid(), i, 'h', now() + case when i > 2 then interval '1 h' else '-1 h' end,"
        " now() + case when i in (2, 3) then interval '1 h' else '-1 h' end from generate_series(1, 5) as i"
    )
    assert read_locks(app) == (3, 1)
    conn.execute(
        "insert into pgqueue.named_lock (key, owner, token, holder, expires_at)"
        " select 'more ' || i, gen_random_uuid(), i, 'h', now() + interval '1 h' from generate_series(1, 11000) as i"
    )
    assert 9_999 <= read_locks(app)[0] <= 10_000


def read_locks(app: App) -> tuple[float, float]:
    found = scrape(exported(app))
    return found["pgqueue_locks_held"][()], found["pgqueue_locks_waited_for"][()]


def test_the_database_is_read_at_most_every_ten_seconds(app: App, conn: Conn) -> None:
    collector = DatabaseMetrics(app, head())
    first = collector.refresh()
    insert_job(conn, queue="q")
    assert collector.refresh() is first
    collector._read_at -= 11
    assert collector.refresh() is not first


def test_without_the_database_the_exporter_answers_that_it_is_down(caplog: pytest.LogCaptureFixture) -> None:
    gone = App("postgresql://postgres@127.0.0.1:1/nowhere?password=secret")
    found = scrape(exported(gone))
    assert found["pgqueue_up"][()] == 0
    assert set(found) == {"pgqueue_up", "pgqueue_build_info"}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("metrics of the database cannot be read: cannot connect to host=127.0.0.1")
    assert "secret" not in line


def test_a_database_that_does_not_answer_holds_up_no_scrape(app: App, conn: Conn, dsn: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("pgqueue.metrics.exporter.PATIENCE", 0.5)
    with psycopg.connect(dsn) as holder:
        holder.execute("lock table pgqueue.migration, pgqueue.job_live in access exclusive mode")
        assert scrape(exported(app))["pgqueue_up"][()] == 0
        holder.rollback()


def test_what_a_role_may_not_read_is_left_out_and_the_rest_is_told(app: App, conn: Conn, dsn: str) -> None:
    role = f"metrics_{scalar(conn, 'select substr(md5(random()::text), 1, 8)')}"
    conn.execute(f"create role {role}; grant usage on schema pgqueue to {role}".encode())
    conn.execute(f"grant select on pgqueue.queue_load, pgqueue.retry_load, pgqueue.parked_load to {role}".encode())
    insert_job(conn, queue="q")
    try:
        app.dsn = psycopg.conninfo.make_conninfo(dsn, options=f"-c role={role}")
        found = scrape(exported(app))
    finally:
        conn.execute(f"drop owned by {role}; drop role {role}".encode())
    assert found["pgqueue_up"][()] == 1
    assert found["pgqueue_queue_jobs"]["q", "due"] == 1
    assert "pgqueue_dead_letters" not in found
    assert "pgqueue_workflows" not in found
    assert "pgqueue_locks_held" not in found
    assert "pgqueue_oldest_snapshot_seconds" not in found  # it cannot see those of others


def test_the_newest_migration_is_known_without_alembic() -> None:
    assert newest() == head()


def test_the_gauges_are_mounted_into_an_asgi_app_and_served_by_wsgi(app: App, conn: Conn) -> None:
    insert_job(conn, queue="q")
    site = Starlette(routes=[Mount("/metrics", metrics.asgi(app))])

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://x") as client:
            return await client.get("/metrics/")

    answer = asyncio.run(ask())
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert scrape(answer.text)["pgqueue_queue_jobs"]["q", "due"] == 1
    with httpx.Client(transport=httpx.WSGITransport(metrics.wsgi(app)), base_url="http://x") as client:
        assert "pgqueue_up 1.0" in client.get("/").text


def _port(process: Process, line: str) -> int:
    """Wait for the line of the log that names the port; return that."""
    pattern = re.compile(rf"{line} on http://127.0.0.1:(\d+)/metrics")
    process.alive_until(lambda: pattern.search(process.log()), line)
    return int(pattern.findall(process.log())[0])


def test_the_commands_serve_metrics_until_they_are_stopped(dsn: str, conn: Conn, tmp_path: Path) -> None:
    (tmp_path / "scraped.py").write_text("import pgqueue\napp = pgqueue.App()\n")
    with Process(tmp_path, dsn, "metrics", "--port", "0") as exporter:
        assert "pgqueue_up 1.0" in get(_port(exporter, "metrics of the database"))
        exporter.signal(signal.SIGINT)
        assert exporter.wait() == 0
    with Process(tmp_path, dsn, "schedule", "-A", "scraped:app", "--metrics-port", "0") as scheduler:
        port = _port(scheduler, "metrics")
        wait_for(lambda: "pgqueue_heartbeat_failures_total 0.0" in get(port))
    with Process(tmp_path, dsn, "work", "-A", "scraped:app", "--metrics-port", str(port), "--processes", "2") as both:
        both.alive_until(lambda: both.log().count("metrics on") == 2, "two ports")
        assert "pgqueue_worker_slots 8.0" in get(port)
        assert "pgqueue_worker_slots 8.0" in get(port + 1)
        both.terminate()
        assert both.wait() == 0
