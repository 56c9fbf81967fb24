"""Workers with shares, slots for each queue and strict order, on a database."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from pgqueue import App, Context
from pgqueue.cli.workers import worker_rows
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries import Query
from pgqueue.queries.workers import WorkerStatus
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.claiming.ageing import CLAIMS, Ageing
from pgqueue.worker.claiming.frontier import SCAN_SHARE, Frontier
from pgqueue.worker.core import Served, WorkerCore
from pgqueue.worker.signals import WorkerSignals
from pgqueue.worker.slots import Slots
from tests.conftest import drain, eventually, scalar
from tests.harness import QUERIES, WORKER, Conn, claimed

pytestmark = pytest.mark.usefixtures("no_claims_ahead")
ENDED = "select count(*) from pgqueue.job_finished"


@pytest.fixture
def no_claims_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each claim bring as many jobs as slots are free: what begins next is then what was claimed last."""
    monkeypatch.setattr("pgqueue.worker.claiming.pace.AHEAD_SECONDS", 0)


class Gates:
    """Jobs that run until they are let go, one after the other."""

    def __init__(self, app: App) -> None:
        self.began: list[str] = []
        self.open: list[tuple[str, asyncio.Event]] = []
        self.most: Counter[str] = Counter()

        @app.task(name="wait")
        async def wait(ctx: Context) -> None:
            gate = asyncio.Event()
            self.began.append(ctx.queue)
            self.open.append((ctx.queue, gate))
            self.most |= self.running
            await gate.wait()

    @property
    def running(self) -> Counter[str]:
        return Counter(queue for queue, _ in self.open)

    def end(self, queue: str | None = None) -> None:
        """Let the job end that runs for longest, of a queue or of all."""
        found = next(gate for gate in self.open if queue in (None, gate[0]))
        self.open.remove(found)
        found[1].set()


def jobs(conn: Conn, **counts: int) -> None:
    for queue, count in counts.items():
        conn.execute(
            "insert into pgqueue.job_live (task, queue) select 'wait', %s from generate_series(1, %s)", [queue, count]
        )


async def end_all(gates: Gates, slots: int, jobs: int) -> None:
    """End jobs one after the other; all slots are taken again before the next one ends."""
    for begun in range(slots, jobs + slots):
        await eventually(lambda: len(gates.began) >= min(begun, jobs), "the next job to begin")  # noqa: B023
        gates.end()


async def end_rest(gates: Gates, conn: Conn, total: int) -> None:
    """End jobs as they come, until so many have ended."""
    while scalar(conn, ENDED) < total:
        while gates.open:
            gates.end()
        await asyncio.sleep(0.001)


def run(app: App, conn: Conn, total: int, scenario: Any, **settings: Any) -> None:
    """Run a worker beside a scenario, and until so many jobs have ended."""

    async def main() -> None:
        worker = Worker(app, WorkerSettings(poll_seconds=0.1, **settings))
        running = asyncio.create_task(worker.run())
        await scenario()
        await eventually(lambda: scalar(conn, ENDED) == total, "every job to end")
        worker.stop()
        await running

    asyncio.run(main())


def test_two_hundred_jobs_begin_by_the_shares_of_their_queues(app: App, conn: Conn) -> None:
    gates = Gates(app)
    jobs(conn, critical=200, default=100, bulk=100)

    async def scenario() -> None:
        await end_all(gates, 8, 400)

    run(app, conn, 400, scenario, queues=["bulk", "critical", "default"], concurrency=8,
        shares={"critical": 6, "default": 3, "bulk": 1})  # fmt: skip
    for begun in range(1, 201):
        counts = Counter(gates.began[:begun])
        for queue, share in {"critical": 6, "default": 3, "bulk": 1}.items():
            assert abs(counts[queue] - begun * share / 10) <= 3
    assert gates.most["critical"] <= 6
    assert gates.most["bulk"] == 8  # when it is alone


