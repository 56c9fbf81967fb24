"""Conditions of enqueueing: idempotency keys, unique keys, expiry; and enqueueing from SQL.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# The function `enqueue` for plain SQL: triggers, psql, other languages. It has the conditions and checks of App.enqueue
# and writes the same rows; App.enqueue does not use it. It runs with the rights of its caller, and does not depend on
# the caller's search_path.
# In READ COMMITTED each statement of the function has its own snapshot, so that it can read a key that another
# transaction has just committed; in REPEATABLE READ such a key ends in a serialization failure, as it should.
# The inserts return nothing, so that plain jobs need no right to read.
ENQUEUE = """
create function {s}.enqueue(
    task text, args jsonb default '{{}}', queue text default 'default', priority integer default 0,
    run_at timestamptz default null, delay interval default null, max_attempts integer default 20,
    tags text[] default '{{}}', headers jsonb default '{{}}',
    idempotency_key text default null, idempotency_window interval default '24 hours',
    unique_key text default null, unique_while text default 'pending', unique_window interval default null,
    on_conflict text default 'skip', expires interval default null, expires_at timestamptz default null
) returns bigint language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $enqueue$
#variable_conflict use_column
declare
    moment constant timestamptz := statement_timestamp();
    due constant timestamptz := coalesce(enqueue.run_at, moment + enqueue.delay, moment);
    until constant timestamptz := coalesce(enqueue.expires_at, moment + enqueue.expires);
    request constant bigint := hashtextextended(enqueue.args::text collate "C", 0);
    alone constant bytea := sha256(convert_to(enqueue.task || E'\\n' || enqueue.unique_key, 'UTF8'));
    hash constant uuid := encode(substr(case
        when enqueue.unique_key is null
            then sha256(convert_to(enqueue.task || E'\\n' || enqueue.idempotency_key, 'UTF8'))
        when enqueue.unique_window is not null
            then sha256('\\x00'::bytea || convert_to(enqueue.task || E'\\n' || enqueue.unique_key, 'UTF8'))
        end, 1, 16), 'hex')::uuid;
    span constant interval := coalesce(enqueue.unique_window, enqueue.idempotency_window);
    job bigint;
    taken boolean;
    holder bigint;
    meant bigint;
    over boolean;
    started boolean;
    problem constant text := case
        when enqueue.task is null or char_length(enqueue.task) not between 1 and 200 or enqueue.task ~ '[[:cntrl:]]'
            then format('task name %L cannot be used: give 1 to 200 printable characters', enqueue.task)
        when coalesce(jsonb_typeof(enqueue.args), '') <> 'object'
            then format('args %L cannot be used: give an object with a name for each value', enqueue.args)
        when coalesce(jsonb_typeof(enqueue.headers), '') <> 'object'
            then format('headers %L cannot be used: give an object', enqueue.headers)
        when coalesce(enqueue.queue !~ '^[A-Za-z0-9_][A-Za-z0-9_.:/-]{{0,99}}$', true)
            then format('queue name %L cannot be used: 1 to 100 letters, digits or _ . : / -, '
                        'the first a letter, digit or _', enqueue.queue)
        when coalesce(enqueue.priority not between -100 and 100, true)
            then format('priority %L cannot be used: give -100 to 100 (higher runs sooner)', enqueue.priority)
        when coalesce(enqueue.max_attempts not between 1 and 1000000, true)
            then format('max_attempts %L cannot be used: give 1 (no retries) to 1000000', enqueue.max_attempts)
        when enqueue.tags is null or cardinality(enqueue.tags) > 100 or array_position(enqueue.tags, null) > 0
            then format('tags %L cannot be used: give at most 100 texts', enqueue.tags)
        when num_nonnulls(enqueue.run_at, enqueue.delay) > 1
            then 'run_at and delay exclude each other: give one of them'
        when enqueue.delay < interval '0' or due not between '1900-01-01Z' and '9000-01-01Z'
            then format('run_at %L cannot be used: give a delay of 0 or more, or a year from 1900 to 9000', due)
        when num_nonnulls(enqueue.expires, enqueue.expires_at) > 1
            then 'expires and expires_at exclude each other: give one of them'
        when enqueue.expires <= interval '0' or until not between '1900-01-01Z' and '9000-01-01Z'
            then format('expires at %L cannot be used: give more than 0, or a year from 1900 to 9000', until)
        when until <= due and due > moment
            then format('the job would expire at %L, before it may run at %L', until, due)
        when enqueue.idempotency_key = '' or enqueue.unique_key = ''
            then 'an empty key cannot be used: give some text, or null for none'
        when num_nonnulls(enqueue.idempotency_key, enqueue.unique_key) > 1
            then 'idempotency_key and unique_key exclude each other: give one of them'
        when coalesce(span <= interval '0', true)
            then format('a window of %L cannot be used: give more than 0', span)
        when coalesce(enqueue.unique_while not in ('pending', 'live'), true)
            then format('unique_while %L cannot be used: give pending or live', enqueue.unique_while)
        when coalesce(enqueue.on_conflict not in ('skip', 'replace', 'raise'), true)
            then format('on_conflict %L cannot be used: give skip, replace or raise', enqueue.on_conflict)
        end;
