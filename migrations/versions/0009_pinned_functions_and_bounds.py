"""Functions that find nothing by the caller's search_path; no process may be alive for ever.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "schedule_wake()",
    "schedule_check(jsonb)",
    "schedule_create(text, text, jsonb, text)",
    "schedule_edit(text, jsonb, text)",
    "schedule_found(text, boolean)",
    "schedule_pause(text, timestamptz, text, text)",
    "schedule_resume(text, text)",
    "schedule_run(text, text)",
    "schedule_delete(text)",
    "schedule_preview(text, integer)",
)

STATEMENTS = (
    # Else a function that a stranger has put into a schema of the caller's search_path could run with the caller's
    # rights.
    *(f"alter function {{s}}.{function} set search_path = pg_catalog, pg_temp" for function in FUNCTIONS),
    # The body of `enqueue` is that of the migration before but for two expressions. It counts from its own call: a DO
    # block or a trigger that takes minutes is one statement, and a job with `expires` would be born expired. And a
    # backslash in its text would be read otherwise where standard_conforming_strings is off.
    """do $change$
declare
    body text := pg_get_functiondef((select p.oid from pg_proc p
        where p.proname = 'enqueue' and p.pronamespace = '{s}'::regnamespace));
begin
    execute replace(replace(body, 'statement_timestamp()', 'clock_timestamp()'),
        '''\\x00''::bytea', 'decode(''00'', ''hex'')');
end
$change$""",
    # A worker with an endless lease is never lost, and NaN is the largest of numbers. Rows that are so already are
    # mended first: each write of one would fail. NOT VALID: the lock lasts no longer than the entry in the catalog;
    # `pgqueue migrate` validates afterwards, while the table is read and written. job_live has no such check: with one
    # more, a single enqueue took a twentieth longer. Its statements take any number instead.
    """update {s}.worker set lease_seconds = least(lease_seconds, 86400), heartbeat_at = least(heartbeat_at, now())
where lease_seconds > 86400 or heartbeat_at = 'infinity'""",
    "delete from {s}.schedule_release where seen_at = 'infinity' or since = 'infinity'",
    """alter table {s}.worker add constraint worker_bounds
    check (lease_seconds <= 86400 and heartbeat_at < 'infinity') not valid""",
    """alter table {s}.schedule_release add constraint schedule_release_bounds
    check (seen_at < 'infinity' and since < 'infinity') not valid""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
