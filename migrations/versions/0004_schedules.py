"""Schedules that can be edited, paused and resumed, with policies for missed and overlapping ticks.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The columns of a definition, which users may set: when a schedule ticks, and what becomes of each tick.
DEFINITION = (
    "task", "args", "cron", "every_seconds", "at", "rrule", "anchor", "timezone", "starts_at", "ends_at",
    "jitter_seconds", "queue", "priority", "max_attempts", "tags", "options", "misfire", "grace_seconds", "overlap",
    "max_running",
)  # fmt: skip
COLUMNS = ", ".join(DEFINITION)
NAMES = ", ".join(f"'{name}'" for name in DEFINITION)
TIME = "between '1900-01-01Z' and '9999-01-01Z'"
POLICY = "~ '^(skip|once|all\\([1-9][0-9]{{0,3}}\\))$'"

STATEMENTS = (
    # `options`: the other options that jobs are enqueued with (delay, expires, history). `misfire`: what becomes of
    # ticks that passed while no scheduler ran. `overlap`: what becomes of a tick while jobs of earlier ones are
    # unfinished; `live_jobs` lists these. `edited_at`: an operator has changed the declaration of the code (`app`,
    # `declared`), and the code leaves the change as it is. `gap_from`, `gap_to`: a pause that has ended, whose ticks a
    # scheduler has yet to record, by the policy `resume_with`. `replan_from`: SQL made the row; a scheduler computes
    # its first tick after that moment. `edit_asked`: a change that SQL asks for; `edit_error`: why the last one could
    # not be made. `look_at`: when a scheduler looks at the schedule though it has no tick then. `wake_at`: the earliest
    # reason to look.
    f"""alter table {{s}}.schedule
    alter column next_tick drop not null,
    add column at timestamptz check (at {TIME}),
    add column rrule text check (char_length(rrule) between 1 and 1000),
    add column anchor timestamptz check (anchor {TIME}),
    add column starts_at timestamptz check (starts_at {TIME}),
    add column ends_at timestamptz check (ends_at {TIME}),
    add column jitter_seconds double precision not null default 0 check (jitter_seconds between 0 and 86400),
    add column options jsonb not null default '{{{{}}}}' check (jsonb_typeof(options) = 'object'),
    add column misfire text not null default 'once' check (misfire {POLICY}),
    add column grace_seconds double precision check (grace_seconds >= 0),
    add column overlap text not null default 'allow' check (overlap in ('allow', 'skip', 'queue', 'cancel_running')),
    add column max_running integer check (max_running between 1 and 1000),
    add column paused_until timestamptz check (paused_until {TIME}),
    add column resume_with text not null default 'skip' check (resume_with {POLICY}),
    add column gap_from timestamptz,
    add column gap_to timestamptz,
    add column gap_by text,
    add column live_jobs bigint[] not null default '{{{{}}}}',
    add column look_at timestamptz,
    add column app text,
    add column declared jsonb,
    add column disabled_at timestamptz,
    add column edited_at timestamptz,
    add column edited_by text,
    add column edit_asked jsonb,
    add column replan_from timestamptz,
    add column edit_error text,
    add column error text,
    add column wake_at timestamptz generated always as (least(look_at,
        case when disabled_at is not null then null
             when paused_at is not null then paused_until
             when replan_from is not null then replan_from
             else next_tick end)) stored,
    drop constraint schedule_one_plan,
    add constraint schedule_one_plan check (num_nonnulls(cron, every_seconds, at, rrule) = 1),
    add constraint schedule_max_running check ((overlap = 'allow') = (max_running is null)),
    add constraint schedule_gap check (num_nonnulls(gap_from, gap_to) in (0, 2))""",
    "drop index {s}.schedule_next_tick",
    "create index schedule_wake on {s}.schedule (wake_at)",
    # A queued tick has no job yet: it waits until the job of an earlier one ends, or until a scheduler sees that an
    # operator (`by`) asked for it now.
    """alter table {s}.schedule_fire
    add column by text,
    drop constraint schedule_fire_outcome_check,
    add constraint schedule_fire_outcome check (outcome in ('fired', 'missed', 'skipped', 'queued'))""",
    "create index schedule_fire_queued on {s}.schedule_fire (schedule, tick) where outcome = 'queued'",
    # The releases of apps that run schedulers, and the schedules that they declare: a schedule that none of them
    # declares any more is disabled, and the declarations of the newest release count. One row for each scheduler; a
    # scheduler that was not seen for long is dead.
    """create table {s}.schedule_release (
    id uuid primary key,
    app text not null,
    release text not null,
    names text[] not null,
    since timestamptz not null default clock_timestamp(),
    seen_at timestamptz not null default clock_timestamp()
)""",
    """create view {s}.schedule_status as
