"""Jobs that wait for a full bucket: skipped, replaced by newer ones, or let in by stopping the one that runs."""

import asyncio
from collections.abc import Callable

import pytest

from pgqueue import App, Context, db, events
from pgqueue.queries.turns.full import FullLane
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.duties.limit_keeper import LimitKeeper
from tests.conftest import eventually, scalar
from tests.harness import QUERIES, Conn
from tests.statements.turns import claim_turns, keyed, metered, rule, running

FLOW = keyed("r/a")
FULL = FullLane("default", FLOW.lane, 0, "r/a", "skip")
REASONS = "select array_agg(reason order by id) from pgqueue.job_finished where state = 'cancelled'"


def full_bucket(conn: Conn, policy: str) -> list[int]:
    """Let one job run in a bucket for one, and three wait."""
    rule(conn, "r", max_running=1, on_full=policy)
    ids = metered(conn, FLOW, 4)
    claim_turns(conn, [FLOW])
    return ids


def test_waiting_jobs_are_skipped_while_the_bucket_is_full(conn: Conn) -> None:
    ids = full_bucket(conn, "skip")
    assert [job.id for job in db.run(conn, QUERIES.turns.cancel_behind(FULL, 2))] == ids[1:3]
    moves = "select from_state, to_state, reason from pgqueue.transition where job_id = %s and to_state = 'cancelled'"
    assert conn.execute(moves, (ids[1],)).fetchall() == [("blocked", "cancelled", "skipped: r/a is full")]
    assert scalar(conn, "select attempt from pgqueue.job_finished where id = %s", ids[1]) == 0


def test_nothing_is_skipped_once_there_is_room(conn: Conn) -> None:
    full_bucket(conn, "skip")
    conn.execute("update pgqueue.limit_rule set max_running = 2")
    assert db.run(conn, QUERIES.turns.cancel_behind(FULL, 10)) == []


def test_jobs_of_later_and_retries_are_not_skipped(conn: Conn) -> None:
    _, later, retry, _ = full_bucket(conn, "skip")
    conn.execute("update pgqueue.job_live set run_at = now() + interval '1 hour' where id = %s", (later,))
    conn.execute("update pgqueue.job_live set lease = 1 where id = %s", (retry,))  # it has run, and was snoozed
    assert len(db.run(conn, QUERIES.turns.cancel_behind(FULL, 10))) == 1
    assert scalar(conn, "select count(*) from pgqueue.job_live where id in (%s, %s)", later, retry) == 2


def test_the_newest_waiting_job_replaces_the_others(conn: Conn) -> None:
    ids = full_bucket(conn, "replace_waiting")
    replaced = db.run(conn, QUERIES.turns.cancel_behind(FULL._replace(policy="replace_waiting"), 10))
    assert sorted(job.id for job in replaced) == ids[1:3]
    assert scalar(conn, REASONS) == ["replaced by a newer job: r/a is full"] * 2
    assert db.run(conn, QUERIES.turns.cancel_behind(FULL._replace(policy="replace_waiting"), 10)) == []


def test_as_many_running_jobs_are_asked_to_stop_as_wait_and_none_twice(conn: Conn) -> None:
    rule(conn, "r", max_running=3, on_full="cancel_running")
    ids = metered(conn, FLOW, 5)
    claim_turns(conn, [FLOW])
    assert sorted(job.id for job in db.run(conn, QUERIES.turns.cancel_holders(FULL))) == ids[:2]
    assert db.run(conn, QUERIES.turns.cancel_holders(FULL)) == []
    metered(conn, FLOW, 5)
    assert [job.id for job in db.run(conn, QUERIES.turns.cancel_holders(FULL))] == [ids[2]]


def test_a_row_that_somebody_has_locked_holds_up_nobody(conn: Conn, connect: Callable[..., Conn]) -> None:
    ids = full_bucket(conn, "skip")
    holder, keeper = connect(), connect()
    holder.execute("select from pgqueue.job_live where id = any(%s) for update", (ids[:2],))
    keeper.execute("set local lock_timeout = '1ms'")
    assert sorted(job.id for job in db.run(keeper, QUERIES.turns.cancel_behind(FULL, 10))) == ids[2:]
    assert db.run(keeper, QUERIES.turns.cancel_holders(FULL)) == []


@pytest.mark.parametrize("policy", ["skip", "replace_waiting", "cancel_running"])
def test_a_worker_without_a_free_slot_does_what_the_rule_says(app: App, conn: Conn, policy: str) -> None:
    heard: list[str | None] = []
    began: list[int] = []

    @app.on(events.WaitingJobCancelled)
    def hear(event: events.WaitingJobCancelled) -> None:
        heard.append(event.reason)

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        began.append(ctx.job_id)
        await asyncio.sleep(60 if len(began) == 1 else 0)

    rule(conn, "r", max_running=1, on_full=policy)
    (first,) = metered(conn, FLOW)

    async def stages() -> None:
        worker = Worker(app, WorkerSettings(concurrency=1, poll_seconds=0.2, shutdown_timeout=0.1))
        task = asyncio.create_task(worker.run())
        await eventually(lambda: began == [first], "the first job")
        *_, last = metered(conn, FLOW, 3)
        if policy == "cancel_running":
            await eventually(lambda: len(began) == 4, "the others")
        elif policy == "skip":
            await eventually(lambda: heard == ["skipped: r/a is full"] * 3, "the skips")
        else:
            await eventually(lambda: heard == ["replaced by a newer job: r/a is full"] * 2, "the replacements")
            assert scalar(conn, "select id from pgqueue.job_live where state = 'blocked'") == last
        worker.stop()
        await task

    asyncio.run(stages())
    assert running(conn, "r/a") == 0


def test_a_worker_puts_a_counter_right_that_somebody_has_falsified(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.worker.duties.limit_keeper.RECONCILE_SECONDS", 0.2)
    heard: list[events.LimitReconciled] = []
    app.on(events.LimitReconciled)(heard.append)
    began: list[int] = []

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        began.append(ctx.job_id)

    full_bucket(conn, "wait")
    conn.execute("delete from pgqueue.job_live where state = 'running'")

    async def stages() -> None:
        worker = Worker(app, WorkerSettings(poll_seconds=0.2))
        task = asyncio.create_task(worker.run())
        await eventually(lambda: len(began) == 3, "the jobs behind the leaked slot")
        worker.stop()
        await task

    asyncio.run(stages())
    assert heard[0] == events.LimitReconciled("r/a", 1, 0)
    assert LimitKeeper.name == "limits"
