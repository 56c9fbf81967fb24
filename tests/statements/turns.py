"""Metered jobs for tests: made by hand, claimed by the statements of the floor, and what their counters say."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.turns.claim import Line
from tests.conftest import scalar
from tests.harness import QUERIES, WORKER, Conn

INSERT = """
insert into pgqueue.job_live (task, queue, args, headers, state, waits_for, lane, priority, run_at)
select 't', 'default', '{}', %(headers)s, 'blocked', 'turn', %(lane)s, %(priority)s,
       statement_timestamp() + make_interval(secs => %(delay)s)
from generate_series(1, %(jobs)s) returning id"""
COUNTER = """
select u.taken - f.freed from pgqueue.limit_use u join pgqueue.limit_freed f on f.name = u.name where u.name = %s"""


def keyed(*buckets: str) -> Flow:
    """A flow that takes these buckets."""
    return Flow(tuple(sorted(buckets)))


def in_order(bucket: str) -> Flow:
    """A flow whose jobs run in order."""
    return Flow((bucket,), order=bucket)


def metered(conn: Conn, flow: Flow, jobs: int = 1, *, priority: int = 0, delay: float = 0.0) -> list[int]:
    """Insert metered jobs that wait, and make their buckets."""
    db.run(conn, QUERIES.turns.make_buckets(list(flow.buckets)))
    headers = json.dumps({"$flow": flow.header()})
    params = {"headers": headers, "lane": flow.lane, "priority": priority, "delay": delay, "jobs": jobs}
    return [job for (job,) in conn.execute(INSERT, params)]


def rule(conn: Conn, name: str, **columns: Any) -> None:
    """Insert a rule."""
    names, values = ["name", *columns], [name, *columns.values()]
    holes = ", ".join(["%s"] * len(names))
    conn.execute(f"insert into pgqueue.limit_rule ({', '.join(names)}) values ({holes})", values)


def line(flow: Flow, most: int = 100, priority: int = 0) -> Line:
    """A lane from which to claim at most so many."""
    return Line(flow.lane, priority, json.dumps(flow.buckets), most)


def claim_turns(
    conn: Conn, flows: Sequence[Flow], room: int = 100, *, most: int = 100, slots: int = 100, worker: UUID = WORKER
) -> Sequence[ClaimedJob]:
    """Claim from the lanes of these flows."""
    lines = [line(flow, most) for flow in flows]
    return db.run(conn, QUERIES.turns.claim(worker, "default", lines, room=room, slots=slots)).jobs


def running(conn: Conn, bucket: str) -> int:
    """What the counter of a bucket says."""
    return int(scalar(conn, COUNTER, bucket))
