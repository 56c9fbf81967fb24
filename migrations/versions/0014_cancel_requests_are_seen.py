"""The view of jobs shows when the cancelling of a running job was asked for.

Revision ID: 0014
Revises: 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

JOB_NAMES = (
    "id, task::text, queue::text, priority::smallint, args::jsonb, tags, headers::jsonb, run_at::timestamptz, "
    "created_at::timestamptz, attempt, max_attempts, crash_count, lease, worker_id, claimed_at"
)
STATEMENTS = (
    f"""create or replace view {{s}}.job as
select {JOB_NAMES}, state,
    case when state <> 'pending' then state
         when attempt > 0 then 'retrying'
         when run_at > statement_timestamp() then 'scheduled'
         else 'pending' end as phase,
    waits_for, null::timestamptz as finished_at, null::text as reason, null::jsonb as result, null::jsonb as error,
    progress, cancel_requested_at
from {{s}}.job_live
union all
select {JOB_NAMES}, state, state, null, finished_at, reason, result, null, null, null from {{s}}.job_finished
union all
select {JOB_NAMES}, state, state, null, failed_at, reason, null, error, null, null from {{s}}.dead_letter""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
