"""SQL functions do not notify where the caller has set pgqueue.notify to off.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Postgres refuses to PREPARE a transaction that has notified. The bodies are those of the migrations before but for the
# condition.
STATEMENTS = (
    """do $change$
declare
    one text;
begin
    foreach one in array array(select pg_get_functiondef(p.oid) from pg_proc p
        where p.proname in ('enqueue', 'schedule_wake') and p.pronamespace = '{s}'::regnamespace)
    loop
        execute replace(one, 'pg_notification_queue_usage() < 0.5', 'pg_notification_queue_usage() < 0.5
    and current_setting(''pgqueue.notify'', true) is distinct from ''off''');
    end loop;
end
$change$""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
