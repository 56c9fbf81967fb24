"""Tasks are paused and resumed: for each claim that begins after the commit, with no job forgotten."""

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, InvalidOption, db
from pgqueue.client import queues
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.queries.pauses import PauseSettings
from pgqueue.queries.queues import WorkLeft
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, add_rule, add_worker, heard, insert_job, wait_blocked, wait_for

Connect = Callable[..., psycopg.Connection[Any]]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
FOR_EVER = PauseSettings(None, None, None, "alice")


def claims(conn: Conn, **more: Any) -> list[int]:
    """Claim by each of the statements."""
    worker, rooms = add_worker(conn), {"default": 10}
    jobs = db.run(conn, QUERIES.jobs.claim(worker, rooms, 10))
    jobs += db.run(conn, QUERIES.jobs.claim_beyond(worker, rooms, 10, {("default", 0): (LONG_AGO, 0)}))
    jobs += db.run(conn, QUERIES.jobs.claim_oldest(worker, rooms, 10, 0.0))
    jobs += db.run(conn, QUERIES.jobs.adopt(worker, rooms, ["shop.sync", "t"], 10))
    return [job.id for job in jobs]


def aside(conn: Conn, most: int = 1000) -> int:
    """Set jobs aside, as a worker does."""
    return db.run(conn, QUERIES.pauses.set_aside(["default"], most, 4000))


def states(conn: Conn) -> list[tuple[int, str, str | None]]:
    return conn.execute("select id, state, waits_for from pgqueue.job_live order by run_at, id").fetchall()


def test_no_claim_takes_jobs_of_a_paused_task(app: App, conn: Conn) -> None:
    for state in ({}, {"state": "blocked", "waits_for": "task"}):
        insert_job(conn, task="shop.sync", **state)
    other = insert_job(conn)
    assert app.pause(task="shop.sync", why="import runs", by="alice") == ["shop.sync"]
    assert claims(conn) == [other]
    assert app.resume(task="shop.sync", by="bob") == ["shop.sync"]
    assert app.resume(task="shop.sync", by="bob") == []
    assert len(claims(conn)) == 2
    row = conn.execute("select paused_at, paused_by, paused_why, updated_by from pgqueue.task_control").fetchone()
    assert row == (None, None, None, "bob")


def test_a_claim_under_way_goes_on_and_the_next_one_sees_the_pause(conn: Conn, connect: Connect) -> None:
    """FL7: a claim locks no row of a task, so a pause waits for none; what begins after its commit sees it."""
    jobs = [insert_job(conn) for _ in range(4)]
    claiming, pausing, worker = connect(), connect(), add_worker(conn)
    place = {("default", 0): (LONG_AGO, 0)}
    first = db.run(claiming, QUERIES.jobs.claim(worker, {"default": 1}, 1))
    db.run(pausing, QUERIES.pauses.pause_tasks(["t"], FOR_EVER))  # while the claim is not committed
    second = db.run(conn, QUERIES.jobs.claim_beyond(worker, {"default": 1}, 1, place))  # nor the pause
    pausing.commit()
    assert db.run(conn, QUERIES.jobs.claim(worker, {"default": 1}, 1)) == []
    assert db.run(conn, QUERIES.jobs.claim_beyond(worker, {"default": 1}, 1, place)) == []
    assert db.run(conn, QUERIES.jobs.claim_oldest(worker, {"default": 1}, 1, 0.0)) == []
    claiming.commit()
    assert [job.id for job in (*first, *second)] == jobs[:2]


