"""Changing jobs that wait, on behalf of a person: run sooner, brought back, edited."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.limit_rule import queue_rule_name
from pgqueue.queries.base import Query, Row, Statements, fill, lines, packed
from pgqueue.queries.chosen import Candidate
from pgqueue.queries.jobs.metered_parts import LANE, TURNED
from pgqueue.queries.jobs.parts import NOTIFY_WORKERS
from pgqueue.queries.jobs.ties import ALONE, BESIDE

# Make jobs due that wait for a later time. The rows are locked first: that waits for a claim in flight (one statement),
# and where the claim has won, the condition on the newest row leaves the job alone: it runs by now. The plain form, an
# update with a condition on the state, compares with its own, older snapshot, and may miss a job that has just come
# back to pending. A job that is due already keeps its place in the lane, and so does one in order, whose priority stays
# that of its lane; one that was set aside stays set aside. By primary key: `is true` keeps the planner from
# job_live_ready, which it would read from end to end. Returns the ids that it moved.
_MAKE_DUE: LiteralString = fill(
    """
with found as materialized (
    select j.id from {s}.job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[])
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for in ('turn', 'pause')) is true and {waits}
    order by j.id for update
), due as (
    update {s}.job_live j
    set run_at = least(j.run_at::timestamptz, now()),
        priority = case when j.lane < 0::bigint then j.priority::smallint
                        else coalesce(%(priority)s::int::smallint, j.priority::smallint) end
    where j.id = any(array(select id from found))
    returning j.id, j.queue::text, j.run_at::timestamptz, j.attempt, j.lease, j.state
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, state, attempt, lease, %(reason)s::text from due
), {notify_workers}
select due.id from due, workers_notified""",
    notify_workers=fill(NOTIFY_WORKERS, jobs="due"),
)

# Let jobs run now that wait for their next attempt.
RETRY_WAITING: LiteralString = fill(_MAKE_DUE, waits="j.attempt > 0 and j.run_at::timestamptz > now()")

# Let scheduled jobs run now, or sooner than others by a priority.
PROMOTE: LiteralString = fill(
    _MAKE_DUE,
    waits="""(j.run_at::timestamptz > now()
        or %(priority)s::int is not null and j.priority::smallint <> %(priority)s::int
        and (j.lane < 0::bigint) is not true)""",
)

# Bring cancelled jobs back as pending, or as blocked until their turn, as REDRIVE does with dead letters: the same id
# and history, all attempts, no expiry and no unique key. Of two that bring the same job back, the second waits for the
# first and then finds no row. By primary key, a probe in each partition of the history. A job whose end its workflow
# has counted is left: REVIVE brings it back. So is a callback whose workflow is retried at this moment (BESIDE). One
# that was called tells its caller again, which may have looked meanwhile and seen that it lives.
RESTORE: LiteralString = fill(
    """
with {beside}, gone as (
    delete from {s}.job_finished j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'cancelled'
    and {alone} and j.id not in (select id from stay)
    returning j.*, {lane} as lane
), back as (
    insert into {s}.job_live (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, lane, state, waits_for, ties, workflow_id)
    select id, task, queue, priority, args, tags, headers, now(), created_at, 0, max_attempts, 0, lease,
           lane, case when lane is null then 'pending' else 'blocked' end, case when lane is not null then 'turn' end,
           ties, workflow_id
    from gone
    returning id, queue::text, run_at::timestamptz, lease, state
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, lease, reason)
    select id, 'cancelled', state, lease, %(reason)s::text from back
), {notify_workers}
select back.id from back, workers_notified""",
    beside=fill(BESIDE, table="job_finished"),
    alone=ALONE,
    lane=fill(LANE, headers="j.headers::jsonb"),
    notify_workers=fill(NOTIFY_WORKERS, jobs="back"),
)

# Read the arguments of a job that waits as they are stored, and lock it. Waits for a claim in flight, and then finds
# nothing: the job runs. By primary key.
LOCK_WAITING: LiteralString = """
select task::text, args::text, headers::text from {s}.job_live
where id = %(id)s::bigint and state in ('pending', 'blocked') for update"""

# Read the arguments of a dead letter or a cancelled job as they are stored. What brings it back finds out whether it is
# still there. It locks nothing: who holds a dead letter while somebody retries its workflow keeps that one waiting, and
# of two who do so neither is let through. By primary keys.
READ_ENDED: LiteralString = """
select task::text, args::text, headers::text from {s}.dead_letter where id = %(id)s::bigint
union all
select task::text, args::text, headers::text from {s}.job_finished where id = %(id)s::bigint and state = 'cancelled'"""

# Change arguments, queue, priority or run time of jobs that wait, and keep what they were in the log. The rows are
# locked by LOCK_WAITING or by a batch, so that `old` is the newest version. A worker that waits for jobs of the new
# queue hears of those that are due. By primary key. Returns the ids that it changed. Where the flow of a job changes,
# what it carries and where it stands change together: a job that no rule concerns any more is pending, unless it waits
# for something else, such as other jobs, and the other way round. A parked job that a rule concerns now waits for its
# turn: ADOPT takes no buckets.
EDIT_WAITING: LiteralString = fill(
    r"""
