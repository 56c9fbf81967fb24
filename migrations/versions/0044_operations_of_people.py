"""What people do beside jobs is an operation: pauses, requests to processes, schedules, notes, values shown, seals.

Revision ID: 0044
Revises: 0043
"""

from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Rows of the new kinds are written when they have ended: no release, of whatever age, goes on with one.
    """alter table {s}.operation
    drop constraint operation_kind_check,
    add constraint operation_kind_check check (kind in (
        'redrive', 'discard', 'cancel', 'retry', 'promote', 'edit',
        'annotate', 'enqueue', 'pause', 'resume', 'run', 'quiet', 'stop', 'reveal',
        'create', 'revert', 'delete', 'seal')) not valid""",
    "comment on table {s}.operation is 'What was asked to be done, by whom, and how far it is'",
    "comment on column {s}.operation.done is 'How many jobs it has changed; 1 of a step beside jobs, once it is done'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
