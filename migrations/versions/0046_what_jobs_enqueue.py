"""Indexes by which the jobs are found that the task of a job has enqueued.

Revision ID: 0046
Revises: 0045
"""

from alembic import op

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None

# By the job whose task has enqueued them, which stands in a header. Jobs that were enqueued elsewhere are in none.
BY = "((headers -> '$by'), id) where headers ? '$by'"
concurrently = (
    ("job_live_by", "job_live", BY),
    ("job_finished_by", "job_finished", BY),
    ("dead_letter_by", "dead_letter", BY),
)
STATEMENTS = tuple(
    f"create index if not exists {name} on {{s}}.{table} {definition}" for name, table, definition in concurrently
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