def test_jobs_are_set_aside_and_come_back_to_their_old_places(app: App, conn: Conn) -> None:
    early = insert_job(conn, task="shop.sync", run_at=LONG_AGO + timedelta(days=1), attempt=1, lease=1)
    first = insert_job(conn, run_at=LONG_AGO)
    late = insert_job(conn, task="shop.sync", run_at=LONG_AGO + timedelta(days=2))
    future = insert_job(conn, task="shop.sync", run_at=datetime(2200, 1, 1, tzinfo=UTC))
    before = conn.execute("select to_jsonb(j) from pgqueue.job_live j order by id").fetchall()
    app.pause(task="shop.sync")
    assert aside(conn) == 2
    assert states(conn) == [
        (first, "pending", None), (early, "blocked", "pause"), (late, "blocked", "pause"), (future, "pending", None)
    ]  # fmt: skip
    assert aside(conn) == 0
    app.resume(task="shop.sync")
    assert conn.execute("select to_jsonb(j) from pgqueue.job_live j order by id").fetchall() == before
    moved = "select job_id, from_state, to_state, attempt, lease, reason from pgqueue.transition order by at, job_id"
    assert conn.execute(moved).fetchall() == [
        (early, "pending", "blocked", 1, 1, "task paused"), (late, "pending", "blocked", 0, 0, "task paused"),
        (early, "blocked", "pending", 1, 1, "task resumed"), (late, "blocked", "pending", 0, 0, "task resumed"),
    ]  # fmt: skip
    assert claims(conn) == [first, early, late]


@pytest.mark.parametrize("until", [timedelta(hours=1), 3600.0, datetime.now(UTC) + timedelta(hours=1)])
def test_a_pause_ends_by_itself_by_the_clock_of_the_database(app: App, conn: Conn, until: Any) -> None:
    jobs = [insert_job(conn) for _ in range(2)]
    app.pause(task="t", until=until)
    assert claims(conn) == []
    assert aside(conn) == 2
    (pause,) = app.pauses()
    assert pause.until is not None
    conn.execute("update pgqueue.task_control set paused_until = now() - interval '1 s'")
    assert app.pauses() == []
    assert aside(conn) == 0
    (found,) = db.run(conn, QUERIES.pauses.tasks())
    assert (found.task, found.is_paused) == ("t", False)
    assert db.run(conn, QUERIES.pauses.bring_back(["t"], 10)) == 2
    assert claims(conn) == jobs
    before = scalar(conn, "select paused_at from pgqueue.task_control")
    app.pause(task="t")
    assert scalar(conn, "select paused_at from pgqueue.task_control") > before  # a new pause, and no longer one


def test_to_pause_again_changes_the_end_and_keeps_the_beginning(app: App, conn: Conn) -> None:
    app.pause(task="t", until=60, why="a", by="alice")
    since = scalar(conn, "select paused_at from pgqueue.task_control")
    app.pause(task="t", by="bob")
    row = conn.execute("select paused_at, paused_until, paused_why, paused_by from pgqueue.task_control").fetchone()
    assert row == (since, None, None, "bob")


def test_a_task_is_paused_under_all_its_names(app: App, conn: Conn) -> None:
    @app.task(name="new", aliases=["old"])
    def renamed() -> None: ...

    waiting = [insert_job(conn, task=name) for name in ("old", "new")]
    assert sorted(app.pause(task="old")) == ["new", "old"]
    assert claims(conn) == []
    assert sorted(app.resume(task="new")) == ["new", "old"]
    assert claims(conn) == waiting


@pytest.mark.parametrize(
    "options",
    [
        {"until": datetime(2020, 1, 1, tzinfo=UTC)}, {"until": datetime(2100, 1, 1)}, {"until": 0}, {"until": -5.0},
        {"until": float("nan")}, {"why": "x" * 501}, {"why": "a\nb"}, {"why": 7}, {"by": ""}, {"queue": "mail"},
        {"task": None}, {"task": ""}, {"task": "x" * 201}, {"task": "a\0b"}, {"key": "acme"}, {"everything": "yes"},
    ],
)  # fmt: skip
def test_what_cannot_be_a_pause_is_refused_and_nothing_is_written(app: App, conn: Conn, options: Any) -> None:
    with pytest.raises(InvalidOption):
        app.pause(**{"task": "t"} | options)
    assert scalar(conn, "select count(*) from pgqueue.task_control") == 0