select s.name, s.task,
    coalesce(s.cron, s.rrule, 'every ' || s.every_seconds || ' s', 'once') as plan, s.timezone,
    case when s.disabled_at is not null then 'disabled'
         when s.paused_at is not null then 'paused'
         when s.error is not null then 'broken'
         when s.next_tick is null and s.replan_from is null then 'over'
         else 'active' end as state,
    s.next_tick,
    greatest(extract(epoch from statement_timestamp() - s.wake_at), 0)::float8 as lag_seconds,
    f.tick as last_tick, f.outcome as last_outcome, f.reason as last_reason, f.job_id as last_job_id,
    extract(epoch from f.at - f.tick)::float8 as last_lag_seconds,
    d.fired as fired_in_a_day, d.missed as missed_in_a_day, d.skipped as skipped_in_a_day,
    (select count(*) from {s}.schedule_fire q where q.schedule = s.name and q.outcome = 'queued') as queued,
    s.misfire, s.grace_seconds, s.overlap, s.max_running, s.paused_at, s.paused_by, s.paused_until, s.disabled_at,
    s.app, s.edited_at, s.edited_by, coalesce(s.error, s.edit_error) as error
from {s}.schedule s
left join lateral (select * from {s}.schedule_fire l where l.schedule = s.name order by l.tick desc limit 1) f on true
left join lateral (
    select count(*) filter (where m.outcome = 'fired') as fired,
           count(*) filter (where m.outcome = 'missed') as missed,
           count(*) filter (where m.outcome = 'skipped') as skipped
    from {s}.schedule_fire m
    where m.schedule = s.name and m.tick > statement_timestamp() - interval '1 day') d on true""",
    # Wakes schedulers when the transaction commits.
    """create function {s}.schedule_wake() returns void language sql as $$
    select pg_notify('{channel}', '!schedule') where pg_notification_queue_usage() < 0.5
$$""",
    # Refuses keys that are not part of a definition, and names them.
    f"""create function {{s}}.schedule_check(definition jsonb) returns void language plpgsql as $$
declare
    unknown text := (select string_agg(k, ', ') from jsonb_object_keys(definition) k where k not in ({NAMES}));
begin
    if unknown is not null then
        raise exception 'a schedule has no %: give any of {COLUMNS}', unknown using errcode = '22023';
    end if;
end
$$""",
    f"""create function {{s}}.schedule_create(name text, task text, definition jsonb, by text default current_user)
returns void language plpgsql as $$
begin
    perform {{s}}.schedule_check(definition);
    insert into {{s}}.schedule (name, replan_from, edited_at, edited_by, {COLUMNS})
    select $1, clock_timestamp(), clock_timestamp(), $4, {", ".join(f"g.{column}" for column in DEFINITION)}
    from jsonb_populate_record(null::{{s}}.schedule,
        '{{{{"args": {{{{}}}}, "timezone": "UTC", "jitter_seconds": 0, "queue": "default", "priority": 0,
          "max_attempts": 20, "tags": [], "options": {{{{}}}}, "misfire": "once", "overlap": "allow"}}}}'
        || definition || jsonb_build_object('task', $2)) g;
    perform {{s}}.schedule_wake();
