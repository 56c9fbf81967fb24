"""Latency: from the call of `enqueue` to the first line of the task, at a rate."""

import time
from typing import LiteralString

from psycopg import sql

from pgqueue.bench.bench import Bench
from pgqueue.bench.measure import MS, BenchFailed, CaseResult, Measurement, percentiles

WARM_UP = 10
WAITED: LiteralString = "select result::float8 from {} where id = any(%s) and state = 'succeeded'"


def latency(bench: Bench) -> CaseResult:
    """Enqueue at a rate. The time of each call is fixed in advance, so a slow call does not delay the later ones."""
    bench.empty()
    scale = bench.scale
    count = max(round(scale.rate * scale.seconds), 1)
    with bench.worker() as worker:
        _send(bench, WARM_UP)
        worker.wait_for(WARM_UP, lambda _: None)
        ids, late = _send(bench, count)
        worker.wait_for(WARM_UP + count, lambda _: None)
    waited = _read(bench, ids)
    notes = []
    if 1000 * late > 1000 / scale.rate:
        notes.append(f"calls were made up to {late:.3f} s late: each is timed from when it was made")
    return CaseResult(
        "latency", len(waited), (*percentiles(waited), Measurement("sent_late", 1000 * late, MS)), tuple(notes)
    )


def _send(bench: Bench, count: int) -> tuple[list[int], float]:
    """Enqueue at the rate; return the ids, and by how many seconds the most delayed call was late."""
    ids, late, start = [], 0.0, time.monotonic()
    for number in range(count):
        planned = start + number / bench.scale.rate
        time.sleep(max(planned - time.monotonic(), 0.0))
        late = max(late, time.monotonic() - planned)
        ids.append(bench.tasks.arrive.enqueue(time.monotonic_ns()).id)
        bench.show_progress(number + 1, count)
    return ids, late


def _read(bench: Bench, ids: list[int]) -> list[float]:
    """Return the times that the jobs measured, in ms: their results."""
    query = sql.SQL(WAITED).format(sql.Identifier(bench.schema, "job_finished"))
    waited = [value for (value,) in bench.conn.execute(query, [ids])]
    if len(waited) != len(ids):
        raise BenchFailed(f"{len(waited)} of {len(ids)} jobs have a result")
    return waited
