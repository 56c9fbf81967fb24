"""The depth of a queue with many metered jobs is estimated from a sample, as it is with others.

Revision ID: 0029
Revises: 0028
"""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

# One in 64 jobs that wait for their turn. A job that no rule concerns costs it nothing.
SAMPLE = "(queue) where state = 'blocked' and waits_for = 'turn' and id % 64 = 0"
concurrently = (("job_live_turn_sample", "job_live", SAMPLE),)
STATEMENTS = (f"create index if not exists job_live_turn_sample on {{s}}.job_live {SAMPLE}",)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
