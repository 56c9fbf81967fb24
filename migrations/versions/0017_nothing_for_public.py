"""Nothing is left to PUBLIC: neither the functions that manage schedules nor the types of columns.

Revision ID: 0017
Revises: 0016
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A function that nobody has granted is everybody's by default. It is taken from everybody and given to those who
    # could call it with effect: functions have their caller's rights, so these may write `schedule`, or for the preview
    # read `schedule_ahead`.
    """do $keep$
declare
    function record;
    kept name;
begin
    for function in select p.oid, p.oid::regprocedure as called, p.proname from pg_catalog.pg_proc p
                    where p.pronamespace = '{s}'::regnamespace and p.proacl is null loop
        execute format('revoke all on function %s from public', function.called);
        for kept in
            select distinct r.rolname from pg_catalog.pg_class c cross join lateral aclexplode(c.relacl) as a
            join pg_catalog.pg_roles r on r.oid = a.grantee
            where c.relnamespace = '{s}'::regnamespace and a.grantee <> c.relowner
            and case function.proname
                when 'schedule_preview' then c.relname = 'schedule_ahead' and a.privilege_type = 'SELECT'
                else c.relname = 'schedule' and a.privilege_type in ('INSERT', 'UPDATE') end loop
            execute format('grant execute on function %s to %I', function.called, kept);
        end loop;
    end loop;
end
$keep$""",
    *(
        f"revoke all on type {{s}}.{domain} from public"
        for domain in ("task_name", "queue_name", "job_priority", "json_object", "job_time")
    ),
    "comment on function {s}.schedule_create is 'Make a schedule; the keys of a definition are columns of schedule'",
    "comment on function {s}.schedule_edit is 'Ask for changes of a schedule; a scheduler makes them'",
    "comment on function {s}.schedule_pause is 'Pause a schedule, for ever or until a time'",
    "comment on function {s}.schedule_resume is 'Let a paused schedule go on'",
    "comment on function {s}.schedule_run is 'Fire a schedule now, whatever its plan says. Returns the tick'",
    "comment on function {s}.schedule_delete is 'Delete a schedule; the rows of its ticks stay'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
