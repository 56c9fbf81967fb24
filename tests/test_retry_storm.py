"""A thousand jobs that fail at once do not come back at once, and others are served beside them. F41."""

import asyncio

from conftest import scalar, work
from harness import Conn

from pgqueue import App, Exponential

JOBS, LONGEST = 1000, 600
# Tenths of the longest delay, and how many retries fall into each.
TENTHS = f"""select floor(10 * extract(epoch from j.run_at - t.at) / {LONGEST})::int, count(*)
from pgqueue.job_live j join pgqueue.transition t on t.job_id = j.id and t.to_state = 'pending' and t.reason = 'error'
group by 1"""


def test_jobs_that_fail_together_come_back_spread_and_hold_up_no_other_queue(app: App, conn: Conn) -> None:
    failed_before: list[int] = []

    @app.task(name="bad", queue="bad", retry=Exponential(base=LONGEST))
    async def bad() -> None:
        raise ConnectionError("downstream is away")

    @app.task(name="good", queue="good")
    async def good() -> None:
        failed_before.append(scalar(conn, "select count(*) from pgqueue.job_live where attempt = 1"))

    ids = bad.enqueue_many({} for _ in range(JOBS))
    good.enqueue_many({} for _ in range(20))
    waiting = "select count(*) from pgqueue.job_live where state = 'running' or attempt = 0"
    settings = {"queues": ("bad", "good"), "limits": {"bad": 7}}
    asyncio.run(work(app, lambda: scalar(conn, waiting) == 0, **settings))

    assert len(failed_before) == 20
    assert max(failed_before) < JOBS / 2, "the other queue had to wait for the storm"
    tenths = dict(conn.execute(TENTHS).fetchall())
    assert sum(tenths.values()) == len(ids)
    assert sorted(tenths) == list(range(10))
    assert all(60 <= count <= 140 for count in tenths.values()), tenths  # 100 each, four standard deviations around
