"""Jobs that were set aside because their task is paused count for the depth of their queue.

Revision ID: 0035
Revises: 0034
"""

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

# By queue, and in it by the last six bits of the id: to be counted up to a bound, and to be sampled, one job in 64.
HELD = "(queue, (id % 64)) where state = 'blocked' and waits_for = 'pause'"
concurrently = (("job_live_paused_queue", "job_live", HELD),)
STATEMENTS = (f"create index if not exists job_live_paused_queue on {{s}}.job_live {HELD}",)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
