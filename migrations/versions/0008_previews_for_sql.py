"""Previews of schedules for SQL; the end of a pause must lie in the future.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

PLAN = "cron, every_seconds, at, rrule, anchor, timezone, starts_at, ends_at"
OLD, NEW = (", ".join(f"{row}.{column}" for column in PLAN.split(", ")) for row in ("old", "new"))

STATEMENTS = (
    # The next ticks of each schedule, also in words, for callers that have only SQL, which knows no cron. They have
    # their own table, so that firing neither reads nor writes it. `stale_at`: when half of the ticks have passed; null
    # where the plan has no more ticks. Without `ticks` no scheduler has computed them yet.
    """create table {s}.schedule_ahead (
    name text primary key references {s}.schedule on delete cascade on update cascade,
    ticks timestamptz[],
    words text[],
    stale_at timestamptz default clock_timestamp()
)""",
    "create index schedule_ahead_stale_at on {s}.schedule_ahead (stale_at)",
    "insert into {s}.schedule_ahead (name) select name from {s}.schedule",
    # The only trigger of the schema: whatever statement changes a plan, readers no longer see the ticks of the old one.
    # It fires only when a plan changes, and not when a scheduler moves a schedule on.
    """create function {s}.schedule_forget_ahead() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into {s}.schedule_ahead as a (name) values (new.name)
    on conflict (name) do update set ticks = null, words = null, stale_at = clock_timestamp();
    return null;
end
$$""",
    """create trigger schedule_made after insert on {s}.schedule
    for each row execute function {s}.schedule_forget_ahead()""",
    f"""create trigger schedule_replanned after update of {PLAN} on {{s}}.schedule
    for each row when (({OLD}) is distinct from ({NEW})) execute function {{s}}.schedule_forget_ahead()""",
    """create function {s}.schedule_preview(name text, n integer default 5) returns table (tick timestamptz, words text)
language plpgsql stable as $$
declare
    ahead {s}.schedule_ahead;
    left_over bigint;
begin
    if coalesce($2 not between 1 and 10, true) then
        raise exception 'n=% cannot be used: give 1 to 10', $2 using errcode = 'invalid_parameter_value';
    end if;
    perform {s}.schedule_found($1, exists (select from {s}.schedule s where s.name = $1));
    select * into ahead from {s}.schedule_ahead a where a.name = $1;
    select count(*) into left_over from unnest(ahead.ticks) as t(tick) where t.tick > statement_timestamp();
    if ahead.ticks is null or (left_over < $2 and ahead.stale_at is not null) then
        raise exception 'no scheduler has worked out the next ticks of % yet', quote_literal($1)
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'A scheduler that runs does so within seconds; a plan that it cannot use shows as error.';
    end if;
    return query select t.tick, t.said || ', in ' || date_trunc('second', t.tick - statement_timestamp())
        from unnest(ahead.ticks, ahead.words) as t(tick, said) where t.tick > statement_timestamp()
        order by t.tick limit $2;
end
$$""",
    "comment on table {s}.schedule_ahead is 'The next ticks of each schedule, for schedule_preview'",
    "comment on function {s}.schedule_preview is 'The next n ticks of a schedule, in plain words'",
    # As in 0004, but refuses an end that has passed.
    """create or replace function {s}.schedule_pause(
    name text, until timestamptz default null, by text default current_user, catch_up text default 'skip')
returns void language plpgsql as $$
begin
    if $2 <= clock_timestamp() then
        raise exception 'until=% has passed: give a later moment', $2 using errcode = 'invalid_parameter_value';
    end if;
    update {s}.schedule s set paused_at = coalesce(s.paused_at, clock_timestamp()), paused_by = $3, paused_until = $2,
        resume_with = $4, updated_at = now()
    where s.name = $1;
    perform {s}.schedule_found($1, found);
    perform {s}.schedule_wake();
end
$$""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema, channel=schema.strip('"')))
