"""Workers and metered jobs: limits over several workers, turns, order, retries, rates, waking and giving back."""

import asyncio
import math
from collections import Counter
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, Limit, RateLimited, Retry, Snooze, db
from pgqueue.db import link
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.claiming import frontier, producer
from tests.conftest import eventually, scalar, work
from tests.harness import QUERIES, WORKER, Conn, add_worker
from tests.statements.test_turn_claims import EXCESS
from tests.statements.turns import claim_turns, in_order, keyed, metered, rule, running

LEFT = "select count(*) from pgqueue.job_live"
ORDER = "select array_agg(job_id order by at) from pgqueue.transition where to_state = 'running'"


def run(app: App, conn: Conn, *, workers: int = 1, **settings: Any) -> None:
    """Run workers in this process until no job is left."""

    async def all_of_them() -> None:
        mine = [Worker(app, WorkerSettings(**settings)) for _ in range(workers)]
        tasks = [asyncio.create_task(worker.run()) for worker in mine]
        await eventually(lambda: scalar(conn, LEFT) == 0, "the end of all jobs")
        for worker in mine:
            worker.stop()
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())


@pytest.fixture
def task(app: App) -> list[int]:
    """A task `t`; the list has its jobs as they begin."""
    began: list[int] = []

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        began.append(ctx.job_id)
        await asyncio.sleep(0.001)

    return began


def test_three_workers_together_keep_a_limit_and_leave_no_slot_taken(app: App, conn: Conn, task: list[int]) -> None:
    rule(conn, "r", max_running=4)
    flows = [keyed("r", f"k/{n}") for n in range(3)]
    rule(conn, "k", max_running=2)
    for flow in flows:
        metered(conn, flow, 40)
    run(app, conn, workers=3, concurrency=8)
    most = dict(conn.execute(EXCESS).fetchall())
    assert most["r"] <= 4
    assert max(most[f"k/{n}"] for n in range(3)) <= 2
    assert [running(conn, name) for name in most] == [0] * 4
    assert len(task) == len(set(task)) == 120


def test_a_worker_whose_slots_are_full_tells_those_that_sleep_of_room(app: App, conn: Conn, dsn: str) -> None:
    rule(conn, "r", max_running=2)
    metered(conn, keyed("r"), 3)
    add_worker(conn, worker=WORKER)  # it sleeps: a look of its own has found the bucket full
    conn.execute("update pgqueue.worker set waiting = true")
    held = claim_turns(conn, [keyed("r")], most=1)
    over = asyncio.Event()

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        await over.wait()

    async def stages() -> None:
        worker = Worker(app, WorkerSettings(concurrency=1))
        running_worker = asyncio.create_task(worker.run())
        await eventually(lambda: running(conn, "r") == 2, "the worker to be busy, and the bucket full")
        with psycopg.connect(dsn, autocommit=True) as listener:
            listener.execute("listen pgqueue")
            db.run(conn, QUERIES.jobs.resolve([(held[0], PLAIN_SUCCESS)]))
            heard: list[str] = []
            await eventually(
                lambda: heard.extend(n.payload for n in listener.notifies(timeout=0)) or "default" in heard,
                "those that sleep to be told",
            )
        over.set()
        await eventually(lambda: scalar(conn, LEFT) == 0, "the end of all jobs")
        worker.stop()
        await running_worker

    asyncio.run(stages())


def test_plain_jobs_go_on_beside_a_full_bucket(app: App, conn: Conn, task: list[int]) -> None:
    rule(conn, "r", max_running=0)
    metered(conn, keyed("r"), 50)
    plain = [app.enqueue("t").id for _ in range(30)]
    asyncio.run(work(app, lambda: scalar(conn, LEFT) == 50, concurrency=4))
    assert sorted(task) == plain


def test_a_change_of_a_limit_counts_with_the_next_claim(app: App, conn: Conn, task: list[int]) -> None:
    rule(conn, "r", max_running=0)
    metered(conn, keyed("r"), 3)

    async def stages() -> None:
        worker = Worker(app, WorkerSettings(concurrency=4, poll_seconds=0.2))
        running = asyncio.create_task(worker.run())
        await eventually(lambda: scalar(conn, "select waiting from pgqueue.worker"), "the worker to rest")
        assert task == []
        conn.execute("update pgqueue.limit_rule set max_running = 3")
        await eventually(lambda: scalar(conn, LEFT) == 0, "the jobs to run")
        worker.stop()
        await running

    asyncio.run(stages())