def test_limits_and_single_keys_are_paused_and_resumed(app: App, conn: Conn) -> None:
    with pytest.raises(InvalidOption, match="no limit is named 'sync'"):
        app.pause(limit="sync", key="acme")
    conn.execute("insert into pgqueue.limit_rule (name, max_running) values ('sync', 5)")
    assert app.pause(limit="sync", key="acme", why="a leak", by="alice") == ["acme"]
    assert app.pause(limit="sync", until=60) == ["sync"]
    found = [(pause.kind, pause.name, pause.key, pause.why, str(pause.until)[:1]) for pause in app.pauses()]
    assert found == [("limit", "sync", None, None, "2"), ("limit", "sync", "acme", "a leak", "N")]
    assert app.resume(limit="sync", key="other") == []
    assert app.resume(limit="sync", key="acme") == ["acme"]
    assert asyncio.run(app.aresume(limit="sync")) == ["sync"]
    assert app.pauses() == []
    with pytest.raises(InvalidOption, match="until"):
        app.pause(limit="sync", until=LONG_AGO)
    with pytest.raises(InvalidOption, match="cannot be drained"):
        app.drain(limit="sync")


def test_a_limit_and_a_key_are_paused_by_the_names_that_their_buckets_have(app: App, conn: Conn) -> None:
    add_rule(conn, "shop%2Fsync", max_running=1)
    app.pause(limit="shop/sync", key="a" * 201)
    assert scalar(conn, "select rule || key from pgqueue.limit_key").startswith("shop%2Fsyncsha256:")
    assert app.resume(limit="shop/sync", key="a" * 201) != []


def test_queues_are_paused_by_the_same_verb(app: App, conn: Conn) -> None:
    insert_job(conn, queue="tenant-1")
    assert asyncio.run(app.apause(queue="tenant-*", why="a deploy", by="alice")) == ["tenant-1"]
    (pause,) = asyncio.run(app.apauses())
    assert (pause.kind, pause.name, pause.by, pause.why) == ("queue", "tenant-1", "alice", "a deploy")
    assert app.queues.pause("tenant-1", why="two words") == app.queues.pause("tenant-1", reason="two words")
    assert app.resume(queue="tenant-1") == ["tenant-1"]


def test_the_view_shows_all_that_is_paused_now(app: App, conn: Conn) -> None:
    app.pause(task="t", why="import runs", by="alice")
    app.pause(queue="mail", by="bob")
    app.pause(task="over")
    conn.execute("update pgqueue.task_control set paused_until = now() - interval '1 s' where task = 'over'")
    rows = conn.execute('select kind, name, key, "until", "by", why from pgqueue.paused order by kind').fetchall()
    assert rows == [("queue", "mail", None, None, "bob", None), ("task", "t", None, None, "alice", "import runs")]


# -- Races


def test_a_resume_waits_for_a_batch_that_saw_the_pause_and_brings_its_jobs_back(
    app: App, conn: Conn, connect: Connect
) -> None:
    jobs = [insert_job(conn) for _ in range(3)]
    app.pause(task="t")
    moving = connect()
    assert aside(moving) == 3
    resuming = InThread(lambda: app.resume(task="t"))
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%task_control%'"
    wait_for(lambda: scalar(conn, waits), "the block")
    moving.commit()
    assert resuming.result() == ["t"]
    assert states(conn) == [(job, "pending", None) for job in jobs]


def test_a_batch_that_begins_after_the_resume_moves_nothing(conn: Conn, connect: Connect) -> None:
    insert_job(conn)
    db.run(conn, QUERIES.pauses.pause_tasks(["t"], FOR_EVER))
    resuming = connect()
    db.run(resuming, QUERIES.pauses.resume_tasks(["t"], "bob"))
    assert aside(conn) == 0  # the row is locked: somebody changes the pause
    resuming.commit()
    assert aside(conn) == 0


def test_one_worker_at_a_time_walks_for_a_task_and_others_do_not_wait(conn: Conn, connect: Connect) -> None:
    for _ in range(3):
        insert_job(conn)
    db.run(conn, QUERIES.pauses.pause_tasks(["t"], FOR_EVER))
    first = connect()
    assert aside(first, most=2) == 2
    assert aside(conn) == 0
    first.commit()
    assert aside(conn) == 1


def test_workers_that_bring_back_share_the_jobs(conn: Conn, connect: Connect) -> None:
    for _ in range(3):
        insert_job(conn, state="blocked", waits_for="pause")
    first = connect()
    assert db.run(first, QUERIES.pauses.bring_back(["t"], 2)) == 2
    assert db.run(conn, QUERIES.pauses.bring_back(["t"], 10)) == 1
    first.commit()
    assert {state for _, state, _ in states(conn)} == {"pending"}


