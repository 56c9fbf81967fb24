"""Verbs, lists and counts on metered jobs, which wait for their turn: blocked, in a lane of their own."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgqueue import App, DeadFilter, JobFilter, db
from pgqueue.errors import WrongState
from pgqueue.jobs.flow import Flow
from pgqueue.queries.jobs.count import QueueCounts, with_turns
from pgqueue.queries.turns.claim import Line
from tests.harness import (
    QUERIES,
    WORKER,
    Conn,
    InThread,
    add_rule,
    insert_job,
    insert_metered,
    wait_blocked,
)  # fmt: skip

FLOW = Flow(("sync/acme",))
IN_ORDER = Flow(("t#order/7",), order="t#order/7")
DUE = datetime.now(UTC) - timedelta(minutes=1)
LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def row(conn: Conn, job: int) -> tuple[Any, ...]:
    found = conn.execute(
        "select state, waits_for, lane, priority, run_at <= now() from pgqueue.job_live where id = %s", (job,)
    ).fetchone()
    assert found is not None
    return found


def moves(conn: Conn, job: int) -> list[Any]:
    return conn.execute("select from_state, to_state from pgqueue.transition where job_id = %s", (job,)).fetchall()


def dead_letter(conn: Conn, flow: Flow) -> int:
    job = insert_metered(conn, flow)
    conn.execute(
        "with gone as (delete from pgqueue.job_live where id = %s returning *)"
        " insert into pgqueue.dead_letter (id, task, queue, headers, reason)"
        " select id, task, queue, headers, 'exhausted' from gone", (job,),
    )  # fmt: skip
    return job


@pytest.mark.parametrize("flow", [FLOW, IN_ORDER], ids=["limited", "in order"])
def test_a_dead_letter_that_comes_back_waits_for_its_turn_again(app: App, conn: Conn, flow: Flow) -> None:
    one, many = dead_letter(conn, flow), dead_letter(conn, flow)
    app.retry(one)
    assert app.dead.redrive(DeadFilter(ids=[many])).done == 1
    for job in (one, many):
        assert row(conn, job) == ("blocked", "turn", flow.lane, 0, True)
        assert moves(conn, job) == [("failed", "blocked")]
        assert app.get(job).flow == flow


def test_a_cancelled_job_that_comes_back_waits_for_its_turn_again(app: App, conn: Conn) -> None:
    job, plain = insert_metered(conn, FLOW), insert_job(conn)
    app.cancel(job)
    app.cancel(plain)
    assert app.get(job).state == "cancelled"
    app.retry(job)
    app.retry(plain)
    assert row(conn, job) == ("blocked", "turn", FLOW.lane, 0, True)
    assert row(conn, plain)[:3] == ("pending", None, None)
    assert moves(conn, job) == [("blocked", "cancelled"), ("cancelled", "blocked")]
    assert moves(conn, plain) == [("pending", "cancelled"), ("cancelled", "pending")]


def test_a_metered_job_that_waits_for_its_next_attempt_is_retried_and_stays_blocked(app: App, conn: Conn) -> None:
    job = insert_metered(conn, FLOW, run_at=LATER, attempt=1)
    assert app.get(job).phase == "retrying"
    app.retry(job)
    assert row(conn, job) == ("blocked", "turn", FLOW.lane, 0, True)
    assert moves(conn, job) == [("blocked", "blocked")]
    other = insert_metered(conn, FLOW, run_at=LATER, attempt=1)
    assert app.jobs.retry(JobFilter(state="retrying")).done == 1
    assert row(conn, other)[-1]


def test_a_metered_job_is_promoted_with_another_priority(app: App, conn: Conn) -> None:
    job, due = insert_metered(conn, FLOW, run_at=LATER), insert_metered(conn, FLOW, run_at=DUE)
    assert app.get(job).phase == "scheduled"
    app.promote(job, priority=5)
    app.promote(due)
    assert row(conn, job) == ("blocked", "turn", FLOW.lane, 5, True)
    assert moves(conn, job) == [("blocked", "blocked")]
    assert moves(conn, due) == []
    assert app.jobs.promote(JobFilter(state="blocked"), priority=7).done == 2
    assert [row(conn, one)[3] for one in (job, due)] == [7, 7]


def test_a_job_in_order_keeps_its_priority(app: App, conn: Conn) -> None:
    job = insert_metered(conn, IN_ORDER, run_at=LATER)
    with pytest.raises(WrongState, match="runs in the order of t#order/7"):
        app.promote(job, priority=5)
    assert not row(conn, job)[-1]
    with pytest.raises(WrongState, match="leave the priority out"):
        app.edit(job, priority=5)
    app.promote(job)
    app.promote(job, priority=0)
    assert row(conn, job) == ("blocked", "turn", IN_ORDER.lane, 0, True)
    assert app.jobs.promote(JobFilter(ids=[job]), priority=5).done == 0
    edited = app.jobs.edit(JobFilter(ids=[job]), {}, priority=5)
    assert (edited.done, edited.skipped, row(conn, job)[3]) == (0, 1, 0)


def test_a_parked_job_is_neither_promoted_nor_retried_though_a_rule_concerns_it(app: App, conn: Conn) -> None:
    job = insert_metered(conn, FLOW, waits_for="task", run_at=LATER)
    for verb in (app.promote, app.retry):
        with pytest.raises(WrongState, match="it waits for something else"):
            verb(job)
    assert app.jobs.promote(JobFilter(state="blocked")).done == 0


def test_a_due_job_that_waits_for_its_turn_is_not_retried(app: App, conn: Conn) -> None:
    job = insert_metered(conn, FLOW, run_at=DUE)
    with pytest.raises(WrongState, match="waits for its turn"):
        app.retry(job)


def test_an_edit_leaves_a_job_in_its_lane(app: App, conn: Conn) -> None:
    job = insert_metered(conn, FLOW, run_at=DUE)
    app.edit(job, {"a": 1}, queue="other", priority=3, delay=60)
    assert row(conn, job) == ("blocked", "turn", FLOW.lane, 3, False)
    assert (app.get(job).queue, app.get(job).args, app.get(job).flow) == ("other", {"a": 1}, FLOW)
    assert moves(conn, job) == [("blocked", "blocked")]


def test_a_metered_job_is_cancelled_expires_and_ends_as_it_waited(app: App, conn: Conn) -> None:
    job, late = insert_metered(conn, FLOW, run_at=DUE), insert_metered(conn, FLOW, run_at=DUE, expires_at=DUE)
    app.cancel(job)
    assert [gone.id for gone in db.run(conn, QUERIES.jobs.expire(10))] == [late]
    for one in (job, late):
        assert (app.get(one).state, app.get(one).flow) == ("cancelled", FLOW)
        assert moves(conn, one) == [("blocked", "cancelled")]
    dead = dead_letter(conn, FLOW)
    assert app.dead.discard(DeadFilter(ids=[dead]), reason="given up").done == 1
    assert app.get(dead).flow == FLOW


def listed(app: App, **chosen: Any) -> list[int]:
    return [job.id for job in app.jobs.list(JobFilter(**chosen))]


def previewed(app: App, kind: str, **chosen: Any) -> list[tuple[int, str]]:
    return [(job.id, job.phase) for job in app.jobs.preview(kind, JobFilter(**chosen))]


def test_lists_and_previews_show_metered_jobs_in_their_phase(app: App, conn: Conn) -> None:
    due = insert_metered(conn, FLOW, run_at=DUE)
    later = insert_metered(conn, IN_ORDER, run_at=LATER, queue="other")
    again = insert_metered(conn, FLOW, run_at=LATER, attempt=1)
    parked = insert_job(conn, state="blocked", waits_for="task")
    plain = [insert_job(conn, run_at=DUE), insert_job(conn, run_at=LATER), insert_job(conn, run_at=LATER, attempt=1)]
    assert listed(app, state="blocked") == [parked, again, later, due]
    assert listed(app, state="blocked", queue="other") == [later]
    assert listed(app, state="scheduled") == [plain[1], later]
    assert listed(app, state="retrying") == [plain[2], again]
    assert listed(app, state="pending") == plain[::-1]
    phases = {job.id: job.phase for job in app.jobs.list(JobFilter())}
    assert [phases[job] for job in (due, later, again, parked)] == ["blocked", "scheduled", "retrying", "blocked"]
    assert previewed(app, "cancel", state="blocked") == [
        (due, "blocked"), (later, "scheduled"), (again, "retrying"), (parked, "blocked")
    ]  # fmt: skip
    assert previewed(app, "retry", state="retrying") == [(again, "retrying"), (plain[2], "retrying")]
    assert previewed(app, "promote", state="scheduled") == [(later, "scheduled"), (plain[1], "scheduled")]


def fill(conn: Conn, jobs: int, flow: Flow = FLOW, **columns: Any) -> None:
    """Insert many metered jobs of one lane."""
    columns = {"run_at": DUE, "attempt": 0, "queue": "default"} | columns
    conn.execute(
        "insert into pgqueue.job_live (task, queue, state, waits_for, lane, headers, run_at, attempt)"
        " select 't', %s, 'blocked', 'turn', %s, %s, %s, %s from generate_series(1, %s)",
        (columns["queue"], flow.lane, Jsonb({"$flow": flow.header()}), columns["run_at"], columns["attempt"], jobs),
    )  # fmt: skip


def counted(conn: Conn, most: int | None = 1000) -> list[QueueCounts]:
    return with_turns(db.run(conn, QUERIES.jobs.count(most)), db.run(conn, QUERIES.jobs.count_turns(most)))


def test_a_count_has_metered_jobs_in_their_phases(app: App, conn: Conn) -> None:
    insert_metered(conn, FLOW, run_at=DUE)
    insert_metered(conn, IN_ORDER, run_at=DUE)
    insert_metered(conn, FLOW, run_at=LATER)
    insert_metered(conn, FLOW, run_at=LATER, attempt=1)
    insert_metered(conn, FLOW, run_at=LATER, queue="alone")
    insert_job(conn, run_at=DUE)
    insert_job(conn, run_at=LATER)
    insert_job(conn, state="blocked", waits_for="task")
    counts = {count.queue: count for count in counted(conn)}
    default, alone = counts["default"], counts["alone"]
    assert (default.pending, default.scheduled, default.retrying, default.turn, default.blocked) == (1, 2, 1, 2, 1)
    assert (alone.pending, alone.scheduled, alone.turn, alone.at_least) == (0, 1, 0, [])
    assert [(q.queue, q.due, q.turn, q.scheduled) for q in app.queues.list()] == [
        ("alone", 0, 0, 1),
        ("default", 1, 2, 3),
    ]
    assert dict(conn.execute("select queue, retrying from pgqueue.retry_load").fetchall()) == {"default": 1, "alone": 0}


def test_counts_of_many_metered_jobs_stop_and_say_so(app: App, conn: Conn) -> None:
    fill(conn, 200)
    (count,) = counted(conn, 100)
    assert (count.turn, set(count.at_least)) == (101, {"turn", "scheduled", "retrying"})
    (exact,) = counted(conn, None)
    assert (exact.turn, exact.at_least) == (200, [])


def test_the_depth_of_a_queue_counts_metered_jobs(app: App, conn: Conn) -> None:
    fill(conn, 640)
    fill(conn, 640, IN_ORDER, run_at=LATER)
    insert_job(conn)
    insert_job(conn, queue="other")
    assert db.run(conn, QUERIES.jobs.depth("default", 5000)) == 1281
    assert db.run(conn, QUERIES.jobs.depth("default", 100)) == 101
    assert db.run(conn, QUERIES.jobs.depth("default", 1_000_000)) in range(1216, 1409, 64)


def test_a_queue_that_holds_only_metered_jobs_is_not_drained(app: App, conn: Conn) -> None:
    assert app.queues.left("default").due == 0
    for flow in (FLOW, IN_ORDER):
        insert_metered(conn, flow, run_at=LATER)
    assert app.queues.left("default").due == 0
    for flow in (FLOW, IN_ORDER):
        insert_metered(conn, flow, run_at=DUE)
        insert_metered(conn, flow, run_at=DUE, priority=5)
    assert app.queues.left("default").due == 4
    assert app.queues.drain("default", timeout=0.001) is False


def test_a_queue_that_holds_only_metered_jobs_is_found_and_offered(app: App, conn: Conn) -> None:
    insert_metered(conn, FLOW, queue="tenant-1")
    insert_metered(conn, FLOW, queue="tenant-3")
    insert_job(conn, queue="tenant-2")
    insert_job(conn, queue="tenant-3")
    find: Callable[..., Any] = QUERIES.jobs.find_queues
    assert db.run(conn, find("", 10, [])).ready == ["tenant-1", "tenant-2", "tenant-3"]
    assert db.run(conn, find("", 2, [])).ready == ["tenant-1", "tenant-2"]
    assert db.run(conn, find("tenant-2", 2, [])).ready == ["tenant-3"]
    assert db.run(conn, QUERIES.names.queues("tenant")) == ["tenant-1", "tenant-2", "tenant-3"]


def claim(conn: Conn) -> list[int]:
    """Claim metered jobs of the lane, in whatever transaction is open."""
    lane = [Line(FLOW.lane, 0, '["sync/acme"]', 9)]
    return [job.id for job in db.run(conn, QUERIES.turns.claim(WORKER, "default", lane, room=9, slots=9)).jobs]


VERBS: dict[str, Callable[[App, Conn, int], object]] = {
    "promote": lambda app, conn, job: app.using(conn).promote(job, priority=5),
    "edit": lambda app, conn, job: app.using(conn).edit(job, {"a": 1}, queue="other"),
}


@pytest.fixture
def full_of_room(conn: Conn) -> None:
    for table in ("limit_use", "limit_freed", "limit_bucket", "limit_rule"):
        conn.execute(f"delete from pgqueue.{table}")
    add_rule(conn, "sync", "acme", max_running=9)


@pytest.mark.usefixtures("full_of_room")
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_waits_for_a_claim_of_a_metered_job_and_finds_that_it_runs(
    app: App, conn: Conn, dsn: str, verb: str
) -> None:
    job = insert_metered(conn, FLOW, run_at=DUE)
    with psycopg.connect(dsn) as claiming, psycopg.connect(dsn) as changing:
        assert claim(claiming) == [job]
        call = InThread(lambda: VERBS[verb](app, changing, job))
        wait_blocked(conn, changing, claiming)
        claiming.commit()
        with pytest.raises(WrongState, match="running"):
            call.result()
    assert row(conn, job)[:4] == ("running", None, FLOW.lane, 0)


@pytest.mark.usefixtures("full_of_room")
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_no_claim_takes_a_metered_job_while_a_verb_holds_it(app: App, conn: Conn, dsn: str, verb: str) -> None:
    job = insert_metered(conn, FLOW, run_at=DUE)
    with psycopg.connect(dsn) as changing:
        VERBS[verb](app, changing, job)
        assert claim(conn) == []
        changing.commit()
    assert row(conn, job)[:3] == ("blocked", "turn", FLOW.lane)
