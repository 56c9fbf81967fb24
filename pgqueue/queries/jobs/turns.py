"""SQL about metered jobs that several statements have in common: when their turn comes, and their buckets."""

from typing import LiteralString

from pgqueue.queries.base import fill

# A job that waits for its turn: the predicate of job_live_turn.
WAITS: LiteralString = "j.state = 'blocked' and j.waits_for = 'turn'"

# The third column of job_live_turn: when the job's turn is in its lane. Jobs in order keep their place by id, also
# while they wait for another attempt.
TURN_AT: LiteralString = "(case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end)"

# A job goes back to where it waits: `j` is its row.
BACK_TO: LiteralString = "case when j.lane is null then 'pending' else 'blocked' end"
BACK_FOR: LiteralString = "case when j.lane is not null then 'turn' end"

# Whether rule or key `p` is paused. A pause with an end is over by the database's clock; nobody has to write that.
PAUSED: LiteralString = "{p}.paused_at is not null and ({p}.paused_until is null or {p}.paused_until > now())"

# How many starts a rate admits at once, and the seconds between two if all come evenly. By the generic cell rate
# algorithm (ITU-T I.371): a bucket keeps when its next start would be due if all came evenly (`tat`), and admits one as
# long as that is less than a burst away. In a window of W seconds less than `burst + W / step` jobs start. With the
# step of a strict rate that is never more than `rate_count` in any window of `rate_seconds`. For that a claim reads the
# clock when it has its locks. The naive form reads now(): a claim that has waited for a lock would start its burst and
# note that it did so before the wait, and the next claim would start another burst at once. What a strict rate sustains
# is `rate_count - burst + 1` in each period. The step is rounded up to microseconds, which the clock has.
BURST: LiteralString = """coalesce(r.rate_burst,
        case when r.rate_strict then greatest(r.rate_count / 10, 1) else r.rate_count end)"""
STEP: LiteralString = fill(
    """(ceil(1000000::float8 * r.rate_seconds / (r.rate_count - case when r.rate_strict then {burst} - 1 else 0 end
        )::float8) / 1000000::float8)""",
    burst=BURST,
)

# The state of a bucket: `running`, what closes it, and its rate. How many of its jobs run is what they have taken less
# what they have given back, two numbers that only grow. Both are read in the snapshot of the statement, from the right
# ends of the primary keys; `{name}` is the bucket's name.
BUCKET: LiteralString = """(
            select t.*, greatest(least(t.taken - f.freed, 2147483647), 0)::int as running, f.closed_until, f.opened
            from (select t.* from {s}.limit_use t where t.name = {name} order by t.version desc limit 1) as t
            cross join lateral (
                select f.* from {s}.limit_freed f where f.name = t.name order by f.version desc limit 1) as f)"""

# The rule of bucket `u`, and the exception for its key. By primary keys. `burst` and `step` are those of its rate, and
# null without one; a subquery of its own makes them once, or each use of them would be worked out anew.
RULES: LiteralString = fill(
    """left join lateral (
            select r.*, case when r.rate_count is not null then {burst} end as burst,
                   case when r.rate_count is not null then {step} end as step
            from {s}.limit_rule r where r.name = u.rule limit 1) as r on true
        left join lateral (
            select * from {s}.limit_key k
            where k.rule = u.rule and k.key = substr(u.name, char_length(u.rule) + 2) limit 1
        ) as k on true""",
    burst=BURST,
    step=STEP,
)

# What a claim asks of a bucket: `u` is the bucket, `r` its rule, if there is one, and `k` the exception for its key.
# `step`: seconds between two starts; null without a rate. `room`: how many jobs may start now. `moment`: the time by
# which rates are judged. A breaker that has opened before lets one job run at a time, until that one has ended well.
ROOM: LiteralString = fill(
    """
        case when r.scope = 'fleet' then r.step end as step,
        greatest(least(2147483647,
            coalesce(k.max_running, r.max_running) - u.running,
            case when {rule_paused} or {key_paused} or u.closed_until > now() then 0 end,
            case when r.breaker_failures is not null and u.opened > 0 then 1 - u.running end,
            case when r.rate_count is not null and r.scope = 'fleet' then
                floor(r.burst::float8 - extract(epoch from greatest(u.tat, {moment}) - {moment})::float8 / r.step)::int
                end
        ), 0) as room""",
    rule_paused=fill(PAUSED, p="r"),
    key_paused=fill(PAUSED, p="k"),
)
# What a look asks more. `opens_at`: when there will be room; infinity where that depends on others, null where there is
# room. `pace`: a rate that each worker keeps for itself.
OPENING: LiteralString = fill(
    """
        greatest(
            case when {rule_paused} then coalesce(r.paused_until, 'infinity') end,
            case when {key_paused} then coalesce(k.paused_until, 'infinity') end,
            case when u.closed_until > now() then u.closed_until end,
            case when r.rate_count is not null and r.scope = 'fleet'
                      and u.tat > now() + make_interval(secs => (r.burst - 1)::float8 * r.step)
                 then u.tat - make_interval(secs => (r.burst - 1)::float8 * r.step) end,
            case when coalesce(k.max_running, r.max_running) <= u.running
                      or r.breaker_failures is not null and u.opened > 0 and u.running > 0
                 then 'infinity'::timestamptz end
        ) as opens_at,
        case when r.rate_count is not null and r.scope = 'worker'
             then jsonb_build_array(u.name, r.burst, r.step) end as pace""",
    rule_paused=fill(PAUSED, p="r"),
    key_paused=fill(PAUSED, p="k"),
)

