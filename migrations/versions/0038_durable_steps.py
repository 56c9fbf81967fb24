"""Durable steps: what a task has recorded, what it waits for, and what undoes it.

Revision ID: 0038
Revises: 0037
"""

from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

STATEMENTS = (
    # True: a signal came while the job ran, and its worker is about to let it wait. No index has the column.
    "alter table {s}.job_live add column signalled boolean",
    # Records are undone in the reverse order of their numbers.
    "create sequence {s}.step_number as bigint",
    """create table {s}.step (
    job_id bigint not null,
    name text not null check (char_length(name) between 1 and 220),
    number bigint not null default nextval('{s}.step_number'),
    kind text not null check (kind in ('value', 'sleep', 'signal', 'event')),
    done boolean not null default true,
    timed_out boolean not null default false,
    value jsonb,
    wake_at timestamptz,
    waits text,
    wait_key text,
    event_id bigint,
    undo jsonb,
    attempt integer not null,
    lease bigint not null,
    version integer not null default 1,
    at timestamptz not null default clock_timestamp(),
    primary key (job_id, name),
    constraint step_waits check (kind in ('signal', 'event') = (waits is not null)),
    constraint step_done check (done or kind in ('signal', 'event'))
)""",
    "create index step_waits_for_event on {s}.step (waits, wait_key) where kind = 'event' and not done",
    "create sequence {s}.signal_id as bigint",
    """create table {s}.signal (
    id bigint primary key default nextval('{s}.signal_id'),
    job_id bigint not null,
    name text not null check (char_length(name) between 1 and 200),
    data jsonb not null,
    at timestamptz not null default clock_timestamp(),
    seen boolean not null default false
)""",
    "create index signal_job on {s}.signal (job_id, name, id)",
    "create index signal_unseen on {s}.signal (id) where not seen",
    """create table {s}.awaited_event (
    id bigint primary key default nextval('{s}.signal_id'),
    name text not null check (char_length(name) between 1 and 200),
    key text not null check (char_length(key) between 1 and 200),
    data jsonb not null,
    at timestamptz not null default clock_timestamp(),
    seen boolean not null default false
)""",
    "create index awaited_event_key on {s}.awaited_event (name, key, id)",
    "create index awaited_event_unseen on {s}.awaited_event (id) where not seen",
    # `lease`: the one under which the job ended; the undos of one end are a chain.
    """create table {s}.undo (
    job_id bigint not null,
    number bigint not null,
    lease bigint not null,
    step text not null,
    call jsonb not null,
    undo_job_id bigint,
    ended_at timestamptz,
    primary key (job_id, number)
)""",
    "create index undo_job on {s}.undo (undo_job_id) where ended_at is null",
    """create view {s}.step_status as
select s.job_id, s.name, s.kind, s.done, s.timed_out, s.wake_at, s.waits, s.wait_key, s.undo is not null as has_undo,
       s.attempt, s.version, s.at
from {s}.step s""",
    """create view {s}.undo_status as
select u.job_id, u.step, u.call ->> 'task' as task, u.undo_job_id, u.ended_at, u.number from {s}.undo u""",
    # Insert the next undo of a chain, unless one of it is still to succeed. The caller holds the rows of the chain, or
    # has just inserted them. A job with rules waits for its turn as any other.
    """create function {s}.undo_next(job bigint, ended_lease bigint) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    chosen {s}.undo;
    undoing constant bigint := nextval('{s}.job_id');
    turn bigint;
begin
    if exists (select from {s}.undo u where u.job_id = job and u.lease = ended_lease
               and u.undo_job_id is not null and u.ended_at is null) then
        return null;
    end if;
    select u.* into chosen from {s}.undo u
    where u.job_id = job and u.lease = ended_lease and u.undo_job_id is null order by u.number desc limit 1 for update;
    if not found then
        return null;
    end if;
    turn := (chosen.call #>> '{{headers,$flow,lane}}')::bigint;
    update {s}.undo u set undo_job_id = undoing where u.job_id = job and u.number = chosen.number;
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at, lane,
                              state, waits_for)
    values (undoing, chosen.call ->> 'task', chosen.call ->> 'queue', (chosen.call ->> 'priority')::smallint,
            chosen.call -> 'args', (chosen.call ->> 'max_attempts')::integer, clock_timestamp(),
            array(select jsonb_array_elements_text(coalesce(chosen.call -> 'tags', '[]'))),
            coalesce(chosen.call -> 'headers', '{{}}')
            || jsonb_build_object('$undoes', jsonb_build_object('job_id', job, 'step', chosen.step)),
            clock_timestamp(), turn, case when turn is null then 'pending' else 'blocked' end,
            case when turn is not null then 'turn' end);
    insert into {s}.transition (job_id, to_state, reason)
    values (undoing, case when turn is null then 'pending' else 'blocked' end, 'undoes a step');
    if pg_notification_queue_usage() < 0.5 and current_setting('pgqueue.notify', true) is distinct from 'off'
    and exists (select from {s}.worker w where w.waiting and chosen.call ->> 'queue' = any(w.queues)) then
        perform pg_notify('{channel}', chosen.call ->> 'queue');
    end if;
    return undoing;
end
$$""",
    # Insert the undos of a job's recorded steps, of which the last one begins. A job that ended forgets all steps from
    # the first one on that is undone, so that it begins there when it is brought back; one that goes on (`forgets` is
    # false) keeps them. Called in the transaction that ends the job, with the owner's rights: who cancels a job may not
    # insert others. Undos of the same lease that are under way are locked first, so that none succeeds between the look
    # at it and the end.
    """create function {s}.compensate(job bigint, ended_lease bigint, forgets boolean) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    first bigint;
begin
    perform from {s}.undo u where u.job_id = job and u.lease = ended_lease order by u.number for update;
    select min(s.number) into first from {s}.step s where s.job_id = job and s.undo is not null;
    if first is null then
        return null;
    end if;
    insert into {s}.undo (job_id, number, lease, step, call)
    select s.job_id, s.number, ended_lease, s.name, s.undo from {s}.step s where s.job_id = job and s.undo is not null;
    if forgets then
        delete from {s}.step s where s.job_id = job and s.number >= first;
    else
        update {s}.step s set undo = null where s.job_id = job and s.undo is not null;
    end if;
    return {s}.undo_next(job, ended_lease);
end
$$""",
    # An undo has succeeded: the next one of its chain follows.
    """create function {s}.undo_ended(undoing bigint) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    chosen {s}.undo;
begin
    update {s}.undo u set ended_at = clock_timestamp()
    where u.undo_job_id = undoing and u.ended_at is null returning u.* into chosen;
    return case when chosen.job_id is not null then {s}.undo_next(chosen.job_id, chosen.lease) end;
end
$$""",
    # What `app.using(conn).signal()` does, with the same promises.
    """create function {s}.signal(job_id bigint, name text, data jsonb default 'true') returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
    sent bigint;
begin
    if signal.name is null or char_length(signal.name) not between 1 and 200 or signal.name ~ '[[:cntrl:]]' then
        raise exception 'signal name % cannot be used: give 1 to 200 printable characters', quote_nullable(signal.name)
            using errcode = 'invalid_parameter_value';
    end if;
    if signal.data is null or signal.data = 'null' then
        raise exception 'signal % without data cannot be sent: null is what a wait gives after its timeout',
            signal.name using errcode = 'invalid_parameter_value', hint = 'leave the data out, or give true';
    end if;
    insert into {s}.signal as g (job_id, name, data)
    select j.id, signal.name, signal.data from {s}.job_live j where j.id = signal.job_id
    returning g.id into sent;
    if sent is null then
        raise exception 'no job % is waiting or running: it has ended, or was never committed', signal.job_id
            using errcode = 'no_data_found';
    end if;
    if pg_notification_queue_usage() < 0.5 and current_setting('pgqueue.notify', true) is distinct from 'off' then
        perform pg_notify('{channel}', '!signal');
    end if;
    return sent;
end
$$""",
    # What `app.using(conn).signal_event()` does.
    """create function {s}.signal_event(name text, key text, data jsonb default 'true') returns bigint
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
    sent bigint;
    wrong text;
begin
    select format('%s %s cannot be used: give 1 to 200 printable characters', g.what, quote_nullable(g.given))
    into wrong from (values ('event name', signal_event.name), ('event key', signal_event.key)) as g(what, given)
    where g.given is null or char_length(g.given) not between 1 and 200 or g.given ~ '[[:cntrl:]]' limit 1;
    if wrong is not null then
        raise exception '%', wrong using errcode = 'invalid_parameter_value';
    end if;
    if signal_event.data is null or signal_event.data = 'null' then
        raise exception 'event % without data cannot be sent: null is what a wait gives after its timeout',
            signal_event.name using errcode = 'invalid_parameter_value', hint = 'leave the data out, or give true';
    end if;
    insert into {s}.awaited_event as e (name, key, data) values (signal_event.name, signal_event.key, signal_event.data)
    returning e.id into sent;
    if pg_notification_queue_usage() < 0.5 and current_setting('pgqueue.notify', true) is distinct from 'off' then
        perform pg_notify('{channel}', '!signal');
    end if;
    return sent;
end
$$""",
    "revoke execute on function {s}.undo_next(bigint, bigint) from public",
    "revoke execute on function {s}.compensate(bigint, bigint, boolean) from public",
    "revoke execute on function {s}.undo_ended(bigint) from public",
    "revoke execute on function {s}.signal(bigint, text, jsonb) from public",
    "revoke execute on function {s}.signal_event(text, text, jsonb) from public",
    "comment on function {s}.signal(bigint, text, jsonb) is 'Send a signal to a job: what app.signal() does'",
    "comment on function {s}.signal_event(text, text, jsonb) is 'Tell all jobs that wait for an event of this key'",
    "comment on column {s}.job_live.signalled is 'True: a signal came while the job ran; it goes on at once'",
    "comment on table {s}.step is 'What tasks have recorded by ctx.step, ctx.sleep and the waits'",
    "comment on table {s}.signal is 'The mailbox: signals to jobs that no wait has taken yet'",
    "comment on table {s}.awaited_event is 'Events for jobs that wait for one with its name and key, kept a week'",
    "comment on table {s}.undo is 'The undos of jobs that ended as dead letter or cancelled, the last step first'",
    "comment on view {s}.step_status is 'Recorded steps of jobs, without their values'",
    "comment on view {s}.undo_status is 'The undos of jobs that ended as dead letter or cancelled'",
)
STEP_STATUS = {
    "job_id": "The job whose task recorded it",
    "name": "The name of the step, with #2 where a name is used again",
    "kind": "value, sleep, signal or event",
    "done": "Whether it is over; false for a wait that goes on",
    "timed_out": "Whether a wait ended by its timeout",
    "wake_at": "When a sleep ends or a wait times out; null without a timeout",
    "waits": "The name of the signal or event that it waits for",
    "wait_key": "The key of the event",
    "has_undo": "Whether it is undone if the job dies or is cancelled",
    "attempt": "The attempt that recorded it",
    "version": "The version of the task that recorded it",
    "at": "When it was recorded",
}
UNDO_STATUS = {
    "job_id": "The job that ended",
    "step": "The step that is undone",
    "task": "The task that undoes it",
    "undo_job_id": "The job of that task; null until the undos of later steps have succeeded",
    "ended_at": "When it succeeded",
    "number": "Its order: the highest is undone first",
}


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    comments = [
        f"comment on column {{s}}.{view}.{column} is '{text}'"
        for view, columns in (("step_status", STEP_STATUS), ("undo_status", UNDO_STATUS))
        for column, text in columns.items()
    ]
    for statement in (*STATEMENTS, *comments):
        op.execute(statement.format(s=schema, channel=schema.strip('"')))