def test_jobs_in_order_run_in_order_and_a_retry_keeps_its_place(app: App, conn: Conn) -> None:
    @app.task(name="t", retry=0.05)
    async def t(ctx: Context) -> None:
        if ctx.attempt == 1 and ctx.job_id % 3 == 0:
            raise Retry

    rule(conn, "o", kind="order", max_running=1)
    flows = [in_order(f"o/{n}") for n in range(3)]
    ids = {flow.lane: metered(conn, flow, 9) for flow in flows}
    run(app, conn, workers=2, concurrency=8)
    for jobs in ids.values():
        assert scalar(conn, f"{ORDER} and job_id = any(%s)", jobs) == sorted(
            jobs + [job for job in jobs if job % 3 == 0]
        )


def test_jobs_of_one_order_run_in_order_though_their_other_buckets_differ(
    app: App, conn: Conn, task: list[int]
) -> None:
    rule(conn, "o", kind="order", max_running=1)
    rule(conn, "c", max_running=1)
    flows = [Flow((f"c/{n % 3}", "o/1"), order="o/1") for n in range(9)]
    ids = [job for flow in flows for job in metered(conn, flow)]
    assert len({flow.lane for flow in flows}) == 1
    run(app, conn, workers=2, concurrency=4)
    assert task == ids
    assert running(conn, "o/1") == running(conn, "c/0") == 0


def test_a_snoozed_metered_job_waits_for_its_turn_again(app: App, conn: Conn) -> None:
    runs: list[int] = []

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        runs.append(ctx.attempt)
        if len(runs) < 3:
            raise Snooze(0.05)

    rule(conn, "r", max_running=1)
    metered(conn, keyed("r"))
    run(app, conn)
    assert runs == [1, 1, 1]
    assert running(conn, "r") == 0


def test_a_tenant_with_many_jobs_does_not_keep_another_one_waiting(app: App, conn: Conn, task: list[int]) -> None:
    many = metered(conn, Flow(share="f/big"), 400)
    few = metered(conn, Flow(share="f/small"), 4)
    run(app, conn, concurrency=2)
    places = [task.index(job) for job in few]
    assert max(places) < 60
    assert len(task) == len(many) + len(few)


def test_a_weight_gives_a_key_its_share_of_the_slots(app: App, conn: Conn) -> None:
    began: list[str] = []

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        began.append(str(ctx.job_id))
        await asyncio.sleep(0.02)

    conn.execute("insert into pgqueue.limit_key (rule, key, weight) values ('f', 'a', 3)")
    heavy = set(map(str, metered(conn, Flow(share="f/a"), 90)))
    metered(conn, Flow(share="f/b"), 90)
    run(app, conn, concurrency=8)
    first = Counter(job in heavy for job in began[8:80])
    assert 2.6 <= first[True] / first[False] <= 3.5


def test_a_rate_is_kept_by_two_workers_and_jobs_start_as_soon_as_it_admits_them(
    app: App, conn: Conn, task: list[int]
) -> None:
    rule(conn, "r", rate_count=20, rate_seconds=1.0, rate_burst=4)
    metered(conn, keyed("r"), 30)
    run(app, conn, workers=2, concurrency=8)
    windows = """
        select max(n) from (select count(*) over (order by claimed_at range between current row
        and interval '999999 microseconds' following) as n from pgqueue.job_finished) as w"""
    assert scalar(conn, windows) <= 20
    took = scalar(
        conn, "select extract(epoch from max(claimed_at) - min(claimed_at))::float8 from pgqueue.job_finished"
    )
    assert took < 26 / 17 * 1.5  # 17 = 20 - 4 + 1 a second


