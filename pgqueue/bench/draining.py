"""Draining a backlog with one worker: on empty tables, and on tables with a long history."""

import time
from typing import LiteralString

from psycopg import sql

from pgqueue.bench.bench import Bench
from pgqueue.bench.measure import RATE, BenchFailed, CaseResult, FinishedBatch, median_of, ratio, steady_rate

WARM_UP_SHARE = 0.1  # of a drain's jobs: statements are prepared, the worker finds its pace
HISTORY_JOBS, FILL = 10, 20_000  # finished jobs for each job of a drain; how many are inserted at a time
WRITTEN_SECONDS = 30.0
# A batch of outcomes is one transaction, and `finished_at` is the time at which that began.
BATCHES: LiteralString = """select extract(epoch from finished_at)::float8, count(*), max(attempt) from {}
where id between %s and %s and state = 'succeeded' group by finished_at order by finished_at"""
LIVE: LiteralString = "select count(*) from {}"
# Jobs that ended in the last 20 hours, with three transitions each, as workers leave them.
FILL_IN: LiteralString = """with made as (
    insert into {finished} (id, task, queue, args, attempt, lease, worker_id, run_at, created_at, claimed_at,
                            finished_at, state)
    select nextval({sequence}), 'bench.nothing', 'default', jsonb_build_object('number', i), 1, 1, gen_random_uuid(),
           at - interval '1 second', at - interval '1 second', at - interval '0.1 second', at, 'succeeded'
    from (select i, now() - interval '20 hours' * (1 - i::float8 / %(total)s) as at
          from generate_series(%(first)s::int, %(last)s::int) as i) as ended
    returning id, worker_id, created_at, claimed_at, finished_at
)
insert into {transition} (job_id, at, from_state, to_state, attempt, lease, worker_id)
select id, step.at, step.was, step.becomes, step.number, step.number, step.worker
from made cross join lateral (values
    (created_at, null, 'pending', 0, null::uuid), (claimed_at, 'pending', 'running', 1, worker_id),
    (finished_at, 'running', 'succeeded', 1, worker_id)) as step(at, was, becomes, number, worker)"""


def drain(bench: Bench) -> CaseResult:
    """Drain a backlog with one worker, on tables without a history, several times."""
    rates, jobs = [], 0
    for _ in range(bench.scale.rounds):
        bench.empty()
        rate, counted = _drain_once(bench)
        rates.append(rate)
        jobs += counted
    bench.clean_rates[:] = rates
    return CaseResult("drain", jobs, (median_of("rate", rates, RATE),))


def history(bench: Bench) -> CaseResult:
    """Drain with many finished jobs in the tables; compare the rate with that on empty tables."""
    if not bench.clean_rates:
        drain(bench)
    bench.empty()
    filled = _fill(bench)
    rates, jobs = [], 0
    for _ in range(bench.scale.rounds):
        bench.empty("job_live")
        rate, counted = _drain_once(bench)
        rates.append(rate)
        jobs += counted
    full, clean = median_of("with_history", rates, RATE), median_of("clean", bench.clean_rates, RATE)
    notes = (f"the tables held {filled:,} finished jobs with their transitions",)
    return CaseResult("history", jobs, (full, clean, ratio("history_to_clean", full, clean)), notes)


def _drain_once(bench: Bench) -> tuple[float, int]:
    """Enqueue a backlog and start a worker; return the rate after its warm-up, and the number of jobs counted."""
    count = bench.scale.jobs
    ids = bench.enqueue(count)
    bench.settle()
    with bench.worker() as worker:
        worker.wait_for(count, lambda ran: bench.show_progress(ran, count))
        _wait_until_written(bench)
    return steady_rate(_batches(bench, ids), round(count * WARM_UP_SHARE))


def _wait_until_written(bench: Bench) -> None:
    """Wait until the last outcomes are written: a job ends in the worker before it ends in the tables."""
    query = sql.SQL(LIVE).format(sql.Identifier(bench.schema, "job_live"))
    end = time.monotonic() + WRITTEN_SECONDS
    while bench.conn.execute(query).fetchone() != (0,):
        if time.monotonic() > end:
            raise BenchFailed(f"all jobs ran, but some outcomes were not written within {WRITTEN_SECONDS:g} s")
        time.sleep(0.02)


def _batches(bench: Bench, ids: list[int]) -> list[FinishedBatch]:
    """Read when the jobs ended. Raises BenchFailed unless all of them succeeded in their first attempt."""
    query = sql.SQL(BATCHES).format(sql.Identifier(bench.schema, "job_finished"))
    rows = bench.conn.execute(query, [min(ids), max(ids)]).fetchall()
    ran = sum(jobs for _, jobs, _ in rows)
    if ran != len(ids) or any(attempt != 1 for *_, attempt in rows):
        raise BenchFailed(f"{ran} of {len(ids)} jobs succeeded, or some ran twice: this round counts for nothing")
    return [FinishedBatch(at, jobs) for at, jobs, _ in rows]


def _fill(bench: Bench) -> int:
    """Insert a history; return how many finished jobs it has."""
    total = HISTORY_JOBS * bench.scale.jobs
    names = {"finished": "job_finished", "transition": "transition"}
    query = sql.SQL(FILL_IN).format(
        sequence=sql.Literal(f"{bench.schema}.job_id"),
        **{name: sql.Identifier(bench.schema, table) for name, table in names.items()},
    )
    for first in range(1, total + 1, FILL):
        last = min(first + FILL - 1, total)
        bench.conn.execute(query, {"first": first, "last": last, "total": total})
        bench.show_progress(last, total)
    return total