begin
    if problem is not null then
        raise exception '%', problem using errcode = 'invalid_parameter_value';
    end if;
    loop
        job := nextval('{s}.job_id');
        taken := true;
        if hash is not null then
            insert into {s}.idempotency_key (key, request, job_id, created_at, expires_at)
            values (hash, request, job, moment, moment + span) on conflict do nothing;
            taken := found;
        end if;
        if taken and enqueue.unique_key is null then
            insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at,
                                      expires_at)
            values (job, enqueue.task, enqueue.queue, enqueue.priority, enqueue.args, enqueue.max_attempts, due,
                    enqueue.tags, enqueue.headers || jsonb_strip_nulls(
                        jsonb_build_object('idempotency_key', enqueue.idempotency_key)), moment, until);
            exit;
        elsif taken then
            insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at,
                                      expires_at, unique_key, unique_live)
            values (job, enqueue.task, enqueue.queue, enqueue.priority, enqueue.args, enqueue.max_attempts, due,
                    enqueue.tags, enqueue.headers, moment, until, alone, enqueue.unique_while = 'live')
            on conflict do nothing;
            exit when found;
            if hash is not null then
                delete from {s}.idempotency_key k where k.key = hash and k.job_id = job;
            end if;
            select j.id, j.attempt > 0, coalesce(j.expires_at <= moment and j.attempt = 0, false)
            into holder, started, over from {s}.job_live j where j.unique_key = alone;
            if over then
                update {s}.job_live j set unique_key = null where j.id = holder and j.unique_key = alone
                and j.attempt = 0 and j.expires_at <= moment;
            end if;
            continue when coalesce(over, true);
        else
            select k.job_id, k.request, k.expires_at <= moment, false into holder, meant, over, started
            from {s}.idempotency_key k where k.key = hash;
            if over then
                delete from {s}.idempotency_key k where k.key = hash and k.expires_at <= moment;
            end if;
            continue when coalesce(over, true);
            if enqueue.unique_key is null and meant <> request then
                raise exception 'idempotency key % of task % was used with other arguments, by job %',
                    quote_literal(enqueue.idempotency_key), enqueue.task, holder
                    using errcode = 'unique_violation', hint = 'Use a key for one request only.';
            end if;
            if enqueue.unique_key is null then
                return holder;
            end if;
        end if;
        if enqueue.on_conflict = 'raise' then
            raise exception 'unique key % of task % is held by job %', quote_literal(enqueue.unique_key), enqueue.task,
                holder using errcode = 'unique_violation', hint = 'Or say on_conflict => skip or replace.';
        elsif enqueue.on_conflict = 'skip' or started then
            return holder;
        end if;
        with changed as (
            update {s}.job_live j set queue = enqueue.queue, priority = enqueue.priority, args = enqueue.args,
                max_attempts = enqueue.max_attempts, run_at = due, tags = enqueue.tags, headers = enqueue.headers,
                expires_at = until
            where j.id = holder and j.attempt = 0 and j.state in ('pending', 'blocked')
            returning j.id, j.state, j.lease, j.history
        ), logged as (
            insert into {s}.transition (job_id, from_state, to_state, lease, reason)
            select id, state, state, lease, 'replaced' from changed where history
        )
        select id into job from changed;
        exit when job is not null;
        if not taken then
            return holder;
        end if;
    end loop;
    if job is distinct from holder then
        insert into {s}.transition (job_id, to_state) values (job, 'pending');
    end if;
    if due <= moment and pg_notification_queue_usage() < 0.5
    and exists (select from {s}.worker w where w.waiting and enqueue.queue = any(w.queues)) then
        perform pg_notify('{channel}', enqueue.queue);
    end if;
    return job;
end
$enqueue$"""

STATEMENTS = (
    # Null for jobs without these conditions: the indexes hold only jobs with them. `unique_key` is the hash of task and
    # key. A claim clears it unless `unique_live` says that the job stays the only one while it runs; nothing ever sets
    # it again, so that a job that goes back to pending cannot collide with another.
    """alter table {s}.job_live
    add column unique_key bytea,
    add column unique_live boolean,
    add column expires_at timestamptz""",
    "create unique index job_live_unique on {s}.job_live (unique_key) where unique_key is not null",
    "create index job_live_expires on {s}.job_live (expires_at) where expires_at is not null and attempt = 0",
    # One job in 64, with or without conditions: the depth of a queue is estimated from a 64th of its entries.
    "create index job_live_sample on {s}.job_live (queue) where state = 'pending' and id % 64 = 0",
    # As narrow as possible: a row is written for each job with a key. `key` is the first 128 bits of the SHA-256
    # of task and key, so that it takes 2^128 trials to hit the key of another. `request` is a hash of the arguments,
    # null where they are sealed. It need not withstand an attack: a caller that sends two requests under one key harms
    # only itself. No release has ever written to the table that was there before.
    "drop table {s}.idempotency_key",
    """create table {s}.idempotency_key (
    key uuid primary key,
    request bigint,
    job_id bigint not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
)""",
    # One key in 16: rows stand in the order in which they came, so keys whose windows have ended are found near these.
    "create index idempotency_key_sample on {s}.idempotency_key (expires_at) where job_id % 16 = 0",
    ENQUEUE,
    "revoke execute on function {s}.enqueue from public",
    "comment on function {s}.enqueue is 'Enqueue a job from SQL; returns its id'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema, channel=schema.strip('"')))
