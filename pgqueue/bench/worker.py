"""The app that `pgqueue work` loads for the bench. It prints on stdout how many jobs have run.

So the bench follows its worker without queries, which would be measured too.
"""

import asyncio
import os
import sys

from pgqueue.bench.tasks import JobsRun, build_tasks

SCHEMA = "PGQUEUE_BENCH_SCHEMA"
REPORT_SECONDS = 0.02

app = build_tasks(None, os.environ.get(SCHEMA, "pgqueue_bench")).app
_reporting: list[asyncio.Task[None]] = []


@app.on_worker_start
async def begin() -> None:
    """Print at once that no job has run, so that the bench knows of the worker; then each new count."""
    _reporting.append(asyncio.create_task(_report()))


@app.on_worker_stop
async def end() -> None:
    """Print the last count."""
    _reporting.pop().cancel()
    _print(JobsRun.count)


async def _report() -> None:
    printed = -1
    while True:
        if JobsRun.count != printed:
            printed = JobsRun.count
            _print(printed)
        await asyncio.sleep(REPORT_SECONDS)


def _print(count: int) -> None:
    sys.stdout.write(f"{count}\n")
    sys.stdout.flush()
