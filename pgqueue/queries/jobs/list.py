"""Listing jobs: the newest that fit some filters."""

import builtins
from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.jobs.job import Job
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.queries.base import Query, Row, fill, first_value
from pgqueue.queries.filters import JOB_FITS, parameters
from pgqueue.queries.jobs.asleep import FOR_JOBS, RESTING_QUEUES
from pgqueue.queries.jobs.parts import LANES
from pgqueue.queries.jobs.read import JOB, JobReadQueries
from pgqueue.queries.jobs.turns import WAITS
from pgqueue.queries.phase import ASLEEP_AS, MAY_BE_ASLEEP

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
_OF_KINDS: LiteralString = """{few}, picked as (
    select id from (
        (select j.id from {s}.job_live j
         where j.id = any(array(select id from few where kind not in (select kind from many))::bigint[])
         and {kind} and {filters} order by j.id desc limit %(limit)s)
        union
        (select j.id from {newest} j
         where exists (select from many) and {kind} and {filters} order by j.id desc limit %(limit)s)
    ) as found order by id desc limit %(limit)s
)"""

_FEW_OF_KINDS: LiteralString = """few(kind, id) as materialized ({found}), many(kind) as materialized (
    select kind from few group by kind having count(*) > 10000)"""

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

# Jobs that may be asleep: those of later in each queue, by job_live_asleep. `resting` hops from one queue to the next.
_FEW_ASLEEP: LiteralString = fill(
    """
    select later.id from resting cross join lateral (
        select j.id from {s}.job_live j where {may_be_asleep} and j.queue::text = resting.queue
        order by j.queue, j.run_at, j.id limit 10001) as later
    where %(queue)s::text is null or resting.queue = %(queue)s::text limit 10001""",
    may_be_asleep=MAY_BE_ASLEEP,
)

# Tell below which id a list did not look, null if it has looked at all: the bound of _NEWEST, counted again.
_UNSEEN: LiteralString = """(
    select w.id + 1 from {s}.{table} w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1)"""

# The same of some kinds. Where an index has found all jobs of each, nothing is left.
_UNSEEN_OF_KINDS: LiteralString = """
with {few}
select case when exists (select from many) then {unseen} end"""


class _Kind(NamedTuple):
    """A kind of jobs in job_live: its condition, and the part of a statement that finds the first ones by an index."""

    condition: LiteralString
    few: LiteralString
    recursive: LiteralString = ""


def unseen_of(table: LiteralString) -> LiteralString:
    """Return the statement that tells below which id nobody looks in a table."""
    return fill("select {unseen}", unseen=fill(_UNSEEN, table=table))


def _of_table(table: LiteralString, kind: LiteralString = "true") -> tuple[LiteralString, LiteralString]:
    picked = fill(_OF_TABLE, newest=fill(_NEWEST, table=table), kind=kind, filters=_FILTERS)
    return fill(_LIST, picked=picked), unseen_of(table)


def _of_kinds(*kinds: _Kind, more: LiteralString = "true") -> tuple[LiteralString, LiteralString]:
    """Return the statements for jobs of some kinds that fit `more`, about which the kinds' indexes know nothing."""
    found: LiteralString = "\n    union all ".join(
        f"select {number}, id from ({kind.few}) as k" for number, kind in enumerate(kinds)
    )
    few: LiteralString = "".join(kind.recursive for kind in kinds) + fill(_FEW_OF_KINDS, found=found)
    kind: LiteralString = " or ".join(kind.condition for kind in kinds)
    picked = fill(
        _OF_KINDS, few=few, kind=f"({kind}) and {more}", newest=fill(_NEWEST, table="job_live"), filters=_FILTERS
    )
    unseen = fill(_UNSEEN_OF_KINDS, few=few, unseen=fill(_UNSEEN, table="job_live"))
    return fill(_LIST, picked=picked), unseen


def _by(condition: LiteralString, by: LiteralString) -> _Kind:
    """Return a kind that has an index of its own, in the order `by`."""
    return _Kind(condition, fill(_FEW, kind=condition, by=by))


_PENDING: LiteralString = "j.state = 'pending'"
_SCHEDULED = _Kind(_PENDING, _FEW_SCHEDULED, fill("recursive {lanes}, ", lanes=LANES))
_ASLEEP = _Kind(MAY_BE_ASLEEP, _FEW_ASLEEP, fill("recursive {queues}, ", queues=RESTING_QUEUES))
_NOT_ASLEEP: LiteralString = fill("case when j.lease > 0 then {asleep_as} is null else true end", asleep_as=ASLEEP_AS)
_TURN = _by(WAITS, "j.queue, j.lane, j.priority desc")  # metered jobs that wait

# By state or phase, and for all: the list, and below which id it did not look.
_BOTH: dict[str, tuple[LiteralString, LiteralString]] = {
    "": _of_table("job"),
    "failed": _of_table("dead_letter"),
    "succeeded": _of_table("job_finished", "j.state = 'succeeded'"),
    "cancelled": _of_table("job_finished", "j.state = 'cancelled'"),
    "running": _of_kinds(_by("j.worker_id is not null and j.state = 'running'", "j.worker_id")),
    "blocked": _of_kinds(
        _by("j.state = 'blocked' and j.waits_for = 'task'", "j.task"),
        _by("j.state = 'blocked' and j.waits_for = 'pause'", "j.task"),
        _by(FOR_JOBS, "j.queue, j.id"),
        _TURN,
    ),
    "pending": _of_kinds(_by(_PENDING, "j.queue, j.priority desc, j.run_at, j.id")),
    "retrying": _of_kinds(_by(f"{_PENDING} and j.attempt > 0", "j.queue, j.run_at, j.id"), _TURN, more="j.attempt > 0"),
    "scheduled": _of_kinds(
        _SCHEDULED, _TURN, more=fill("j.run_at::timestamptz > now() and j.attempt = 0 and {awake}", awake=_NOT_ASLEEP)
    ),
    "sleeping": _of_kinds(_ASLEEP, more=fill("{asleep_as} = 'sleeping'", asleep_as=ASLEEP_AS)),
    "waiting": _of_kinds(_ASLEEP, more=fill("{asleep_as} = 'waiting'", asleep_as=ASLEEP_AS)),
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
