"""Versions of tasks: an index of parked jobs by the version that they wait for.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A worker that knows a task up to some version finds the jobs it can run, and reads none that wait for a later one.
    # The version is compared as text: a header that was written by hand must not make a write fail.
    "drop index {s}.job_live_parked",
    """create index job_live_parked
    on {s}.job_live (task, coalesce(headers ->> '$version', '1'), queue, priority desc, run_at, id)
    where state = 'blocked' and waits_for = 'task'""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
