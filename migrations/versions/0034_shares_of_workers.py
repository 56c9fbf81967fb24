"""Workers tell how they divide their slots: the shares and limits of their queues, and from when a job goes first.

Revision ID: 0034
Revises: 0033
"""

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

# Whether a worker is there, as in migration 0015.
LIVES = "w.lost_at is null and w.heartbeat_at >= now() - make_interval(secs => w.lease_seconds)"

STATEMENTS = (
    """alter table {s}.worker add column shares jsonb, add column limits jsonb, add column max_wait double precision""",
    # As in migration 0015, with the columns above.
    f"""create or replace view {{s}}.worker_health as
select w.id, w.kind, w.host, w.pid, w.version, w.release,
       case when w.lost_at is not null then 'lost'
            when not ({LIVES}) then 'silent'
            when w.stopping then 'stopping'
            when w.quiet_at is not null then 'quiet'
            else 'alive' end as status,
       w.queues, w.slots, (select count(*) from {{s}}.job_live j where j.worker_id = w.id) as running,
       extract(epoch from now() - w.heartbeat_at)::float8 as heartbeat_age_seconds, w.started_at, w.rss_bytes,
       w.health_address, w.quiet_at, w.requested, w.requested_at, w.requested_by, w.lost_at, w.death, w.duties,
       w.shares, w.limits, w.max_wait
from {{s}}.worker w""",
    "comment on column {s}.worker.shares is 'Each queue''s or pattern''s share of the slots; null: queues go in order'",
    "comment on column {s}.worker.limits is 'At most so many slots, by queue or pattern; null for none'",
    "comment on column {s}.worker.max_wait is 'Seconds after which due jobs go first in one claim of sixteen'",
    "comment on column {s}.worker_health.shares is 'Shares of its slots by queue; null: queues go in order'",
    "comment on column {s}.worker_health.limits is 'At most so many of its slots, by queue; null for none'",
    "comment on column {s}.worker_health.max_wait is 'Seconds after which due jobs go first in one claim of sixteen'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
