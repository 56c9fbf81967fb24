"""Limits, rates, order and fair shares: jobs that wait for their turn, the rules, and the counters of what runs.

Revision ID: 0026
Revises: 0025
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

JOB_NAMES = (
    "id, task::text, queue::text, priority::smallint, args::jsonb, tags, headers::jsonb, run_at::timestamptz, "
    "created_at::timestamptz, attempt, max_attempts, crash_count, lease, worker_id, claimed_at"
)
STATUS_NAMES = (
    "id, task::text, queue::text, priority::smallint, tags, run_at::timestamptz, created_at::timestamptz, attempt, "
    "max_attempts, crash_count, worker_id, claimed_at"
)
GROUP = """coalesce(d.fingerprint, case when d.reason = 'crashed' then 'crashed ' || d.task
                                     else 'class ' || coalesce(d.error ->> 'type', d.reason) end)"""
# A job that waits for its turn is shown as scheduled or retrying as others are, and else as blocked.
PHASE = """case when state <> 'pending' and waits_for is distinct from 'turn' then state
         when attempt > 0 and state <> 'running' then 'retrying'
         when run_at > statement_timestamp() and state <> 'running' then 'scheduled'
         else state end"""
COUNTS = "attempt >= 0 and max_attempts >= 1 and crash_count >= 0 and lease >= 0"
PAUSED = """paused_at timestamptz,
    paused_until timestamptz check (paused_until between '1900-01-01Z' and '9999-01-01Z'),
    paused_by text,
    paused_why text"""

STATEMENTS = (
    "alter table {s}.job_live add column lane bigint",
    # One check, as before: each further one costs an enqueue of one job a twentieth. A job that rules concern is
    # blocked until its turn comes and is claimed from there, so job_live_ready, which workers of older releases read
    # as well, does not hold it. A statement that puts it back as pending, as those of older releases do, is refused.
    f"""alter table {{s}}.job_live drop constraint job_live_state,
    add constraint job_live_state check ({COUNTS} and case state
        when 'pending' then worker_id is null and claimed_at is null and waits_for is null and attempt < max_attempts
                            and lane is null and not headers::jsonb ? '$flow'
        when 'running' then worker_id is not null and claimed_at is not null and waits_for is null
                            and attempt <= max_attempts
        when 'blocked' then worker_id is null and claimed_at is null and attempt < max_attempts
                            and waits_for is not null and case when lane is null
                                then waits_for in ('task', 'pause') and not headers::jsonb ? '$flow'
                                else waits_for in ('task', 'turn', 'pause') and headers::jsonb ? '$flow' end
        else false end) not valid""",
    # What code declares and people change: few rows.
    f"""create table {{s}}.limit_rule (
    name text collate "C" primary key check (octet_length(name) between 1 and 1000 and position('/' in name) = 0),
    kind text not null default 'limit' check (kind in ('limit', 'order', 'fair')),
    max_running integer check (max_running >= 0),
    rate_count integer check (rate_count >= 1),
    rate_seconds double precision check (rate_seconds > 0 and rate_seconds <= 31536000),
    rate_burst integer check (rate_burst >= 1),
    rate_strict boolean not null default true,
    scope text not null default 'fleet' check (scope in ('fleet', 'worker')),
    on_full text not null default 'wait' check (on_full in ('wait', 'skip', 'cancel_running', 'replace_waiting')),
    on_dead text not null default 'next' check (on_dead in ('next', 'stop')),
    breaker_failures integer check (breaker_failures >= 1),
    breaker_seconds double precision check (breaker_seconds > 0 and breaker_seconds <= 31536000),
    breaker_cooldown double precision check (breaker_cooldown > 0 and breaker_cooldown <= 31536000),
    {PAUSED},
    declared jsonb,
    declared_by text[] not null default '{{{{}}}}',
    updated_at timestamptz not null default now(),
    updated_by text,
    constraint limit_rule_rate check ((rate_count is null) = (rate_seconds is null)
        and (rate_burst is null or rate_burst <= rate_count)),
    constraint limit_rule_breaker check ((breaker_failures is null) = (breaker_seconds is null)
        and (breaker_failures is null) = (breaker_cooldown is null))
)""",
    # Exceptions for single keys of a rule.
    f"""create table {{s}}.limit_key (
    rule text collate "C" not null,
    key text collate "C" not null check (octet_length(key) between 1 and 1000),
    max_running integer check (max_running >= 0),
    weight real check (weight > 0 and weight <= 1000000),
    {PAUSED},
    updated_at timestamptz not null default now(),
    updated_by text,
    primary key (rule, key)
)""",
    # A bucket is a rule, or one key of it: `rule` or `rule/key`. This table is never updated; who inserts here creates
    # the bucket's one row in limit_use. Names sort by their bytes, in every database and at every length of their keys:
    # locks are taken in this order.
    'create table {s}.limit_bucket (name text collate "C" primary key)',
    # How many jobs of a bucket run. The version is part of the key on purpose: each update makes an entry to the right
    # of the last one, and a reader that begins at the right end finds the living row at once, however many dead ones a
    # long transaction keeps.
    """create table {s}.limit_use (
    name text collate "C" not null,
    version bigint not null,
    rule text collate "C" not null,
    running integer not null default 0 check (running >= 0),
    tat timestamptz not null default '-infinity',
    closed_until timestamptz,
    failures integer not null default 0,
    failing_since timestamptz,
    opened integer not null default 0,
    primary key (name, version)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0)""",
    f"""create or replace view {{s}}.job as
