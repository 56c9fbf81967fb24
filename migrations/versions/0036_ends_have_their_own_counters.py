"""Places that jobs take and places that they give back are counted in two rows, so that a claim waits for no end.

Revision ID: 0036
Revises: 0035
"""

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

# As in migration 0033, with the counters of both tables. Lanes are hopped over along job_live_turn, at most 1,000, one
# probe each, and at most some 10,000 jobs are counted in all of them; so the view costs the same however many jobs
# wait. Of a rule with keys those are shown that have waiting jobs, an exception, or a bucket, at most 1,000 of the
# latter; the row of the rule has their sums.
LIMITS = """create or replace view {s}.limits as
with recursive line(queue, lane, hop) as (
    (select j.queue::text, j.lane, 1 from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'turn'
     order by j.queue, j.lane limit 1)
    union all
    select further.queue, further.lane, line.hop + 1 from line cross join lateral (
        select j.queue::text as queue, j.lane from {s}.job_live j
        where j.state = 'blocked' and j.waits_for = 'turn' and (j.queue::text, j.lane) > (line.queue, line.lane)
        order by j.queue, j.lane limit 1) as further
    where line.hop < 1000
), bound as materialized (
    select greatest(10, 10000 / greatest(count(*), 1)) as most from line
), counted as materialized (
    select line.queue, line.lane, waiting.jobs, first.flow
    from line cross join bound
    cross join lateral (
        select count(*) as jobs from (select from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'turn'
                                      and j.queue::text = line.queue and j.lane = line.lane
                                      limit bound.most + 1) as seen) as waiting
    cross join lateral (
        select j.headers -> '$flow' as flow from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'turn'
        and j.queue::text = line.queue and j.lane = line.lane limit 1) as first
), wanted as (
    select named.bucket, least(sum(c.jobs), 1000) as waiting,
           bool_or(c.jobs > b.most) or (select count(*) = 1000 from line) or sum(c.jobs) > 1000 as capped
    from counted c cross join bound b cross join lateral (
        select e.value collate "C" as bucket from jsonb_array_elements_text(c.flow -> 'buckets') as e(value)
        union select c.flow ->> 'share' where c.flow ? 'share') as named
    group by named.bucket
), bucket(name) as (
    select r.name from {s}.limit_rule r
    union select k.rule || '/' || k.key from {s}.limit_key k
    union select w.bucket from wanted w
    union select b.name from {s}.limit_rule r cross join lateral (
        select b.name from {s}.limit_bucket b where b.name > r.name || '/' and b.name < r.name || '0'
        order by b.name limit 1000) as b
)
select n.rule collate "default" as rule, n.key collate "default" as key,
    r.kind, r.declared ->> 'keyed_by' as keyed_by, coalesce(k.max_running, r.max_running) as max_running,
    case when r.kind is not distinct from 'fair' then null when n.key is not null then coalesce(u.running, 0)
         else coalesce(sum(u.running) over (partition by n.rule), 0) end::bigint as running,
    case when n.key is not null then coalesce(w.waiting, 0)
         else least(coalesce(sum(w.waiting) over (partition by n.rule), 0), 1000) end::bigint as waiting,
    case when n.key is not null then coalesce(w.capped, false)
         else coalesce(bool_or(w.capped) over (partition by n.rule), false) end as waiting_capped,
    r.rate_count, r.rate_seconds, r.rate_burst, r.rate_strict, r.scope, r.on_full, r.on_dead, k.weight,
    r.breaker_failures, r.breaker_seconds, r.breaker_cooldown,
    case when u.closed_until > now() then u.closed_until end as closed_until,
    case when pause.key then k.paused_at when pause.rule then r.paused_at end as paused_at,
    case when pause.key then k.paused_until when pause.rule then r.paused_until end as paused_until,
    case when pause.key then k.paused_by when pause.rule then r.paused_by end as paused_by,
    case when pause.key then k.paused_why when pause.rule then r.paused_why end as paused_why,
    coalesce(r.declared_by, '{{}}') as declared_by, r.declared is not null as in_code,
    case when k.rule is not null then k.updated_at else r.updated_at end as updated_at,
    case when k.rule is not null then k.updated_by else r.updated_by end as updated_by
from bucket b cross join lateral (
    select split_part(b.name, '/', 1) as rule, substr(b.name, nullif(position('/' in b.name), 0) + 1) as key) as n
left join {s}.limit_rule r on r.name = n.rule
left join {s}.limit_key k on k.rule = n.rule and k.key = n.key
left join wanted w on w.bucket = b.name
left join lateral (
    select greatest(t.taken - f.freed, 0) as running, f.closed_until
    from (select v.taken from {s}.limit_use v where v.name = b.name order by v.version desc limit 1) as t
    cross join lateral (
        select v.freed, v.closed_until from {s}.limit_freed v
        where v.name = b.name order by v.version desc limit 1) as f
) as u on true
cross join lateral (
    select k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) as key,
           r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) as rule) as pause"""

STATEMENTS = (
    # What jobs of a bucket have given back, and what their ends have closed: the other half of limit_use. Both count
    # up: a reader who sees an older row of this table takes more jobs for running than do, never fewer. The version is
    # part of the key for the reason that migration 0026 gives.
    """create table {s}.limit_freed (
    name text collate "C" not null,
    version bigint not null,
    rule text collate "C" not null,
    freed bigint not null default 0 check (freed >= 0),
    closed_until timestamptz,
    failures integer not null default 0,
    failing_since timestamptz,
    opened integer not null default 0,
    primary key (name, version)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0)""",
    "alter table {s}.limit_use add column taken bigint not null default 0",
    "update {s}.limit_use set taken = running",
    """insert into {s}.limit_freed (name, version, rule, closed_until, failures, failing_since, opened)
select name, 0, rule, closed_until, failures, failing_since, opened from {s}.limit_use""",
    LIMITS,
    """alter table {s}.limit_use drop column running, drop column closed_until, drop column failures,
    drop column failing_since, drop column opened""",
    "comment on table {s}.limit_use is 'How many places of each bucket jobs took, and when its next start is due'",
    "comment on column {s}.limit_use.taken is 'How many jobs have begun to run; less limit_freed.freed is what runs'",
    "comment on table {s}.limit_freed is 'How many places of each bucket jobs have given back, and what has closed it'",
    "comment on column {s}.limit_freed.version is 'Grows with each change; the highest one is the row that counts'",
    "comment on column {s}.limit_freed.freed is 'How many jobs that had begun do not run any more'",
    "comment on column {s}.limit_freed.closed_until is 'Until when none of its jobs starts: a breaker, or RateLimited'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