# Give the buckets back that jobs took while they ran, in the statement that moves the jobs out of running: so a slot of
# a limit is free if and only if its job does not run any more, whatever dies when. Reads `left_running`: of each job
# that moved, or of `jobs` that are alike, the `buckets`, `seconds`, for which the buckets named in `closes` admit
# nothing more, and `failed`: true for a failure, false for a success, null for neither.
# Claims change another row, so that no claim waits for an end and no end for a claim. Ends wait for each other: the
# jobs' rows are locked first and then the buckets, in the order of their names. Who locks both rows of a bucket locks
# this one first. `freed_seen` finds the newest version that this statement can see, and `freed_held` waits for whoever
# changes the row, and locks the version that is the newest by then. `version >=` with the name as an array makes the
# update begin at that version: by the name alone the planner walks over all the dead ones.
# A breaker counts failures in a window from the first one on. Once there are too many the bucket is closed, twice as
# long each time that its probe fails too, at most 32 times. Ends while it is closed say nothing more.
# The part stands last in its statement: of several changes that nobody reads from, Postgres carries out the last one
# first. So an end is logged after it has the lock, and the times of the log are in the order of the commits.
FREE_BUCKETS: LiteralString = """alike as (
    select buckets, failed, closes, seconds, sum(jobs) as jobs
    from left_running group by buckets, failed, closes, seconds
), given_back as (
    select b.name, sum(a.jobs)::bigint as jobs,
           sum(case when a.failed then a.jobs else 0::numeric end)::int as failures,
           bool_or(not a.failed) as succeeded, max(case when b.name = any(a.closes) then a.seconds end) as seconds
    from alike a cross join lateral jsonb_array_elements_text(a.buckets) as b(name) group by b.name
), freed_seen as materialized (
    select g.*, f.version from given_back g
    cross join lateral (
        select f.version from {s}.limit_freed f where f.name = g.name order by f.version desc limit 1) as f
    order by g.name collate "C"
), freed_held as materialized (
    select s.*, f.closed_until is null or f.closed_until <= now() as counts,
           case when f.failing_since > now() - make_interval(secs => r.breaker_seconds) then f.failures else 0 end
               as failures_before, f.opened > 0 as probed, r.breaker_failures, r.breaker_cooldown
    from freed_seen s
    cross join lateral (
        select * from {s}.limit_freed f where f.name = any(array[s.name]) and f.version >= s.version for update) as f
    left join lateral (select * from {s}.limit_rule r where r.name = f.rule limit 1) as r on true
), judged as (
    select h.*, h.counts and h.failures > 0
        and (h.probed or h.failures_before + h.failures >= h.breaker_failures) is true as opens
    from freed_held h
), freed as (
    update {s}.limit_freed f
    set freed = f.freed + h.jobs, version = f.version + 1,
        closed_until = greatest(
            case when not (h.counts and h.succeeded and not h.opens) is true then f.closed_until end,
            now() + make_interval(secs => h.seconds),
            case when h.opens then now() + make_interval(
                secs => h.breaker_cooldown * 2::float8 ^ least(f.opened, 5)::float8) end),
        opened = case when h.opens then least(f.opened + 1, 1000)
                      when h.counts and h.succeeded then 0 else f.opened end,
        failures = case when h.opens or not h.counts or h.breaker_failures is null then 0
                        when h.succeeded and h.failures = 0 then 0
                        else h.failures_before + h.failures end,
        failing_since = case when h.opens or not h.counts or h.breaker_failures is null or h.succeeded
                                  and h.failures = 0 then null
                             when h.failures_before > 0 then f.failing_since
                             when h.failures > 0 then now() end
    from judged h where f.name = any(array[h.name]) and f.version >= h.version
)"""

