"""Enqueueing from SQL for rules of flow control, and the view of the rules.

Revision ID: 0033
Revises: 0032
"""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

# The function as migrations 0005, 0009 and 0011 have made it, with four more arguments: they say which rules concern
# the job. It reads no rule and locks none: the job carries what decides about its turn. Keys and lane are those of
# pgqueue.jobs.bucket_key and pgqueue.jobs.flow. A job without rules is inserted as before, for roles that may write no
# other column.
ENQUEUE = """
create function {s}.enqueue(
    task text, args jsonb default '{{}}', queue text default 'default', priority integer default 0,
    run_at timestamptz default null, delay interval default null, max_attempts integer default 20,
    tags text[] default '{{}}', headers jsonb default '{{}}',
    idempotency_key text default null, idempotency_window interval default '24 hours',
    unique_key text default null, unique_while text default 'pending', unique_window interval default null,
    on_conflict text default 'skip', expires interval default null, expires_at timestamptz default null,
    flow text[] default '{{}}', limit_key text default null, ordering_key text default null,
    fair_key text default null
) returns bigint language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $enqueue$
#variable_conflict use_column
declare
    moment constant timestamptz := clock_timestamp();
    due constant timestamptz := coalesce(enqueue.run_at, moment + enqueue.delay, moment);
    until constant timestamptz := coalesce(enqueue.expires_at, moment + enqueue.expires);
    request constant bigint := hashtextextended(enqueue.args::text collate "C", 0);
    alone constant bytea := sha256(convert_to(enqueue.task || E'\\n' || enqueue.unique_key, 'UTF8'));
    hash constant uuid := encode(substr(case
        when enqueue.unique_key is null
            then sha256(convert_to(enqueue.task || E'\\n' || enqueue.idempotency_key, 'UTF8'))
        when enqueue.unique_window is not null
            then sha256(decode('00', 'hex') || convert_to(enqueue.task || E'\\n' || enqueue.unique_key, 'UTF8'))
        end, 1, 16), 'hex')::uuid;
    span constant interval := coalesce(enqueue.unique_window, enqueue.idempotency_window);
    metered constant boolean := cardinality(enqueue.flow) > 0
        or num_nonnulls(enqueue.limit_key, enqueue.ordering_key, enqueue.fair_key) > 0;
    own constant text := replace(replace(enqueue.task, '%', '%25'), '/', '%2F');
    "order" text;
    share text;
    buckets text[];
    turn bigint;
    carried jsonb := enqueue.headers;
    job bigint;
    taken boolean;
    holder bigint;
    meant bigint;
    over boolean;
    started boolean;
    problem constant text := case
        when enqueue.task is null or char_length(enqueue.task) not between 1 and 200 or enqueue.task ~ '[[:cntrl:]]'
            then format('task name %L cannot be used: give 1 to 200 printable characters', enqueue.task)
        when coalesce(jsonb_typeof(enqueue.args), '') <> 'object'
            then format('args %L cannot be used: give an object with a name for each value', enqueue.args)
        when coalesce(jsonb_typeof(enqueue.headers), '') <> 'object'
            then format('headers %L cannot be used: give an object', enqueue.headers)
        when enqueue.headers ? '$flow'
            then 'the header $flow cannot be given: say flow, limit_key, ordering_key or fair_key'
        when enqueue.flow is null or cardinality(enqueue.flow) > 20 or array_position(enqueue.flow, null) > 0
        or exists (select from unnest(enqueue.flow) f
                   where split_part(f, '/', 1) = '' or octet_length(split_part(f, '/', 1)) > 1000
                   or substr(f, position('/' in f) + 1) = '' or split_part(f, '/', 1) ~ E'[\\x01-\\x1f\\x7f]')
            then format('flow %L cannot be used: give at most 20 rules, each as rule or rule/key', enqueue.flow)
        when enqueue.limit_key = '' or enqueue.ordering_key = '' or enqueue.fair_key = ''
            then 'an empty key of a rule cannot be used: give some text, or null for none'
        when coalesce(enqueue.queue !~ '^[A-Za-z0-9_][A-Za-z0-9_.:/-]{{0,99}}$', true)
            then format('queue name %L cannot be used: 1 to 100 letters, digits or _ . : / -, '
                        'the first a letter, digit or _', enqueue.queue)
        when coalesce(enqueue.priority not between -100 and 100, true)
            then format('priority %L cannot be used: give -100 to 100 (higher runs sooner)', enqueue.priority)
        when coalesce(enqueue.max_attempts not between 1 and 1000000, true)
            then format('max_attempts %L cannot be used: give 1 (no retries) to 1000000', enqueue.max_attempts)
        when enqueue.tags is null or cardinality(enqueue.tags) > 100 or array_position(enqueue.tags, null) > 0
            then format('tags %L cannot be used: give at most 100 texts', enqueue.tags)
        when num_nonnulls(enqueue.run_at, enqueue.delay) > 1
            then 'run_at and delay exclude each other: give one of them'
        when enqueue.delay < interval '0' or due not between '1900-01-01Z' and '9000-01-01Z'
            then format('run_at %L cannot be used: give a delay of 0 or more, or a year from 1900 to 9000', due)
        when num_nonnulls(enqueue.expires, enqueue.expires_at) > 1
            then 'expires and expires_at exclude each other: give one of them'
        when enqueue.expires <= interval '0' or until not between '1900-01-01Z' and '9000-01-01Z'
            then format('expires at %L cannot be used: give more than 0, or a year from 1900 to 9000', until)
        when until <= due and due > moment
            then format('the job would expire at %L, before it may run at %L', until, due)
        when enqueue.idempotency_key = '' or enqueue.unique_key = ''
            then 'an empty key cannot be used: give some text, or null for none'
        when num_nonnulls(enqueue.idempotency_key, enqueue.unique_key) > 1
            then 'idempotency_key and unique_key exclude each other: give one of them'
        when coalesce(span <= interval '0', true)
            then format('a window of %L cannot be used: give more than 0', span)
        when coalesce(enqueue.unique_while not in ('pending', 'live'), true)
            then format('unique_while %L cannot be used: give pending or live', enqueue.unique_while)
        when coalesce(enqueue.on_conflict not in ('skip', 'replace', 'raise'), true)
            then format('on_conflict %L cannot be used: give skip, replace or raise', enqueue.on_conflict)
        end;
begin
    if problem is not null then
        raise exception '%', problem using errcode = 'invalid_parameter_value';
    end if;
    if metered then
        -- Keys and lane as Python makes them.
        select max(k.bucket) filter (where k.kind = 'order'), max(k.bucket) filter (where k.kind = 'share'),
               array(select d.bucket from (select distinct unnest(array_agg(k.bucket) filter (where k.kind <> 'share')))
                     as d(bucket) where d.bucket is not null order by convert_to(d.bucket, 'UTF8'))
        into "order", share, buckets
        from (select g.kind, g.rule || case
                  when g.key is null then ''
                  when char_length(g.key) > 200 or g.key ~ E'[\\x01-\\x1f\\x7f]'
                      then '/sha256:' || substr(encode(sha256(convert_to(g.key, 'UTF8')), 'hex'), 1, 32)
                  else '/' || g.key end as bucket
              from (select 'limit', split_part(f, '/', 1),
                           case when position('/' in f) > 0 then substr(f, position('/' in f) + 1) end
                    from unnest(enqueue.flow) f
                    union all select 'limit', own, enqueue.limit_key where enqueue.limit_key is not null
                    union all select 'order', own || '#order', enqueue.ordering_key
                    where enqueue.ordering_key is not null
                    union all select 'share', own || '#fair', enqueue.fair_key where enqueue.fair_key is not null
              ) as g(kind, rule, key)) as k;
        turn := (('x' || substr(md5(convert_to(coalesce("order", concat_ws(E'\n', '', coalesce(share, ''),
            case when cardinality(buckets) > 0 then array_to_string(buckets, E'\n') end)), 'UTF8')), 1, 16))::bit(64)
            >> 1)::bigint;
        if "order" is not null then
            turn := -1 - turn;
        end if;
        carried := carried || jsonb_build_object('$flow', jsonb_strip_nulls(jsonb_build_object(
            'lane', turn, 'buckets', buckets, 'order', "order", 'share', share)));
    end if;
    loop
        job := nextval('{s}.job_id');
        taken := true;
        if hash is not null then
            insert into {s}.idempotency_key (key, request, job_id, created_at, expires_at)
            values (hash, request, job, moment, moment + span) on conflict do nothing;
            taken := found;
        end if;
        if taken and enqueue.unique_key is null and metered then
            insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at,
                                      expires_at, lane, state, waits_for)
            values (job, enqueue.task, enqueue.queue, enqueue.priority, enqueue.args, enqueue.max_attempts, due,
                    enqueue.tags, carried || jsonb_strip_nulls(
                        jsonb_build_object('idempotency_key', enqueue.idempotency_key)), moment, until, turn,
                    'blocked', 'turn');
            exit;
        elsif taken and enqueue.unique_key is null then
            insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at,
                                      expires_at)
            values (job, enqueue.task, enqueue.queue, enqueue.priority, enqueue.args, enqueue.max_attempts, due,
                    enqueue.tags, enqueue.headers || jsonb_strip_nulls(
                        jsonb_build_object('idempotency_key', enqueue.idempotency_key)), moment, until);
            exit;
        elsif taken then
            if metered then
                insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers,
                                          created_at, expires_at, unique_key, unique_live, lane, state, waits_for)
                values (job, enqueue.task, enqueue.queue, enqueue.priority, enqueue.args, enqueue.max_attempts, due,
                        enqueue.tags, carried, moment, until, alone, enqueue.unique_while = 'live', turn, 'blocked',
                        'turn')
                on conflict do nothing;
            else
                insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers,
                                          created_at, expires_at, unique_key, unique_live)
                values (job, enqueue.task, enqueue.queue, enqueue.priority, enqueue.args, enqueue.max_attempts, due,
                        enqueue.tags, enqueue.headers, moment, until, alone, enqueue.unique_while = 'live')
                on conflict do nothing;
            end if;
            exit when found;
            if hash is not null then
                delete from {s}.idempotency_key k where k.key = hash and k.job_id = job;
            end if;
            select j.id, j.attempt > 0, coalesce(j.expires_at <= moment and j.attempt = 0, false)
            into holder, started, over from {s}.job_live j where j.unique_key = alone;
            if over then
                update {s}.job_live j set unique_key = null where j.id = holder and j.unique_key = alone
                and j.attempt = 0 and j.expires_at <= moment;
            end if;
            continue when coalesce(over, true);
        else
            select k.job_id, k.request, k.expires_at <= moment, false into holder, meant, over, started
            from {s}.idempotency_key k where k.key = hash;
            if over then
                delete from {s}.idempotency_key k where k.key = hash and k.expires_at <= moment;
            end if;
            continue when coalesce(over, true);
            if enqueue.unique_key is null and meant <> request then
                raise exception 'idempotency key % of task % was used with other arguments, by job %',
                    quote_literal(enqueue.idempotency_key), enqueue.task, holder
                    using errcode = 'unique_violation', hint = 'Use a key for one request only.';
            end if;
            if enqueue.unique_key is null then
                return holder;
            end if;
        end if;
        if enqueue.on_conflict = 'raise' then
            raise exception 'unique key % of task % is held by job %', quote_literal(enqueue.unique_key), enqueue.task,
                holder using errcode = 'unique_violation', hint = 'Or say on_conflict => skip or replace.';
        elsif enqueue.on_conflict = 'skip' or started then
            return holder;
        end if;
        if exists (select from {s}.job_live j where j.id = holder and (j.lane is null) = metered) then
            perform {s}.change_flow(holder, carried -> '$flow');
        end if;
        with changed as (
            update {s}.job_live j set queue = enqueue.queue, priority = enqueue.priority, args = enqueue.args,
                max_attempts = enqueue.max_attempts, run_at = due, tags = enqueue.tags, headers = carried,
                expires_at = until, lane = turn
            where j.id = holder and j.attempt = 0 and j.state in ('pending', 'blocked')
            returning j.id, j.state, j.lease, j.history
        ), logged as (
            insert into {s}.transition (job_id, from_state, to_state, lease, reason)
            select id, state, state, lease, 'replaced' from changed where history
        )
        select id into job from changed;
        exit when job is not null;
        if not taken then
            return holder;
        end if;
    end loop;
    if job is distinct from holder then
        insert into {s}.transition (job_id, to_state) values (job, case when metered then 'blocked' else 'pending' end);
    end if;
    if due <= moment and pg_notification_queue_usage() < 0.5
    and current_setting('pgqueue.notify', true) is distinct from 'off'
    and exists (select from {s}.worker w where w.waiting and enqueue.queue = any(w.queues)) then
        perform pg_notify('{channel}', enqueue.queue);
    end if;
    return job;
end
$enqueue$"""