end
$$""",
    # A scheduler makes the change, because it knows cron: as of the moment at which it was asked for, after older ones.
    """create function {s}.schedule_edit(name text, changes jsonb, by text default current_user)
returns void language plpgsql as $$
begin
    perform {s}.schedule_check(changes);
    update {s}.schedule s set look_at = least(s.look_at, clock_timestamp()), edit_asked = jsonb_build_object(
        'changes', coalesce(s.edit_asked->'changes', '{{}}') || $2, 'by', $3, 'at', clock_timestamp())
    where s.name = $1;
    perform {s}.schedule_found($1, found);
    perform {s}.schedule_wake();
end
$$""",
    """create function {s}.schedule_found(name text, there boolean) returns void language plpgsql as $$
begin
    if not there then
        raise exception 'no schedule is called %', quote_literal(name) using errcode = 'no_data_found';
    end if;
end
$$""",
    # A schedule that is paused already keeps the beginning of its pause.
    """create function {s}.schedule_pause(
    name text, until timestamptz default null, by text default current_user, catch_up text default 'skip')
returns void language plpgsql as $$
begin
    update {s}.schedule s set paused_at = coalesce(s.paused_at, clock_timestamp()), paused_by = $3, paused_until = $2,
        resume_with = $4, updated_at = now()
    where s.name = $1;
    perform {s}.schedule_found($1, found);
    perform {s}.schedule_wake();
end
$$""",
    # Where the ticks of an earlier pause are not recorded yet, because no scheduler ran, the two pauses become one.
    # Also enables a schedule that was disabled because the code no longer declares it; now it belongs to no app.
    # A scheduler records the ticks that passed meanwhile by the policy `resume_with`. A schedule that is neither paused
    # nor disabled stays as it is.
    """create function {s}.schedule_resume(name text, catch_up text default null)
returns void language plpgsql as $$
begin
    update {s}.schedule s set
        gap_from = case when s.paused_at is null or s.next_tick <= s.gap_to then s.gap_from else s.paused_at end,
        gap_to = case when s.paused_at is null then s.gap_to else clock_timestamp() end,
        gap_by = coalesce(s.paused_by, s.gap_by), resume_with = coalesce($2, s.resume_with),
        paused_at = null, paused_by = null, paused_until = null, updated_at = now(),
        app = case when s.disabled_at is null then s.app end,
        declared = case when s.disabled_at is null then s.declared end,
        replan_from = case when s.disabled_at is null then s.replan_from else clock_timestamp() end,
        disabled_at = null
    where s.name = $1 and (s.paused_at is not null or s.disabled_at is not null);
    perform {s}.schedule_found($1, found or exists (select from {s}.schedule s where s.name = $1));
    perform {s}.schedule_wake();
end
$$""",
    # Fires the schedule now, whatever its plan, a pause or its overlap policy says. Returns the tick.
    """create function {s}.schedule_run(name text, by text default current_user)
returns timestamptz language plpgsql as $$
declare
    tick timestamptz := clock_timestamp();
begin
    update {s}.schedule s set look_at = least(s.look_at, tick) where s.name = $1;
    perform {s}.schedule_found($1, found);
    insert into {s}.schedule_fire (schedule, tick, outcome, by) values ($1, tick, 'queued', $2);
    perform {s}.schedule_wake();
    return tick;
end
$$""",
    # The rows of its ticks stay in schedule_fire.
    """create function {s}.schedule_delete(name text) returns void language plpgsql as $$
begin
    delete from {s}.schedule s where s.name = $1;
    perform {s}.schedule_found($1, found);
end
$$""",
    "comment on view {s}.schedule_status is 'Each schedule: its state, next and last tick, lag, and what was missed'",
    "comment on table {s}.schedule_fire is 'One row for each tick: fired, missed, skipped or queued, and why'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema, channel=schema.strip('"')))