def test_a_job_that_is_claimed_at_this_moment_is_not_set_aside(conn: Conn, connect: Connect) -> None:
    insert_job(conn)
    claiming = connect()
    db.run(claiming, QUERIES.jobs.claim(add_worker(conn), {"default": 1}, 1))
    db.run(conn, QUERIES.pauses.pause_tasks(["t"], FOR_EVER))
    assert aside(conn) == 0
    claiming.commit()
    assert aside(conn) == 0
    assert scalar(conn, "select state from pgqueue.job_live") == "running"


def test_two_who_pause_the_same_tasks_wait_for_each_other_and_never_in_a_circle(conn: Conn, connect: Connect) -> None:
    a, b = connect(), connect()
    db.run(a, QUERIES.pauses.pause_tasks(["x", "y"], FOR_EVER))
    other = InThread(lambda: db.run(b, QUERIES.pauses.pause_tasks(["y", "x"], PauseSettings(None, 60.0, None, "bob"))))
    wait_blocked(conn, b, a)
    a.commit()
    assert sorted(other.result()) == ["x", "y"]
    b.commit()
    assert scalar(conn, "select array_agg(distinct paused_by) from pgqueue.task_control") == ["bob"]


def test_pause_and_resume_notify_workers_and_what_comes_back_its_queue(app: App, conn: Conn, dsn: str) -> None:
    add_worker(conn)
    conn.execute("update pgqueue.worker set waiting = true")
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen pgqueue")
        insert_job(conn)
        app.pause(task="t")
        aside(conn)
        app.resume(task="t")
        app.resume(task="u")
        assert heard(listener, conn) == ["!pause", "!pause", "default"]


def test_while_all_happens_at_once_no_claim_in_a_pause_takes_a_job_and_none_is_lost(
    app: App, conn: Conn, connect: Connect
) -> None:
    """Claims, batches both ways, pauses and resumes in threads; each claim knows in which pause it fell."""
    worker, over = add_worker(conn), threading.Event()
    looks: list[tuple[float, float, list[int]]] = []  # when a claim began, when it was answered, what it took
    conn.execute("insert into pgqueue.job_live (task, queue) select 't', 'default' from generate_series(1, 3000)")

    def repeat(queries: Callable[[], list[Any]]) -> None:
        own = connect()
        own.autocommit = True
        while not over.is_set():
            for query in queries():
                began = time.monotonic()
                found = db.run(own, query)
                if isinstance(found, list):
                    looks.append((began, time.monotonic(), [job.id for job in found]))

    def claiming() -> list[Any]:
        place = {("default", 0): (LONG_AGO, 0)}
        rooms = {"default": 3}
        return [
            QUERIES.jobs.claim(worker, rooms, 3), QUERIES.jobs.claim_beyond(worker, rooms, 3, place),
            QUERIES.jobs.claim_oldest(worker, rooms, 3, 0.0),
        ]  # fmt: skip

    def moving() -> list[Any]:
        return [QUERIES.pauses.set_aside(["default"], 50, 200), QUERIES.pauses.bring_back(["t"], 50)]

    threads = [InThread(lambda each=each: repeat(each)) for each in (claiming, claiming, moving, moving)]
    pauses: list[tuple[float, float]] = []
    while len(pauses) < 20 and not any(thread.done for thread in threads):
        app.pause(task="t")
        committed, so_far = time.monotonic(), len(looks)
        # Two claims that begin and are answered in the pause, however slow the machine is.
        wait_for(lambda since=committed, first=so_far: any(thread.done for thread in threads)
                 or sum(began >= since for began, _, _ in looks[first:]) >= 2, "claims in a pause")  # fmt: skip
        pauses.append((committed, time.monotonic()))
        app.resume(task="t")
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.result()
    within = [taken for began, ended, taken in looks for start, end in pauses if start <= began and ended <= end]
    assert len(within) > 20
    assert not any(within)
    taken = [job for _, _, jobs in looks for job in jobs]
    assert len(taken) == len(set(taken)) > 0
    while db.run(conn, QUERIES.pauses.bring_back(["t"], 1000)):
        pass
    left = "select count(*) filter (where state = 'pending'), count(*) from pgqueue.job_live"
    assert conn.execute(left).fetchone() == (3000 - len(taken), 3000)


# -- What is done to a job that was set aside