def test_a_worker_that_ends_gives_back_what_it_has_not_begun(app: App, conn: Conn) -> None:
    begun = asyncio.Event()

    @app.task(name="t")
    async def t() -> None:
        begun.set()
        await asyncio.sleep(60)

    async def stop_in_the_middle() -> None:
        worker = Worker(app, WorkerSettings(concurrency=2, shutdown_timeout=0.1))
        running = asyncio.create_task(worker.run())
        await begun.wait()
        worker.stop()
        await running

    rule(conn, "r", max_running=5)
    metered(conn, keyed("r"), 5)
    asyncio.run(stop_in_the_middle())
    assert running(conn, "r") == 0
    assert scalar(conn, "select count(*) from pgqueue.job_live where state = 'blocked' and attempt = 0") == 5


def test_a_job_of_an_unknown_task_keeps_its_place_and_is_not_parked(app: App, conn: Conn, task: list[int]) -> None:
    rule(conn, "o", kind="order", max_running=1)
    flow = in_order("o/1")
    first, second = metered(conn, flow, 2)
    conn.execute("update pgqueue.job_live set task = 'elsewhere' where id = %s", (first,))
    held = "select reason from pgqueue.transition where job_id = %s and from_state = 'running'"
    asyncio.run(work(app, lambda: scalar(conn, held, first) == "unknown task"))
    assert task == []
    rows = conn.execute("select id, state, waits_for, attempt from pgqueue.job_live order by id").fetchall()
    assert rows == [(first, "blocked", "turn", 0), (second, "blocked", "turn", 0)]


def test_a_metered_job_completes_in_its_own_transaction_and_frees_its_bucket(app: App, conn: Conn) -> None:
    @app.task(name="t")
    async def t(ctx: Context) -> None:
        async with ctx.atransaction() as own:
            await own.execute("select 1")

    @app.task(name="u", isolation="process")
    def u(ctx: Context) -> None:
        with ctx.transaction() as own:
            own.execute("select 1")

    rule(conn, "r", max_running=1)
    metered(conn, keyed("r"), 3)
    (child,) = metered(conn, keyed("r"), 1)
    conn.execute("update pgqueue.job_live set task = 'u' where id = %s", (child,))
    run(app, conn)
    assert running(conn, "r") == 0
    assert dict(conn.execute(EXCESS).fetchall()) == {"r": 1}


