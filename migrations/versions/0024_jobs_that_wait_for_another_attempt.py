"""Jobs that wait for another attempt are found and counted without the others.

Revision ID: 0024
Revises: 0023
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

# Few jobs are in this index: those that have run before. A job that succeeds at once costs it nothing.
RETRYING = "(queue, run_at, id) where state = 'pending' and attempt > 0"
concurrently = (("job_live_retrying", "job_live", RETRYING),)
STATEMENTS = (f"create index if not exists job_live_retrying on {{s}}.job_live {RETRYING}",)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
