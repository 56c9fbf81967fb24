"""Results: stored or not, how large, for how long."""

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, InvalidOption, JobState, ResultMissing, UnknownJob, WrongState, chain, db
from pgqueue.db.link import Link
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.tasks.registry import Tasks
from pgqueue.worker.duties.outcome_writer import OutcomeWriter
from pgqueue.worker.duties.result_expirer import BATCH, ResultExpirer
from tests.conftest import drain, scalar, work
from tests.harness import QUERIES, Conn, claimed, insert_job

EXPIRIES = "select count(*) from pgqueue.result_expiry"
NOW = "update pgqueue.result_expiry set expires_at = now()"


def prune(dsn: str, rounds: int = 1) -> list[float]:
    """Run the duty `times` times; return the pauses it asks for."""

    async def body() -> list[float]:
        link = Link(db.Database(dsn), "pgqueue test")
        expirer = ResultExpirer(link, QUERIES, Tasks())
        pauses = [await expirer.step() for _ in range(rounds)]
        await link.close()
        return pauses

    return asyncio.run(body())


@pytest.mark.parametrize("kind", ["thread", "async", "process", "transaction"])
def test_what_a_task_does_not_store_is_nowhere(app: App, conn: Conn, kind: str) -> None:
    if kind == "async":

        @app.task(name="t", store_result=False)
        async def t() -> str:
            return "secret"
    elif kind == "transaction":

        @app.task(name="t", store_result=False)
        def t(ctx: Context) -> None:
            with ctx.transaction(result="secret"):
                pass
    else:

        @app.task(name="t", store_result=False, isolation=kind)
        def t() -> str:
            return "secret"

    job = t.enqueue()
    drain(app, conn)
    assert (app.get(job.id).state, app.get(job.id).result) == (JobState.SUCCEEDED, None)
    assert app.get(job.id).errors == []


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_the_limit_of_results_is_the_apps(dsn: str, conn: Conn, kind: str) -> None:
    app = App(dsn, max_result_bytes=100)
    app.task(name="t", isolation=kind)(lambda n: "x" * n)
    small, large = app.enqueue("t", {"n": 98}), app.enqueue("t", {"n": 99})
    drain(app, conn)
    assert app.wait(small.id, 10) == "x" * 98
    with pytest.raises(ResultMissing, match=r"result: 101 bytes of JSON \(at most 100"):
        app.wait(large.id, 10)
    assert app.get(large.id).state == "succeeded"
    app.close()


def test_only_results_with_a_time_to_live_are_noted(dsn: str, conn: Conn) -> None:
    app = App(dsn, result_ttl=timedelta(hours=1))
    app.task(name="by the app")(lambda: 1)
    app.task(name="its own", result_ttl=60)(lambda: 1)
    app.task(name="no result", result_ttl=60)(lambda: None)
    app.task(name="not stored", store_result=False)(lambda: 1)
    jobs = {task: app.enqueue(task).id for task in ("by the app", "its own", "no result", "not stored")}
    drain(app, conn)
    kept = conn.execute(
        "select e.job_id, extract(epoch from e.expires_at - j.finished_at)::int"
        " from pgqueue.result_expiry e join pgqueue.job_finished j on j.id = e.job_id and j.finished_at = e.finished_at"
    ).fetchall()
    assert dict(kept) == {jobs["by the app"]: 3600, jobs["its own"]: 60}
    app.close()


def test_a_result_is_dropped_when_its_time_is_over_and_its_job_stays(app: App, conn: Conn, dsn: str) -> None:
    app.task(name="mortal", result_ttl=3600)(lambda: "here")
    app.task(name="immortal")(lambda: "here")
    mortal, immortal = app.enqueue("mortal"), app.enqueue("immortal")
    drain(app, conn)
    prune(dsn)
    assert [app.wait(mortal.id, 10), app.wait(immortal.id, 10)] == ["here", "here"]
    conn.execute(NOW)
    prune(dsn)
    job = app.get(mortal.id)
    assert (job.state, job.result, job.reason, len(job.attempts)) == ("succeeded", None, "result expired", 1)
    assert (app.get(immortal.id).result, app.get(immortal.id).reason) == ("here", None)
    with pytest.raises(ResultMissing, match="its result has expired"):
        mortal.wait(10)
    assert scalar(conn, EXPIRIES) == 0