# The condition by which the locks of gates and workflows come first, in statements that have them.
AFTER_TOLD: LiteralString = " and (select count(*) from workflows_told) >= 0"

# Give the buckets back that jobs took which have all succeeded: what FREE_BUCKETS does, with the same promises. What a
# success changes depends on no rule and on no other end of the batch, so no rule is read. Naive is to leave the locks
# out as well: the planner may join the update with the rows in another order than that of their names, and two batches
# with the same buckets wait for each other. Reads `left_running`: `buckets`, and how many `jobs` have them.
FREE_OF_SUCCEEDED: LiteralString = """given_back as (
    select b.name, sum(l.jobs)::bigint as jobs
    from left_running l cross join lateral jsonb_array_elements_text(l.buckets) as b(name) group by b.name
), freed_seen as materialized (
    select g.name, g.jobs, f.version from given_back g
    cross join lateral (
        select f.version from {s}.limit_freed f where f.name = g.name order by f.version desc limit 1) as f
    order by g.name collate "C"
), freed_held as materialized (
    select s.* from freed_seen s
    cross join lateral (
        select from {s}.limit_freed f where f.name = any(array[s.name]) and f.version >= s.version for update) as f
), freed as (
    update {s}.limit_freed f
    set freed = f.freed + h.jobs, version = f.version + 1,
        closed_until = case when f.closed_until > now() then f.closed_until end,
        opened = case when f.closed_until > now() then f.opened else 0 end,
        failures = 0, failing_since = null
    from freed_held h where f.name = any(array[h.name]) and f.version >= h.version
)"""

# The rules and keys of the buckets that `headers` names. An order is among them, also one whose jobs let others pass
# while they wait for another attempt, and which is no order of the lane therefore.
_KEYS: LiteralString = """(
        select split_part(b.name, '/', 1) as rule, substr(b.name, position('/' in b.name) + 1) as key
        from jsonb_array_elements_text(headers::jsonb -> '$flow'::text -> 'buckets'::text) as b(name))"""

# Stop the keys whose order says that a dead letter holds up those behind it: pause each in the statement that writes
# the dead letter, which also changes the version of its bucket. A claim that began before finds another version and
# takes nothing; one that begins later reads the pause. Reads `ended`: id, headers, lane, target. It takes the place of
# a pause by a person, since its end must not let the next job pass. Keys are locked in their order, `{after}` gates and
# workflows: a rescue that has a key and waits for a gate would tie a knot with who ends a member and wants the key.
STOP_KEYS: LiteralString = fill(
    """stopped as (
    insert into {s}.limit_key as c (rule, key, paused_at, paused_by, paused_why, updated_by)
    select distinct on (k.rule, k.key) k.rule, k.key, now(), 'pgqueue', concat_ws(' ', 'dead letter', e.id), 'pgqueue'
    from (select id, headers from ended where target = 'failed' and lane is not null{after}) as e
    cross join lateral {keys} as k
    cross join lateral (
        select from {s}.limit_rule r where r.name = k.rule and r.kind = 'order' and r.on_dead = 'stop' limit 1) as r
    order by k.rule, k.key, e.id
    on conflict (rule, key) do update set paused_at = excluded.paused_at, paused_until = null,
        paused_by = excluded.paused_by, paused_why = excluded.paused_why, updated_at = now(),
        updated_by = excluded.updated_by
)""",
    keys=_KEYS,
)

# Let the keys go on that these dead letters have stopped. Reads `gone`: id, headers. `resumable` locks them in the
# order of STOP_KEYS, `{after}` gates and workflows. A key that another dead letter has stopped meanwhile stays
# stopped. Naive is to update them in whatever order the dead letters come: who stops two of them anew, because
# an operator lets several jobs of a key run, has the first and waits for the second, and each waits for the other. By
# primary key.
RESUME_STOPPED: LiteralString = fill(
    """resumable as materialized (
    select c.rule, c.key from (
        select g.id, k.rule, k.key from (select id, headers from gone where headers::jsonb ? '$flow'::text{after}) as g
        cross join lateral {keys} as k order by k.rule, k.key, g.id) as g
    cross join lateral (
        select c.rule, c.key from {s}.limit_key c
        where c.rule = any(array[g.rule]) and c.key = g.key and c.paused_by = 'pgqueue'
        and c.paused_why = concat_ws(' ', 'dead letter', g.id) for update) as c
), resumed as (
    update {s}.limit_key c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = now(), updated_by = 'pgqueue'
    from resumable r where c.rule = any(array[r.rule]) and c.key = r.key
)""",
    keys=_KEYS,
)
