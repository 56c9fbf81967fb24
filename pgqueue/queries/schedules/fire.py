"""Firing schedules: locking those that are due, and recording what became of their ticks."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, LiteralString

from pgqueue.queries.base import Query, Statements, fill, first_value, nothing, nullable
from pgqueue.queries.schedules.stored import FLOATS, FoundSchedule, read_schedule
from pgqueue.schedules.ticks import MOST_QUEUED, ScheduleState, TickRecord

# The payload with which the functions for SQL notify schedulers of a change. No queue can have this name.
SCHEDULE_PAYLOAD = "!schedule"

# Read the database's clock, which decides about all ticks.
CLOCK: LiteralString = "select clock_timestamp()"

# The columns of a schedule as `read_schedule` reads them: what may hold any JSON as text, which it decodes row by row.
_SCHEDULE: LiteralString = fill(
    """name, to_jsonb(s) - '{{args,declared,options,edit_asked}}'::text[], options::text, edit_asked::text, args::text,
    {floats}, clock_timestamp()""",
    floats=FLOATS,
)

# Lock the schedules that are due to be looked at, and read the clock that decides. SKIP LOCKED: each schedule goes to
# one scheduler, and no scheduler waits. The locks last until the transaction that fires the schedules commits.
# Reads schedule_wake in its order, up to now. A bare clock_timestamp() is no condition for an index, which would then
# be read to its end each time. Without statistics the planner expects few rows in a range with two ends, but a third of
# all rows in one without a beginning. Whatever else the decision needs is read by statements that follow: where the row
# itself was changed meanwhile, a subselect in this one would see an older snapshot than the row.
LOCK_DUE: LiteralString = fill(
    """
select {schedule} from {s}.schedule s
where wake_at > '-infinity' and wake_at <= (select clock_timestamp()) and not name = any(%(excluded)s::text[])
order by wake_at limit %(at_most)s for update skip locked""",
    schedule=_SCHEDULE,
)

# Lock one schedule against schedulers and other edits until the caller's transaction ends. Waits for a firing in
# flight. By primary key.
LOCK: LiteralString = fill("select {schedule} from {s}.schedule s where name = %(name)s for update", schedule=_SCHEDULE)

# Lock those of the schedules that no other transaction has locked: a transaction that holds one for long does not hold
# up the others. By primary key.
TRY_LOCK: LiteralString = fill(
    """
