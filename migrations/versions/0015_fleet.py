"""What workers tell of themselves and are asked to do, pauses that end by themselves, and both as views.

Revision ID: 0015
Revises: 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Whether a worker is there: it beats, or has not been missed for a whole lease yet. Only another worker that lives
# declares it lost, so that `lost_at` alone would call the last one alive for ever.
LIVES = "w.lost_at is null and w.heartbeat_at >= now() - make_interval(secs => w.lease_seconds)"

STATEMENTS = (
    # `requested`: what somebody asks of the process, which reads it with each heartbeat. No column has an index, so
    # that a heartbeat stays a HOT update.
    """alter table {s}.worker
    add column release text,
    add column rss_bytes bigint,
    add column health_address text,
    add column quiet_at timestamptz,
    add column requested text,
    add column requested_at timestamptz,
    add column requested_by text""",
    """alter table {s}.worker add constraint worker_requested
    check (requested in ('quiet', 'resume', 'stop') and requested_at < 'infinity') not valid""",
    """alter table {s}.queue
    add column paused_until timestamptz,
    add column paused_reason text,
    add column updated_by text""",
    """alter table {s}.queue add constraint queue_paused_until
    check (paused_until between '1900-01-01Z' and '9999-01-01Z') not valid""",
    # A lane is a queue and a priority. `lane` hops along job_live_ready from one to the next; in each, the due rows and
    # those of later are two ranges, read in the order of the index up to a limit. The limit is 10,000 a lane, and less
    # where there are more than five lanes, so that the view costs the same on any backlog. Running rows come from
    # job_live_running, cut off over all queues together. A plain `group by queue` reads the whole table.
    f"""create view {{s}}.queue_load as
with recursive waiting as not materialized (
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
    select queue from load union select queue from moving union select name from {{s}}.queue
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
       coalesce(m.running, 0) as running, coalesce(l.scheduled, 0) as scheduled,
       coalesce(l.scheduled_capped, false) as scheduled_capped,
       extract(epoch from now() - l.oldest)::float8 as oldest_due_seconds,
       p.paused_at, p.paused_until, p.paused_by, p.paused_reason,
       coalesce(s.workers, 0) as workers, coalesce(s.slots, 0) as slots
from named n
left join load l on l.queue = n.queue
left join moving m on m.queue = n.queue
left join pausing p on p.queue = n.queue
left join served s on s.queue = n.queue""",
    f"""create view {{s}}.worker_health as
select w.id, w.kind, w.host, w.pid, w.version, w.release,
       case when w.lost_at is not null then 'lost'
            when not ({LIVES}) then 'silent'
            when w.stopping then 'stopping'
            when w.quiet_at is not null then 'quiet'
            else 'alive' end as status,
       w.queues, w.slots, (select count(*) from {{s}}.job_live j where j.worker_id = w.id) as running,
       extract(epoch from now() - w.heartbeat_at)::float8 as heartbeat_age_seconds, w.started_at, w.rss_bytes,
       w.health_address, w.quiet_at, w.requested, w.requested_at, w.requested_by, w.lost_at, w.death, w.duties
from {{s}}.worker w""",
    """comment on view {s}.queue_load is
    'Each queue: jobs that are due, run or are for later, and workers that claim them. Counts stop at a bound'""",
    "comment on column {s}.queue_load.due_capped is 'Whether more jobs are due than were counted'",
    "comment on column {s}.queue_load.oldest_due_seconds is 'How long the oldest due job waits; null if none is due'",
    "comment on column {s}.queue_load.paused_at is 'Since when no job of it is claimed; null if it is not paused'",
    "comment on column {s}.queue_load.workers is 'Living workers that claim its jobs, by its name or by a pattern'",
    """comment on view {s}.worker_health is
    'Each worker and scheduler: whether it lives, what it runs, its memory, and what was asked of it'""",
    "comment on column {s}.worker_health.version is 'The version of the package that it runs'",
    "comment on column {s}.worker_health.release is 'The release of the app: App(release=…) or PGQUEUE_RELEASE'",
    "comment on column {s}.worker_health.rss_bytes is 'Resident memory at the last heartbeat, without child processes'",
    "comment on column {s}.worker_health.quiet_at is 'Since when it claims no more jobs'",
    """comment on column {s}.worker.requested is
    'quiet, resume or stop. The process reads it with each heartbeat, and follows a new requested_at once'""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