# Lets a job that has not begun wait for another turn, or for none, where a new job replaces it. It has the owner's
# rights, for a producer changes no state of its own accord. What the job carries and where it stands change together,
# or a check refuses it. A parked job stays parked, unless rules concern it now: who adopts one takes no buckets.
CHANGE_FLOW = """
create function {s}.change_flow(job bigint, flow jsonb) returns void language sql volatile security definer
set search_path = pg_catalog, pg_temp as $change$
with held as (
    select j.id, j.state, case when j.waits_for = 'pause' or j.waits_for = 'task' and change_flow.flow is null
                               then j.waits_for when change_flow.flow is not null then 'turn' end as waits_for
    from {s}.job_live j
    where j.id = change_flow.job and j.attempt = 0 and j.state in ('pending', 'blocked')
    and (change_flow.flow is null or jsonb_typeof(change_flow.flow -> 'buckets') = 'array') for update
), changed as (
    update {s}.job_live j set lane = (change_flow.flow ->> 'lane')::bigint, waits_for = h.waits_for,
        state = case when h.waits_for is null then 'pending' else 'blocked' end,
        headers = case when change_flow.flow is null then j.headers - '$flow'
                       else j.headers || jsonb_build_object('$flow', change_flow.flow) end
    from held h where j.id = h.id
    returning j.id, h.state as was, j.state, j.lease, j.history
)
insert into {s}.transition (job_id, from_state, to_state, lease, reason)
select id, was, state, lease, 'other rules' from changed where history and was <> state
$change$"""

