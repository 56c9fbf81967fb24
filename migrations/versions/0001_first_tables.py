"""The first tables: jobs, transitions, idempotency keys, schedules, queues, workers.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The columns of a job, in whichever of the three tables it is. `args` is one object by parameter name, so that
# args->>'order_id' works in SQL. The checks of times keep them readable for every client: one row that cannot be read
# would fail all jobs claimed with it. `lease` counts claims and is never reset: it fences every write of a worker.
JOB_COLUMNS = """
    task text not null check (char_length(task) between 1 and 200),
    queue text not null check (char_length(queue) between 1 and 100),
    priority smallint not null default 0 check (priority between -100 and 100),
    args jsonb not null default '{{}}' check (jsonb_typeof(args) = 'object'),
    tags text[] not null default '{{}}',
    headers jsonb not null default '{{}}' check (jsonb_typeof(headers) = 'object'),
    run_at timestamptz not null default now() check (run_at between '1900-01-01Z' and '9999-01-01Z'),
    created_at timestamptz not null default now() check (created_at between '1900-01-01Z' and '9999-01-01Z'),
    attempt integer not null default 0 check (attempt >= 0),
    max_attempts integer not null default 20 check (max_attempts >= 1),
    crash_count integer not null default 0 check (crash_count >= 0),
    lease bigint not null default 0 check (lease >= 0),
    worker_id uuid,
    claimed_at timestamptz"""

JOB_NAMES = (
    "id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, "
    "lease, worker_id, claimed_at"
)

STATEMENTS = (
    "create sequence {s}.job_id as bigint",
    # Blocked, pending and running jobs: a small table, however long the history is. Every index costs each write, so
    # there are four, two of them partial on the rows that use them. A pending job always has an attempt left, so that a
    # claim can never fail on the row it claims.
    "create table {s}.job_live (id bigint primary key default nextval('{s}.job_id'),"
    + JOB_COLUMNS
    + """,
    state text not null default 'pending',
    waits_for text,
    cancel_requested_at timestamptz,
    constraint job_live_state check (state in ('blocked', 'pending', 'running')),
    constraint job_live_running_has_worker check (
        (state = 'running') = (worker_id is not null) and (state = 'running') = (claimed_at is not null)),
    constraint job_live_blocked_says_why check ((state = 'blocked') = (waits_for is not null)),
    constraint job_live_waits_for check (waits_for in ('task')),
    constraint job_live_attempt_left check (attempt <= max_attempts and (state = 'running' or attempt < max_attempts))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1)""",
    "alter sequence {s}.job_id owned by {s}.job_live.id",
    "create index job_live_ready on {s}.job_live (queue, priority desc, run_at, id) where state = 'pending'",
    # Partial by worker_id and not by state: the fence of each write says state = 'running', and must find its rows by
    # primary key.
    "create index job_live_running on {s}.job_live (worker_id) where worker_id is not null",
    """create index job_live_parked on {s}.job_live (task, queue, priority desc, run_at, id)
    where state = 'blocked' and waits_for = 'task'""",
    # Succeeded and cancelled jobs, in one partition a day: retention drops a partition and leaves no dead rows.
    "create table {s}.job_finished (id bigint not null,"
    + JOB_COLUMNS
    + """,
    state text not null check (state in ('succeeded', 'cancelled')),
    finished_at timestamptz not null default now(),
    result jsonb,
    reason text,
    primary key (id, finished_at)
) partition by range (finished_at)""",
    "create table {s}.job_finished_default partition of {s}.job_finished default",
    # Dead letters: jobs that failed for good, kept until an operator redrives or discards them.
    "create table {s}.dead_letter (id bigint primary key,"
    + JOB_COLUMNS
    + """,
    state text not null default 'failed' check (state = 'failed'),
    failed_at timestamptz not null default now(),
    reason text not null,
    error jsonb
)""",
    "create index dead_letter_failed_at on {s}.dead_letter (failed_at)",
    # The log of moves: append-only, and written by the statement that moves the job.
    """create table {s}.transition (
    job_id bigint not null,
    at timestamptz not null default clock_timestamp(),
    from_state text check (from_state in ('blocked', 'pending', 'running', 'succeeded', 'failed', 'cancelled')),
    to_state text not null check (to_state in ('blocked', 'pending', 'running', 'succeeded', 'failed', 'cancelled')),
    attempt integer not null default 0,
    lease bigint not null default 0,
    worker_id uuid,
    reason text,
    error jsonb
) partition by range (at)""",
    "create index transition_job on {s}.transition (job_id)",
    "create table {s}.transition_default partition of {s}.transition default",
    # A key outlives the job that it admitted, so that it stays taken when the job is long pruned.
    """create table {s}.idempotency_key (
    scope text not null,
    key_hash bytea not null check (octet_length(key_hash) = 32),
    request_hash bytea not null check (octet_length(request_hash) = 32),
    job_id bigint not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    primary key (scope, key_hash),
    check (expires_at > created_at)
)""",
    "create index idempotency_key_expires_at on {s}.idempotency_key (expires_at)",
    """create table {s}.schedule (
    name text primary key check (char_length(name) between 1 and 200),
    task text not null check (char_length(task) between 1 and 200),
    args jsonb not null default '{{}}' check (jsonb_typeof(args) = 'object'),
    cron text,
    every_seconds double precision check (every_seconds > 0),
    timezone text not null default 'UTC',
    queue text not null check (char_length(queue) between 1 and 100),
    priority smallint not null default 0 check (priority between -100 and 100),
    max_attempts integer not null default 20 check (max_attempts >= 1),
    tags text[] not null default '{{}}',
    next_tick timestamptz not null check (next_tick between '1900-01-01Z' and '9999-01-01Z'),
    paused_at timestamptz,
    paused_by text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint schedule_one_plan check (num_nonnulls(cron, every_seconds) = 1)
)""",
    "create index schedule_next_tick on {s}.schedule (next_tick) where paused_at is null",
    # One row for each tick, whatever became of it. Because of the primary key a tick fires at most once.
    """create table {s}.schedule_fire (
    schedule text not null,
    tick timestamptz not null,
    outcome text not null check (outcome in ('fired', 'missed', 'skipped')),
    reason text,
    job_id bigint,
    at timestamptz not null default clock_timestamp(),
    primary key (schedule, tick),
    constraint schedule_fire_has_job check ((outcome = 'fired') = (job_id is not null))
)""",
    # A queue has a row only once an operator has configured it; a queue without one is open and has no limits.
    """create table {s}.queue (
    name text primary key check (char_length(name) between 1 and 100),
    paused_at timestamptz,
    paused_by text,
    updated_at timestamptz not null default now()
)""",
    # One row for each process and start. No index on columns that a heartbeat writes, so that it stays a HOT update.
    """create table {s}.worker (
    id uuid primary key,
    kind text not null check (kind in ('worker', 'scheduler')),
    host text not null,
    pid integer not null,
    version text not null,
    queues text[] not null,
    tasks text[] not null,
    slots integer not null check (slots >= 0),
    lease_seconds double precision not null check (lease_seconds > 0),
    waiting boolean not null default false,
    stopping boolean not null default false,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    lost_at timestamptz
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200)""",
    # Every job, in whichever table it is. `phase` is the state as people say it: a pending job is scheduled, retrying
    # or pending.
    f"""create view {{s}}.job as
