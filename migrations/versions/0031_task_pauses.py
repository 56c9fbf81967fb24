"""Tasks can be paused, and everything that is paused is one view.

Revision ID: 0031
Revises: 0030
"""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

NOW = "{0}.paused_at is not null and ({0}.paused_until is null or {0}.paused_until > now())"

STATEMENTS = (
    # The columns of a pause are those of the table `queue`. A row stays when its pause ends, and says who ended it.
    """create table {s}.task_control (
    task text primary key check (char_length(task) between 1 and 200),
    paused_at timestamptz,
    paused_until timestamptz,
    paused_by text,
    paused_why text,
    updated_at timestamptz not null default now(),
    updated_by text,
    constraint task_control_paused_until check (paused_until between '1900-01-01Z' and '9999-01-01Z')
)""",
    f"""create view {{s}}.paused as
select 'queue'::text as kind, q.name, null::text as key, q.paused_at as since, q.paused_until as until,
       q.paused_by as by, q.paused_reason as why
from {{s}}.queue q where {NOW.format("q")}
union all
select 'task', c.task, null, c.paused_at, c.paused_until, c.paused_by, c.paused_why
from {{s}}.task_control c where {NOW.format("c")}
union all
select 'limit', r.name collate "default", null, r.paused_at, r.paused_until, r.paused_by, r.paused_why
from {{s}}.limit_rule r where {NOW.format("r")}
union all
select 'limit', k.rule collate "default", k.key collate "default", k.paused_at, k.paused_until, k.paused_by,
       k.paused_why
from {{s}}.limit_key k where {NOW.format("k")}""",
    "comment on table {s}.task_control is 'Each task that was paused once. No worker claims jobs of a paused one'",
    "comment on column {s}.task_control.paused_at is 'Since when it is paused; null if it is not'",
    "comment on column {s}.task_control.paused_until is 'When the pause ends by itself; null for never'",
    "comment on column {s}.task_control.paused_by is 'Who paused it'",
    "comment on column {s}.task_control.paused_why is 'Why it was paused'",
    "comment on column {s}.task_control.updated_by is 'Who paused or resumed it last'",
    "comment on view {s}.paused is 'All that is paused now, by its kind'",
    "comment on column {s}.paused.kind is 'queue, task or limit'",
    "comment on column {s}.paused.name is 'The name of the queue, task or limit'",
    "comment on column {s}.paused.key is 'The key of the limit that is paused; null for all of it'",
    "comment on column {s}.paused.since is 'Since when it is paused'",
    "comment on column {s}.paused.until is 'When the pause ends by itself; null for never'",
    "comment on column {s}.paused.by is 'Who paused it'",
    "comment on column {s}.paused.why is 'Why it was paused'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
