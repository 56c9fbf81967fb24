"""Pauses of tasks, the jobs that they set aside, and all that is paused."""

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements, fill, first_value
from pgqueue.queries.jobs.parts import MAY_NOTIFY, NOTIFY_WORKERS, TASK_PAUSED
from pgqueue.queries.jobs.turns import TURN_AT, WAITS
from pgqueue.queries.jobs.waiting import TURN_LANES
from pgqueue.queries.queues import WorkLeft

# The payload with which PAUSE_TASKS and RESUME_TASKS notify workers on the schema's channel. No queue can have this
# name.
PAUSE_PAYLOAD = "!pause"

# List what is paused now, of all kinds: small tables.
LIST: LiteralString = """
select p.kind, p.name, p.key, p.since, p.until, p.by, p.why from {s}.paused p
order by p.kind, p.name, p.key nulls first"""

# List the pauses that concern a job: of its queue and of its task.
OF: LiteralString = """
select p.kind, p.name, p.key, p.since, p.until, p.by, p.why from {s}.paused p
where p.kind = 'queue' and p.name = %(queue)s::text or p.kind = 'task' and p.name = %(task)s::text
order by p.kind"""

# Pause tasks, or change how long and why those are paused that are so already: they keep the beginning of their pause.
# By primary key, in the order of the names, so that two operators who pause the same tasks never wait for each other in
# a circle. Claims read the row: one that begins after the commit takes nothing. A claim that is under way may still
# take what its snapshot shows; to close that gap each claim would have to lock the row, and workers would wait for each
# other. Notifies workers at the commit, so that they set jobs aside at once. Returns nothing where the end has passed.
PAUSE_TASKS: LiteralString = fill(
    """
with paused as (
    insert into {s}.task_control as c (task, paused_at, paused_until, paused_by, paused_why, updated_at, updated_by)
    select g.name, clock_timestamp(), e.until, %(by)s::text, %(why)s::text, clock_timestamp(), %(by)s::text
    from unnest(%(tasks)s::text[]) as g(name),
         (select coalesce(%(until)s::timestamptz, clock_timestamp() + make_interval(secs => %(seconds)s::float8))
          as until) as e
    where e.until is null or e.until > clock_timestamp() order by g.name
    on conflict (task) do update set
        paused_at = case when {task_paused} then c.paused_at else excluded.paused_at end,
        paused_until = excluded.paused_until, paused_by = excluded.paused_by, paused_why = excluded.paused_why,
        updated_at = excluded.updated_at, updated_by = excluded.updated_by
    returning c.task
), notified as (
    select count(pg_notify({channel}, '!pause')) from paused where {may_notify}
)
select paused.task from paused, notified""",
    task_paused=TASK_PAUSED,
    may_notify=MAY_NOTIFY,
)

# End pauses, and notify workers at the commit: they bring jobs back. Locks rows by primary key in the order of their
# names, as PAUSE_TASKS does, and waits for a batch of SET_ASIDE. A task that is not paused is left alone.
RESUME_TASKS: LiteralString = fill(
    """
with found as (
    select c.task from {s}.task_control c where c.task = any(%(tasks)s::text[]) and c.paused_at is not null
    order by c.task for update
), resumed as (
    update {s}.task_control c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = clock_timestamp(), updated_by = %(by)s
    where c.task = any(array(select task from found)) returning c.task
), notified as (
    select count(pg_notify({channel}, '!pause')) from resumed where {may_notify}
)
select resumed.task from resumed, notified""",
    may_notify=MAY_NOTIFY,
)

_END: LiteralString = """(select coalesce(%(until)s::timestamptz,
                            clock_timestamp() + make_interval(secs => %(seconds)s::float8)) as until) as e
    where (e.until is null or e.until > clock_timestamp())"""

# Pause a limit, or one key of it, as PAUSE_TASKS pauses tasks. By primary key. Claims of jobs that wait for their turn
# read the row. Returns nothing where the end has passed, or there is no such limit.
PAUSE_LIMIT: LiteralString = fill(
    """
with paused as (
    update {s}.limit_rule c set paused_at = case when {limit_paused} then c.paused_at else clock_timestamp() end,
        paused_until = e.until, paused_by = %(by)s::text, paused_why = %(why)s::text,
        updated_at = clock_timestamp(), updated_by = %(by)s::text
    from {end} and c.name = %(limit)s::text
    returning c.name
), notified as (
    select count(pg_notify({channel}, '!pause')) from paused where {may_notify}
)
select paused.name from paused, notified""",
    limit_paused=TASK_PAUSED,
    end=_END,
    may_notify=MAY_NOTIFY,
)
PAUSE_KEY: LiteralString = fill(
    """
with paused as (
    insert into {s}.limit_key as c (rule, key, paused_at, paused_until, paused_by, paused_why, updated_at, updated_by)
    select r.name, %(key)s::text, clock_timestamp(), e.until, %(by)s::text, %(why)s::text, clock_timestamp(),
           %(by)s::text
    from {s}.limit_rule r, {end} and r.name = %(limit)s::text
    on conflict (rule, key) do update set
        paused_at = case when {key_paused} then c.paused_at else excluded.paused_at end,
        paused_until = excluded.paused_until, paused_by = excluded.paused_by, paused_why = excluded.paused_why,
        updated_at = excluded.updated_at, updated_by = excluded.updated_by
    returning c.key
), notified as (
    select count(pg_notify({channel}, '!pause')) from paused where {may_notify}
)
select paused.key from paused, notified""",
    key_paused=TASK_PAUSED,
    end=_END,
    may_notify=MAY_NOTIFY,
)

