"""Views of what metrics need beside the load of queues: retries that wait, parked jobs, dead letters by task.

Revision ID: 0022
Revises: 0021
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# Each view stops at a bound, so that it costs the same on any backlog: at that of queue_load, or at 10,000 rows that it
# takes from one end of an index (job_live_parked, dead_letter_failed_at).
STATEMENTS = (
    """create view {s}.retry_load as
with recursive waiting as not materialized (
    select queue, priority, run_at, id, attempt from {s}.job_live where state = 'pending'
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
), bound as materialized (
    select least(10000, greatest(100, 50000 / greatest(count(*), 1))) as most from lane
)
select lane.queue::text as queue, sum(later.retrying)::bigint as retrying
from bound cross join lane cross join lateral (
    select count(*) filter (where first.attempt > 0) as retrying from (
        select j.attempt from waiting j
        where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
        order by j.run_at, j.id limit bound.most) as first) as later
group by lane.queue""",
    """create view {s}.parked_load as
select p.task, p.version, p.queue, count(*) as jobs,
       exists (select from {s}.worker w
               where w.lost_at is null and w.heartbeat_at >= now() - make_interval(secs => w.lease_seconds)
               and case p.version when '1' then p.task else p.task || '@' || p.version end = any(w.tasks)) as known
from (select j.task::text as task, coalesce(j.headers ->> '$version', '1') as version, j.queue::text as queue
      from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'task' order by j.task limit 10000) as p
group by p.task, p.version, p.queue""",
    """create view {s}.dead_load as
select d.queue, d.task, count(*) as jobs,
       exists (select from {s}.worker w where d.task = any(w.tasks)) as known
from (select n.queue::text as queue, n.task::text as task from {s}.dead_letter n
      order by n.failed_at desc limit 10000) as d
group by d.queue, d.task""",
    "comment on view {s}.retry_load is 'Each queue: jobs that wait for the time of a later attempt'",
    "comment on column {s}.retry_load.queue is 'The queue'",
    "comment on column {s}.retry_load.retrying is 'Such jobs; counted up to the bound of queue_load'",
    "comment on view {s}.parked_load is 'Jobs that wait for a worker that knows their task, of the first 10,000'",
    "comment on column {s}.parked_load.task is 'The name of the task'",
    "comment on column {s}.parked_load.version is 'The version that is waited for, and parameters'",
    "comment on column {s}.parked_load.queue is 'The queue'",
    "comment on column {s}.parked_load.jobs is 'How many wait'",
    "comment on column {s}.parked_load.known is 'Whether a living worker knows it, and will take them'",
    "comment on view {s}.dead_load is 'Dead letters by queue and task, of the newest 10,000'",
    "comment on column {s}.dead_load.queue is 'The queue'",
    "comment on column {s}.dead_load.task is 'The name of the task'",
    "comment on column {s}.dead_load.jobs is 'How many there are'",
    "comment on column {s}.dead_load.known is 'Whether a worker that is there knows the task'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