select {schedule} from {s}.schedule s where name = any(%(names)s::text[]) order by name for update skip locked""",
    schedule=_SCHEDULE,
)

# Read schedules without a lock: the reader waits for no firing, and holds up none. By primary key.
READ: LiteralString = fill(
    "select {schedule} from {s}.schedule s where name = any(%(names)s::text[])", schedule=_SCHEDULE
)

# Find which of these schedules exist, locked or not. By primary key.
EXISTING: LiteralString = "select name from {s}.schedule where name = any(%(names)s::text[])"

# Find which of these jobs are not finished. By primary key. Runs while their schedule is locked, so that no job is
# added.
UNFINISHED_JOBS: LiteralString = "select id from {s}.job_live where id = any(%(ids)s::bigint[]) order by id"

MOST_RUNS = 2000  # runs that were asked for and that one transaction fires: in well under a second

# Read the ticks that wait, of schedules that are locked: as many as may be queued, and a share of the runs that were
# asked for, which have no bound; the others are read the next time. By schedule_fire_queued.
QUEUED_TICKS: LiteralString = """
select q.schedule, q.tick, q.by from unnest(%(names)s::text[]) as n(name), lateral (
    (select f.schedule, f.tick, f.by from {s}.schedule_fire f
     where f.outcome = 'queued' and f.schedule = n.name and f.by is null order by f.tick limit %(queued)s)
    union all
    (select f.schedule, f.tick, f.by from {s}.schedule_fire f
     where f.outcome = 'queued' and f.schedule = n.name and f.by is not null order by f.tick limit %(runs)s)
) as q
order by q.tick"""

# Find which of these ticks have a row already. Runs while the schedules are locked. A tick that an operator's edit
# brings up again has fired before, and must not block the others by violating the key.
RECORDED_TICKS: LiteralString = """
select f.schedule, f.tick from {s}.schedule_fire f
join unnest(%(schedules)s::text[], %(ticks)s::timestamptz[]) as t(schedule, tick) using (schedule, tick)"""

# Record ticks and move the schedules on, in the transaction that inserted the jobs. The key (schedule, tick) guarantees
# that a tick fires once, whatever the schedulers believe: a second firing of a tick raises, and its job is rolled back
# with it. A tick that does not fire may have a row already, and is then passed over. A tick that waited has a row with
# the outcome queued, which no other scheduler changes while the schedule is locked.
RECORD_TICKS: LiteralString = """
with moved as (
    update {s}.schedule s set next_tick = m.next_tick,
        look_at = clock_timestamp() + make_interval(secs => m.look_after), live_jobs = m.live_jobs::bigint[],
        gap_from = m.gap_from, gap_to = m.gap_to, gap_by = m.gap_by,
        paused_at = m.paused_at, paused_by = case when m.paused_at is not null then s.paused_by end,
        paused_until = m.paused_until, replan_from = null, error = m.error
    from unnest(%(names)s::text[], %(next_ticks)b::timestamptz[], %(look_afters)b::float8[], %(live_jobs)s::text[],
                %(gap_froms)b::timestamptz[], %(gap_tos)b::timestamptz[], %(gap_bys)b::text[],
                %(paused_ats)b::timestamptz[], %(paused_untils)b::timestamptz[], %(errors)b::text[])
         as m(name, next_tick, look_after, live_jobs, gap_from, gap_to, gap_by, paused_at, paused_until, error)
    where s.name = m.name
), given as materialized (
    select * from unnest(%(schedules)s::text[], %(ticks)s::timestamptz[], %(outcomes)s::text[], %(reasons)b::text[],
                         %(job_ids)b::bigint[], %(bys)b::text[]) as t(schedule, tick, outcome, reason, job_id, by)
), drained as (
    update {s}.schedule_fire f set outcome = 'fired', job_id = t.job_id, at = clock_timestamp()
    from given t where t.outcome = 'fired' and f.schedule = t.schedule and f.tick = t.tick and f.outcome = 'queued'
    returning f.schedule, f.tick
)
insert into {s}.schedule_fire (schedule, tick, outcome, reason, job_id, by)
select t.* from given t
where (t.outcome = 'fired' and not exists (select from drained d where d.schedule = t.schedule and d.tick = t.tick))
or (t.outcome <> 'fired'
    and not exists (select from {s}.schedule_fire f where f.schedule = t.schedule and f.tick = t.tick))"""

# Record why a schedule cannot be fired, or, with `dropped`, why the edit that SQL asked for is given up. By primary
# key; the caller has locked the rows.
RECORD_ERRORS: LiteralString = """
update {s}.schedule s set error = case when e.dropped then s.error else e.error end,
    edit_error = case when e.dropped then e.error else s.edit_error end,
    edit_asked = case when not e.dropped then s.edit_asked end
