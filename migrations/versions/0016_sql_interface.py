"""Views for readers who see no arguments, results, messages or headers, and a comment on each column of each view.

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# What a job carries (args, headers, result, progress) and what its errors say (message, traceback) stays out: a message
# quotes arguments as often as not. Of an error the class is left, and the fingerprint.
JOB_NAMES = (
    "id, task::text, queue::text, priority::smallint, tags, run_at::timestamptz, created_at::timestamptz, attempt, "
    "max_attempts, crash_count, worker_id, claimed_at"
)
VIEWS = (
    f"""create view {{s}}.job_status as
select {JOB_NAMES}, state,
    case when state <> 'pending' then state
         when attempt > 0 then 'retrying'
         when run_at > statement_timestamp() then 'scheduled'
         else 'pending' end as phase,
    waits_for, expires_at, cancel_requested_at, null::timestamptz as finished_at, null::text as reason,
    null::text as error_class, null::text as fingerprint
from {{s}}.job_live
union all
select {JOB_NAMES}, state, state, null, null, null, finished_at, reason, null, null from {{s}}.job_finished
union all
select {JOB_NAMES}, state, state, null, null, null, failed_at, reason, error ->> 'type',
    coalesce(fingerprint, 'class ' || coalesce(error ->> 'type', reason)) from {{s}}.dead_letter""",
    """create view {s}.job_history as
select job_id, at, from_state, to_state, attempt, lease, worker_id, reason, error ->> 'type' as error_class
from {s}.transition""",
    """create view {s}.attempt_status as
select a.job_id, a.attempt, a.lease, a.worker_id, a.started_at, a.ended_at, a.to_state, a.reason,
       a.error ->> 'type' as error_class
from {s}.attempt a""",
    """create view {s}.operation_status as
select o.id, o.kind,
       case when o.error is not null then 'failed'
            when o.ended_at is not null then 'ended'
            when o.stopped_at is not null then 'stopped'
            else 'running' end as state,
       o.actor, o.via, o.started_at, nullif(o.moved_at, '-infinity') as moved_at, o.ended_at, o.stopped_at,
       o.done, o.skipped
from {s}.operation o""",
    """create view {s}.schedule_tick as
select f.schedule, f.tick, f.outcome, f.reason, f.job_id, f.at, f.by from {s}.schedule_fire f""",
    # By name: a bound that the catalogue prints depends on settings of the session. Sizes come from the files, and rows
    # from the last ANALYZE: no row is read.
    """create view {s}.partition_status as
select p.relname::text as history, c.relname::text as partition, to_date(named[1], 'YYYYMMDD') as first_day,
       coalesce(to_date(named[3], 'YYYYMMDD') - 1, to_date(named[1], 'YYYYMMDD')) as last_day,
       pg_total_relation_size(c.oid) as bytes, nullif(c.reltuples, -1)::bigint as rows_estimated,
       c.oid = t.partdefid as is_default
