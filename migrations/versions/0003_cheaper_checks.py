"""Checks of columns that never change become checks of their types, evaluated once, when a job is enqueued.

A CHECK of a table is evaluated whenever a row of the table is written. A job is written four times; seven of its checks
were about columns that never change, and five about its state. Together they took an eighth of the time that Postgres
spends on a drained job (docs/decisions/0007). The tables are rewritten, under an exclusive lock.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Arrays have plain types: an array of a domain is a type that clients do not know.
JOB_NAMES = (
    "id, task::text, queue::text, priority::smallint, args::jsonb, tags, headers::jsonb, run_at::timestamptz, "
    "created_at::timestamptz, attempt, max_attempts, crash_count, lease, worker_id, claimed_at"
)
STATIC = {
    "task": "task_name",
    "queue": "queue_name",
    "priority": "job_priority",
    "args": "json_object",
    "headers": "json_object",
    "run_at": "job_time",
    "created_at": "job_time",
}
COUNTS = "attempt >= 0 and max_attempts >= 1 and crash_count >= 0 and lease >= 0"
# The checks of 0001 that types or other checks replace.
OLD = (
    "task",
    "queue",
    "priority",
    "args",
    "headers",
    "run_at",
    "created_at",
    "attempt",
    "max_attempts",
    "crash_count",
    "lease",
)


def _old_checks(table: str, more: tuple[str, ...]) -> str:
    names = [f"{table}_{column}_check" for column in OLD] + [f"{table}_{name}" for name in more]
    return ", ".join(f"drop constraint {name}" for name in names)


def _typed() -> str:
    return ", ".join(f"alter column {column} type {{s}}.{domain}" for column, domain in STATIC.items())


STATEMENTS = (
    "create domain {s}.task_name as text check (char_length(value) between 1 and 200)",
    "create domain {s}.queue_name as text check (char_length(value) between 1 and 100)",
    "create domain {s}.job_priority as smallint check (value between -100 and 100)",
    "create domain {s}.json_object as jsonb check (jsonb_typeof(value) = 'object')",
    "create domain {s}.job_time as timestamptz check (value between '1900-01-01Z' and '9999-01-01Z')",
    "drop view {s}.job",
    # A pending job always has an attempt left, so that a claim can never fail on the row it claims.
    f"""alter table {{s}}.job_live
    {_old_checks("job_live", ("state", "running_has_worker", "blocked_says_why", "waits_for", "attempt_left"))},
    {_typed()},
    add constraint job_live_state check ({COUNTS} and case state
        when 'pending' then worker_id is null and claimed_at is null and waits_for is null and attempt < max_attempts
        when 'running' then worker_id is not null and claimed_at is not null and waits_for is null
                            and attempt <= max_attempts
        when 'blocked' then worker_id is null and claimed_at is null and waits_for is not null
                            and waits_for in ('task') and attempt < max_attempts
        else false end)""",
    f"""alter table {{s}}.job_finished {_old_checks("job_finished", ("state_check",))}, {_typed()},
    add constraint job_finished_state check (state in ('succeeded', 'cancelled') and {COUNTS})""",
    f"""alter table {{s}}.dead_letter {_old_checks("dead_letter", ("state_check",))}, {_typed()},
    add constraint dead_letter_state check (state = 'failed' and {COUNTS})""",
    f"""create view {{s}}.job as
select {JOB_NAMES}, state,
    case when state <> 'pending' then state
         when attempt > 0 then 'retrying'
         when run_at > statement_timestamp() then 'scheduled'
         else 'pending' end as phase,
    waits_for, null::timestamptz as finished_at, null::text as reason, null::jsonb as result, null::jsonb as error,
    progress
from {{s}}.job_live
union all
select {JOB_NAMES}, state, state, null, finished_at, reason, result, null, null from {{s}}.job_finished
union all
select {JOB_NAMES}, state, state, null, failed_at, reason, null, error, null from {{s}}.dead_letter""",
    "comment on view {s}.job is 'Every job: job_live, job_finished and dead_letter together'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
