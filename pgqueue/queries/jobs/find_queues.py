"""Finding the queues that have jobs, for workers that serve patterns such as `tenant-*`."""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements, fill
from pgqueue.queries.jobs.turns import WAITS

# The names of queues that have pending or metered jobs, beyond the name `after` and at most `most` of them; and of
# those that have parked jobs of some tasks, under whatever label. The statement hops along job_live_ready and
# job_live_turn from one queue to the next, and along job_live_parked within each task, so it costs one probe a queue
# however many jobs wait. The naive form, `select distinct queue`, reads every entry of the index. `limit` beneath the
# union: each part stops after `most` probes. It steps over dead entries at the beginning of a lane, as NEXT_DUE does; a
# worker asks less often where that takes long.
FIND_QUEUES: LiteralString = fill(
    """
(with recursive ready(queue) as (
    (select j.queue::text from {s}.job_live j where j.state = 'pending' and j.queue::text > %(after)s::text
     order by j.queue, j.priority desc limit 1)
    union all
    select (select j.queue::text from {s}.job_live j where j.state = 'pending' and j.queue::text > ready.queue
            order by j.queue, j.priority desc limit 1)
    from ready where ready.queue is not null
), turning(queue) as (
    (select j.queue::text from {s}.job_live j where {waits} and j.queue::text > %(after)s::text
     order by j.queue limit 1)
    union all
    select (select j.queue::text from {s}.job_live j where {waits} and j.queue::text > turning.queue
            order by j.queue limit 1)
    from turning where turning.queue is not null
)
select named.queue, false from (
    (select ready.queue from ready where ready.queue is not null limit %(most)s::int)
    union
    (select turning.queue from turning where turning.queue is not null limit %(most)s::int)
) as named order by named.queue limit %(most)s::int)
union all
(select distinct parked.queue, true
 from unnest((select %(tasks)s::text[])) as known(task) cross join lateral (
    with recursive hop(label, queue) as (
        (select coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue::text from {s}.job_live j
         where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
         order by coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue limit 1)
        union all
        select further.label, further.queue from hop cross join lateral (
            select coalesce(j.headers::jsonb ->> '$version'::text, '1') as label, j.queue::text from {s}.job_live j
            where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
            and (coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue::text) > (hop.label, hop.queue)
            order by coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue limit 1) as further
    )
    select hop.queue from hop limit %(most)s::int
 ) as parked limit %(most)s::int)""",
    waits=WAITS,
)


class FoundQueues(NamedTuple):
    """Names of queues that have pending or metered jobs, in order, and of those that have parked ones."""

    ready: list[str]
    parked: list[str]


def _found(rows: Sequence[Row]) -> FoundQueues:
    names: tuple[list[str], list[str]] = ([], [])
    for queue, parked in rows:
        names[parked].append(queue)
    return FoundQueues(*names)


class FindQueueQueries(Statements):
    """Finding queues."""

    def find_queues(self, after: str, most: int, tasks: Sequence[str]) -> Query[FoundQueues]:
        """Find the queues with pending or metered jobs, at most `most` beyond `after`, and those with parked ones of
        these tasks."""
        return Query(self._sql(FIND_QUEUES), _found, {"after": after, "most": most, "tasks": list(tasks)})
