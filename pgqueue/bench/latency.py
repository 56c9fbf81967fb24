"""Latency: from the call of `enqueue` to the first line of the task, at a rate."""

import time
from typing import LiteralString

from psycopg import sql

from pgqueue.bench.measure import MS, BenchFailed, Result, Value, percentiles
from pgqueue.bench.setting import Setting

WARM_UP = 10
WAITED: LiteralString = "select result::float8 from {} where id = any(%s) and state = 'succeeded'"


def latency(setting: Setting) -> Result:
    """Enqueue at a rate whose times are fixed in advance: a slow answer delays no later call's turn."""
    setting.empty()
    scale = setting.scale
    count = max(round(scale.rate * scale.seconds), 1)
    with setting.worker() as worker:
        _send(setting, WARM_UP)
        worker.wait_for(WARM_UP, lambda _: None)
        ids, late = _send(setting, count)
        worker.wait_for(WARM_UP + count, lambda _: None)
    waited = _read(setting, ids)
    notes = []
    if 1000 * late > 1000 / scale.rate:
        notes.append(f"the sender fell up to {late:.3f} s behind its rate: each call was timed from when it was made")
    return Result("latency", len(waited), (*percentiles(waited), Value("sent_late", 1000 * late, MS)), tuple(notes))


def _send(setting: Setting, count: int) -> tuple[list[int], float]:
    """Send at the rate; return the ids, and by how many seconds the latest call came after its time."""
    ids, late, start = [], 0.0, time.monotonic()
    for number in range(count):
        planned = start + number / setting.scale.rate
        time.sleep(max(planned - time.monotonic(), 0.0))
        late = max(late, time.monotonic() - planned)
        ids.append(setting.measured.arrive.enqueue(time.monotonic_ns()).id)
        setting.tell(number + 1, count)
    return ids, late


def _read(setting: Setting, ids: list[int]) -> list[float]:
    """Return what the jobs measured, from their results."""
    query = sql.SQL(WAITED).format(sql.Identifier(setting.schema, "job_finished"))
    waited = [value for (value,) in setting.conn.execute(query, [ids])]
    if len(waited) != len(ids):
        raise BenchFailed(f"{len(waited)} of {len(ids)} jobs have a result")
    return waited
