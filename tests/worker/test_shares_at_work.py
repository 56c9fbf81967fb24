"""Workers with shares, slots for each queue and strict order, on a database."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from pgqueue import App, Context
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import eventually, scalar
from tests.harness import Conn

pytestmark = pytest.mark.usefixtures("no_claims_ahead")
ENDED = "select count(*) from pgqueue.job_finished"


@pytest.fixture
def no_claims_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each claim bring as many jobs as slots are free: what begins next is then what was claimed last."""
    monkeypatch.setattr("pgqueue.worker.claiming.producer.AHEAD_SECONDS", 0)


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
    jobs(conn, bulk=30)

    async def scenario() -> None:
        await eventually(lambda: len(gates.open) == 4, "bulk to have all slots")
        jobs(conn, critical=50)
        for begun in range(5, 70):
            gates.end("bulk" if gates.running["bulk"] > 1 else "critical")
            await eventually(lambda: len(gates.began) == begun, "the slot to be taken")  # noqa: B023
        await end_rest(gates, conn, 80)

    run(app, conn, 80, scenario, queues=["bulk", "critical"], concurrency=4, shares={"bulk": 1, "critical": 3})
    first = gates.began.index("critical")
    assert gates.began[first : first + 50] == ["critical"] * 50
