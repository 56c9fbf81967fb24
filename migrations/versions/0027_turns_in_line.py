"""Jobs that wait for their turn stand in lines of their own.

Revision ID: 0027
Revises: 0026
"""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# A lane is a queue, a priority and the number in `lane`, which is negative where jobs run in order. By the expression
# such a job keeps its place while it waits for another attempt. Jobs that no rule concerns are not in this index.
TURN = """(queue, lane, priority desc, (case when lane < 0 then '-infinity'::timestamptz else run_at end), id)
    where state = 'blocked' and waits_for = 'turn'"""
concurrently = (("job_live_turn", "job_live", TURN),)
STATEMENTS = (f"create index if not exists job_live_turn on {{s}}.job_live {TURN}",)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
