"""How a worker ended, when its duties last made a step, how far a job is; and jobs without a history.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JOB_NAMES = (
    "id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, "
    "lease, worker_id, claimed_at"
)

STATEMENTS = (
    # `death`: how the process ended, as its supervisor saw it ("was killed by SIGSEGV"). `duties`: how many seconds
    # before the last heartbeat each duty made a step.
    """alter table {s}.worker
    add column death text,
    add column duties jsonb not null default '{{}}' check (jsonb_typeof(duties) = 'object')""",
    # `history`: whether the job's moves are logged and its end is kept. Neither column may be indexed, so that updates
    # stay HOT.
    """alter table {s}.job_live
    add column progress jsonb,
    add column history boolean not null default true""",
    f"""create or replace view {{s}}.job as
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
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
