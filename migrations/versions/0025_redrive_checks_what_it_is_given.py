"""The SQL function redrive() refuses what no worker could do, before it writes an operation.

Revision ID: 0025
Revises: 0024
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

STATEMENTS = (
    # As in migration 0013, with the checks that the verbs in Python make. Typed arguments, because a condition as text
    # would be an injection.
    """create or replace function {s}.redrive(
    task text default null, queue text default null, error text default null, fingerprint text default null,
    tag text default null, args jsonb default null, since interval default null, ids bigint[] default null,
    rate double precision default null, attempts integer default null, by text default session_user
) returns bigint language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    operation bigint;
    wrong text;
begin
    if num_nonnulls(redrive.task, redrive.queue, redrive.error, redrive.fingerprint, redrive.tag, redrive.args,
                    redrive.since, redrive.ids) = 0 then
        raise exception 'redrive() without a filter would bring back every dead letter'
            using errcode = 'invalid_parameter_value',
                hint = 'give task, queue, error, fingerprint, tag, args, since or ids';
    end if;
    select g.name || ' ' || coalesce(quote_literal(left(g.given, 100)), 'null')
        || ' cannot be used: give a text of 1 to ' || g.most || ' characters' into wrong
        from (values ('task', redrive.task, 1000), ('queue', redrive.queue, 1000), ('error', redrive.error, 1000),
                     ('fingerprint', redrive.fingerprint, 1000), ('tag', redrive.tag, 1000)) as g(name, given, most)
        where g.given is not null and length(g.given) not between 1 and g.most limit 1;
    if wrong is null and (redrive.by is null or length(redrive.by) not between 1 and 200) then
        wrong := 'by cannot be used: give a name of 1 to 200 characters';
    end if;
    if wrong is null and (jsonb_typeof(redrive.args) <> 'object' or redrive.args = '{{}}'::jsonb) then
        wrong := 'args cannot be used: give an object of arguments';
    end if;
    if wrong is null and (cardinality(redrive.ids) = 0 or array_position(redrive.ids, null) is not null
                          or 1 > any(redrive.ids)) then
        wrong := 'ids cannot be used: give ids of dead letters, 1 or more each';
    end if;
    if wrong is null and (not isfinite(redrive.since) or redrive.since <= interval '0') then
        wrong := 'since ' || redrive.since || ' cannot be used: give an age, such as 2 hours';
    end if;
    if wrong is null and not redrive.rate between 0.001 and 100000 then
        wrong := 'rate ' || redrive.rate || ' cannot be used: give 0.001 to 100000 jobs a second';
    end if;
    if wrong is null and not redrive.attempts between 1 and 1000000 then
        wrong := 'attempts ' || redrive.attempts || ' cannot be used: give 1 to 1000000';
    end if;
    if wrong is not null then
        raise exception '%', wrong using errcode = 'invalid_parameter_value';
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
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