# End the pause of a limit, or of one key of it, and open those of its buckets that a breaker or RateLimited has closed;
# notify workers at the commit. By primary key; the counters of the rule are read whole. They are locked in the order of
# their names, as ends do, and a counter that changes meanwhile stays as it is.
_OPENED: LiteralString = """closed as materialized (
    select u.name, u.version from {s}.limit_freed u
    where {buckets} and (u.closed_until is not null or u.opened > 0) order by u.name collate "C" for update
), opened as (
    update {s}.limit_freed u set closed_until = null, opened = 0, failures = 0, failing_since = null,
        version = u.version + 1
    from closed c where u.name = any(array[c.name]) and u.version >= c.version returning u.rule
), notified as (
    select count(pg_notify({channel}, '!pause'))
    from (select from resumed union all select from opened limit 1) as changed where {may_notify}
)"""
RESUME_LIMIT: LiteralString = fill(
    """
with resumed as (
    update {s}.limit_rule c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = clock_timestamp(), updated_by = %(by)s::text
    where c.name = %(limit)s::text and c.paused_at is not null returning c.name
), {opened}
select changed.name from (select name from resumed union select rule from opened) as changed, notified""",
    opened=fill(_OPENED, buckets="u.rule = %(limit)s::text", may_notify=MAY_NOTIFY),
)
RESUME_KEY: LiteralString = fill(
    """
with resumed as (
    update {s}.limit_key c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = clock_timestamp(), updated_by = %(by)s::text
    where c.rule = %(limit)s::text and c.key = %(key)s::text and c.paused_at is not null returning c.key
), {opened}
select changed.key from (select key from resumed union select %(key)s::text from opened) as changed, notified""",
    opened=fill(
        _OPENED,
        buckets="u.name = concat_ws('/', %(limit)s::text, %(key)s::text)",
        may_notify=MAY_NOTIFY,
    ),
)

# Tell whether there is a limit of this name, and whether code says that it has no keys. By primary key.
FIND_LIMIT: LiteralString = """
select r.kind = 'limit' and r.declared is not null and r.declared ->> 'keyed_by'::text is null
from {s}.limit_rule r where r.name = %(limit)s::text"""

# Read which tasks are paused, and which are not and have jobs that were set aside. The second part hops along
# job_live_paused from one task to the next: two probes where nothing is paused. It asks the rows and not who resumed,
# so that no job is forgotten, whoever died, and whatever SQL has written.
TASKS: LiteralString = fill(
    """
with recursive aside(task) as (
    (select j.task::text from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'pause'
     order by j.task limit 1)
    union all
    select (select j.task::text from {s}.job_live j
            where j.state = 'blocked' and j.waits_for = 'pause' and j.task::text > aside.task
            order by j.task limit 1)
    from aside where aside.task is not null
)
select c.task, true, extract(epoch from c.paused_until - clock_timestamp())::float8, c.paused_by, c.paused_why
from {s}.task_control c where {task_paused}
union all
select aside.task, false, null, null, null from aside
where aside.task is not null
and not exists (select from {s}.task_control c where c.task = aside.task and {paused_too})""",
    task_paused=TASK_PAUSED,
    paused_too=TASK_PAUSED,
)

