"""A thousand jobs that fail at once are not retried at once, and other jobs run beside them. F41."""

import asyncio
from collections import Counter

from pgqueue import App, Exponential
from pgqueue.events import JobRetried
from tests.conftest import scalar, work
from tests.harness import Conn

JOBS, LONGEST = 1000, 600


def test_jobs_that_fail_together_come_back_spread_and_hold_up_no_other_queue(app: App, conn: Conn) -> None:
    failed_before: list[int] = []
    delays: dict[int, float] = {}  # of first failures: a job with a short delay may fail again before this test ends

    @app.on(JobRetried)
    def note(event: JobRetried) -> None:
        delays.setdefault(event.job_id, event.delay)

    @app.task(name="bad", queue="bad", retry=Exponential(base=LONGEST))
    async def bad() -> None:
        raise ConnectionError("downstream is away")

    @app.task(name="good", queue="good")
    async def good() -> None:
        failed_before.append(scalar(conn, "select count(*) from pgqueue.job_live where attempt = 1"))

    bad.enqueue_many({} for _ in range(JOBS))
    good.enqueue_many({} for _ in range(20))
    settings = {"queues": ("bad", "good"), "limits": {"bad": 7}}
    asyncio.run(work(app, lambda: len(delays) == JOBS and len(failed_before) == 20, **settings))

    assert max(failed_before) < JOBS / 2, "the other queue had to wait for the storm"
    tenths = Counter(int(10 * delay / LONGEST) for delay in delays.values())  # jobs by tenths of the longest delay
    assert sorted(tenths) == list(range(10))
    assert all(60 <= count <= 140 for count in tenths.values()), tenths  # 100 each, four standard deviations around
