"""Activity: what workers did, in rows of ten seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from pgqueue.jobs.tally import BUCKETS, OUTCOMES, Count, Key, array_of, middle_of
from pgqueue.queries.base import Query, Statements, fill, nothing
from pgqueue.queries.jobs.parts import LANES

# Insert what a worker counted. Nothing reads these rows to decide anything, and no row is ever updated, so that workers
# never wait for each other and an open snapshot keeps no dead rows.
RECORD: LiteralString = """
insert into {s}.activity (worker_id, task, queue, outcome, jobs, run_seconds, wait_seconds, run_counts, wait_counts)
select %(worker)s, g.task, g.queue, g.outcome, g.jobs, g.run_seconds, g.wait_seconds, g.run_counts::int[],
       g.wait_counts::int[]
from unnest(%(tasks)s::text[], %(queues)s::text[], %(outcomes)s::text[], %(jobs)s::int[], %(run_seconds)s::float8[],
            %(wait_seconds)s::float8[], %(run_counts)s::text[], %(wait_counts)s::text[])
     as g(task, queue, outcome, jobs, run_seconds, wait_seconds, run_counts, wait_counts)"""

# Tell how many attempts ended and how many jobs became due in the last minute, by queue. No row counts enqueued jobs:
# a caller's transaction may roll back. A job that became due in that minute either still waits (job_live_ready, lane by
# lane, at most `most` and one more of a queue), or an attempt of it ended that had not waited longer (activity_at).
RATES: LiteralString = fill(
    """
with recursive {lanes}, served as materialized (select distinct queue from lane), fresh as (
    select served.queue, (
        select count(*) from (
            select from lane cross join lateral (
                select from waiting j
                where j.queue = lane.queue and j.priority = lane.priority
                and j.run_at > now() - interval '1 minute' and j.run_at <= now()
                order by j.run_at, j.id limit %(most)s::int + 1) as first
            where lane.queue = served.queue limit %(most)s::int + 1) as counted) as jobs
    from served
), ended as (
    select a.queue, sum(a.jobs::float8) as jobs, sum((
        select sum(a.wait_counts[b.bucket]::float8)
        from unnest(%(buckets)s::int[], %(middles)s::float8[]) as b(bucket, middle)
        where b.middle < 60::float8 - date_part('epoch'::text, now() - a.at) - a.run_seconds / a.jobs::float8)) as fresh
    from {s}.activity a
    where a.at > now() - interval '1 minute' and a.outcome not in ('released', 'expired', 'rescued')
    group by a.queue
)
select queue, coalesce(ended.jobs, 0::float8) / 60::float8,
       case when coalesce(fresh.jobs, 0::bigint) <= %(most)s::bigint
            then (coalesce(fresh.jobs::float8, 0::float8) + coalesce(ended.fresh, 0::float8)) / 60::float8 end
from fresh full join ended using (queue) order by queue""",
    lanes=LANES,
)


@dataclass(frozen=True, slots=True)
class QueueRate:
    """Attempts that ended and jobs that became due, a second, in the last minute.

    `due_per_second` is None where too many jobs became due to count them.
    """

    queue: str
    ended_per_second: float
    due_per_second: float | None

    def drained_in(self, due: int) -> float | None:
        """Return the seconds until `due` jobs have run, at these rates; None if they do not become fewer."""
        if self.due_per_second is None:
            return None
        net = self.ended_per_second - self.due_per_second
        return due / net if net > 0 else None


class ActivityQueries(Statements):
    """What workers did."""

    def record(self, worker: UUID, counts: Sequence[tuple[Key, Count]]) -> Query[None]:
        """Insert what a worker has counted, by task, queue and outcome."""
        params = {
            "worker": worker,
            "tasks": [task for (task, _, _), _ in counts],
            "queues": [queue for (_, queue, _), _ in counts],
            "outcomes": [OUTCOMES[verb] for (_, _, verb), _ in counts],
            "jobs": [count.jobs for _, count in counts],
            "run_seconds": [count.run_seconds for _, count in counts],
            "wait_seconds": [count.wait_seconds for _, count in counts],
            "run_counts": [array_of(count.run_counts) for _, count in counts],
            "wait_counts": [array_of(count.wait_counts) for _, count in counts],
        }
        return Query(self._sql(RECORD), nothing, params)

    def rates(self, most: int) -> Query[list[QueueRate]]:
        """Return the rates of each queue that has jobs or had some lately."""
        within = [bucket for bucket in range(BUCKETS) if middle_of(bucket) < 60]
        params = {"most": most, "buckets": within, "middles": [middle_of(bucket) for bucket in within]}
        return Query(self._sql(RATES), lambda rows: [QueueRate(*row) for row in rows], params)
