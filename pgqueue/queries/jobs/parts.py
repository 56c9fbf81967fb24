"""SQL that several statements about jobs have in common; each statement names the parts that it is filled with."""

from typing import LiteralString

from pgqueue.queries.base import fill
from pgqueue.queries.jobs.ties import DOOMED, TELL, TIED

# The columns that a job takes along from job_live to job_finished or dead_letter: a plain one, and one with ties.
CARRIED_PLAIN: LiteralString = (
    "id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, "
    "worker_id, claimed_at, workflow_id"
)
CARRIED: LiteralString = CARRIED_PLAIN + ", ties, gate_id"

# Insert jobs that end as cancelled into the history; the statement has deleted them from job_live. Reads `ended`: whole
# rows of job_live, with `target` and `reason`.
FINISH_CANCELLED: LiteralString = fill(
    """finished as (
    insert into {s}.job_finished ({carried}, state, reason)
    select {carried}, target, reason
    from ended where target = 'cancelled'
)""",
    carried=CARRIED,
)

# Whether queue `q` is paused. A pause with an end is over by the database's clock; nobody has to write that.
PAUSED: LiteralString = "q.paused_at is not null and (q.paused_until is null or q.paused_until > now())"

# Whether task `c` is paused, or a limit, or a key of one, likewise.
TASK_PAUSED: LiteralString = "c.paused_at is not null and (c.paused_until is null or c.paused_until > now())"

# The names of the tasks that are paused, null where none is: read once for each statement.
PAUSED_TASKS: LiteralString = fill(
    "(select array_agg(c.task) from {s}.task_control c where {task_paused})::text[]", task_paused=TASK_PAUSED
)

# Whether the task of job `j` is not paused, for claims. Where no task is paused, a row costs nothing. `exists` as a
# condition on each row would probe the table for each, and a list that the worker keeps would be as old as its last
# look. Within `coalesce` the planner expects half of the rows to fit; a bare `<> all` it would expect to fit no row at
# all where most jobs are of one task, and sort the lane.
NOT_PAUSED: LiteralString = fill("coalesce(j.task::text <> all({paused_tasks}), true)", paused_tasks=PAUSED_TASKS)

# Log how attempts ended. Reads `moved`: id, target, attempt, lease, worker_id, reason, error.
LOG_ATTEMPTS: LiteralString = """logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, worker_id, reason, error from moved{returning}
)"""

# Whether a statement may notify. Not while the server's queue of notifications is half full: a listener that does not
# read fills the queue, and once it is full, each transaction that notifies fails at its commit. And not where the
# caller has set `pgqueue.notify` to off, since Postgres refuses to PREPARE a transaction that has notified. The
# notification is a hint: polling finds the jobs.
MAY_NOTIFY: LiteralString = """pg_notification_queue_usage() < 0.5::float8
    and current_setting('pgqueue.notify', true) is distinct from 'off'::text"""

# Move what depends on the jobs that end: for statements that end jobs with ties. Reads `ended`, as TIED says, and what
# HOLD or FREE has locked: `edge` and `held`.
_TELL_ENDS: LiteralString = fill(
    "{tied}, {tell}", tied=TIED, tell=fill(TELL, gone="ended", held="held", may_notify=MAY_NOTIFY)
)
TELL_ENDS: LiteralString = fill(_TELL_ENDS, skipped=DOOMED, written="")

# The same for statements that end many jobs at once, and insert them as `finished` and `logged`, which return a row
# each. These two, most of what is written, are written before the gates are locked: until the commit, whoever ends
# members of the same gates waits. Where Postgres chose the order, it would lock the gates first.
WRITTEN_FIRST: LiteralString = "(select count(*) from finished) + (select count(*) from logged) >= 0"
TELL_ENDS_LAST: LiteralString = fill(_TELL_ENDS, skipped=DOOMED, written=fill(" and {w}", w=WRITTEN_FIRST))

# Cancel jobs that waited: insert them into the history, log the move, move what depends on them, and notify processes
# that wait for one of them, at the commit. Reads `ended` as FINISH_CANCELLED does. Waiters are found by primary key;
# the `limit` keeps that a probe.
_CANCEL_WAITING: LiteralString = fill(
    """{finish_cancelled}, logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, target, attempt, lease, reason from ended
), {tell_ends}, waiters_notified as (
    select count(pg_notify({channel} || '.ended', w.job_id::text)) + (select queues from children_notified)
    from ended cross join lateral (select job_id from {s}.waiter where job_id = ended.id limit 1) as w
    where {may_notify}
)""",
    finish_cancelled=FINISH_CANCELLED,
    tell_ends=fill(_TELL_ENDS, written=""),
    may_notify=MAY_NOTIFY,
)
CANCEL_WAITING: LiteralString = fill(_CANCEL_WAITING, skipped=DOOMED)
SKIP_WAITING: LiteralString = fill(_CANCEL_WAITING, skipped="true")  # because they are doomed, all of them

# Undo the steps of jobs that the statement ends. Reads `ended` as FINISH_CANCELLED does; the statement must select from
# it, or Postgres leaves it out. A function, because whoever cancels a job may not insert others.
COMPENSATED: LiteralString = """compensated as (
    select count({s}.compensate(id, lease, true)) from ended
    where headers::jsonb ? '$undo'::text and target <> 'succeeded'
)"""

# Notify the workers that sleep and serve a queue with due jobs, once for each queue. ENQUEUE says why no others. Reads
# `{jobs}`: queue and run_at.
NOTIFY_WORKERS: LiteralString = fill(
    """workers_notified as (
    select count(pg_notify({channel}, due.queue))
    from (select distinct queue from {jobs} where run_at <= statement_timestamp()) as due
    where exists (select from {s}.worker w where w.waiting and due.queue = any(w.queues))
    and {may_notify}
)""",
    may_notify=MAY_NOTIFY,
)

# The condition for notifying workers of jobs that are all in one queue: a worker that serves it sleeps, and the
# statement may notify.
WORKER_SLEEPS: LiteralString = fill(
    """exists (select from {s}.worker w where w.waiting and %(queue)s::text = any(w.queues))
        and {may_notify}""",
    may_notify=MAY_NOTIFY,
)

# The lanes that have pending jobs: a lane is a queue and a priority. Hops along job_live_ready from one to the next.
LANES: LiteralString = """waiting as not materialized (
    select queue::text, priority::smallint, run_at::timestamptz, id, attempt from {s}.job_live where state = 'pending'
), lane(queue, priority) as (
    (select j.queue, j.priority from waiting j order by j.queue, j.priority desc limit 1)
    union all
    select rest.queue, rest.priority from lane cross join lateral (
        (select j.queue, j.priority from waiting j where j.queue = lane.queue and j.priority < lane.priority
         order by j.queue, j.priority desc limit 1)
        union all
        (select j.queue, j.priority from waiting j where j.queue > lane.queue
         order by j.queue, j.priority desc limit 1)
        order by queue limit 1) as rest
)"""