from unnest(%(names)s::text[], %(errors)s::text[], %(drops)s::bool[]) as e(name, error, dropped)
where s.name = e.name and (e.dropped or s.error is distinct from e.error)"""

# Seconds until the next schedule is due to be looked at; null if none will be. Reads the first entry of schedule_wake,
# or with `future_only`, because another transaction has locked what is due, the first one after now. The clock stands
# in a subselect because a bare clock_timestamp() is no condition for the index.
NEXT_DUE: LiteralString = """
select extract(epoch from min(wake_at) - clock_timestamp())::float8 from {s}.schedule
where wake_at > (select case when %(future_only)s then clock_timestamp() else '-infinity' end)
and not name = any(%(excluded)s::text[])"""


class FireQueries(Statements):
    """Locking schedules, and recording their ticks."""

    def clock(self) -> Query[datetime]:
        """Read the database's clock."""
        return Query(CLOCK.encode(), first_value)

    def lock_due(self, at_most: int, excluded: Collection[str] = ()) -> Query[list[FoundSchedule]]:
        """Lock up to `at_most` due schedules for this transaction, except those in `excluded`."""
        params = {"at_most": at_most, "excluded": list(excluded)}
        return Query(self._sql(LOCK_DUE), lambda rows: [read_schedule(row) for row in rows], params)

    def lock(self, name: str) -> Query[FoundSchedule | None]:
        """Lock one schedule for this transaction; None if none has that name."""
        return Query(self._sql(LOCK), lambda rows: read_schedule(rows[0]) if rows else None, {"name": name})

    def read(self, names: Collection[str]) -> Query[list[FoundSchedule]]:
        """Read those of the schedules that exist, without locking them."""
        return Query(self._sql(READ), lambda rows: [read_schedule(row) for row in rows], {"names": list(names)})

    def try_lock(self, names: Collection[str]) -> Query[list[FoundSchedule]]:
        """Lock those of the schedules for this transaction that no other transaction has locked."""
        return Query(self._sql(TRY_LOCK), lambda rows: [read_schedule(row) for row in rows], {"names": list(names)})

    def existing(self, names: Collection[str]) -> Query[set[str]]:
        """Find which of these schedules exist, locked or not."""
        return Query(self._sql(EXISTING), lambda rows: {row[0] for row in rows}, {"names": list(names)})

    def unfinished_jobs(self, jobs: Collection[int]) -> Query[list[int]]:
        """Find which of these jobs are not finished."""
        return Query(self._sql(UNFINISHED_JOBS), lambda rows: [row[0] for row in rows], {"ids": list(jobs)})

    def queued_ticks(self, names: Collection[str], most_runs: int = MOST_RUNS) -> Query[list[TickRecord]]:
        """Read the ticks that wait, oldest first; at most so many runs of each schedule that were asked for."""
        return Query(
            self._sql(QUEUED_TICKS),
            lambda rows: [TickRecord(name, tick, "queued", by=by) for name, tick, by in rows],
            {"names": list(names), "queued": MOST_QUEUED, "runs": most_runs},
        )

    def recorded_ticks(self, ticks: Sequence[tuple[str, datetime]]) -> Query[set[tuple[str, datetime]]]:
        """Find which of these ticks have a row."""
        params = {"schedules": [name for name, _ in ticks], "ticks": [tick for _, tick in ticks]}
        return Query(self._sql(RECORDED_TICKS), lambda rows: {(row[0], row[1]) for row in rows}, params)

    def record_ticks(
        self, ticks: Sequence[TickRecord], moved: Sequence[tuple[ScheduleState, float | None]] = ()
    ) -> Query[None]:
        """Record what became of ticks, and the state that each schedule has now.

        With each state come the seconds after which a scheduler is to look at the schedule though it has no tick then;
        None for never.
        """
        params = {
            "schedules": [t.schedule for t in ticks],
            "ticks": [t.tick for t in ticks],
            "outcomes": [t.outcome for t in ticks],
            "reasons": nullable([t.reason for t in ticks]),
            "job_ids": nullable([t.job_id for t in ticks]),
            "bys": nullable([t.by for t in ticks]),
        }
        return Query(self._sql(RECORD_TICKS), nothing, params | _moves(moved))

    def record_errors(self, errors: Sequence[tuple[str, str, bool]]) -> Query[None]:
        """Record why schedules cannot be fired; the flag says that the edit which SQL asked for is given up."""
        names, texts, drops = (list(column) for column in zip(*errors, strict=True))
        return Query(self._sql(RECORD_ERRORS), nothing, {"names": names, "errors": texts, "drops": drops})

    def next_due(self, excluded: Collection[str] = (), *, future_only: bool = False) -> Query[float | None]:
        """Tell in how many seconds a schedule is due to be looked at: any except those in `excluded`, and with
        `future_only` except those that are due already."""
        return Query(self._sql(NEXT_DUE), first_value, {"excluded": list(excluded), "future_only": future_only})


def _moves(states: Sequence[tuple[ScheduleState, float | None]]) -> dict[str, Any]:
    """Return the parameters that move schedules on."""
    return {
        "names": [s.schedule.name for s, _ in states],
        "next_ticks": nullable([s.next_tick for s, _ in states]),
        "look_afters": nullable([look_after for _, look_after in states]),
        "live_jobs": ["{" + ",".join(map(str, s.live_jobs)) + "}" for s, _ in states],
        "gap_froms": nullable([s.gap_from for s, _ in states]),
        "gap_tos": nullable([s.gap_to for s, _ in states]),
        "gap_bys": nullable([s.gap_by for s, _ in states]),
        "paused_ats": nullable([s.paused_at for s, _ in states]),
        "paused_untils": nullable([s.paused_until for s, _ in states]),
        "errors": nullable([s.error for s, _ in states]),
    }
