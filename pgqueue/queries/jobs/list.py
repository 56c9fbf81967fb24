"""Listing jobs: the newest that fit some filters."""

import builtins
from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.jobs.job import Job
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.queries.base import Query, Row, fill, first_value
from pgqueue.queries.filters import JOB_FITS, parameters
from pgqueue.queries.jobs.parts import LANES
from pgqueue.queries.jobs.read import JOB, JobReadQueries
from pgqueue.queries.jobs.waiting import WAITS

# The filters of a list, besides the state.
_FILTERS: LiteralString = fill(
    """{fits}
    and (%(ids)s::bigint[] is null or j.id = any(%(ids)s::bigint[]))
    and (%(before)s::bigint is null or j.id < %(before)s)""",
    fits=JOB_FITS,
)

# The newest jobs of a table, `looked` at most, of which a list takes those that fit. The bound stands beneath the
# filters: beside them, a list of a task that no job has read ten million rows, which took a minute.
_NEWEST: LiteralString = """(
    select * from {s}.{table} w
    where (%(before)s::bigint is null or w.id < %(before)s)
    and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
    order by w.id desc limit %(looked)s::int)"""

# List the newest jobs: `{picked}` finds their ids, in the one table that holds jobs of a state, and the view reads them
# by primary key. The naive form, a condition on the state of the view, walks each table to its first row where few jobs
# are in that state: 9.7 s for the dead letters beside ten million pending jobs.
_LIST: LiteralString = fill(
    """
with {picked}
select {job}, null
from {s}.job j
where j.id = any(array(select id from picked)::bigint[])
order by j.id desc""",
    job=JOB,
)

# Jobs of a table or of the view, by primary key backwards.
_OF_TABLE: LiteralString = """picked as (
    select j.id from {newest} j where {kind} and {filters} order by j.id desc limit %(limit)s
)"""

# Jobs of some kinds in job_live. Of each kind: where there are few, an index that has only them finds them all; where
# there are many, the walk backwards along the primary key meets some soon, and is not begun where no kind has many.
_OF_KINDS: LiteralString = """{few}, few as (
    {few_ids}
), picked as (
    select id from (
        (select j.id from {s}.job_live j where j.id = any(array(select id from few)::bigint[])
         and ({kind}) and {filters} order by j.id desc limit %(limit)s)
        union
        (select j.id from {newest} j where ({many}) and ({kind}) and {filters} order by j.id desc limit %(limit)s)
    ) as found order by id desc limit %(limit)s
)"""

# The first of a kind and queue, in the order of its index and to a limit, because the planner then uses it whatever the
# statistics say.
_FEW: LiteralString = """
    select j.id from {s}.job_live j where {kind} and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by {by} limit 10001"""

# Scheduled jobs: the end of each lane, by job_live_ready. `lane` hops from one lane to the next, as in COUNT.
_FEW_SCHEDULED: LiteralString = """
    select later.id from lane cross join lateral (
        select j.id from waiting j where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
        order by j.run_at, j.id limit 10001) as later
    where %(queue)s::text is null or lane.queue = %(queue)s::text limit 10001"""

# Tell below which id a list did not look, null if it has looked at all: the bound of _NEWEST, counted again.
_UNSEEN: LiteralString = """(
    select w.id + 1 from {s}.{table} w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1)"""

# The same of some kinds. Where an index has found all jobs of each, nothing is left.
_UNSEEN_OF_KINDS: LiteralString = """
with {few}
select case when {many} then {unseen} end"""


class _Kind(NamedTuple):
    """A kind of jobs in job_live: its condition, and the part of a statement that finds the first ones by an index."""

    name: LiteralString
    condition: LiteralString
    few: LiteralString
    recursive: LiteralString = ""


def unseen_of(table: LiteralString) -> LiteralString:
    """Return the statement that tells below which id nobody looks in a table."""
    return fill("select {unseen}", unseen=fill(_UNSEEN, table=table))


def _of_table(table: LiteralString, kind: LiteralString = "true") -> tuple[LiteralString, LiteralString]:
    picked = fill(_OF_TABLE, newest=fill(_NEWEST, table=table), kind=kind, filters=_FILTERS)
    return fill(_LIST, picked=picked), unseen_of(table)


