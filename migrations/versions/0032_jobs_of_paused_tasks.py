"""Jobs that were set aside because their task is paused are found by their task, in the order of their lane.

Revision ID: 0032
Revises: 0031
"""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

PAUSED = "(task, run_at, id) where state = 'blocked' and waits_for = 'pause'"
concurrently = (("job_live_paused", "job_live", PAUSED),)
STATEMENTS = (f"create index if not exists job_live_paused on {{s}}.job_live {PAUSED}",)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