@pytest.mark.parametrize("shares", [{}, {"critical": 1, "default": 1}], ids=["in order", "shares"])
def test_without_shares_the_first_queue_gets_every_slot_that_it_wants(
    app: App, conn: Conn, shares: dict[str, int]
) -> None:
    gates = Gates(app)
    jobs(conn, critical=40, default=40)

    async def scenario() -> None:
        await end_all(gates, 4, 80)

    run(app, conn, 80, scenario, queues=["critical", "default"], concurrency=4, shares=shares)
    assert (gates.began == ["critical"] * 40 + ["default"] * 40) is not bool(shares)


def test_the_slots_of_a_queue_are_never_exceeded_and_the_others_are_used(app: App, conn: Conn) -> None:
    gates = Gates(app)
    jobs(conn, critical=60, bulk=60)

    async def scenario() -> None:
        await end_all(gates, 10, 60)
        await end_rest(gates, conn, 120)

    run(app, conn, 120, scenario, queues=["critical", "bulk"], concurrency=10, limits={"critical": 8, "bulk": 2})
    assert gates.most == {"critical": 8, "bulk": 2}
    assert Counter(gates.began[:10]) == {"critical": 8, "bulk": 2}


def test_a_queue_with_long_jobs_keeps_to_its_slots_while_another_has_jobs(app: App, conn: Conn) -> None:
    gates = Gates(app)
    jobs(conn, bulk=200)

    async def scenario() -> None:
        await eventually(lambda: len(gates.open) == 4, "bulk to have all slots")
        jobs(conn, critical=50)
        while gates.began.count("critical") < 50:
            begun = len(gates.began)
            gates.end("bulk" if gates.running["bulk"] > 1 else "critical")
            await eventually(lambda: len(gates.began) > begun, "the slot to be taken")  # noqa: B023
        await end_rest(gates, conn, 250)

    run(app, conn, 250, scenario, queues=["bulk", "critical"], concurrency=4, shares={"bulk": 1, "critical": 3})
    first = gates.began.index("critical")
    assert gates.began[first : first + 50] == ["critical"] * 50


def test_the_row_of_a_worker_says_how_it_divides_its_slots(app: App, conn: Conn) -> None:
    told: list[WorkerStatus] = []

    async def scenario() -> None:
        await eventually(lambda: scalar(conn, "select count(*) from pgqueue.worker") == 1, "the worker to start")
        told.extend(app.workers.list())

    run(app, conn, 0, scenario, queues=["critical", "bulk"], shares={"critical": 6, "bulk": 3}, limits={"bulk": 2},
        max_wait=300)  # fmt: skip
    (worker,) = told
    assert (worker.shares, worker.limits, worker.max_wait) == ({"critical": 6, "bulk": 3}, {"bulk": 2}, 300.0)
    assert worker_rows(told)[0][4] == ["critical:6", "bulk:3:2c"]


STARVED = "insert into pgqueue.job_live (task, queue, priority, run_at) values ('wait', %s, %s, now() - interval '1 h')"


@pytest.mark.parametrize("max_wait", [None, 60.0])
@pytest.mark.parametrize(
    "settings",
    [{"queues": ["critical", "default"]}, {"queues": ["critical", "default"], "shares": {"critical": 9, "default": 1}}],
    ids=["in order", "shares"],
)
def test_what_is_due_for_too_long_goes_first_in_one_claim_of_sixteen(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], max_wait: float | None
) -> None:
    """Beside a queue and a priority that never run dry. Each claim brings one job, since one ends at a time."""
    monkeypatch.setattr("pgqueue.worker.claiming.ageing.SCAN_SHARE", 0)  # however slow the machine is
    monkeypatch.setattr("pgqueue.worker.claiming.frontier.COSTLY_SECONDS", 60.0)
    gates = Gates(app)
    jobs(conn, critical=200)
    conn.execute("update pgqueue.job_live set priority = 5")
    jobs(conn, default=200)
    conn.execute("update pgqueue.job_live set priority = 7 where queue = 'default'")
    for queue in ("critical", "default"):
        conn.execute(STARVED, [queue, -100])
    waited = "select queue from pgqueue.job_live where priority = -100 and state = 'pending'"

    async def scenario() -> None:
        await end_all(gates, 1, 2 * CLAIMS + 3)  # the claim that began the first, and one that came too soon
        left = {queue for (queue,) in conn.execute(waited)}
        assert left == (set() if max_wait else {"critical", "default"})
        await end_rest(gates, conn, 402)

    run(app, conn, 402, scenario, concurrency=1, max_wait=max_wait, **settings)