def test_a_result_is_dropped_on_demand_and_its_job_stays(app: App, conn: Conn) -> None:
    app.task(name="t")(lambda: "secret")
    app.task(name="fails", max_attempts=1)(lambda: 1 // 0)
    job, failed = app.enqueue("t"), app.enqueue("fails")
    with pytest.raises(WrongState, match="is pending and has no result yet"):
        app.drop_result(job.id)
    drain(app, conn)
    with conn.transaction(force_rollback=True):
        assert app.using(conn).drop_result(job.id)
        assert app.using(conn).get(job.id).result is None
    assert (app.get(job.id).result, scalar(conn, EXPIRIES)) == ("secret", 0)
    assert [asyncio.run(app.adrop_result(job.id)), app.drop_result(job.id), app.drop_result(failed.id)] == [True] * 3
    kept = app.get(job.id)
    assert (kept.state, kept.result, kept.reason, len(kept.attempts)) == ("succeeded", None, "result dropped", 1)
    assert "ZeroDivisionError" in str(app.get(failed.id).errors)
    with pytest.raises(ResultMissing, match="its result was dropped"):
        app.wait(job.id, 10)
    with pytest.raises(UnknownJob):
        app.drop_result(99_999)
    assert scalar(conn, EXPIRIES) == 0


def test_a_result_that_a_workflow_wants_goes_when_that_has_it(app: App, conn: Conn, dsn: str) -> None:
    first = app.task(name="first")(lambda: "handed on")
    seen: list[str] = []

    @app.task(name="then", queue="later")
    def then(value: str) -> None:
        seen.append(value)

    run = chain(first.s(), then.s()).enqueue()
    one_has_ended = "select count(*) = 1 from pgqueue.job_finished"
    asyncio.run(work(app, lambda: scalar(conn, one_has_ended), queues=["default"]))
    assert app.drop_result(run.jobs[0]) is False
    assert app.get(run.jobs[0]).result == "handed on"
    drain(app, conn, queues=["later"])
    assert seen == ["handed on"]
    conn.execute(NOW)
    prune(dsn)
    assert (app.get(run.jobs[0]).result, scalar(conn, EXPIRIES)) == (None, 0)


def test_a_worker_drops_them_by_itself(app: App, conn: Conn) -> None:
    app.task(name="t", result_ttl=0.001)(lambda: "gone soon")
    job = app.enqueue("t")
    asyncio.run(work(app, lambda: app.get(job.id).reason == "result expired"))
    assert app.get(job.id).result is None


def test_a_result_of_a_transaction_expires_too_but_not_without_its_lease(app: App, conn: Conn) -> None:
    @app.task(name="t", result_ttl=3600)
    async def t(ctx: Context, steal: bool) -> None:
        async with ctx.atransaction(result="kept") as mine:
            await mine.execute("select 1")
            if steal:
                conn.execute("update pgqueue.job_live set lease = lease + 1")

    t.enqueue(steal=False)
    drain(app, conn)
    assert scalar(conn, EXPIRIES) == 1
    job = t.enqueue(steal=True)

    async def until_refused() -> None:
        await work(app, lambda: scalar(conn, "select lease = 2 from pgqueue.job_live"), shutdown_timeout=0)

    asyncio.run(until_refused())
    assert scalar(conn, "select count(*) from pgqueue.result_expiry where job_id = %s", job.id) == 0


def test_of_a_batch_only_what_moved_expires(conn: Conn, dsn: str) -> None:
    app = App(dsn)
    app.task(name="t", result_ttl=60)(lambda: 1)
    worker = claimed(1, 1).worker_id
    columns: dict[str, Any] = {"state": "running", "worker_id": worker, "lease": 2, "attempt": 1}
    ours, lost = (insert_job(conn, claimed_at="2026-01-01Z", **columns) for _ in range(2))
    outcome = Resolution("succeed", result="1")

    async def body() -> set[int]:
        link = Link(db.Database(dsn), "pgqueue test")
        moved = await OutcomeWriter(app).write(link, [(claimed(ours, 2), outcome), (claimed(lost, 1), outcome)])
        await link.close()
        return moved

    assert asyncio.run(body()) == {ours}
    assert scalar(conn, "select array_agg(job_id) from pgqueue.result_expiry") == [ours]


def test_partitions_come_and_go(app: App, conn: Conn, dsn: str) -> None:
    """Results of several days in one batch; a day whose partition is dropped has none, and leaves none."""
    conn.execute(
        "insert into pgqueue.job_finished (id, task, queue, state, result, finished_at)"
        " select i, 't', 'q', 'succeeded', '1', now() - make_interval(days => i % 4) from generate_series(1, 40) i"
    )
    conn.execute("insert into pgqueue.result_expiry select id, finished_at, now() from pgqueue.job_finished")
    conn.execute("delete from pgqueue.job_finished where id % 4 = 3")
    conn.execute("insert into pgqueue.result_expiry values (100, now(), now() + interval '1 hour')")
    prune(dsn)
    assert scalar(conn, "select count(*) filter (where result is null) from pgqueue.job_finished") == 30
    assert scalar(conn, "select array_agg(job_id) from pgqueue.result_expiry") == [100]


def test_batches_are_small_and_two_workers_do_not_wait_for_each_other(conn: Conn, dsn: str) -> None:
    conn.execute(
        "insert into pgqueue.result_expiry select i, now(), now() from generate_series(1, %s) i", (2 * BATCH + 1,)
    )
    with psycopg.connect(dsn, options="-c lock_timeout=5s") as other:
        assert db.run(other, QUERIES.jobs.drop_expired_results(BATCH)) == BATCH
        assert prune(dsn, 2)[0] == 0.0  # there is more
        other.commit()
    assert scalar(conn, EXPIRIES) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"result_ttl": 0}, {"result_ttl": -1}, {"result_ttl": "1h"}, {"store_result": "yes"}, {"store_result": 0},
        {"store_result": False, "result_ttl": 60},
    ],
)  # fmt: skip
def test_settings_out_of_their_bounds_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=r"cannot be used|exclude each other"):
        App("postgresql://127.0.0.1:1/x").task(**settings)


@pytest.mark.parametrize("settings", [{"result_ttl": 0}, {"max_result_bytes": 0}, {"max_result_bytes": 2**30}])
def test_so_are_those_of_the_app(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="cannot be used: give"):
        App("postgresql://127.0.0.1:1/x", **settings)
