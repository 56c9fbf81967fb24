"""Operations on jobs of any state, and jobs that were locked when an operation came to them.

Revision ID: 0020
Revises: 0019
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

STATEMENTS = (
    # `place`: an operation may look into several tables, one after the other. `locked`: the jobs that an open
    # transaction held, which the operation looks at again before it ends.
    """alter table {s}.operation
    drop constraint operation_kind_check,
    add constraint operation_kind_check
        check (kind in ('redrive', 'discard', 'cancel', 'retry', 'promote', 'edit')),
    add column place smallint not null default 0,
    add column locked bigint[] not null default '{{}}'""",
    "comment on table {s}.operation is 'What was asked to be done to many jobs, by whom, and how far it is'",
    "comment on column {s}.operation.place is 'The table in which the operation is: the first, second … of its kind'",
    "comment on column {s}.operation.reached is 'The highest id that was looked at in this place'",
    "comment on column {s}.operation.locked is 'Jobs that others held locked; the operation comes back to them'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
