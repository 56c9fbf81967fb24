"""Tables that are full before the run: a long history, jobs of tomorrow, millions of ready jobs in many lanes."""

import statistics
import time
from typing import LiteralString
from uuid import uuid4

import psycopg

from pgqueue import db
from pgqueue.queries import Queries

from .database import BenchDatabase
from .drain import drain
from .results import Record
from .session import BenchSession

QUEUES = ("critical", "default", "bulk")
CLAIMS, ROWS = 200, 100
# Finished jobs as workers leave them: a row, and three transitions.
FINISHED: tuple[LiteralString, ...] = (
    """insert into pgqueue.job_finished (id, task, queue, priority, args, max_attempts, attempt, lease, worker_id,
    claimed_at, state)
select g, 'noop', 'default', 0, jsonb_build_object('i', g, 'email', 'user@example.com'), 20, 1, 1,
    '00000000-0000-4000-8000-000000000001', now(), 'succeeded' from generate_series(1, %(n)s) g""",
    """insert into pgqueue.transition (job_id, from_state, to_state, attempt, lease, worker_id)
select g, m.from_state, m.to_state, m.attempt, m.attempt,
    case when m.attempt = 1 then '00000000-0000-4000-8000-000000000001'::uuid end
from generate_series(1, %(n)s) g,
    (values (null, 'pending', 0), ('pending', 'running', 1), ('running', 'succeeded', 1))
    as m(from_state, to_state, attempt)""",
    "select setval('pgqueue.job_id', %(n)s)",
)
SCHEDULED: LiteralString = """with later as (
    insert into pgqueue.job_live (task, queue, args, run_at)
    select 'noop', 'default', jsonb_build_object('i', g, 'email', 'user@example.com'), now() + interval '1 day'
    from generate_series(1, %(n)s) g returning id)
insert into pgqueue.transition (job_id, to_state) select id, 'pending' from later"""
READY: LiteralString = """insert into pgqueue.job_live (task, queue, priority, args)
select 'noop', (%(queues)s::text[])[1 + g %% 3], g %% 7 - 3, jsonb_build_object('i', g, 'email', 'user@example.com')
from generate_series(1, %(n)s) g"""


def after_history(session: BenchSession, n: int, finished: int, scheduled: int) -> Record:
    """Drain jobs beside `finished` ones and `scheduled` ones of tomorrow. A session inserts the history once."""
    finished, scheduled = (max(1, int(count * session.settings.scale)) for count in (finished, scheduled))
    name = f"history_{finished}"
    return drain(session, n, template=session.template(name) or _history(session, name, finished, scheduled))


def _history(session: BenchSession, name: str, finished: int, scheduled: int) -> str:
    database = session.fresh()
    for statement in FINISHED:
        database.conn.execute(statement, {"n": finished})
    database.conn.execute(SCHEDULED, {"n": scheduled})
    database.settle()
    return session.keep_as_template(name)


def lanes(session: BenchSession, n: int) -> Record:
    """Claim a hundred of `n` ready jobs in 21 lanes, and a hundred of ten thousand; compare the times."""
    many, few = _claiming(session, n), _claiming(session, min(n, 10_000))
    return {
        "jobs": n, "claim_ms": many, "claim_ms_few": few, "ratio": round(many / few, 3), "claims": CLAIMS, "ok": True,
    }  # fmt: skip


def _claiming(session: BenchSession, n: int) -> float:
    name = f"ready_{n}"
    kept = session.template(name)
    if kept is None:
        database = session.fresh()
        database.conn.execute(READY, {"queues": list(QUEUES), "n": n})
        database.settle()
        kept = session.keep_as_template(name)
    database = session.fresh(kept)
    with session.timed():
        database.settle()
        return _median_claim(database)


def _median_claim(database: BenchDatabase) -> float:
    """Claim and roll back, so that each claim finds the same rows. The first 20 warm up and do not count."""
    taken: list[float] = []
    claim = Queries("pgqueue").jobs.claim(uuid4(), dict.fromkeys(QUEUES, ROWS), ROWS)
    with psycopg.connect(database.dsn) as conn:
        for _ in range(CLAIMS + 20):
            began = time.perf_counter()
            claimed = db.run(conn, claim)
            taken.append(time.perf_counter() - began)
            assert len(claimed) == ROWS, len(claimed)
            conn.rollback()
    return round(statistics.median(taken[20:]) * 1000, 3)
