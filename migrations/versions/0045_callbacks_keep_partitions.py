"""A partition is not old while a callback lives that may read the results in it, though its workflow has ended.

Revision ID: 0045
Revises: 0044
"""

from alembic import op

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None

# As in migration 0042. Callbacks are live before their workflow is settled, so no moment lies between the two. The
# workflows with live jobs are walked one by one on job_live_workflow, once for all partitions, and not at all while
# none is beyond its age; a join reads each live job of each workflow.
STATEMENTS = (
    """create or replace view {s}.old_partition as
with recursive held(id) as (
    (select j.workflow_id from {s}.job_live j where j.workflow_id is not null order by j.workflow_id limit 1)
    union all
    select (select j.workflow_id from {s}.job_live j where j.workflow_id > h.id order by j.workflow_id limit 1)
    from held h where h.id is not null
)
select h.history, c.relname::text as partition, p.first, p.past, pg_relation_size(c.oid) as heap_bytes,
       pg_total_relation_size(c.oid) as bytes
from (values ('job_finished', '{s}.job_finished'::regclass), ('transition', '{s}.transition'::regclass),
             ('activity', '{s}.activity'::regclass), ('published_event', '{s}.published_event'::regclass))
     as h(history, parent)
join pg_inherits i on i.inhparent = h.parent
join pg_class c on c.oid = i.inhrelid
cross join lateral regexp_match(c.relname::text, '_([0-9]{{8}})(_([0-9]{{8}}))?$') as named
cross join lateral (
    select to_date(named[1], 'YYYYMMDD')::timestamp at time zone 'UTC',
           coalesce(to_date(named[3], 'YYYYMMDD'), to_date(named[1], 'YYYYMMDD') + 1)::timestamp at time zone 'UTC'
) as p(first, past)
where named is not null and case when p.past <= now() - (
    select case when bool_and(r.value is not null) then max(r.value) end from {s}.retention r
    where r.name = 'activity' and h.history = 'activity'
    or r.name = 'events' and h.history = 'published_event'
    or r.name in ('succeeded', 'cancelled') and h.history in ('job_finished', 'transition'))
then h.history <> 'job_finished' or not exists (
    select from {s}.workflow w where not w.settled and w.created_at < p.past + interval '1 day'
    union all
    select from held cross join lateral (select w.created_at from {s}.workflow w where w.id = held.id limit 1) as w
    where w.created_at < p.past + interval '1 day'
    union all
    select from {s}.call c join {s}.step t on t.job_id = c.job_id and t.name = c.step and t.number = c.number
    where not c.ended and not t.done and t.at < p.past + interval '1 day') else false end""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
