"""Workflows: graphs of jobs as rows. Each job may wait for others, and tells those that wait for it when it ends.

Revision ID: 0037
Revises: 0036
"""

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

JOB_NAMES = (
    "id, task::text, queue::text, priority::smallint, args::jsonb, tags, headers::jsonb, run_at::timestamptz, "
    "created_at::timestamptz, attempt, max_attempts, crash_count, lease, worker_id, claimed_at"
)
STATUS_NAMES = (
    "id, task::text, queue::text, priority::smallint, tags, run_at::timestamptz, created_at::timestamptz, attempt, "
    "max_attempts, crash_count, worker_id, claimed_at"
)
GROUP = """coalesce(d.fingerprint, case when d.reason = 'crashed' then 'crashed ' || d.task
                                     else 'class ' || coalesce(d.error ->> 'type', d.reason) end)"""
PHASE = """case when state <> 'pending' and waits_for is distinct from 'turn' then state
         when attempt > 0 and state <> 'running' then 'retrying'
         when run_at > statement_timestamp() and state <> 'running' then 'scheduled'
         else state end"""
COUNTS = "attempt >= 0 and max_attempts >= 1 and crash_count >= 0 and lease >= 0"
STATES = "'running', 'succeeded', 'failed', 'cancelled'"
TIED = "add column ties smallint, add column gate_id bigint, add column workflow_id bigint"

