"""Jobs that wait for others of their workflow, or that are asleep, are counted and seen as such; so are workflows.

Revision ID: 0043
Revises: 0042
"""

from alembic import op

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

# Jobs that wait for others, by queue. Jobs that were claimed before and have their attempt back, by queue and time:
# those that are asleep are among them. Steps that go on, and sleeps, whose end only the clock knows. A job that waits
# for none of that, and a step that is a value, are in none of them.
FOR_JOBS = "(queue, id) where state = 'blocked' and waits_for = 'jobs'"
ASLEEP = "(queue, run_at, id) where attempt = 0 and lease > 0"
OPEN = "(job_id) where not done or kind = 'sleep'"
concurrently = (
    ("job_live_for_jobs", "job_live", FOR_JOBS),
    ("job_live_asleep", "job_live", ASLEEP),
    ("step_open", "step", OPEN),
)
INDEXES = tuple(
    f"create index if not exists {name} on {{s}}.{table} {definition}" for name, table, definition in concurrently
)

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
# What a job does that waits for a time: a wait goes on until it is done, a sleep until its time has come.
ASLEEP_AS = """(select case bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
    from {s}.step t
    where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > statement_timestamp()))"""
# As in migration 0037, with jobs that are asleep. Only of those that were claimed before are the steps looked at.
PHASE = f"""case when state <> 'pending' and waits_for is distinct from 'turn' then state
         when attempt > 0 and state <> 'running' then 'retrying'
         when run_at > statement_timestamp() and state <> 'running'
             then case when lease > 0 then coalesce({ASLEEP_AS}, 'scheduled') else 'scheduled' end
         else state end"""

