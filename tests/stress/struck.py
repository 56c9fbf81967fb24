"""The jobs that ran on workers which a storm has killed or frozen, and which of them were rescued."""

from collections.abc import Iterable
from typing import Any

import psycopg

KILLED, FROZEN = "jobs rescued from the killed", "jobs rescued from the frozen"
RUNNING = """
select j.id, j.lease from pgqueue.job_live j join pgqueue.worker w on w.id = j.worker_id
where w.pid = %s and w.lost_at is null and j.state = 'running'"""
RESCUED = """
select count(*) from unnest(%s::bigint[], %s::bigint[]) as struck(job, lease)
where exists (select from pgqueue.transition t
              where t.job_id = struck.job and t.lease = struck.lease and t.reason = 'rescued')"""
Jobs = list[tuple[int, int]]  # each with its lease


class Struck:
    """What was struck in one storm."""

    def __init__(self) -> None:
        self.jobs: dict[str, Jobs] = {KILLED: [], FROZEN: []}

    def rescued(self, conn: psycopg.Connection[Any]) -> dict[str, int]:
        """Count how many of these jobs were rescued."""
        return {how: _rescued(conn, jobs) for how, jobs in self.jobs.items()}


def running(conn: psycopg.Connection[Any], pid: int) -> Jobs:
    """Return the jobs that a worker runs which is not lost, by its process."""
    return conn.execute(RUNNING, (pid,)).fetchall()


def _rescued(conn: psycopg.Connection[Any], jobs: Iterable[tuple[int, int]]) -> int:
    row = conn.execute(RESCUED, ([job for job, _ in jobs], [lease for _, lease in jobs])).fetchone()
    return row[0] if row else 0
