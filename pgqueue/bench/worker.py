"""The app that `pgqueue work` loads for the bench: it tells on stdout how many jobs have run.

So the bench can follow its worker without asking the database, which would be measured along.
"""

import asyncio
import os
import sys

from pgqueue.bench.tasks import Ran, build

SCHEMA = "PGQUEUE_BENCH_SCHEMA"
TELL_SECONDS = 0.02

app = build(None, os.environ.get(SCHEMA, "pgqueue_bench")).app
_telling: list[asyncio.Task[None]] = []


@app.on_worker_start
async def begin() -> None:
    """Say at once that the worker is there, then how far it is."""
    _telling.append(asyncio.create_task(_tell()))


@app.on_worker_stop
async def end() -> None:
    """Say the last count."""
    _telling.pop().cancel()
    _say(Ran.count)


async def _tell() -> None:
    told = -1
    while True:
        if Ran.count != told:
            told = Ran.count
            _say(told)
        await asyncio.sleep(TELL_SECONDS)


def _say(count: int) -> None:
    sys.stdout.write(f"{count}\n")
    sys.stdout.flush()