@pytest.fixture
def job(app: App, conn: Conn) -> int:
    """A job that was set aside."""
    job = insert_job(conn, expires_at=datetime(2200, 1, 1, tzinfo=UTC))
    app.pause(task="t", why="import runs", by="alice")
    assert aside(conn) == 1
    return job


def test_it_is_cancelled(app: App, conn: Conn, job: int) -> None:
    assert app.cancel(job)
    assert app.get(job).state == "cancelled"


def test_it_expires(conn: Conn, job: int) -> None:
    conn.execute("update pgqueue.job_live set expires_at = now()")
    assert [one.id for one in db.run(conn, QUERIES.jobs.expire(10))] == [job]


def test_it_is_edited_and_keeps_what_it_got(app: App, conn: Conn, job: int) -> None:
    later = datetime(2190, 1, 1, tzinfo=UTC)
    edited = app.edit(job, {"x": 2}, queue="other", priority=7, run_at=later)
    assert (edited.state, edited.waits_for, edited.args) == ("blocked", "pause", {"x": 2})
    app.resume(task="t")
    back = app.get(job)
    assert (back.phase, back.queue, back.priority, back.run_at) == ("scheduled", "other", 7, later)


def test_it_is_promoted(app: App, conn: Conn, job: int) -> None:
    assert app.promote(job).state == "blocked"  # it is due: nothing to do
    assert app.promote(job, priority=9).priority == 9
    app.edit(job, delay=3600)
    assert app.promote(job).run_at <= datetime.now(UTC) + timedelta(seconds=5)
    found = conn.execute("select distinct from_state, to_state from pgqueue.transition where reason like 'promoted%'")
    assert found.fetchall() == [("blocked", "blocked")]
    assert claims(conn) == []


def test_it_is_listed_counted_and_changed_by_a_filter(app: App, conn: Conn, job: int) -> None:
    parked = insert_job(conn, state="blocked", waits_for="task")
    assert {one.id for one in app.jobs.list(JobFilter(state="blocked"))} == {job, parked}
    (counts,) = db.run(conn, QUERIES.jobs.count())
    assert (counts.blocked, counts.pending) == (2, 0)
    assert app.jobs.promote(JobFilter(task="t", ids=[job]), priority=5).done == 1
    assert app.jobs.cancel(JobFilter(state="blocked")).done == 2


def test_why_names_the_pause_before_and_after_the_job_was_set_aside(app: App, conn: Conn, job: int) -> None:
    fresh = insert_job(conn)
    for one, codes in ((fresh, {"paused", "due"}), (job, {"paused", "set_aside"})):
        why = app.why(one)
        assert codes <= set(why.codes)
        (text,) = [reason.text for reason in why.reasons if reason.code == "paused"]
        assert text.startswith("Task t is paused by alice since ")
        assert text.endswith(": import runs.")
    app.pause(task="t", until=datetime(2126, 1, 1, tzinfo=UTC))
    assert "until 2126-01-01 00:00:00+00:00" in str(app.why(job))
    conn.execute("delete from pgqueue.task_control")
    assert "paused" not in app.why(job).codes
    assert "a worker brings it back" in str(app.why(job))


def test_a_retry_says_what_holds_it_up(app: App, job: int) -> None:
    with pytest.raises(Exception, match="jobs why"):
        app.retry(job)


# -- Draining


def test_a_task_is_drained_when_none_of_its_jobs_runs(app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(queues, "EMPTY_SECONDS", 0.05)
    insert_job(conn)
    running = {"state": "running", "attempt": 1, "lease": 1, "worker_id": add_worker(conn)}
    runs = insert_job(conn, **running, claimed_at=datetime.now(UTC))
    insert_job(conn, task="other", **running, claimed_at=datetime.now(UTC))
    seen: list[WorkLeft] = []
    assert not app.drain(task="t", timeout=0.1, on_look=seen.append)
    assert set(seen) == {WorkLeft(0, 1)}
    draining = InThread(lambda: app.drain(task="t"))
    conn.execute("delete from pgqueue.job_live where id = %s", (runs,))
    assert draining.result() is True
    assert asyncio.run(app.adrain(task="t", timeout=30)) is True
    assert not app.drain(queue="default", timeout=0.1)