with given as materialized (
    select g.id, g.args, g.flow::jsonb as flow
    from unnest((select %(ids)s::bigint[]), (select %(args)b::text[]), (select string_to_array(%(flows)s, E'\n', '')))
         as g(id, args, flow)
), old as materialized (
    select j.id, j.state, j.args::jsonb as args, j.queue::text as queue, j.priority::smallint as priority,
           j.run_at::timestamptz as run_at, {turned} as headers,
           case when given.flow is null or j.waits_for in ('pause', 'jobs')
                     or j.waits_for = 'task' and given.flow = 'null'::jsonb
                then j.waits_for when given.flow <> 'null'::jsonb then 'turn' end as waits_for
    from given join {s}.job_live j on j.id = any(array[given.id])
    where j.state in ('pending', 'blocked')
), edited as (
    update {s}.job_live j
    set args = coalesce(given.args::jsonb, j.args::jsonb), queue = coalesce(%(queue)s::text, j.queue::text),
        priority = coalesce(%(priority)s::int::smallint, j.priority::smallint),
        run_at = coalesce(%(run_at)s::timestamptz, now() + make_interval(secs => %(delay)s::float8),
                          j.run_at::timestamptz),
        headers = old.headers, lane = {lane}, waits_for = old.waits_for,
        state = case when old.waits_for is null then 'pending' else 'blocked' end
    from given join old on old.id = given.id
    where j.id = any(array[given.id])
    returning j.id, j.queue::text, j.run_at::timestamptz, j.attempt, j.lease, old.state as was, j.state,
        jsonb_strip_nulls(jsonb_build_object(
            'previous_queue', case when j.queue::text <> old.queue then old.queue end,
            'previous_priority', case when j.priority::smallint <> old.priority then old.priority end,
            'previous_run_at', case when j.run_at::timestamptz <> old.run_at then old.run_at end))
        || case when given.args is null then '{{}}'::jsonb
                else jsonb_build_object('previous_args', old.args) end as previous
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason, error)
    select id, was, state, attempt, lease, %(reason)s::text, previous from edited
), {notify_workers}
select edited.id from edited, workers_notified""",
    lane=fill(LANE, headers="old.headers"),
    turned=fill(TURNED, flow="given.flow", headers="j.headers::jsonb"),
    notify_workers=fill(NOTIFY_WORKERS, jobs="edited"),
)


# The rule of a queue, if there is one. By primary key.
RULE: LiteralString = "select name from {s}.limit_rule where name = any(array[%(name)s::text])"


class EditedJob(NamedTuple):
    """What an edit makes of one job: its arguments as they are stored, and its flow as JSON text, `null` for none; None
    where they stay."""

    args: str | None = None
    flow: str | None = None


class Edit(NamedTuple):
    """What is changed beside the arguments; None stays as it is. `delay`: seconds from now, where no `run_at` is."""

    queue: str | None = None
    priority: int | None = None
    run_at: datetime | str | None = None
    delay: float | None = None


class ChangeQueries(Statements):
    """Changing jobs that wait."""

    def retry_waiting(self, ids: Sequence[int], reason: str) -> Query[list[int]]:
        """Let jobs run now that wait for their next attempt; returns the ids of those that did."""
        return Query(self._sql(RETRY_WAITING), _ids, {"ids": packed(ids), "reason": reason, "priority": None})

    def promote(self, ids: Sequence[int], reason: str, priority: int | None) -> Query[list[int]]:
        """Let scheduled jobs run now, with another priority if one is given; returns the ids of those that moved."""
        return Query(self._sql(PROMOTE), _ids, {"ids": packed(ids), "reason": reason, "priority": priority})

    def restore(self, ids: Sequence[int], reason: str) -> Query[list[int]]:
        """Bring cancelled jobs back as pending; returns the ids of those that were cancelled."""
        return Query(self._sql(RESTORE), _ids, {"ids": packed(ids), "reason": reason})

    def lock_waiting(self, job: int) -> Query[Candidate | None]:
        """Lock a job that waits; None if none with this id does."""
        return Query(self._sql(LOCK_WAITING), lambda rows: Candidate(job, *rows[0]) if rows else None, {"id": job})

    def read_ended(self, job: int) -> Query[Candidate | None]:
        """Read the arguments of a dead letter or a cancelled job; None if none with this id is."""
        return Query(self._sql(READ_ENDED), lambda rows: Candidate(job, *rows[0]) if rows else None, {"id": job})

    def rule_of_queue(self, queue: str) -> Query[str]:
        """Return the name of the rule of a queue; an empty one if it has none."""
        return Query(self._sql(RULE), lambda rows: rows[0][0] if rows else "", {"name": queue_rule_name(queue)})

    def edit_waiting(self, jobs: Mapping[int, EditedJob], reason: str, edit: Edit) -> Query[list[int]]:
        """Change jobs that wait and are locked, by their ids; returns the ids."""
        params: dict[str, Any] = {
            "ids": packed(jobs), "args": [job.args for job in jobs.values()],
            "flows": lines([job.flow for job in jobs.values()]), "reason": reason, **edit._asdict(),
        }  # fmt: skip
        return Query(self._sql(EDIT_WAITING), _ids, params)


def _ids(rows: Sequence[Row]) -> list[int]:
    return [row[0] for row in rows]