KNOWN = {
    QUERIES.jobs.claim(WORKER, {}, 0).sql: "claim",
    QUERIES.jobs.claim_beyond(WORKER, {}, 0, {}).sql: "claim",
    QUERIES.jobs.claim_oldest(WORKER, {}, 0, 0).sql: "claim of the oldest",
    QUERIES.jobs.parked_labels([]).sql: "other",
    QUERIES.jobs.next_due([]).sql: "other",
    QUERIES.jobs.release_strays(WORKER, []).sql: "other",
    QUERIES.workers.set_waiting(WORKER, True).sql: "other",
}


@pytest.mark.parametrize("max_wait", [None, 60.0])
def test_a_worker_runs_no_statement_that_its_settings_do_not_ask_for(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch, max_wait: float | None
) -> None:
    """Without `max_wait` and shares a drain is claims alone; with `max_wait` one in sixteen has another one before it,
    which finds nothing."""
    run_query, ran = Link.run, Counter[str]()

    async def note(link: Link, query: Query[Any], **options: Any) -> Any:
        if link._name == "pgqueue worker claim":
            ran[KNOWN[query.sql]] += 1
        return await run_query(link, query, **options)

    @app.task(name="quick")
    async def quick() -> None: ...

    quick.enqueue_many({} for _ in range(1600))
    monkeypatch.setattr("pgqueue.worker.claiming.frontier.COSTLY_SECONDS", 60.0)  # a busy machine makes no other link
    monkeypatch.setattr(Link, "run", note)
    drain(app, conn, max_wait=max_wait)
    assert ran["claim"] >= 200  # of eight jobs each
    assert bool(ran["claim of the oldest"]) is bool(max_wait)
    assert ran["claim of the oldest"] <= ran["claim"] / CLAIMS


def test_a_claim_of_the_oldest_that_took_long_is_not_due_again_for_twenty_times_as_long(app: App) -> None:
    now = 100.0
    served, settings = Served(("default",), ()), WorkerSettings(max_wait=60)
    core = WorkerCore.of(app, settings, served, Slots(1, ["default"], {}))
    taken: list[int] = []
    signals = WorkerSignals(jobs_claimed=lambda jobs: taken.extend(job.id for job in jobs))
    ageing = Ageing(core, signals, Frontier(), lambda: now)

    async def run(query: Query[list[ClaimedJob]]) -> list[ClaimedJob]:
        nonlocal now
        assert query.params["max_wait"] == 60
        now += 2.0
        return [claimed(7, 1)]

    assert [ageing.due() for _ in range(CLAIMS)] == [False] * (CLAIMS - 1) + [True]
    assert asyncio.run(ageing.claim(run, {"default": 1}, 1)) == 1
    assert taken == [7]
    assert not any(ageing.due() for _ in range(3 * CLAIMS))
    now += 2.0 * SCAN_SHARE
    assert ageing.due()


def test_while_full_scans_are_costly_the_oldest_jobs_are_claimed_beside_the_others(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.worker.claiming.frontier.COSTLY_SECONDS", -1.0)
    gates = Gates(app)
    jobs(conn, critical=400)
    conn.execute(STARVED, ["default", 0])
    waits = "select count(*) from pgqueue.job_live where queue = 'default'"

    async def scenario() -> None:
        while scalar(conn, waits):
            assert len(gates.began) < 400, "it waited to the end"
            await eventually(lambda: len(gates.open) == 2, "both slots to be taken")
            gates.end()
            gates.end()
        await end_rest(gates, conn, 401)

    run(app, conn, 401, scenario, queues=["critical", "default"], concurrency=2, max_wait=60)
