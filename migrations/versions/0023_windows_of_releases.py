"""Windows: which releases may run on a schema, and what each process knows.

Revision ID: 0023
Revises: 0022
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A row for each contract migration, which takes away what older releases use.
    """create table {s}.compat (
    revision text primary key,
    needs text not null,
    at timestamptz not null default clock_timestamp()
)""",
    "alter table {s}.worker add column knows text",
    "comment on table {s}.compat is 'Contract migrations: the newest version that a process must know since each'",
    "comment on column {s}.compat.needs is 'A process that knows no version as new as this one refuses to start'",
    "comment on column {s}.worker.knows is 'The newest version of the schema that the process knows'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
