"""The app that is measured: `pgqueue work -A tests.bench.tasks:app`. Its database is in PGQUEUE_DSN."""

import asyncio
from time import perf_counter

import pgqueue

from .track import record_start

app = pgqueue.App()


@app.task(name="noop")
async def noop(i: int, email: str) -> None:
    """Run on the event loop."""
    record_start(i)


@app.task(name="noop_thread")
def noop_thread(i: int, email: str) -> None:
    """Run in a thread."""
    record_start(i)


@app.task(name="noop_forget", retention=0)
async def noop_forget(i: int, email: str) -> None:
    """Run on the event loop; no row is kept after success."""
    record_start(i)


@app.task(name="busy")
async def busy(i: int, email: str) -> None:
    """Keep the event loop busy for a millisecond, as a short job that computes does."""
    until = perf_counter() + 0.001
    record_start(i)
    while perf_counter() < until:
        pass


@app.task(name="rest")
async def rest(i: int, email: str, ms: int = 20) -> None:
    """Rest for some milliseconds, as a job that waits for another service does."""
    record_start(i)
    await asyncio.sleep(ms / 1000)


@app.task(name="ten_steps")
async def ten_steps(ctx: pgqueue.Context, i: int, email: str) -> None:
    """Record ten steps."""
    record_start(i)
    for step in range(10):
        await ctx.astep(f"step {step}", one)


@app.task(name="many_steps")
async def many_steps(ctx: pgqueue.Context, i: int, email: str, steps: int = 1000) -> None:
    """Record many steps, one after the other."""
    record_start(i)
    for step in range(steps):
        await ctx.astep(f"step {step}", one)


@app.task(name="replayed", retry=pgqueue.Constant(0), max_attempts=2)
async def replayed(ctx: pgqueue.Context, i: int, email: str, steps: int = 1000) -> float:
    """Record many steps, and come back; return in how many milliseconds the second attempt got what is recorded."""
    ran: list[int] = []
    began = perf_counter()
    for step in range(steps):
        await ctx.astep(f"step {step}", _note, ran, step)
    if ran:
        raise pgqueue.Retry(delay=0)
    record_start(i)
    return (perf_counter() - began) * 1000


def _note(ran: list[int], step: int) -> int:
    ran.append(step)
    return step


@app.task(name="signalled")
async def signalled(ctx: pgqueue.Context, i: int, email: str) -> None:
    """Wait for a signal without a worker, and go on."""
    await ctx.await_signal("go")
    record_start(i)


async def one() -> int:
    """Return a value to record."""
    return 1


TASKS = {
    task.name: task for task in (noop, noop_thread, noop_forget, busy, rest, ten_steps, many_steps, replayed, signalled)
}