def _of_kinds(*kinds: _Kind) -> tuple[LiteralString, LiteralString]:
    recursive: LiteralString = "".join(kind.recursive for kind in kinds)
    few: LiteralString = ", ".join(f"few_{kind.name} as materialized ({kind.few})" for kind in kinds)
    many: LiteralString = " or ".join(_many(kind) for kind in kinds)
    picked = fill(
        _OF_KINDS,
        few=recursive + few,
        few_ids=" union all ".join(f"select id from few_{kind.name} where not {_many(kind)}" for kind in kinds),
        kind=" or ".join(kind.condition for kind in kinds),
        many=many,
        newest=fill(_NEWEST, table="job_live"),
        filters=_FILTERS,
    )
    unseen = fill(_UNSEEN_OF_KINDS, few=recursive + few, many=many, unseen=fill(_UNSEEN, table="job_live"))
    return fill(_LIST, picked=picked), unseen


def _many(kind: _Kind) -> LiteralString:
    return f"(select count(*) from few_{kind.name}) > 10000"


def _by(name: LiteralString, condition: LiteralString, by: LiteralString, more: LiteralString = "true") -> _Kind:
    """Return a kind whose index `by` holds jobs that fit `condition`, of which it takes those that fit `more`."""
    return _Kind(name, f"{condition} and {more}", fill(_FEW, kind=condition, by=by))


def _turn(more: LiteralString = "true") -> _Kind:
    """Metered jobs that wait, by job_live_turn."""
    return _by("turn", WAITS, "j.queue, j.lane, j.priority desc", more)


_LATER: LiteralString = "j.run_at::timestamptz > now() and j.attempt = 0"
_SCHEDULED = _Kind(
    "scheduled", f"j.state = 'pending' and {_LATER}", _FEW_SCHEDULED, fill("recursive {lanes}, ", lanes=LANES)
)

# By state or phase, and for all: the list, and below which id it did not look.
_BOTH: dict[str, tuple[LiteralString, LiteralString]] = {
    "": _of_table("job"),
    "failed": _of_table("dead_letter"),
    "succeeded": _of_table("job_finished", "j.state = 'succeeded'"),
    "cancelled": _of_table("job_finished", "j.state = 'cancelled'"),
    "running": _of_kinds(_by("running", "j.worker_id is not null and j.state = 'running'", "j.worker_id")),
    "blocked": _of_kinds(
        _by("parked", "j.state = 'blocked' and j.waits_for = 'task'", "j.task"),
        _by("paused", "j.state = 'blocked' and j.waits_for = 'pause'", "j.task"),
        _turn(),
    ),
    "pending": _of_kinds(_by("pending", "j.state = 'pending'", "j.queue, j.priority desc, j.run_at, j.id")),
    "retrying": _of_kinds(
        _by("retrying", "j.state = 'pending' and j.attempt > 0", "j.queue, j.run_at, j.id"), _turn("j.attempt > 0")
    ),
    "scheduled": _of_kinds(_SCHEDULED, _turn(_LATER)),
}
LISTS = {state: both[0] for state, both in _BOTH.items() if state}
MOST_LOOKED = 200_000


class JobListQueries(JobReadQueries):
    """Listing jobs, for operators. Run `prefer_indexes` in the same transaction before it."""

    def list(self, chosen: JobFilter, before: int | None, limit: int) -> Query[builtins.list[Job]]:
        """List the newest jobs that fit, without their attempts."""

        def read(rows: Sequence[Row]) -> builtins.list[Job]:
            return [self._job(row) for row in rows]

        params = parameters(chosen) | {"before": before, "limit": limit, "looked": MOST_LOOKED}
        return Query(self._sql(_BOTH[chosen.state or ""][0]), read, params)

    def unseen(self, chosen: JobFilter, before: int | None) -> Query[int | None]:
        """Tell below which id such a list does not look, if it finds too few; None if it looks at all jobs."""
        params = {"queue": chosen.queue, "before": before, "looked": MOST_LOOKED}
        return Query(self._sql(_BOTH[chosen.state or ""][1]), first_value, params)
