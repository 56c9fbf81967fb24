"""Activity: what workers did, in rows of ten seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import LiteralString
from uuid import UUID

from pgqueue.jobs.retention import COUNTED, RetentionRule
from pgqueue.jobs.tally import BUCKETS, OUTCOMES, Count, Key, array_of, middle_of
from pgqueue.queries.base import Query, Statements, fill, nothing
from pgqueue.queries.jobs.parts import LANES
from pgqueue.queries.jobs.turns import TURN_AT, WAITS

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
    where a.at > now() - interval '1 minute' and a.outcome not in ('released', 'expired', 'rescued', 'skipped')
    group by a.queue
)
select queue, coalesce(ended.jobs, 0::float8) / 60::float8,
       case when coalesce(fresh.jobs, 0::bigint) <= %(most)s::bigint
            then (coalesce(fresh.jobs::float8, 0::float8) + coalesce(ended.fresh, 0::float8)) / 60::float8 end
from fresh full join ended using (queue) order by queue""",
    lanes=LANES,
)

# Tell how many of the metered jobs that wait became due in the last minute, by queue, and null where that cannot be
# told: lane by lane in the order of job_live_turn, at most `most` and one more of a lane; in a lane in order among its
# first ones, for they stand there by id. Hops from one lane to the next, over at most `most_lanes`.
DUE_TURNS: LiteralString = fill(
    """
with recursive turn(queue, lane, priority) as (
    (select j.queue::text, j.lane, j.priority::smallint from {s}.job_live j where {waits}
     order by j.queue, j.lane, j.priority desc limit 1)
    union all
    select following.queue, following.lane, following.priority from turn cross join lateral (
        (select j.queue::text as queue, j.lane as lane, j.priority::smallint as priority from {s}.job_live j
         where {waits} and j.queue::text = turn.queue and j.lane = turn.lane and j.priority::smallint < turn.priority
         order by j.queue, j.lane, j.priority desc limit 1)
        union all
        (select j.queue::text, j.lane, j.priority::smallint from {s}.job_live j
         where {waits} and j.queue::text = turn.queue and j.lane > turn.lane
         order by j.queue, j.lane, j.priority desc limit 1)
        union all
        (select j.queue::text, j.lane, j.priority::smallint from {s}.job_live j
         where {waits} and j.queue::text > turn.queue order by j.queue, j.lane, j.priority desc limit 1)
        order by queue, lane limit 1) as following
), counted as (
    select t.queue, t.lane < 0::bigint and looked.jobs > %(most)s::bigint as unknown,
           looked.fresh as jobs
    from (select * from turn limit %(most_lanes)s::int + 1) as t cross join lateral (
        select count(*) as jobs, count(*) filter (
            where w.run_at > now() - interval '1 minute' and w.run_at <= now()) as fresh
        from (
            select j.run_at::timestamptz as run_at from {s}.job_live j
            where {waits} and j.queue::text = t.queue and j.lane = t.lane and j.priority::smallint = t.priority
            and {turn_at} >= case when t.lane < 0::bigint then '-infinity'::timestamptz
                                  else now() - interval '1 minute' end
            and {turn_at} <= now()
            order by {turn_at}, j.id limit %(most)s::int + 1) as w
    ) as looked
)
select queue, case when not bool_or(unknown) and sum(jobs) <= %(most)s::numeric
                        and (select count(*) from counted) <= %(most_lanes)s::bigint then sum(jobs)::bigint end
from counted group by queue""",
    waits=WAITS,
    turn_at=TURN_AT,
)

# Tell within how many seconds, up to now, as many jobs have ended as each rule of retention keeps; null where fewer
# have within its age. Ends stand here in rows of ten seconds by task, queue and outcome, so no job is looked at: the
# naive form, to number the finished jobs, reads all of them each time, for they have no index by queue or task. By
# activity_at, from the newest row on, and no further than `look` rows of a rule. It locks nothing.
REACHES: LiteralString = """
select (
    select extract(epoch from now() - counted.at)::float8 + 10.0::float8
    from (
        select newest.at, sum(newest.jobs) over (order by newest.at desc, newest.jobs) as ended
        from (
            select a.at, case when a.outcome = any(string_to_array(g.outcomes, ' '))
                              and a.queue like g.queues escape '!' and a.task like g.tasks escape '!'
                              then a.jobs::bigint else 0::bigint end as jobs
            from {s}.activity a
            where a.at > now() - make_interval(secs => g.seconds) order by a.at desc limit %(look)s::int
        ) as newest
    ) as counted
    where counted.ended >= g.most::numeric order by counted.at desc limit 1)
from unnest(%(outcomes)s::text[], %(queues)s::text[], %(tasks)s::text[], %(seconds)s::float8[], %(mosts)s::bigint[])
     with ordinality as g(outcomes, queues, tasks, seconds, most, ord)
order by g.ord"""

MOST_LANES = 1000
LOOK = 50_000  # rows


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

    def with_turns(self, due_turns: Mapping[str, int | None]) -> "QueueRate":
        """Return the rate with the metered jobs that became due, as `due_turns` tells them."""
        more = due_turns.get(self.queue, 0)
        total = None if self.due_per_second is None or more is None else self.due_per_second + more / 60
        return replace(self, due_per_second=total)


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

    def due_turns(self, most: int) -> Query[dict[str, int | None]]:
        """Tell how many metered jobs that wait became due in the last minute, by queue; None where it is not known."""
        return Query(self._sql(DUE_TURNS), dict, {"most": most, "most_lanes": MOST_LANES})

    def reaches(self, rules: Sequence[RetentionRule], look: int = LOOK) -> Query[list[float | None]]:
        """Tell within how many seconds as many jobs have ended as each rule keeps; None where fewer have."""
        params = {
            "outcomes": [" ".join(COUNTED[rule.name]) for rule in rules],
            "queues": [_pattern(rule.queue) for rule in rules],
            "tasks": [_pattern(rule.task) for rule in rules],
            "seconds": [rule.seconds for rule in rules],
            "mosts": [rule.most for rule in rules],
            "look": look,
        }
        return Query(self._sql(REACHES), lambda rows: [row[0] for row in rows], params)


def _pattern(name: str) -> str:
    """Return a pattern of names as LIKE has it, with ! before what is meant as it is."""
    plain = name.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return plain.replace("*", "%")