STATEMENTS = (
    # `ties` says what the end of a job must tell, as bits: 1 children, 2 its gate, 4 steps, 8 a child that was added
    # late, 16 that a dead letter is no end, 32 that a failure stops its group, 64 that arguments of it are results of
    # others. It is null for plain jobs.
    f"alter table {{s}}.job_live {TIED}, add column waits_on integer",
    f"alter table {{s}}.job_finished {TIED}",
    f"alter table {{s}}.dead_letter {TIED}",
    # As in migration 0026, with jobs that wait for others.
    f"""alter table {{s}}.job_live drop constraint job_live_state,
    add constraint job_live_state check ({COUNTS} and case state
        when 'pending' then worker_id is null and claimed_at is null and waits_for is null and attempt < max_attempts
                            and lane is null and not headers::jsonb ? '$flow'
        when 'running' then worker_id is not null and claimed_at is not null and waits_for is null
                            and attempt <= max_attempts
        when 'blocked' then worker_id is null and claimed_at is null and attempt < max_attempts
                            and waits_for is not null and (waits_for <> 'jobs' or waits_on >= 0)
                            and case when lane is null
                                then waits_for in ('task', 'pause', 'jobs') and not headers::jsonb ? '$flow'
                                else waits_for in ('task', 'turn', 'pause', 'jobs') and headers::jsonb ? '$flow' end
        else false end) not valid""",
    # A workflow, or a group within one, whose row names the workflow in `root_id`. Its members are counted by its
    # gates; `open_gates` are those that have not counted down. `settled`: those that wait for its end have been told.
    # `stop_reason`: its members that have not begun are to be cancelled, with `stop_running` also those that run.
    f"""create table {{s}}.workflow (
    id bigint primary key,
    root_id bigint not null,
    name text not null check (char_length(name) between 1 and 200),
    gate_id bigint,
    on_failure text not null default 'cancel' check (on_failure in ('cancel', 'stop', 'hold')),
    jobs integer not null default 0 check (jobs >= 0),
    open_gates integer not null check (open_gates >= 0),
    failed integer not null default 0,
    cancelled integer not null default 0,
    state text not null default 'running' check (state in ({STATES})),
    sealed boolean not null default true,
    settled boolean not null default false,
    stop_reason text,
    stop_running boolean not null default false,
    created_at timestamptz not null default statement_timestamp(),
    ended_at timestamptz,
    headers jsonb not null default '{{{{}}}}' check (jsonb_typeof(headers) = 'object'),
    constraint workflow_ends check ((state = 'running') = (ended_at is null) and (state <> 'running' or not settled)
                                    and (state = 'running' or open_gates = 0))
) with (fillfactor = 70)""",
    # Counts the members of a group that are still to end. A large group has sixteen, in turn: one row would be locked
    # by each end after the other. `first_id` and `last_id` are the ids drawn by the statement that made it, so that
    # the members are found by primary key wherever they are by then.
    """create table {s}.gate (
    id bigint primary key,
    workflow_id bigint not null,
    members integer not null,
    remaining integer not null check (remaining >= 0),
    failed integer not null default 0,
    cancelled integer not null default 0,
    first_id bigint not null,
    last_id bigint not null
) with (fillfactor = 50)""",
    # `child_id` runs after `parent_id`, a job or a workflow: s after its success, e after any end, f after its failure.
    # The edges stay while their workflow does: pictures, results and retries need them. `ord` tells edges between the
    # same two apart.
    """create table {s}.dependency (
    parent_id bigint not null,
    child_id bigint not null,
    ord integer not null,
    runs_after text not null default 's' check (runs_after in ('s', 'e', 'f')),
    argument text,
    position integer,
    late boolean,
    workflow_id bigint not null,
    primary key (parent_id, child_id, ord)
)""",
    "create index dependency_child on {s}.dependency (child_id)",
    "create index dependency_late on {s}.dependency (child_id) where late",
    "create index gate_workflow on {s}.gate (workflow_id)",
    "create index workflow_root on {s}.workflow (root_id) where root_id <> id",
    "create index workflow_living on {s}.workflow (created_at) where not settled",
    "create index workflow_unsettled on {s}.workflow (id) where state <> 'running' and not settled",
    "create index workflow_stopping on {s}.workflow (id) where state = 'running' and stop_reason is not null",
    "create index workflow_ended on {s}.workflow (ended_at) where settled and root_id = id",
    # The workflows, without the groups within them. Live jobs are counted up to a bound.
    """create view {s}.workflows as
select w.id, w.name, w.state, w.on_failure, w.created_at, w.ended_at, w.jobs, live.waiting, live.running,
       dead.jobs as failed, greatest(w.jobs - live.waiting - live.running, 0) as ended, w.stop_reason
from {s}.workflow w
cross join lateral (
    select count(*) filter (where j.state <> 'running') as waiting, count(*) filter (where j.state = 'running')
           as running
    from (select j.state from {s}.job_live j where j.workflow_id = w.id limit 100000) as j) as live
cross join lateral (
    select count(*) as jobs from (
        select from {s}.dead_letter d where d.workflow_id = w.id limit 100000) as d) as dead
where w.root_id = w.id""",
    f"""create or replace view {{s}}.job as
select {JOB_NAMES}, state, {PHASE} as phase,
    waits_for, null::timestamptz as finished_at, null::text as reason, null::jsonb as result, null::jsonb as error,
    progress, cancel_requested_at, workflow_id
from {{s}}.job_live
union all
select {JOB_NAMES}, state, state, null, finished_at, reason, result, null, null, null, workflow_id
from {{s}}.job_finished
union all
select {JOB_NAMES}, state, state, null, failed_at, reason, null, error, null, null, workflow_id
from {{s}}.dead_letter""",
    f"""create or replace view {{s}}.job_status as
select {STATUS_NAMES}, state, {PHASE} as phase,
    waits_for, expires_at, cancel_requested_at, null::timestamptz as finished_at, null::text as reason,
    null::text as error_class, null::text as fingerprint, workflow_id
from {{s}}.job_live
union all
select {STATUS_NAMES}, state, state, null, null, null, finished_at, reason, null, null, workflow_id
from {{s}}.job_finished
union all
select {STATUS_NAMES}, state, state, null, null, null, failed_at, reason, error ->> 'type', {GROUP}, workflow_id
from {{s}}.dead_letter d""",
    # As in migration 0019; finished jobs of a workflow that lives are kept, for those that wait need their results.
    """create or replace view {s}.old_partition as
select h.history, c.relname::text as partition, p.first, p.past, pg_relation_size(c.oid) as heap_bytes,
       pg_total_relation_size(c.oid) as bytes
from (values ('job_finished', '{s}.job_finished'::regclass), ('transition', '{s}.transition'::regclass),
             ('activity', '{s}.activity'::regclass)) as h(history, parent)
join pg_inherits i on i.inhparent = h.parent
join pg_class c on c.oid = i.inhrelid
cross join lateral regexp_match(c.relname::text, '_([0-9]{{8}})(_([0-9]{{8}}))?$') as named
cross join lateral (
    select to_date(named[1], 'YYYYMMDD')::timestamp at time zone 'UTC',
           coalesce(to_date(named[3], 'YYYYMMDD'), to_date(named[1], 'YYYYMMDD') + 1)::timestamp at time zone 'UTC'
) as p(first, past)
where named is not null and p.past <= now() - (
    select case when bool_and(r.value is not null) then max(r.value) end from {s}.retention r
    where r.name = 'activity' and h.history = 'activity'
    or r.name in ('succeeded', 'cancelled') and h.history <> 'activity')
and (h.history <> 'job_finished' or not exists (
    select from {s}.workflow w where not w.settled and w.created_at < p.past + interval '1 day'))""",
    (
        "comment on column {s}.job_live.ties is 'Bits: its end tells 1 children, 2 its gate, 4 steps, 8 late children; "
        "16 a dead letter is no end, 32 a failure stops its group, 64 it has inputs; null for plain jobs'"
    ),
    "comment on column {s}.job_live.waits_on is 'How many edges of a job that waits for others are still to be met'",
    "comment on column {s}.job_live.gate_id is 'The gate that counts its end'",
    "comment on column {s}.job_live.workflow_id is 'The workflow that it belongs to'",
    "comment on column {s}.job.waits_for is 'What a blocked job waits for: task, turn, pause, jobs; else null'",
    "comment on column {s}.job_status.waits_for is 'What a blocked job waits for: task, turn, pause, jobs; else null'",
    "comment on column {s}.job.workflow_id is 'The workflow that it belongs to; null for a plain job'",
    "comment on column {s}.job_status.workflow_id is 'The workflow that it belongs to; null for a plain job'",
    "comment on table {s}.workflow is 'Workflows, and the groups within them'",
    "comment on table {s}.gate is 'Counters of the members of groups that are still to end'",
    "comment on table {s}.dependency is 'Which job runs after which job or group'",
    "comment on view {s}.workflows is 'Workflows with how far they are'",
)

COLUMNS = {
    "id": "The id of the workflow, from the sequence of jobs",
    "name": "Its name",
    "state": "running, succeeded, failed or cancelled",
    "on_failure": "What a dead letter does: cancel what depends on it, stop all that has not begun, or hold",
    "created_at": "When it was enqueued",
    "ended_at": "When its last member ended",
    "jobs": "How many jobs it has, callbacks included",
    "waiting": "How many of them wait",
    "running": "How many of them run",
    "failed": "How many of them are dead letters now",
    "ended": "How many of them have ended",
    "stop_reason": "Why it is stopped or cancelled; else null",
}


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    comments = (f"comment on column {{s}}.workflows.{column} is '{text}'" for column, text in COLUMNS.items())
    for statement in (*STATEMENTS, *comments):
        op.execute(statement.format(s=schema))