# Postgres keeps two functions of one name with other arguments, so the old one exists until it is dropped. Roles of
# the users' own keep what they were granted.
KEEP_GRANTS = """do $keep$
declare
    kept name;
begin
    for kept in
        select r.rolname from pg_catalog.pg_proc p cross join lateral aclexplode(p.proacl) as a
        join pg_catalog.pg_roles r on r.oid = a.grantee
        where p.pronamespace = '{s}'::regnamespace and p.proname = 'enqueue' and p.pronargs = 17
        and a.grantee <> p.proowner
    loop
        execute format('grant execute on function %s to %I', (
            select p.oid::regprocedure from pg_catalog.pg_proc p
            where p.pronamespace = '{s}'::regnamespace and p.proname = 'enqueue' and p.pronargs = 21), kept);
    end loop;
end
$keep$"""
OLD = """text, jsonb, text, integer, timestamptz, interval, integer, text[], jsonb, text, interval, text, text,
    interval, text, interval, timestamptz"""
NEW = f"{OLD}, text[], text, text, text"

# Lanes are hopped over along job_live_turn, at most 1,000, one probe each, and at most some 10,000 jobs are counted in
# all of them; so the view costs the same however many jobs wait. Of a rule with keys those are shown that have waiting
# jobs, an exception, or a bucket, at most 1,000 of the latter; the row of the rule has their sums.
LIMITS = """create view {s}.limits as
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
left join lateral (select v.running, v.closed_until from {s}.limit_use v
                   where v.name = b.name order by v.version desc limit 1) as u on true
cross join lateral (
    select k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) as key,
           r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) as rule) as pause"""
