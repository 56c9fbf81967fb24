"""Ticks that become jobs."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, LiteralString

from pgqueue.queries.base import Query, Statements, first_value, nothing
from pgqueue.queries.schedules.stored import FoundSchedule, read_schedule
from pgqueue.schedules.ticks import ScheduleState, TickRecord

# What SQL says on the NOTIFY channel after a change. No queue can be called like it.
SCHEDULE_PAYLOAD = "!schedule"

CLOCK: LiteralString = "select clock_timestamp()"

_STATE: LiteralString = (
    "select name, to_jsonb(s) - 'args' - 'declared', args::text, clock_timestamp() from {s}.schedule s"
)

# Lock schedules that somebody has to look at, and read the clock that decides. SKIP LOCKED: each goes to one scheduler,
# none waits. The locks last until the transaction that fires them commits. Reads schedule_wake in its order, up to now:
# a bare clock_timestamp() is no condition for an index, which would be read to its end each time. A range with two ends
# is thought to be small also without statistics; of one without a beginning the planner expects a third of all. What
# the decision needs besides is asked in statements that follow: a subselect in this one would see its older snapshot
# where the row itself was changed meanwhile.
LOCK_DUE: LiteralString = (
    _STATE
    + """
where wake_at > '-infinity' and wake_at <= (select clock_timestamp()) and not name = any(%(but)s::text[])
order by wake_at limit %(at_most)s for update skip locked"""
)

# One schedule, locked against schedulers and other edits until the caller's transaction ends. Waits for a firing in
# flight. By primary key.
LOCK: LiteralString = _STATE + " where name = %(name)s for update"

# Schedules as they are, without a lock: who only wants to know waits for no firing, and holds up none.
READ: LiteralString = _STATE + " where name = any(%(names)s::text[])"

# Those of some schedules that nobody else has locked. Whoever has one locked may take his time: the others go on.
TRY_LOCK: LiteralString = _STATE + " where name = any(%(names)s::text[]) order by name for update skip locked"

# Which of these names there are, locked or not. By primary key.
EXISTING: LiteralString = "select name from {s}.schedule where name = any(%(names)s::text[])"

# Which of these jobs are not finished: by primary key. Asked while their schedule is locked, so that none is added.
UNFINISHED_JOBS: LiteralString = "select id from {s}.job_live where id = any(%(ids)s::bigint[]) order by id"

# The ticks that wait, of schedules that are locked. Reads schedule_fire_queued.
QUEUED_TICKS: LiteralString = """
select schedule, tick, by from {s}.schedule_fire where outcome = 'queued' and schedule = any(%(names)s::text[])
order by tick"""

# Which of these ticks have a row already. Asked while the schedules are locked: a tick that an operator's edit brings
# up again has fired, and must not block the rest by violating the key.
RECORDED_TICKS: LiteralString = """
select f.schedule, f.tick from {s}.schedule_fire f
join unnest(%(schedules)s::text[], %(ticks)s::timestamptz[]) as t(schedule, tick) using (schedule, tick)"""

# Record ticks and move the schedules on, in the transaction that inserted the jobs. The key (schedule, tick) is the
# proof that a tick fires once, whatever the schedulers believe: a second firing of a tick raises, and takes its job
# with it. Only a tick that did not fire may be there already. One that waited is a row already, and nobody else's
# while the schedule is locked.
RECORD_TICKS: LiteralString = """
with moved as (
    update {s}.schedule s set next_tick = m.next_tick, look_at = clock_timestamp() + make_interval(secs => m.look),
        live_jobs = m.live::bigint[], gap_from = m.gap_from, gap_to = m.gap_to, gap_by = m.gap_by,
        paused_at = m.paused_at, paused_by = case when m.paused_at is not null then s.paused_by end,
        paused_until = m.paused_until, replan_from = null, error = m.error
    from unnest(%(names)s::text[], %(next_ticks)s::timestamptz[], %(looks)s::float8[], %(lives)s::text[],
                %(gap_froms)s::timestamptz[], %(gap_tos)s::timestamptz[], %(gap_bys)s::text[],
                %(paused_ats)s::timestamptz[], %(paused_untils)s::timestamptz[], %(errors)s::text[])
         as m(name, next_tick, look, live, gap_from, gap_to, gap_by, paused_at, paused_until, error)
    where s.name = m.name
), given as materialized (
    select * from unnest(%(schedules)s::text[], %(ticks)s::timestamptz[], %(outcomes)s::text[], %(reasons)s::text[],
                         %(job_ids)s::bigint[], %(bys)s::text[]) as t(schedule, tick, outcome, reason, job_id, by)
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

# Say why a schedule cannot be fired, or (`dropped`) why the edit that was asked for is given up. By primary key; the
# rows are locked by who says it.
RECORD_ERRORS: LiteralString = """
update {s}.schedule s set error = case when e.dropped then s.error else e.error end,
    edit_error = case when e.dropped then e.error else s.edit_error end,
    edit_asked = case when not e.dropped then s.edit_asked end
from unnest(%(names)s::text[], %(errors)s::text[], %(drops)s::bool[]) as e(name, error, dropped)
where s.name = e.name and (e.dropped or s.error is distinct from e.error)"""

# Seconds until somebody has to look at any schedule; null if nobody has. The first entry of schedule_wake; or of those
# `ahead` of now, where what is due is locked by somebody else. The subselect is no bare clock_timestamp(), which would
# be no condition for the index.
NEXT_DUE: LiteralString = """
select extract(epoch from min(wake_at) - clock_timestamp())::float8 from {s}.schedule
where wake_at > (select case when %(ahead)s then clock_timestamp() else '-infinity' end)
and not name = any(%(but)s::text[])"""


class FireQueries(Statements):
    """Schedules and ticks, as schedulers see them."""

    def clock(self) -> Query[datetime]:
        """The database's time."""
        return Query(CLOCK.encode(), first_value)

    def lock_due(self, at_most: int, but: Collection[str] = ()) -> Query[list[FoundSchedule]]:
        """Lock up to `at_most` schedules to look at for this transaction, leaving out those in `but`."""
        params = {"at_most": at_most, "but": list(but)}
        return Query(self._sql(LOCK_DUE), lambda rows: [read_schedule(row) for row in rows], params)

    def lock(self, name: str) -> Query[FoundSchedule | None]:
        """Lock one schedule for this transaction; None if there is none of that name."""
        return Query(self._sql(LOCK), lambda rows: read_schedule(rows[0]) if rows else None, {"name": name})

    def read(self, names: Collection[str]) -> Query[list[FoundSchedule]]:
        """Schedules as they are, without locking them; those that there are."""
        return Query(self._sql(READ), lambda rows: [read_schedule(row) for row in rows], {"names": list(names)})

    def try_lock(self, names: Collection[str]) -> Query[list[FoundSchedule]]:
        """Lock those of the schedules for this transaction that nobody else has locked."""
        return Query(self._sql(TRY_LOCK), lambda rows: [read_schedule(row) for row in rows], {"names": list(names)})

    def existing(self, names: Collection[str]) -> Query[set[str]]:
        """Which of these schedules there are, locked or not."""
        return Query(self._sql(EXISTING), lambda rows: {row[0] for row in rows}, {"names": list(names)})

    def unfinished_jobs(self, jobs: Collection[int]) -> Query[list[int]]:
        """Those of the jobs that are not finished."""
        return Query(self._sql(UNFINISHED_JOBS), lambda rows: [row[0] for row in rows], {"ids": list(jobs)})

    def queued_ticks(self, names: Collection[str]) -> Query[list[TickRecord]]:
        """The ticks that wait, oldest first."""
        return Query(
            self._sql(QUEUED_TICKS),
            lambda rows: [TickRecord(name, tick, "queued", by=by) for name, tick, by in rows],
            {"names": list(names)},
        )

    def recorded_ticks(self, ticks: Sequence[tuple[str, datetime]]) -> Query[set[tuple[str, datetime]]]:
        """Those of the ticks that have a row."""
        params = {"schedules": [name for name, _ in ticks], "ticks": [tick for _, tick in ticks]}
        return Query(self._sql(RECORDED_TICKS), lambda rows: {(row[0], row[1]) for row in rows}, params)

    def record_ticks(
        self, ticks: Sequence[TickRecord], moved: Sequence[tuple[ScheduleState, float | None]] = ()
    ) -> Query[None]:
        """Record what became of ticks, and the state each schedule has now; with the seconds until somebody is to look
        at it though nothing ticks, or None."""
        params = {
            "schedules": [t.schedule for t in ticks],
            "ticks": [t.tick for t in ticks],
            "outcomes": [t.outcome for t in ticks],
            "reasons": [t.reason for t in ticks],
            "job_ids": [t.job_id for t in ticks],
            "bys": [t.by for t in ticks],
        }
        return Query(self._sql(RECORD_TICKS), nothing, params | _moves(moved))

    def record_errors(self, errors: Sequence[tuple[str, str, bool]]) -> Query[None]:
        """Note why schedules cannot be fired; with whether the edit that was asked for is given up."""
        names, texts, drops = (list(column) for column in zip(*errors, strict=True))
        return Query(self._sql(RECORD_ERRORS), nothing, {"names": names, "errors": texts, "drops": drops})

    def next_due(self, but: Collection[str] = (), *, ahead: bool = False) -> Query[float | None]:
        """Seconds until somebody has to look at any schedule, leaving out those in `but`; and those that are due, if
        only what is `ahead` counts."""
        return Query(self._sql(NEXT_DUE), first_value, {"but": list(but), "ahead": ahead})


def _moves(states: Sequence[tuple[ScheduleState, float | None]]) -> dict[str, Any]:
    """The parameters that move schedules on."""
    return {
        "names": [s.schedule.name for s, _ in states],
        "next_ticks": [s.next_tick for s, _ in states],
        "looks": [look for _, look in states],
        "lives": ["{" + ",".join(map(str, s.live_jobs)) + "}" for s, _ in states],
        "gap_froms": [s.gap_from for s, _ in states],
        "gap_tos": [s.gap_to for s, _ in states],
        "gap_bys": [s.gap_by for s, _ in states],
        "paused_ats": [s.paused_at for s, _ in states],
        "paused_untils": [s.paused_until for s, _ in states],
        "errors": [s.error for s, _ in states],
    }