select {JOB_NAMES}, state,
    case when state <> 'pending' then state
         when attempt > 0 then 'retrying'
         when run_at > statement_timestamp() then 'scheduled'
         else 'pending' end as phase,
    waits_for, null::timestamptz as finished_at, null::text as reason, null::jsonb as result, null::jsonb as error
from {{s}}.job_live
union all
select {JOB_NAMES}, state, state, null, finished_at, reason, result, null from {{s}}.job_finished
union all
select {JOB_NAMES}, state, state, null, failed_at, reason, null, error from {{s}}.dead_letter""",
    # The attempts of a job: each claim with the move that ended it.
    """create view {s}.attempt as
select c.job_id, c.attempt, c.lease, c.worker_id, c.at as started_at,
       e.at as ended_at, e.to_state, e.reason, e.error
from {s}.transition c
left join lateral (
    select t.at, t.to_state, t.reason, t.error from {s}.transition t
    where t.job_id = c.job_id and t.lease = c.lease and t.from_state = 'running' and t.at >= c.at
    limit 1) e on true
where c.to_state = 'running'""",
    "comment on schema {s} is 'pgqueue: jobs, transitions, schedules and dead letters'",
    "comment on table {s}.job_live is 'Blocked, pending and running jobs'",
    "comment on table {s}.job_finished is 'Succeeded and cancelled jobs, partitioned by day of finished_at'",
    "comment on table {s}.dead_letter is 'Jobs that failed for good'",
    "comment on view {s}.job is 'Every job: job_live, job_finished and dead_letter together'",
    "comment on table {s}.transition is 'Append-only log of state changes, partitioned by day'",
    "comment on view {s}.attempt is 'Each run of each job, with how it ended'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
