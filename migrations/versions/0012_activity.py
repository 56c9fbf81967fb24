"""Activity: how many attempts ended in which way, and how long they waited and ran, in rows of ten seconds.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Each view reads a bounded time, because a condition on `minute` or on a percentile reaches no index.
STATEMENTS = (
    # Only inserted, never updated: a snapshot that stays open costs nothing. Histograms are arrays whose subscripts are
    # the numbers of the buckets, so that a row has only the buckets that it needs.
    """create table {s}.activity (
    at timestamptz not null default now(),
    worker_id uuid not null,
    task text not null,
    queue text not null,
    outcome text not null,
    jobs integer not null,
    run_seconds double precision not null,
    wait_seconds double precision not null,
    run_counts integer[] not null,
    wait_counts integer[] not null
) partition by range (at)""",
    "create table {s}.activity_default partition of {s}.activity default",
    "create index activity_at on {s}.activity (at)",
    "create index activity_task on {s}.activity (task, outcome, at)",
    """create view {s}.queue_rate as
select queue, date_trunc('minute', at) as minute, sum(jobs) as jobs,
       coalesce(sum(jobs) filter (where outcome = 'succeeded'), 0) as succeeded,
       coalesce(sum(jobs) filter (where outcome = 'retried'), 0) as retried,
       coalesce(sum(jobs) filter (where outcome = 'failed'), 0) as failed,
       coalesce(sum(jobs) filter (where outcome not in ('succeeded', 'retried', 'failed')), 0) as other,
       sum(run_seconds) as run_seconds, sum(wait_seconds) as wait_seconds
from {s}.activity where at > now() - interval '1 day'
group by queue, date_trunc('minute', at)""",
    """create view {s}.task_health as
with recent as not materialized (
    select * from {s}.activity where at > now() - interval '1 hour'
), spread as (
    select task, 'run' as kind, n as bucket, sum(run_counts[n]) as jobs
    from recent cross join lateral generate_subscripts(run_counts, 1) as n group by task, n
    union all
    select task, 'wait', n, sum(wait_counts[n])
    from recent cross join lateral generate_subscripts(wait_counts, 1) as n group by task, n
), summed as (
    select task, kind, power(2::float8, (bucket - 0.5) / 2) / 1000000 as seconds,
           sum(jobs) over (partition by task, kind order by bucket) / sum(jobs) over (partition by task, kind) as share
    from spread
), percentiles as (
    select task,
           min(seconds) filter (where kind = 'run' and share >= 0.5) as run_p50,
           min(seconds) filter (where kind = 'run' and share >= 0.95) as run_p95,
           min(seconds) filter (where kind = 'run' and share >= 0.99) as run_p99,
           min(seconds) filter (where kind = 'wait' and share >= 0.5) as wait_p50,
           min(seconds) filter (where kind = 'wait' and share >= 0.95) as wait_p95,
           min(seconds) filter (where kind = 'wait' and share >= 0.99) as wait_p99
    from summed group by task
), counted as (
    select task, coalesce(sum(jobs) filter (where outcome in ('succeeded', 'retried', 'failed')), 0) as runs,
           coalesce(sum(jobs) filter (where outcome = 'succeeded'), 0) as succeeded,
           coalesce(sum(jobs) filter (where outcome = 'retried'), 0) as retried,
           coalesce(sum(jobs) filter (where outcome = 'failed'), 0) as failed,
           sum(run_seconds) as run_seconds
    from recent group by task
)
select c.task, c.runs, c.succeeded, c.retried, c.failed,
       (c.retried + c.failed)::float8 / nullif(c.runs, 0) as error_share,
       c.run_seconds, p.run_p50, p.run_p95, p.run_p99, p.wait_p50, p.wait_p95, p.wait_p99,
       (select max(a.at) from {s}.activity a
        where a.task = c.task and a.outcome = 'succeeded' and a.at > now() - interval '1 day') as last_success
from counted c left join percentiles p on p.task = c.task""",
    "comment on table {s}.activity is 'Ended attempts of each worker in ten seconds, by task, queue and outcome'",
    """comment on column {s}.activity.run_counts is
    'Attempts by time to run: subscript k counts those of 2^((k-1)/2) to 2^(k/2) microseconds'""",
    """comment on column {s}.activity.wait_counts is
    'Attempts by time from when the job was due until it began, in the same buckets'""",
    "comment on view {s}.queue_rate is 'Ended attempts by queue and minute, of the last day'",
    """comment on view {s}.task_health is
    'Each task in the last hour: attempts, errors, and percentiles of times to run and to wait, in seconds'""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
