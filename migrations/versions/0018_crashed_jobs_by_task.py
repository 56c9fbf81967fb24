"""Dead letters of killed workers are grouped by their task: one group of all crashes said nothing.

Revision ID: 0018
Revises: 0017
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

GROUP = """coalesce(d.fingerprint, case when d.reason = 'crashed' then 'crashed ' || d.task
                                     else 'class ' || coalesce(d.error ->> 'type', d.reason) end)"""
JOB_NAMES = (
    "id, task::text, queue::text, priority::smallint, tags, run_at::timestamptz, created_at::timestamptz, attempt, "
    "max_attempts, crash_count, worker_id, claimed_at"
)
STATEMENTS = (
    f"""create or replace view {{s}}.dead_group as
select g.fingerprint, g.jobs, g.first_failed_at, g.last_failed_at, g.tasks, g.queues,
       (select coalesce(n.error ->> 'type', n.reason) from {{s}}.dead_letter n where n.id = g.newest_id) as error,
       g.newest_id
from (select {GROUP} as fingerprint,
             count(*) as jobs, min(d.failed_at) as first_failed_at, max(d.failed_at) as last_failed_at,
             array_agg(distinct d.task::text) as tasks, array_agg(distinct d.queue::text) as queues,
             max(d.id) as newest_id
      from {{s}}.dead_letter d
      group by {GROUP}) as g""",
    f"""create or replace view {{s}}.job_status as
select {JOB_NAMES}, state,
    case when state <> 'pending' then state
         when attempt > 0 then 'retrying'
         when run_at > statement_timestamp() then 'scheduled'
         else 'pending' end as phase,
    waits_for, expires_at, cancel_requested_at, null::timestamptz as finished_at, null::text as reason,
    null::text as error_class, null::text as fingerprint
from {{s}}.job_live
union all
select {JOB_NAMES}, state, state, null, null, null, finished_at, reason, null, null from {{s}}.job_finished
union all
select {JOB_NAMES}, state, state, null, null, null, failed_at, reason, error ->> 'type', {GROUP}
from {{s}}.dead_letter d""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
