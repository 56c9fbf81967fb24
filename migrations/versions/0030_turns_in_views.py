"""Metered jobs that wait for their turn are counted in the views of queues.

Revision ID: 0030
Revises: 0029
"""

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

# Whether a worker is there, as in migration 0015.
LIVES = "w.lost_at is null and w.heartbeat_at >= now() - make_interval(secs => w.lease_seconds)"
# The queues that have metered jobs: hops along job_live_turn from one to the next.
TURNING = """turning(queue) as (
    (select j.queue::text from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'turn'
     order by j.queue limit 1)
    union all
    select (select j.queue::text from {s}.job_live j
            where j.state = 'blocked' and j.waits_for = 'turn' and j.queue > t.queue order by j.queue limit 1)
    from turning t where t.queue is not null
), turn_bound as (
    select t.queue, b.most from turning t cross join (
        select least(10000, greatest(100, 50000 / greatest(count(*), 1))) as most from turning
    ) as b where t.queue is not null
)"""
# The first jobs of each, whatever their lanes, in the order of job_live_turn: there may be as many lanes as jobs.
FIRST_TURNS = """select j.run_at::timestamptz as run_at, j.attempt from {s}.job_live j
        where j.state = 'blocked' and j.waits_for = 'turn' and j.queue = t.queue
        order by j.queue, j.lane, j.priority desc,
                 (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id
        limit t.most + 1"""

STATEMENTS = (
    # As in migration 0015, with metered jobs: those that are due in columns of their own, the others among those of
    # later. Plain ones and metered ones are counted up to a bound each.
    f"""create or replace view {{s}}.queue_load as
with recursive {TURNING}, waiting as not materialized (
    select queue, priority, run_at, id from {{s}}.job_live where state = 'pending'
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
), counted as (
    select lane.queue, bound.most, due.jobs as due, due.oldest, later.jobs as later
    from bound cross join lane
    cross join lateral (
        select count(*) as jobs, min(first.run_at) as oldest from (
            select j.run_at from waiting j
            where j.queue = lane.queue and j.priority = lane.priority and j.run_at <= now()
            order by j.run_at, j.id limit bound.most + 1) as first) as due
    cross join lateral (
        select count(*) as jobs from (
            select from waiting j
            where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
            order by j.run_at, j.id limit bound.most + 1) as first) as later
), load as (
    select queue, sum(least(due, most))::bigint as due, bool_or(due > most) as due_capped,
           sum(least(later, most))::bigint as scheduled, bool_or(later > most) as scheduled_capped,
           min(oldest) as oldest
    from counted group by queue
), turns as (
    select t.queue, least(count(*) filter (where w.run_at <= now()), min(t.most)) as turn,
           least(count(*) filter (where w.run_at > now()), min(t.most)) as later, count(*) > min(t.most) as capped,
           min(w.run_at) filter (where w.run_at <= now()) as oldest
    from turn_bound t cross join lateral (
        {FIRST_TURNS}
    ) as w group by t.queue
), moving as (
    select r.queue, count(*) as running
    from (select j.queue from {{s}}.job_live j where j.worker_id is not null order by j.worker_id limit 10000) as r
    group by r.queue
), claiming as materialized (
    select w.id, w.slots, served.name, served.name like '%*%' as is_pattern
    from {{s}}.worker w cross join lateral unnest(w.queues) as served(name)
    where w.kind = 'worker' and {LIVES} and not w.stopping and w.quiet_at is null
), pausing as (
    select q.name as queue, q.paused_at, q.paused_until, q.paused_by, q.paused_reason from {{s}}.queue q
    where q.paused_at is not null and (q.paused_until is null or q.paused_until > now())
), named as (
    select queue from load union select queue from moving union select queue from turns
    union select name from {{s}}.queue
    union select name from claiming where not is_pattern
), serving as (
    select n.queue, c.id, c.slots from named n join claiming c on c.name = n.queue
    union
    select n.queue, c.id, c.slots from named n
    join claiming c on c.is_pattern and n.queue like replace(replace(c.name, '_', '!_'), '*', '%') escape '!'
), served as (
    select queue, count(*) as workers, sum(slots)::bigint as slots from serving group by queue
)
select n.queue, coalesce(l.due, 0) as due, coalesce(l.due_capped, false) as due_capped,
       coalesce(m.running, 0) as running, (coalesce(l.scheduled, 0) + coalesce(t.later, 0))::bigint as scheduled,
       coalesce(l.scheduled_capped, false) or coalesce(t.capped, false) as scheduled_capped,
       extract(epoch from now() - l.oldest)::float8 as oldest_due_seconds,
       p.paused_at, p.paused_until, p.paused_by, p.paused_reason,
       coalesce(s.workers, 0) as workers, coalesce(s.slots, 0) as slots,
       coalesce(t.turn, 0) as turn, coalesce(t.capped, false) as turn_capped,
       extract(epoch from now() - t.oldest)::float8 as oldest_turn_seconds
from named n
left join load l on l.queue = n.queue
left join moving m on m.queue = n.queue
left join turns t on t.queue = n.queue
left join pausing p on p.queue = n.queue
left join served s on s.queue = n.queue""",
    # As in migration 0022, with metered jobs.
    f"""create or replace view {{s}}.retry_load as
with recursive {TURNING}, waiting as not materialized (
    select queue, priority, run_at, id, attempt from {{s}}.job_live where state = 'pending'
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
select later.queue, sum(later.retrying)::bigint as retrying from (
select lane.queue::text as queue, later.retrying
from bound cross join lane cross join lateral (
    select count(*) filter (where first.attempt > 0) as retrying from (
        select j.attempt from waiting j
        where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
        order by j.run_at, j.id limit bound.most) as first) as later
union all
select t.queue, count(*) filter (where w.attempt > 0 and w.run_at > now())
from turn_bound t cross join lateral (
        {FIRST_TURNS}
    ) as w group by t.queue
) as later group by later.queue""",
    "comment on column {s}.queue_load.turn is 'Metered jobs that are due and wait for their turn, up to a bound'",
    "comment on column {s}.queue_load.turn_capped is 'Whether more metered jobs wait than were counted'",
    "comment on column {s}.queue_load.oldest_turn_seconds is 'How long the oldest of these jobs is due'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
