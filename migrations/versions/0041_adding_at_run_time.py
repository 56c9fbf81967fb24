"""Workflows that grow while they run: groups that stand in the place of a job, and gates that are counted later.

Revision ID: 0041
Revises: 0040
"""

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

STATEMENTS = (
    # `replaces`: the job in whose place a group stands. `value_of`: the jobs whose results are the value of a group;
    # null where its members are.
    "alter table {s}.workflow add column replaces bigint, add column value_of bigint[]",
    # `counted`: whether the workflow's `open_gates` has the gate. Those of a workflow that is open are counted when it
    # is sealed, so that adding locks nothing. `jobs`: how many jobs came with a gate that is not counted yet.
    "alter table {s}.gate add column counted boolean not null default true, add column jobs integer not null default 0",
    # As in migration 0037, with the jobs that were added, and whether the workflow is sealed.
    """create or replace view {s}.workflows as
select w.id, w.name, w.state, w.on_failure, w.created_at, w.ended_at, whole.jobs, live.waiting, live.running,
       dead.jobs as failed, greatest(whole.jobs - live.waiting - live.running, 0) as ended, w.stop_reason, w.sealed
from {s}.workflow w
cross join lateral (
    select (w.jobs
        + coalesce((select sum(i.jobs) from {s}.workflow i where i.root_id = w.id and i.root_id <> i.id), 0)
        + case when w.sealed then 0 else coalesce((
            select sum(g.jobs) from {s}.gate g where g.workflow_id = w.id and not g.counted), 0) end)::int as jobs
) as whole
cross join lateral (
    select count(*) filter (where j.state <> 'running') as waiting, count(*) filter (where j.state = 'running')
           as running
    from (select j.state from {s}.job_live j where j.workflow_id = w.id limit 100000) as j) as live
cross join lateral (
    select count(*) as jobs from (
        select from {s}.dead_letter d where d.workflow_id = w.id limit 100000) as d) as dead
where w.root_id = w.id""",
    "comment on column {s}.workflows.sealed is 'Whether it ends with its last job; else it waits until it is sealed'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