# Set aside due jobs of paused tasks: they wait as blocked, out of the index that claims read. Looks only where claims
# look: at the first `window` jobs of each lane of these queues, in the order of job_live_ready, as CLAIM does. So a
# lane of other jobs costs a bounded walk, and jobs behind them are found when they have come to the front. The window
# stands beneath the filter: beside it, the statement would read each lane to its end.
# A task's row is locked for the batch, so that one worker at a time walks, and so that RESUME_TASKS waits: no batch
# that saw the pause commits after the end of it. SKIP LOCKED on the jobs: a claim in flight has them.
# Metered jobs likewise, of each of their lanes: claims would walk over them with the buckets locked that other tasks
# share. Jobs in order keep their place, or the next one would pass them.
SET_ASIDE: LiteralString = fill(
    """
with held as materialized (
    select c.task from {s}.task_control c where {task_paused} order by c.task for update skip locked
), found as materialized (
    select ready.id
    from (select u.name from unnest((select %(queues)s::text[])) with ordinality as u(name, ord)
          where exists (select from held) order by u.ord) as served
    cross join lateral (
        with recursive hop(priority) as (
            (select j.priority::smallint from {s}.job_live j where j.state = 'pending' and j.queue::text = served.name
             order by j.priority desc limit 1)
            union all
            select (select j.priority::smallint from {s}.job_live j
                    where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint < hop.priority
                    order by j.priority desc limit 1)
            from hop where hop.priority is not null
        )
        select first.id
        from (select hop.priority from hop where hop.priority is not null order by hop.priority desc) as lane
        cross join lateral (
            select w.id from (
                select j.id, j.task::text as task from {s}.job_live j
                where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint = lane.priority
                and j.run_at::timestamptz <= now()
                order by j.run_at, j.id limit (select %(window)s::int)
            ) as w where w.task = any((select array(select task from held))::text[])
        ) as first
        limit (select %(most)s::int)
    ) as ready
    limit (select %(most)s::int)
), found_in_turn as materialized (
    select turning.id
    from (select u.name from unnest((select %(queues)s::text[])) with ordinality as u(name, ord)
          where exists (select from held) order by u.ord) as served
    cross join lateral (
        with recursive {turn_lanes}
        select first.id from turn cross join lateral (
            select w.id from (
                select j.id, j.task::text as task from {s}.job_live j
                where {waits} and j.queue::text = served.name and j.lane = turn.lane
                and j.priority::smallint = turn.priority and {turn_at} <= now()
                order by {turn_at}, j.id limit (select %(window)s::int)
            ) as w where w.task = any((select array(select task from held))::text[])
        ) as first
        where turn.lane >= 0
        limit (select %(most)s::int)
    ) as turning
    limit (select %(most)s::int)
), locked as materialized (
    select j.id, j.state from {s}.job_live j
    where j.id = any(array(select id from found union all select id from found_in_turn))
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') is true
    limit (select %(most)s::int) for update skip locked
), moved as (
    update {s}.job_live j set state = 'blocked', waits_for = 'pause'
    from locked where j.id = any(array[locked.id])
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') is true
    returning j.id, locked.state, j.attempt, j.lease, j.history
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, 'blocked', attempt, lease, 'task paused' from moved where history
)
select count(*) from moved""",
    task_paused=TASK_PAUSED,
    turn_lanes=TURN_LANES.replace("%(queue)s::text", "served.name"),
    waits=WAITS,
    turn_at=TURN_AT,
)

# Bring back jobs of tasks that are not paused any more, in the order in which they would have run, and notify workers
# that sleep. By job_live_paused. A job keeps its run_at, so that it has its old place among those that came meanwhile;
# one that a rule concerns waits for its turn again.
# Any number of workers may do this at once: SKIP LOCKED keeps them apart. A pause that commits meanwhile is no harm:
# claims pass over the jobs, and SET_ASIDE moves them again.
BRING_BACK: LiteralString = fill(
    """
with over as materialized (
    select u.name from unnest((select %(tasks)s::text[])) as u(name)
    where not exists (select from {s}.task_control c where c.task = u.name and {task_paused})
), found as materialized (
    select first.id from over cross join lateral (
        select j.id from {s}.job_live j
        where j.state = 'blocked' and j.waits_for = 'pause' and j.task::text = over.name
        order by j.run_at, j.id limit (select %(most)s::int) for update skip locked
    ) as first
    limit (select %(most)s::int)
), moved as (
    update {s}.job_live j set state = case when j.lane is null then 'pending' else 'blocked' end,
        waits_for = case when j.lane is not null then 'turn' end
    where j.id = any(array(select id from found)) and (j.state = 'blocked') is true
    returning j.id, j.queue::text, j.run_at::timestamptz, j.state, j.attempt, j.lease, j.history
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'blocked', state, attempt, lease, 'task resumed' from moved where history
), {notify_workers}
select moved.count from (select count(*) from moved) as moved, workers_notified""",
    task_paused=TASK_PAUSED,
    notify_workers=fill(NOTIFY_WORKERS, jobs="moved"),
)

