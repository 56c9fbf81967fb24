"""Draining a backlog with one worker: on empty tables, and on tables with a long history."""

import time
from typing import LiteralString

from psycopg import sql

from pgqueue.bench.measure import RATE, Batch, BenchFailed, Result, middle, ratio, steady_rate
from pgqueue.bench.setting import Setting

WARM_UP_SHARE = 0.1  # of a drain's jobs: statements are prepared, the worker finds its pace
HISTORY_JOBS, FILL = 10, 20_000  # finished jobs for each job of a drain; how many are filled in at a time
PATIENCE = 30.0
# One batch of outcomes is one transaction, and `finished_at` is when that began.
BATCHES: LiteralString = """select extract(epoch from finished_at)::float8, count(*), max(attempt) from {}
where id between %s and %s and state = 'succeeded' group by finished_at order by finished_at"""
LIVE: LiteralString = "select count(*) from {}"
# Jobs that ended in the last hours, with their three transitions each, as if workers had run them.
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


def drain(setting: Setting) -> Result:
    """Drain a backlog with one worker, on tables without a history, several times."""
    rates, jobs = [], 0
    for _ in range(setting.scale.rounds):
        setting.empty()
        rate, counted = _drain_once(setting)
        rates.append(rate)
        jobs += counted
    setting.clean[:] = rates
    return Result("drain", jobs, (middle("rate", rates, RATE),))


def history(setting: Setting) -> Result:
    """Drain again with many finished jobs in the tables; compare with draining clean ones."""
    if not setting.clean:
        drain(setting)
    setting.empty()
    filled = _fill(setting)
    rates, jobs = [], 0
    for _ in range(setting.scale.rounds):
        setting.empty("job_live")
        rate, counted = _drain_once(setting)
        rates.append(rate)
        jobs += counted
    full, clean = middle("with_history", rates, RATE), middle("clean", setting.clean, RATE)
    notes = (f"{filled:,} finished jobs had been filled in, with their transitions",)
    return Result("history", jobs, (full, clean, ratio("history_to_clean", full, clean)), notes)


def _drain_once(setting: Setting) -> tuple[float, int]:
    """Enqueue a backlog, then start a worker; return the rate after its warm-up, and how many jobs that counts."""
    count = setting.scale.jobs
    ids = setting.enqueue(count)
    setting.settle()
    with setting.worker() as worker:
        worker.wait_for(count, lambda ran: setting.tell(ran, count))
        _wait_until_written(setting)
    return steady_rate(_batches(setting, ids), round(count * WARM_UP_SHARE))


def _wait_until_written(setting: Setting) -> None:
    """Wait until the last outcomes are in the tables too."""
    query = sql.SQL(LIVE).format(sql.Identifier(setting.schema, "job_live"))
    end = time.monotonic() + PATIENCE
    while setting.conn.execute(query).fetchone() != (0,):
        if time.monotonic() > end:
            raise BenchFailed(f"jobs ran, but some of their outcomes were not written within {PATIENCE:g} s")
        time.sleep(0.02)


def _batches(setting: Setting, ids: list[int]) -> list[Batch]:
    """Read when the jobs ended; all of them must have, in one attempt."""
    query = sql.SQL(BATCHES).format(sql.Identifier(setting.schema, "job_finished"))
    rows = setting.conn.execute(query, [min(ids), max(ids)]).fetchall()
    ran = sum(jobs for _, jobs, _ in rows)
    if ran != len(ids) or any(attempt != 1 for *_, attempt in rows):
        raise BenchFailed(f"{ran} of {len(ids)} jobs succeeded, or some ran twice: this round counts for nothing")
    return [Batch(at, jobs) for at, jobs, _ in rows]


def _fill(setting: Setting) -> int:
    """Write a history; return how many finished jobs it has."""
    total = HISTORY_JOBS * setting.scale.jobs
    names = {"finished": "job_finished", "transition": "transition"}
    query = sql.SQL(FILL_IN).format(
        sequence=sql.Literal(f"{setting.schema}.job_id"),
        **{name: sql.Identifier(setting.schema, table) for name, table in names.items()},
    )
    for first in range(1, total + 1, FILL):
        last = min(first + FILL - 1, total)
        setting.conn.execute(query, {"first": first, "last": last, "total": total})
        setting.tell(last, total)
    return total
