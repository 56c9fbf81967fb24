"""Listing jobs: the newest that fit some filters."""

import builtins
from collections.abc import Sequence
from typing import LiteralString

from pgqueue.jobs.job import Job
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.queries.base import Query, Row, fill
from pgqueue.queries.filters import JOB_FITS, parameters
from pgqueue.queries.jobs.parts import LANES
from pgqueue.queries.jobs.read import JOB, JobReadQueries

# The filters of a list, besides the state.
_FILTERS: LiteralString = fill(
    """{fits}
    and (%(ids)s::bigint[] is null or j.id = any(%(ids)s::bigint[]))
    and (%(before)s::bigint is null or j.id < %(before)s)""",
    fits=JOB_FITS,
)

# List the newest jobs in any state: each table is walked backwards from its highest id.
LIST: LiteralString = fill(
    """
select {job}, null
from {s}.job j
where {filters}
order by j.id desc limit %(limit)s""",
    job=JOB,
    filters=_FILTERS,
)

# List the newest jobs in one state: `{picked}` finds their ids in the one table that holds such jobs, and the view
# reads them by primary key. The naive form, a condition on the state of the view, walks each table to its first row
# where few jobs are in that state: 9.7 s for the dead letters beside ten million pending jobs.
_LIST_STATE: LiteralString = fill(
    """
with {picked}
select {job}, null
from {s}.job j
where j.id = any(array(select id from picked)::bigint[])
order by j.id desc""",
    job=JOB,
)

# Jobs in a state that has a table of its own, by primary key backwards. In job_finished few are cancelled, and no index
# has the state: a list of those walks over that table, and over no other.
_OWN_TABLE: LiteralString = """picked as (
    select j.id from {s}.{table} j where j.state = '{state}' and {filters} order by j.id desc limit %(limit)s
)"""

# Jobs of one kind in job_live. Where there are few, an index that has only them finds them; where there are many, the
# walk backwards along the primary key meets them soon. The index is read in its order, and to a limit, because the
# planner then uses it whatever the statistics say.
_IN_JOB_LIVE: LiteralString = """few as materialized (
    select j.id from {s}.job_live j where {kind} and {filters} order by {by} limit 10001
), picked as (
    select id from (
        (select few.id from few where (select count(*) from few) <= 10000 order by few.id desc limit %(limit)s)
        union all
        (select j.id from {s}.job_live j where (select count(*) from few) > 10000 and {kind} and {filters}
         order by j.id desc limit %(limit)s)
    ) as found
)"""

# Scheduled jobs: the end of each lane, by job_live_ready. `lane` hops from one lane to the next, as in COUNT.
_SCHEDULED: LiteralString = fill(
    """recursive {lanes}, few as materialized (
    select later.id from lane cross join lateral (
        select j.id from {s}.job_live j
        where j.state = 'pending' and j.queue::text = lane.queue and j.priority::smallint = lane.priority
        and j.run_at::timestamptz > now() and j.attempt = 0 and {filters}
        order by j.run_at, j.id limit 10001) as later
    limit 10001
), picked as (
    select id from (
        (select few.id from few where (select count(*) from few) <= 10000 order by few.id desc limit %(limit)s)
        union all
        (select j.id from {s}.job_live j where (select count(*) from few) > 10000 and j.state = 'pending'
         and j.run_at::timestamptz > now() and j.attempt = 0 and {filters}
         order by j.id desc limit %(limit)s)
    ) as found
)""",
    lanes=LANES,
)


def _own_table(table: LiteralString, state: LiteralString) -> LiteralString:
    return fill(_LIST_STATE, picked=fill(_OWN_TABLE, table=table, state=state, filters=_FILTERS))


def _in_job_live(kind: LiteralString, by: LiteralString) -> LiteralString:
    return fill(_LIST_STATE, picked=fill(_IN_JOB_LIVE, kind=kind, by=by, filters=_FILTERS))


# By state or phase. A list of retrying jobs, which no index has, walks over job_live.
LISTS: dict[str, LiteralString] = {
    "failed": _own_table("dead_letter", "failed"),
    "succeeded": _own_table("job_finished", "succeeded"),
    "cancelled": _own_table("job_finished", "cancelled"),
    "running": _in_job_live("j.worker_id is not null and j.state = 'running'", "j.worker_id"),
    "blocked": _in_job_live("j.state = 'blocked' and j.waits_for = 'task'", "j.task"),
    "pending": _in_job_live("j.state = 'pending'", "j.queue, j.priority desc, j.run_at, j.id"),
    "retrying": fill(
        _LIST_STATE,
        picked=fill(
            """picked as (
    select j.id from {s}.job_live j where j.state = 'pending' and j.attempt > 0 and {filters}
    order by j.id desc limit %(limit)s
)""",
            filters=_FILTERS,
        ),
    ),
    "scheduled": fill(_LIST_STATE, picked=fill(_SCHEDULED, filters=_FILTERS)),
}


class JobListQueries(JobReadQueries):
    """Listing jobs, for operators. Run `prefer_indexes` in the same transaction before it."""

    def list(self, chosen: JobFilter, before: int | None, limit: int) -> Query[builtins.list[Job]]:
        """List the newest jobs that fit, without their attempts."""

        def read(rows: Sequence[Row]) -> builtins.list[Job]:
            return [self._job(row) for row in rows]

        params = parameters(chosen) | {"before": before, "limit": limit}
        return Query(self._sql(LIST if chosen.state is None else LISTS[chosen.state]), read, params)
