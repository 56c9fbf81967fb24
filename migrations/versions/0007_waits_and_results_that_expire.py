"""Waits for the ends of jobs, and results that expire before their jobs are pruned.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Jobs that a process waits for, so that workers notify for these alone. Only a hint: the table is unlogged, and
    # rows that no process needs any more are left to expire. No index on expires_at, so that to register again is a HOT
    # update.
    """create unlogged table {s}.waiter (
    job_id bigint primary key,
    expires_at timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)""",
    # Results with a time to live. They have their own table because an index on job_finished would cost the jobs
    # without one. `finished_at` leads to the one partition that holds the job.
    """create table {s}.result_expiry (
    job_id bigint primary key,
    finished_at timestamptz not null,
    expires_at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)""",
    "create index result_expiry_expires_at on {s}.result_expiry (expires_at)",
    "comment on table {s}.waiter is 'Jobs whose end somebody waits for; a hint'",
    "comment on table {s}.result_expiry is 'Results that are dropped before their job is'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
