"""Indexes by which the jobs of a workflow are found.

Revision ID: 0040
Revises: 0039
"""

from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

# Jobs whose edges can never be met any more: they are blocked and asked to end. The jobs of a workflow that live, and
# its dead letters. Plain jobs are in none of them.
DOOMED = "(id) where state = 'blocked' and cancel_requested_at is not null"
OF_WORKFLOW = "(workflow_id, id) where workflow_id is not null"
concurrently = (
    ("job_live_doomed", "job_live", DOOMED),
    ("job_live_workflow", "job_live", OF_WORKFLOW),
    ("dead_letter_workflow", "dead_letter", OF_WORKFLOW),
)
STATEMENTS = tuple(
    f"create index if not exists {name} on {{s}}.{table} {definition}" for name, table, definition in concurrently
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