from pg_catalog.pg_class p
join pg_catalog.pg_partitioned_table t on t.partrelid = p.oid
join pg_catalog.pg_inherits i on i.inhparent = p.oid
join pg_catalog.pg_class c on c.oid = i.inhrelid
left join lateral regexp_match(c.relname::text, '_([0-9]{{8}})(_([0-9]{{8}}))?$') as named on true
where p.relnamespace = '{s}'::regnamespace""",
)
COMMENTS = {
    "job_status": "Each job without what it carries: no arguments, headers, result, progress or message of an error",
    "job_history": "Each change of state of each job, without the messages of errors",
    "attempt_status": "Each run of each job and how it ended, without the messages of errors",
    "operation_status": "What was asked to be done to many jobs, by whom, and how far it is; without the filter",
    "schedule_tick": "Each tick that a schedule has decided about, and what became of it",
    "partition_status": "The partitions of the histories: their days, sizes and rows",
}
JOB = {
    "id": "The id of the job; later jobs have higher ones",
    "task": "The name of the registered Python function",
    "queue": "The queue whose workers may claim it",
    "priority": "From -100 to 100; a higher one is claimed first within its queue",
    "tags": "Words given at enqueue, for queries",
    "run_at": "When it is due, or was",
    "created_at": "When it was enqueued, by the clock of the database",
    "attempt": "The number of the present or last run, from 1; 0 before the first",
    "max_attempts": "How many runs it has at most",
    "crash_count": "How many of its workers died while they ran it",
    "worker_id": "The worker that runs it, or ran it last; null while it waits",
    "claimed_at": "When its present or last run was claimed",
    "state": "blocked, pending, running, succeeded, failed or cancelled",
    "phase": "The state as people see it: a pending job is scheduled, retrying or pending",
    "waits_for": "What a blocked job waits for; null for others",
    "cancel_requested_at": "When somebody asked its worker to stop; null if nobody did",
    "finished_at": "When it ended; null before",
    "reason": "Why it ended, in a word or as it was given; null if it needs none",
}
RUN = {
    "job_id": "The job",
    "attempt": "The number of the run, from 1; counted anew after a redrive",
    "lease": "The number of the claim, never counted anew: order by it",
    "worker_id": "The worker that ran it",
    "started_at": "When it was claimed",
    "ended_at": "When it ended; null while it runs",
    "to_state": "The state that the job had after it; null while it runs",
    "reason": "Why it ended so",
}
PERCENTILES = {
    f"{kind}_p{share}": f"{what} of {share} percent, in seconds, at most"
    for kind, what in (("run", "Time to run"), ("wait", "Time from due to begun"))
    for share in (50, 95, 99)
}
COLUMNS = {
    "job": JOB
    | {
        "args": "The arguments by name; sealed where a codec is used",
        "headers": "Values that travel with the job; names with $ are reserved",
        "lease": "How often it was claimed: it fences the writes of its worker",
        "result": "What the task returned, if it succeeded",
        "error": "Type, message and traceback of the last error of a dead letter",
        "progress": "What the task last told of its progress",
    },
    "job_status": JOB
    | {
        "expires_at": "Until when it may start; null for always",
        "error_class": "The class of the last error of a dead letter",
        "fingerprint": "The group of a dead letter in dead_group",
    },
    "job_history": {
        "job_id": "The job",
        "at": "When it happened",
        "from_state": "The state before; null for a new job",
        "to_state": "The state after",
        "attempt": "The number of the run that it belongs to",
        "lease": "The number of the claim that it belongs to",
        "worker_id": "The worker that did it; null for others",
        "reason": "Why, and who if it was a person",
        "error_class": "The class of the error, if there was one",
    },
    "attempt": RUN | {"error": "Type, message and traceback of the error, if there was one"},
    "attempt_status": RUN | {"error_class": "The class of the error, if there was one"},
    "operation_status": {
        "id": "The id of the operation",
        "kind": "What is done to the jobs",
        "state": "running, stopped, ended or failed",
        "actor": "Who asked for it",
        "via": "By what: sql, the command line, Python",
        "started_at": "When it was asked for",
        "moved_at": "When its last batch was done; null before the first",
        "ended_at": "When it ended; null before",
        "stopped_at": "When somebody stopped it; null if nobody did",
        "done": "To how many jobs it was done",
        "skipped": "How many jobs were left as they are",
    },
    "schedule_tick": {
        "schedule": "The name of the schedule",
        "tick": "The moment of the plan",
        "outcome": "fired, missed, skipped or queued",
        "reason": "Why it did not fire",
        "job_id": "The job that it became",
        "at": "When it was decided",
        "by": "Who fired it by hand; null for the plan",
    },
    "partition_status": {
        "history": "The table that is partitioned",
        "partition": "The table that holds the days",
        "first_day": "Its first day, UTC; null for the default partition",
        "last_day": "Its last day, UTC; null for the default partition",
        "bytes": "Its size on disk with indexes",
        "rows_estimated": "Its rows at the last ANALYZE; null if there was none",
        "is_default": "Whether it takes the rows of days without a partition",
    },
    "queue_load": {
        "queue": "The queue",
        "due": "Jobs that wait and are due, up to a bound",
        "running": "Jobs that run, up to a bound",
        "scheduled": "Jobs that wait for a later time, up to a bound",
        "scheduled_capped": "Whether more jobs are for later than were counted",
        "paused_until": "When the pause ends by itself; null for never",
        "paused_by": "Who paused it",
        "paused_reason": "Why it was paused",
        "slots": "The jobs that these workers can run at a time, of all their queues together",
    },
    "worker_health": {
        "id": "The id of the process, new with each start",
        "kind": "worker or scheduler",
        "host": "The host on which it runs",
        "pid": "Its process id there",
        "status": "alive, quiet, stopping, silent (no heartbeat for a lease time) or lost",
        "queues": "The queues and patterns that it serves",
        "slots": "How many jobs it can run at a time",
        "running": "How many it has claimed",
        "heartbeat_age_seconds": "How long ago it last beat",
        "started_at": "When it started",
        "health_address": "Where it answers /live and /ready; null for nowhere",
        "requested": "What somebody last asked of it: quiet, resume or stop",
        "requested_at": "When that was asked",
        "requested_by": "Who asked",
        "lost_at": "When others declared it lost; null if they did not",
        "death": "How it ended, if its supervisor saw it",
        "duties": "For how many seconds each duty had made no step at the last heartbeat",
    },
    "queue_rate": {
        "queue": "The queue",
        "minute": "The minute, by its begin",
        "jobs": "Attempts that ended",
        "succeeded": "Attempts that succeeded",
        "retried": "Attempts that failed and are tried again",
        "failed": "Attempts after which the job became a dead letter",
        "other": "Attempts that ended otherwise: snoozed, released, cancelled, parked",
        "run_seconds": "The sum of their times to run",
        "wait_seconds": "The sum of their times from due to begun",
    },
    "task_health": {
        "task": "The task",
        "runs": "Attempts in the last hour that succeeded, are retried or failed",
        "succeeded": "Attempts that succeeded",
        "retried": "Attempts that failed and are tried again",
        "failed": "Attempts after which the job became a dead letter",
        "error_share": "The share of attempts that did not succeed, from 0 to 1",
        "run_seconds": "The sum of all times to run",
        **PERCENTILES,
        "last_success": "When an attempt last succeeded, within the last day",
    },
    "dead_group": {
        "fingerprint": "What the errors have in common: their class, words and place in the code",
        "jobs": "How many dead letters",
        "first_failed_at": "When the first of them failed",
        "last_failed_at": "When the last of them failed",
        "tasks": "Their tasks",
        "queues": "Their queues",
        "error": "The class of the error of the newest",
        "newest_id": "The newest of them",
    },
    "schedule_status": {
        "name": "The name of the schedule",
        "task": "The task whose jobs it enqueues",
        "plan": "The plan as it was written",
        "timezone": "The zone of its wall clock",
        "state": "active, paused, disabled, broken or over",
        "next_tick": "The next tick; null when there is none",
        "lag_seconds": "For how long a scheduler should have looked at it",
        "last_tick": "The last tick that was decided about",
        "last_outcome": "What became of it: fired, missed, skipped or queued",
        "last_reason": "Why it did not fire",
        "last_job_id": "The job that it became",
        "last_lag_seconds": "How late it was decided about",
        "fired_in_a_day": "Ticks of the last day that fired",
        "missed_in_a_day": "Ticks of the last day that were too late",
        "skipped_in_a_day": "Ticks of the last day that were left out, since earlier jobs lived",
        "queued": "Ticks that wait for the job before",
        "misfire": "Which late ticks fire",
        "grace_seconds": "How late a tick may be",
        "overlap": "What becomes of a tick while earlier jobs live",
        "max_running": "How many of its jobs may live at a time",
        "paused_at": "Since when it is paused; null if it is not",
        "paused_by": "Who paused it",
        "paused_until": "When it goes on by itself; null for never",
        "disabled_at": "Since when the code does not declare it any more",
        "app": "The app that declares it; null if it was made at run time",
        "edited_at": "When somebody last changed it by hand",
        "edited_by": "Who changed it",
        "error": "Why it cannot be read or fired",
    },
}


def statements() -> tuple[str, ...]:
    """Return the SQL: views, their comments, and those of all their columns."""
    return (
        *VIEWS,
        *(f"comment on view {{s}}.{view} is '{text}'" for view, text in COMMENTS.items()),
        *(
            f"comment on column {{s}}.{view}.{column} is '{text}'"
            for view, columns in COLUMNS.items()
            for column, text in columns.items()
        ),
    )


STATEMENTS = statements()


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