# Count the running jobs of a task: of one worker after the other, between which the statement hops along
# job_live_running, which holds no more rows than the workers have slots. The plain form, `worker_id is not null and
# task = …`, reads the whole table where the statistics are old.
LEFT: LiteralString = """
with recursive holder(id) as (
    (select j.worker_id from {s}.job_live j where j.worker_id is not null order by j.worker_id limit 1)
    union all
    select (select j.worker_id from {s}.job_live j where j.worker_id > holder.id order by j.worker_id limit 1)
    from holder where holder.id is not null
)
select coalesce(sum(held.jobs), 0)::bigint from holder cross join lateral (
    select count(*) as jobs from {s}.job_live j
    where j.worker_id = holder.id and j.task::text = any(%(tasks)s::text[])) as held
where holder.id is not null"""


@dataclass(frozen=True, slots=True)
class Pause:
    """That no job of a queue, task or limit is claimed: since when, until when, by whom and why. `kind`: which it is.
    `key`: the one key of the limit that is paused, None for all of it."""

    kind: str
    name: str
    key: str | None
    since: datetime
    until: datetime | None
    by: str | None
    why: str | None

    @property
    def full_name(self) -> str:
        """Return the name, with the key of a limit behind it."""
        return self.name if self.key is None else f"{self.name}/{self.key}"


class PauseSettings(NamedTuple):
    """Until which moment a pause lasts, or for how many seconds, why, and who has said so."""

    until: datetime | None
    seconds: float | None
    why: str | None
    by: str


class TaskPause(NamedTuple):
    """A task that is paused, for so many seconds more; or one that is not, and has jobs that were set aside."""

    task: str
    is_paused: bool
    seconds: float | None
    by: str | None
    why: str | None


class PauseQueries(Statements):
    """Pauses of tasks, and all that is paused."""

    def list(self) -> Query[builtins.list[Pause]]:
        """List what is paused now."""
        return Query(self._sql(LIST), lambda rows: [Pause(*row) for row in rows])

    def of(self, queue: str, task: str) -> Query[builtins.list[Pause]]:
        """List the pauses that concern jobs of a task in a queue."""
        return Query(self._sql(OF), lambda rows: [Pause(*row) for row in rows], {"queue": queue, "task": task})

    def pause_tasks(self, tasks: Sequence[str], settings: PauseSettings) -> Query[builtins.list[str]]:
        """Pause tasks; return their names, none if the end has passed."""
        return Query(self._sql(PAUSE_TASKS), _names, {"tasks": builtins.list(tasks), **settings._asdict()})

    def resume_tasks(self, tasks: Sequence[str], by: str) -> Query[builtins.list[str]]:
        """End the pauses of tasks; return the names of those that were paused."""
        params = {"tasks": builtins.list(tasks), "by": by}
        return Query(self._sql(RESUME_TASKS), _names, params)

    def find_limit(self, limit: str) -> Query[bool | None]:
        """Tell whether code says that a limit has no keys; None if there is no limit of this name."""
        return Query(self._sql(FIND_LIMIT), first_value, {"limit": limit})

    def pause_limit(self, limit: str, key: str | None, settings: PauseSettings) -> Query[builtins.list[str]]:
        """Pause a limit, or one key of it; return its name or key, nothing if the end has passed."""
        params = {"limit": limit, "key": key, **settings._asdict()}
        return Query(self._sql(PAUSE_LIMIT if key is None else PAUSE_KEY), _names, params)

    def resume_limit(self, limit: str, key: str | None, by: str) -> Query[builtins.list[str]]:
        """End the pause of a limit, or of one key of it; return its name or key, nothing if it is not paused."""
        text = RESUME_LIMIT if key is None else RESUME_KEY
        return Query(self._sql(text), _names, {"limit": limit, "key": key, "by": by})

    def tasks(self) -> Query[builtins.list[TaskPause]]:
        """Read which tasks are paused, and which are not and have jobs that were set aside."""
        return Query(self._sql(TASKS), lambda rows: [TaskPause(*row) for row in rows])

    def set_aside(self, queues: Sequence[str], most: int, window: int) -> Query[int]:
        """Set aside up to `most` due jobs of paused tasks, among the first `window` of each lane of these queues."""
        params = {"queues": builtins.list(queues), "most": most, "window": window}
        return Query(self._sql(SET_ASIDE), first_value, params)

    def bring_back(self, tasks: Sequence[str], most: int) -> Query[int]:
        """Bring back up to `most` jobs that were set aside of these tasks, but for those that are paused."""
        return Query(self._sql(BRING_BACK), first_value, {"tasks": builtins.list(tasks), "most": most})

    def left(self, tasks: Sequence[str]) -> Query[WorkLeft]:
        """Count the running jobs of tasks. Those that are due are not counted: no index has them by task."""
        return Query(self._sql(LEFT), lambda rows: WorkLeft(0, rows[0][0]), {"tasks": builtins.list(tasks)})


def _names(rows: Sequence[Row]) -> list[str]:
    return [row[0] for row in rows]
