"""Operations: dead letters in groups, brought back or discarded in bulk, by rows that survive their client.

Revision ID: 0013
Revises: 0012
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Null for crashed jobs and for dead letters of older releases, which are grouped by the class of their error.
    "alter table {s}.dead_letter add column fingerprint text",
    # What somebody asked to be done to many jobs. The row is written before anything is done, and each batch moves
    # `reached` in its own transaction: whoever goes on does nothing twice and leaves nothing out.
    """create table {s}.operation (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('redrive', 'discard')),
    filter jsonb not null check (jsonb_typeof(filter) = 'object'),
    options jsonb not null default '{{}}' check (jsonb_typeof(options) = 'object'),
    actor text not null default session_user,
    via text not null default 'sql',
    started_at timestamptz not null default clock_timestamp(),
    moved_at timestamptz not null default '-infinity',
    ended_at timestamptz,
    stopped_at timestamptz,
    done bigint not null default 0,
    skipped bigint not null default 0,
    reached bigint not null default 0,
    next_run_at timestamptz,
    error text
)""",
    "create index operation_open on {s}.operation (id) where ended_at is null and stopped_at is null",
    """create view {s}.dead_group as
select g.fingerprint, g.jobs, g.first_failed_at, g.last_failed_at, g.tasks, g.queues,
       (select coalesce(n.error ->> 'type', n.reason) from {s}.dead_letter n where n.id = g.newest_id) as error,
       g.newest_id
from (select coalesce(d.fingerprint, 'class ' || coalesce(d.error ->> 'type', d.reason)) as fingerprint,
             count(*) as jobs, min(d.failed_at) as first_failed_at, max(d.failed_at) as last_failed_at,
             array_agg(distinct d.task::text) as tasks, array_agg(distinct d.queue::text) as queues,
             max(d.id) as newest_id
      from {s}.dead_letter d
      group by coalesce(d.fingerprint, 'class ' || coalesce(d.error ->> 'type', d.reason))) as g""",
    # Typed arguments, because a condition as text would be an injection.
    """create function {s}.redrive(
    task text default null, queue text default null, error text default null, fingerprint text default null,
    tag text default null, args jsonb default null, since interval default null, ids bigint[] default null,
    rate double precision default null, attempts integer default null, by text default session_user
) returns bigint language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    operation bigint;
begin
    if num_nonnulls(redrive.task, redrive.queue, redrive.error, redrive.fingerprint, redrive.tag, redrive.args,
                    redrive.since, redrive.ids) = 0 then
        raise exception 'redrive() without a filter would bring back every dead letter'
            using errcode = 'invalid_parameter_value',
                hint = 'give task, queue, error, fingerprint, tag, args, since or ids';
    end if;
    if not isfinite(redrive.since) or redrive.since <= interval '0' then
        raise exception 'since % is no age', redrive.since using errcode = 'invalid_parameter_value';
    end if;
    if redrive.rate <= 0 or redrive.attempts < 1 or redrive.rate = 'NaN' then
        raise exception 'rate % or attempts % is not positive', redrive.rate, redrive.attempts
            using errcode = 'invalid_parameter_value';
    end if;
    insert into {s}.operation (kind, filter, options, actor)
        values ('redrive',
                (select jsonb_object_agg(f.key, f.value) from jsonb_each(jsonb_build_object(
                    'task', redrive.task, 'queue', redrive.queue, 'error', redrive.error,
                    'group', redrive.fingerprint, 'tag', redrive.tag, 'args', redrive.args,
                    'since', to_char((clock_timestamp() - redrive.since) at time zone 'UTC',
                                     'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
                    'ids', to_jsonb(redrive.ids))) as f where f.value <> 'null'),
                jsonb_strip_nulls(jsonb_build_object('rate', redrive.rate, 'attempts', redrive.attempts)),
                redrive.by)
        returning id into operation;
    return operation;
end
$$""",
    "comment on table {s}.operation is 'What was asked to be done to many dead letters, by whom, and how far it is'",
    "comment on column {s}.operation.reached is 'The highest id of a dead letter that was looked at'",
    "comment on view {s}.dead_group is 'Dead letters by fingerprint: errors of one cause'",
    "comment on function {s}.redrive is 'Bring back dead letters: a worker does it. Returns the id of the operation'",
    "revoke execute on function {s}.redrive from public",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
