"""Finding the queues that have jobs, for workers that serve patterns such as `tenant-*`."""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements

# The names of queues that have pending jobs, beyond the name `after` and at most `most` of them; and of those that have
# parked jobs of some tasks, under whatever label. The statement hops along job_live_ready from one queue to the next,
# and along job_live_parked within each task, so it costs one probe a queue however many jobs wait. The naive form,
# `select distinct queue`, reads every entry of the index.
# It steps over dead entries at the beginning of a lane, as NEXT_DUE does; a worker asks less often where that takes
# long.
FIND_QUEUES: LiteralString = """
(with recursive ready(queue) as (
    (select j.queue::text from {s}.job_live j where j.state = 'pending' and j.queue::text > %(after)s::text
     order by j.queue, j.priority desc limit 1)
    union all
    select (select j.queue::text from {s}.job_live j where j.state = 'pending' and j.queue::text > ready.queue
            order by j.queue, j.priority desc limit 1)
    from ready where ready.queue is not null
)
select ready.queue, false from ready where ready.queue is not null limit %(most)s::int)
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
 ) as parked limit %(most)s::int)"""


class FoundQueues(NamedTuple):
    """Names of queues that have pending jobs, in order, and of those that have parked ones."""

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
        """Find the queues that have pending jobs, at most `most` beyond `after`, or parked ones of these tasks."""
        return Query(self._sql(FIND_QUEUES), _found, {"after": after, "most": most, "tasks": list(tasks)})