@pytest.mark.parametrize("share", [producer.SCAN_SHARE, 300], ids=["it may ask at once", "it must wait to ask"])
def test_a_metered_job_is_begun_at_once_by_a_worker_that_sleeps(
    app: App, conn: Conn, task: list[int], monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    """It polls once an hour: only the notification can have told it."""
    monkeypatch.setattr(producer, "SCAN_SHARE", share)

    async def stages() -> None:
        worker = Worker(app, WorkerSettings(poll_seconds=3600.0))
        running = asyncio.create_task(worker.run())
        await eventually(lambda: scalar(conn, "select waiting from pgqueue.worker"), "the worker to rest")
        for jobs in (1, 2, 3):
            metered(conn, keyed("r"))
            conn.execute("select pg_catalog.pg_notify('pgqueue', 'default')")
            await eventually(lambda: len(task) == jobs, "the job to run")  # noqa: B023
        worker.stop()
        await running

    asyncio.run(stages())


def test_a_metered_job_that_is_committed_while_the_worker_asks_is_begun_at_once(
    app: App, conn: Conn, task: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is older than the job: the worker asks again."""
    heard: list[None] = []
    run_async, job_committed = link.run_async, producer.Producer.job_committed
    question = app.queries.jobs.next_due(["default"]).sql

    def note(self: producer.Producer) -> None:
        job_committed(self)
        heard.append(None)

    async def run_slowly(connection: Any, query: Any) -> Any:
        answer = await run_async(connection, query)
        if query.sql == question and not heard:
            metered(conn, keyed("r"))
            conn.execute("select pg_catalog.pg_notify('pgqueue', 'default')")
            await eventually(lambda: heard, "the notification")
        return answer

    monkeypatch.setattr(producer.Producer, "job_committed", note)
    monkeypatch.setattr(link, "run_async", run_slowly)
    monkeypatch.setattr(frontier.Frontier, "scan_in", math.inf)  # the worker would ask before a full scan, too
    assert asyncio.run(work(app, lambda: task, poll_seconds=3600.0))


def test_an_idle_worker_wakes_when_another_one_frees_a_bucket(app: App, conn: Conn, task: list[int]) -> None:
    rule(conn, "r", max_running=1)
    metered(conn, keyed("r"), 2)
    held = db.run(conn, QUERIES.turns.look([("default", -(2**63))], 10))
    assert len(held) == 1
    run(app, conn, workers=2, poll_seconds=0.3)
    assert len(task) == 2


def test_a_plain_job_of_a_task_that_has_a_rule_by_now_waits_for_its_turn_and_spends_no_attempt(
    dsn: str, conn: Conn
) -> None:
    before, after, active, most = App(dsn), App(dsn), Counter[str](), Counter[str]()

    @before.task(name="t", max_attempts=1)
    def as_it_was(tenant: str) -> None: ...

    @after.task(name="t", limit=Limit(2, by="tenant"), max_attempts=1)
    async def as_it_is(tenant: str) -> None:
        active[tenant] += 1
        most[tenant] = max(most[tenant], active[tenant])
        await asyncio.sleep(0.002)
        active[tenant] -= 1

    as_it_was.enqueue_many([{"tenant": f"t{n % 2}"} for n in range(60)])
    run(after, conn, workers=2, concurrency=8)
    assert most == {"t0": 2, "t1": 2}
    assert scalar(conn, "select count(*) from pgqueue.job_finished where attempt = 1 and state = 'succeeded'") == 60
    given = "select count(distinct job_id) from pgqueue.transition where reason = 'a rule concerns it now'"
    assert scalar(conn, given) == 60
    before.close(), after.close()


def test_a_plain_job_in_a_queue_that_has_a_rule_by_now_waits_for_its_turn(dsn: str, conn: Conn) -> None:
    app = App(dsn, limits={"default": Limit(1)})
    active, most = 0, 0

    @app.task(name="t")
    async def t() -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.002)
        active -= 1

    conn.execute("select pgqueue.enqueue('t') from generate_series(1, 10)")
    run(app, conn, concurrency=8)
    assert most == 1
    app.close()


def test_a_plain_job_whose_arguments_no_longer_fit_takes_the_bucket_of_the_rule_and_fails(dsn: str, conn: Conn) -> None:
    app = App(dsn)

    @app.task(name="t", limit=Limit(1, by="tenant"))
    async def t(tenant: str) -> None: ...

    conn.execute("select pgqueue.enqueue('t', '{\"nobody\": 1}')")
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) from pgqueue.dead_letter") == 1))
    assert scalar(conn, "select headers -> '$flow' -> 'buckets' from pgqueue.dead_letter") == ["t"]
    app.close()


def test_a_job_in_order_with_another_priority_gets_that_of_its_task_and_passes_no_other(dsn: str, conn: Conn) -> None:
    app, stranger = App(dsn), App(dsn)
    ran: list[str] = []

    @app.task(name="ship", ordered="order", priority=5, retry=0.1)
    async def ship(ctx: Context, order: int, step: str) -> None:
        ran.append(step)
        if step == "a" and ctx.attempt == 1:
            raise Retry

    ship.enqueue(order=1, step="a")
    conn.execute("select pgqueue.enqueue('ship', '{\"order\": 1, \"step\": \"b\"}', ordering_key => '1')")
    stranger.enqueue("ship", {"order": 1, "step": "c"})
    ship.enqueue(order=1, step="d")
    run(app, conn, workers=2)
    assert ran == ["a", "a", "b", "c", "d"]
    assert scalar(conn, "select array_agg(distinct priority::int) from pgqueue.job_finished") == [5]
    app.close(), stranger.close()


def test_rate_limited_that_closes_nothing_is_logged(app: App, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="t")
    async def t(ctx: Context) -> None:
        if len(caplog.records) == 0 or "RateLimited" not in caplog.text:
            raise RateLimited(0.01, limit="nope")

    app.enqueue("t")
    run(app, conn)
    assert "RateLimited closes nothing, for it means limit 'nope', which the job does not have" in caplog.text
