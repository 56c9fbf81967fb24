"""Short runs, each of which shows a certain bug if there is one."""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from functools import partial

from .journal import read
from .proxy import Trap
from .run import Stress
from .server import until

PATIENCE = 20.0


async def _must(happened: float | None, what: str) -> None:
    if happened is None:
        raise RuntimeError(f"the scenario did not reach its point: {what}")


async def _held_by(stress: Stress, jobs: list[int], pid: int) -> bool:
    """Whether all the jobs run in one process."""
    held = (
        "select count(*) = %s from pgqueue.job_live j join pgqueue.worker w on w.id = j.worker_id"
        " where j.id = any(%s) and w.pid = %s and j.state = 'running'"
    )
    return bool(await stress.database.value(held, len(jobs), jobs, pid))


async def late_write(stress: Stress) -> None:
    """A worker's outcome is on its way while others rescue the job and run it again; then it arrives."""
    first, second = stress.fleet.of("worker")
    warm = await stress.enqueue("fast", queue=f"only-{first.name}")  # so that it has a connection for outcomes
    done = "select state = 'succeeded' from pgqueue.job where id = any(%s)"
    await _must(await until(lambda: stress.database.value(done, warm), PATIENCE), "the first worker works")
    second.send(signal.SIGSTOP)  # so that the first one gets the job
    jobs = await stress.enqueue("slow", 1, seconds=0.8, again=4.0)
    await _must(await until(lambda: _held_by(stress, jobs, first.pid), PATIENCE), "the first worker runs it")
    first.gate.hold()
    second.send(signal.SIGCONT)

    async def ended() -> bool:
        lines = read(iter(stress.directory.glob(f"jobs-{first.name}.jsonl")))
        return any(line["kind"] == "end" and line["job"] in jobs for line in lines)

    try:
        await _must(await until(ended, PATIENCE), "the job ends in the first worker")
        await _must(await until(lambda: _held_by(stress, jobs, second.pid), PATIENCE), "the second one runs it")
    finally:
        first.gate.heal()


async def busy(stress: Stress) -> None:
    """Many workers fight for many jobs."""
    enough = "select count(*) >= 150 from pgqueue.transition where to_state = 'running'"
    await _must(await until(lambda: stress.database.value(enough), PATIENCE), "150 claims")


async def brought_back(stress: Stress) -> None:
    """An operator brings back jobs that have used all of their attempts."""
    jobs = await stress.enqueue("always", 5)
    dead = "select count(*) = 5 from pgqueue.dead_letter where id = any(%s)"
    await _must(await until(lambda: stress.database.value(dead, jobs), PATIENCE), "five have failed for good")
    await stress.operate("dead", "redrive", "--yes", *(f"--id={job}" for job in jobs))
    again = """
        select count(*) >= 5 from pgqueue.transition r where r.job_id = any(%s) and r.to_state = 'running' and exists (
            select from pgqueue.transition t where t.job_id = r.job_id and t.from_state = 'failed' and t.at < r.at)"""
    await _must(await until(lambda: stress.database.value(again, jobs), PATIENCE), "five have run again")


async def slow_jobs(stress: Stress) -> None:
    """Jobs that take longer than a lease, in healthy workers."""
    jobs = await stress.enqueue("slow", 12, seconds=3)
    ended = "select count(*) >= %s from pgqueue.transition where job_id = any(%s) and from_state = 'running'"
    await _must(await until(lambda: stress.database.value(ended, len(jobs), jobs), PATIENCE), "twelve ends")


async def ticks(stress: Stress) -> None:
    """Schedulers fight for each tick."""
    enough = "select count(*) >= 5 from pgqueue.schedule_fire where outcome = 'fired'"
    await _must(await until(lambda: stress.database.value(enough), PATIENCE), "five ticks")


async def killed_while_exact(stress: Stress) -> None:
    """Workers die among jobs that write their effects in ctx.transaction()."""
    jobs = await stress.enqueue("exact", 300, run_at=datetime.now(UTC) + timedelta(seconds=4))  # all at once
    for worker in stress.fleet.of("worker"):
        more = f"select count(*) > {await stress.database.value('select count(*) from stress.exact')} from stress.exact"
        await _must(await until(partial(stress.database.value, more), PATIENCE), "effects are written")
        worker.planned = "F1"
        worker.send(signal.SIGKILL)
    ended = "select count(*) = 0 from pgqueue.job_live where id = any(%s)"
    await _must(await until(lambda: stress.database.value(ended, jobs), PATIENCE), "all have ended")


async def deaf(stress: Stress) -> None:
    """F19: the notification of a job is lost."""
    worker = stress.fleet.of("worker")[0]
    waits = "select bool_and(waiting) from pgqueue.worker where pid = %s"
    await _must(await until(lambda: stress.database.value(waits, worker.pid), PATIENCE), "the worker waits")
    worker.gate.deafen("pgqueue worker listen")
    try:
        job = (await stress.enqueue("fast"))[0]
        done = "select state = 'succeeded' from pgqueue.job where id = %s"
        await stress.probe("L3", "a job is picked up", lambda: stress.database.value(done, job), 3.0)
    finally:
        worker.gate.heal()


async def mute_heartbeat(stress: Stress) -> None:
    """F12: for a long time a worker gets nothing on its heartbeat's connection, and everything on the others."""
    victim = stress.fleet.of("worker")[0]
    victim.gate.deafen("pgqueue worker heartbeat")
    long_lost = "select bool_or(lost_at < clock_timestamp() - interval '12 s') from pgqueue.worker where pid = %s"
    try:
        await _must(await until(lambda: stress.database.value(long_lost, victim.pid), 30), "the worker is lost")
    finally:
        victim.gate.heal()


async def lost_claim(stress: Stress) -> None:
    """F13: a claim is committed, and its answer gets lost."""
    worker = stress.fleet.of("worker")[0]
    lost = worker.gate.lose(Trap("pgqueue worker claim", answer=b"only-"))
    await stress.enqueue("fast", queue=f"only-{worker.name}")
    await asyncio.wait_for(lost.wait(), PATIENCE)