select {JOB_NAMES}, state, {PHASE} as phase,
    waits_for, null::timestamptz as finished_at, null::text as reason, null::jsonb as result, null::jsonb as error,
    progress, cancel_requested_at
from {{s}}.job_live
union all
select {JOB_NAMES}, state, state, null, finished_at, reason, result, null, null, null from {{s}}.job_finished
union all
select {JOB_NAMES}, state, state, null, failed_at, reason, null, error, null, null from {{s}}.dead_letter""",
    f"""create or replace view {{s}}.job_status as
select {STATUS_NAMES}, state, {PHASE} as phase,
    waits_for, expires_at, cancel_requested_at, null::timestamptz as finished_at, null::text as reason,
    null::text as error_class, null::text as fingerprint
from {{s}}.job_live
union all
select {STATUS_NAMES}, state, state, null, null, null, finished_at, reason, null, null from {{s}}.job_finished
union all
select {STATUS_NAMES}, state, state, null, null, null, failed_at, reason, error ->> 'type', {GROUP}
from {{s}}.dead_letter d""",
    "comment on column {s}.job_live.lane is 'The line in which it waits for its turn; null if no rule concerns it'",
    "comment on column {s}.job.waits_for is 'What a blocked job waits for: task, turn, pause; else null'",
    "comment on column {s}.job_status.waits_for is 'What a blocked job waits for: task, turn, pause; else null'",
    "comment on table {s}.limit_rule is 'Limits, rates, orders and fair shares: what code declares and people change'",
    "comment on column {s}.limit_rule.max_running is 'How many jobs of a bucket may run at a time; null: any number'",
    "comment on column {s}.limit_rule.declared is 'The rule as code declares it, whatever somebody has changed'",
    "comment on column {s}.limit_rule.declared_by is 'The apps whose code declares the rule now'",
    "comment on table {s}.limit_key is 'Exceptions for single keys of a rule'",
    "comment on table {s}.limit_bucket is 'The buckets that exist: a rule, or one key of it (rule/key)'",
    "comment on table {s}.limit_use is 'How many jobs of each bucket run, and when its next start is due'",
    "comment on column {s}.limit_use.version is 'Grows with each change; the highest one is the row that counts'",
    "comment on column {s}.limit_use.tat is 'When the next start would be due if all came evenly (GCRA)'",
    "comment on column {s}.limit_use.closed_until is 'Until when none of its jobs starts: a breaker, or RateLimited'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