WAITS = "j.state = 'blocked' and j.waits_for = 'jobs'"
SLEEPS = (
    "j.attempt = 0 and j.lease > 0 and j.run_at > now() and (j.state = 'pending' or j.state = 'blocked' "
    "and j.waits_for = 'turn')"
)
STATEMENTS = (
    f"""create or replace view {{s}}.job as
select {JOB_NAMES}, state, {PHASE} as phase,
    waits_for, null::timestamptz as finished_at, null::text as reason, null::jsonb as result, null::jsonb as error,
    progress, cancel_requested_at, workflow_id
from {{s}}.job_live j
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
from {{s}}.job_live j
union all
select {STATUS_NAMES}, state, state, null, null, null, finished_at, reason, null, null, workflow_id
from {{s}}.job_finished
union all
select {STATUS_NAMES}, state, state, null, null, null, failed_at, reason, error ->> 'type', {GROUP}, workflow_id
from {{s}}.dead_letter d""",
    # Hops along both indexes from queue to queue, and stops at a bound in each, so it costs the same on any backlog.
    # Each job that is asleep takes a look at its steps: fewer of them are counted where there are many queues.
    f"""create view {{s}}.waiting_load as
with recursive for_jobs(queue) as (
    (select j.queue::text from {{s}}.job_live j where {WAITS} order by j.queue limit 1)
    union all
    select (select j.queue::text from {{s}}.job_live j where {WAITS} and j.queue::text > f.queue
            order by j.queue limit 1)
    from for_jobs f where f.queue is not null
), resting(queue) as (
    (select j.queue::text from {{s}}.job_live j where j.attempt = 0 and j.lease > 0 order by j.queue limit 1)
    union all
    select (select j.queue::text from {{s}}.job_live j
            where j.attempt = 0 and j.lease > 0 and j.queue::text > r.queue order by j.queue limit 1)
    from resting r where r.queue is not null
), waiters as (
    select f.queue, least(counted.jobs, f.most) as jobs, counted.jobs > f.most as capped
    from (select queue, least(10000, greatest(100, 50000 / count(*) over ())) as most from for_jobs
          where queue is not null) as f
    cross join lateral (
        select count(*) as jobs from (
            select from {{s}}.job_live j where {WAITS} and j.queue::text = f.queue
            order by j.queue, j.id limit f.most + 1) as w) as counted
), sleepers as (
    select r.queue, count(*) filter (where w.phase = 'sleeping') as sleeping,
           count(*) filter (where w.phase = 'waiting') as waiting, count(*) > min(r.most) as capped
    from (select queue, least(10000, greatest(10, 10000 / count(*) over ())) as most from resting
          where queue is not null) as r
    cross join lateral (
        select {ASLEEP_AS} as phase from (
            select j.id from {{s}}.job_live j where {SLEEPS} and j.queue::text = r.queue
            order by j.queue, j.run_at, j.id limit r.most + 1) as j
        offset 0) as w
    group by r.queue
)
select queue, coalesce(w.jobs, 0)::bigint as for_jobs, coalesce(w.capped, false) as for_jobs_capped,
       coalesce(s.sleeping, 0)::bigint as sleeping, coalesce(s.waiting, 0)::bigint as waiting,
       coalesce(s.capped, false) as asleep_capped
from waiters w full join sleepers s using (queue)""",
    # Of the oldest 10,000 workflows and groups that live; the oldest of them is a workflow, for a group comes with its
    # workflow or later. Whether one is held its dead letters say, of which a few are looked at.
    """create view {s}.workflow_load as
with living as materialized (
    select w.id, w.root_id, w.created_at, w.state, w.sealed, w.stop_reason from {s}.workflow w
    where not w.settled order by w.created_at limit 10001
), told as (
    select case when l.stop_reason is not null then 'stopping'
                when (select bool_or(d.ties::int & 16 > 0) from (
                    select d.ties from {s}.dead_letter d where d.workflow_id = l.id order by d.id limit 100) as d)
                    then 'held'
                when not l.sealed then 'open' else 'running' end as state
    from living l where l.id = l.root_id and l.state = 'running'
), late as (
    select w.ended_at from {s}.workflow w
    where w.state <> 'running' and not w.settled order by w.id limit 1000
)
select count(*) filter (where t.state = 'running') as running, count(*) filter (where t.state = 'open') as open,
       count(*) filter (where t.state = 'held') as held, count(*) filter (where t.state = 'stopping') as stopping,
       (select count(*) > 10000 from living) as capped,
       (select extract(epoch from now() - min(l.created_at))::float8 from living l) as oldest_seconds,
       (select extract(epoch from now() - min(late.ended_at))::float8 from late) as unsettled_seconds
from told t""",
    # By the indexes of what is unseen. Ids rise with time.
    """create view {s}.letter_load as
select 'signal' as kind, (select count(*) from (
           select from {s}.signal g where not g.seen order by g.id limit 10000) as g) as letters,
       (select extract(epoch from now() - g.at)::float8 from {s}.signal g where not g.seen order by g.id limit 1)
           as oldest_seconds
union all
select 'event', (select count(*) from (
           select from {s}.awaited_event e where not e.seen order by e.id limit 10000) as e),
       (select extract(epoch from now() - e.at)::float8 from {s}.awaited_event e where not e.seen order by e.id limit 1)
union all
select 'call', (select count(*) from (
           select from {s}.call c where c.ended and not c.seen order by c.child_id limit 10000) as c), null""",
    "comment on view {s}.waiting_load is 'Each queue: jobs that wait for other jobs, and those that are asleep'",
    "comment on view {s}.workflow_load is 'Workflows that live, of the oldest 10,000, and what is late about them'",
    "comment on view {s}.letter_load is 'Signals, events and ends of calls that are still to be delivered'",
)
WORKFLOW_LOAD = {
    "running": "Workflows that run, and that nothing keeps from going on",
    "open": "Those that are not sealed",
    "held": "Those with a dead letter that holds them until it is redriven or discarded",
    "stopping": "Those that are stopped or cancelled, and whose jobs have not all ended",
    "capped": "Whether more workflows and groups live than were looked at",
    "oldest_seconds": "How long the oldest workflow lives; null without one",
    "unsettled_seconds": "How long one has ended without those that wait for it being told; null without one",
}
LETTER_LOAD = {
    "kind": "signal, event or call",
    "letters": "How many are still to be delivered, up to 10,000",
    "oldest_seconds": "How long the oldest of them waits; null without one, and for calls",
}
COLUMNS = {
    "queue": "The queue",
    "for_jobs": "Jobs that wait for others of their workflow, up to a bound",
    "for_jobs_capped": "Whether there are more than were counted",
    "sleeping": "Jobs that sleep, up to a bound",
    "waiting": "Jobs that wait for a signal, an event or a called job, up to a bound",
    "asleep_capped": "Whether there are more of both than were counted",
}
PHASES = (
    "The state as people see it: a pending job is scheduled, sleeping (its task sleeps), waiting (for a signal, an "
    "event or a call), retrying or pending"
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    views = {"waiting_load": COLUMNS, "workflow_load": WORKFLOW_LOAD, "letter_load": LETTER_LOAD}
    comments = [
        f"comment on column {{s}}.{view}.{column} is '{text}'"
        for view, columns in views.items()
        for column, text in columns.items()
    ]
    comments += [f"comment on column {{s}}.{view}.phase is '{PHASES}'" for view in ("job", "job_status")]
    for statement in (*INDEXES, *STATEMENTS, *comments):
        op.execute(statement.format(s=schema))
