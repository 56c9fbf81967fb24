"""Jobs may keep their places of a limit while they wait: `Limit(…, while_waiting=True)`.

Revision ID: 0047
Revises: 0046
"""

from alembic import op

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None

# As in migration 0036, with the jobs that keep their places while they wait, at most 10,000 of each bucket.
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
    case when k.rule is not null then k.updated_by else r.updated_by end as updated_by,
    coalesce(r.while_waiting, false) as while_waiting,
    case when n.key is not null then coalesce(kept.jobs, 0)
         else coalesce(sum(kept.jobs) over (partition by n.rule), 0) end::bigint as held,
    case when r.while_waiting then (select c.at from {s}.compat c where c.revision = 'while_waiting') end
        as while_waiting_since
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
left join lateral (
    select count(*) as jobs from (
        select from {s}.limit_hold h where h.bucket = b.name limit 10000) as h) as kept on true
cross join lateral (
    select k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) as key,
           r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) as rule) as pause"""

# Gives back the places that waiting jobs have kept and that end, or wait in another way from now on: in the statement
# that moves them, and with the owner's rights, for whoever cancels a job may not count. `leases`: those of the rows
# that the caller has moved and so has locked; a place that was kept under another lease is none any more. The rows of
# buckets are locked in the order of their names, as all do. Returns how many places.
GIVE_BACK = """create function {s}.give_back(jobs bigint[], leases bigint[]) returns bigint language sql volatile
security definer set search_path = pg_catalog, pg_temp as $give$
with gone as (
    delete from {s}.limit_hold h using unnest(give_back.jobs, give_back.leases) as g(job, lease)
    where h.job_id = g.job returning h.bucket, h.lease = g.lease as counts
), seen as materialized (
    select b.bucket, b.places, f.version
    from (select gone.bucket, count(*) as places from gone where gone.counts group by gone.bucket) as b
    cross join lateral (
        select f.version from {s}.limit_freed f where f.name = b.bucket order by f.version desc limit 1) as f
    order by b.bucket
), held as materialized (
    select s.* from seen s cross join lateral (
        select from {s}.limit_freed f where f.name = any(array[s.bucket]) and f.version >= s.version for update) as f
), freed as (
    update {s}.limit_freed f set freed = f.freed + h.places, version = f.version + 1
    from held h where f.name = any(array[h.bucket]) and f.version >= h.version
    returning h.places
)
select coalesce(sum(freed.places), 0)::bigint from freed
$give$"""

# Lets places be kept as soon as some rule asks for it and no process lives that does not know of them: it would take
# them for places that were never given back. From then on such a process refuses to start, until no rule asks for it
# any more and no place is kept. The table of workers is locked as by a contract, so that none comes in between, but
# only where no such process was found without the lock: as long as one lives, every worker asks twice a minute, and
# beats would wait behind the lock. Returns the process of an older release for which everybody waits.
KEEP_PLACES = """create function {s}.keep_places() returns text language plpgsql volatile
security definer set search_path = pg_catalog, pg_temp as $keep$
declare
    kept boolean := exists (select from {s}.compat c where c.revision = 'while_waiting');
    wanted boolean := exists (select from {s}.limit_rule r where r.while_waiting);
    older text;
begin
    if kept = wanted or not wanted and exists (select from {s}.limit_hold) then
        return null;
    end if;
    if not wanted then
        delete from {s}.compat c where c.revision = 'while_waiting';
        return null;
    end if;
    for locked in 0..1 loop
        if locked = 1 then
            lock table {s}.worker in share row exclusive mode;
        end if;
        select format('%s on %s, pid %s, release %s', w.kind, w.host, w.pid, w.version) into older from {s}.worker w
        where w.lost_at is null and (w.knows is null or w.knows < '0047')
        and w.heartbeat_at >= clock_timestamp() - make_interval(secs => least(w.lease_seconds, 86400))
        order by w.started_at limit 1;
        if older is not null then
            return older;
        end if;
    end loop;
    insert into {s}.compat (revision, needs) values ('while_waiting', '0047') on conflict do nothing;
    return null;
end
$keep$"""

STATEMENTS = (
    "alter table {s}.limit_rule add column while_waiting boolean not null default false",
    # The places that jobs keep while they wait. One counts as long as its job waits under the lease under which it was
    # kept: whoever claims the job, or an end that does not know this table, makes the row a leftover.
    """create table {s}.limit_hold (
    job_id bigint not null,
    bucket text collate "C" not null,
    lease bigint not null,
    primary key (job_id, bucket)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)""",
    "create index limit_hold_bucket on {s}.limit_hold (bucket)",
    "comment on table {s}.limit_hold is 'The places of limits that jobs keep while they wait for a time or an event'",
    "comment on column {s}.limit_rule.while_waiting is 'Whether a job keeps its place while it sleeps or waits'",
    LIMITS,
    GIVE_BACK,
    KEEP_PLACES,
    "revoke all on function {s}.give_back(bigint[], bigint[]), {s}.keep_places() from public",
    "comment on column {s}.limits.while_waiting is 'Whether a job keeps its place while it sleeps or waits'",
    "comment on column {s}.limits.held is 'How many of those that count as running wait and keep their places'",
    "comment on column {s}.limits.while_waiting_since is 'Since when no older release keeps the rule from that'",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema))
