"""The plan of a schedule reads the same whatever extra_float_digits is.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# As text a float has as many digits as extra_float_digits says, a numeric all of its own.
STATEMENTS = (
    """do $change$
declare
    body text := pg_get_viewdef('{s}.schedule_status'::regclass);
begin
    execute 'create or replace view {s}.schedule_status as '
        || replace(body, 's.every_seconds', 's.every_seconds::numeric');
end
$change$""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