COLUMNS = {
    "rule": "The rule; a row without a key is the rule itself",
    "key": "The key of a bucket of the rule; null for the rule",
    "kind": "limit, order or fair; null where the rule has no row",
    "keyed_by": "What the keys are made of; null for a rule without keys",
    "max_running": "How many jobs of the bucket may run at a time; null for any number",
    "running": "How many run, of a rule with keys of all that are listed; null for fair shares, which are not counted",
    "waiting": "How many wait for their turn or their time, at most 1000",
    "waiting_capped": "Whether more wait than were counted",
    "rate_count": "How many may start in a period; null without a rate",
    "rate_seconds": "The period of the rate",
    "rate_burst": "How many may start at once; null for the default",
    "rate_strict": "Whether no period has more starts, whenever it begins",
    "scope": "fleet, or worker where each worker counts the starts for itself",
    "on_full": "What becomes of jobs while as many run as may",
    "on_dead": "Whether a dead letter lets the next job in order go, or stops the key",
    "weight": "How often the key has its turn; null for 1",
    "breaker_failures": "After how many failures no job starts; null without a breaker",
    "breaker_seconds": "Within which time they count",
    "breaker_cooldown": "How long none starts then",
    "closed_until": "Until when none starts: a breaker, or RateLimited; null if it is open",
    "paused_at": "Since when it is paused; null if it is not",
    "paused_until": "When the pause ends by itself; null for never",
    "paused_by": "Who paused it",
    "paused_why": "Why it was paused",
    "declared_by": "The apps whose code declares the rule now",
    "in_code": "Whether code has ever declared the rule",
    "updated_at": "When it was changed last",
    "updated_by": "Who changed it since code declared it; null if nobody did",
}

STATEMENTS = (
    CHANGE_FLOW,
    "revoke execute on function {s}.change_flow from public",
    ENQUEUE,
    f"revoke execute on function {{s}}.enqueue({NEW}) from public",
    KEEP_GRANTS,
    f"drop function {{s}}.enqueue({OLD})",
    f"comment on function {{s}}.enqueue({NEW}) is 'Enqueue a job from SQL; returns its id'",
    LIMITS,
    "comment on view {s}.limits is 'Rules of flow control and their keys: what runs, waits, is closed or paused'",
    *(f"comment on column {{s}}.limits.{column} is '{text}'" for column, text in COLUMNS.items()),
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema, channel=schema.strip('"')))
