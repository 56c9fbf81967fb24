"""To seal a workflow is an operation, too: its row says who has done it.

Revision ID: 0045
Revises: 0044
"""

from alembic import op

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None

STATEMENTS = (
    """alter table {s}.operation
    drop constraint operation_kind_check,
    add constraint operation_kind_check check (kind in (
        'redrive', 'discard', 'cancel', 'retry', 'promote', 'edit',
        'annotate', 'enqueue', 'pause', 'resume', 'run', 'quiet', 'stop', 'reveal',
        'create', 'revert', 'delete', 'seal')) not valid""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
