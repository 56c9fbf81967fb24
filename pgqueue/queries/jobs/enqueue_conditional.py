"""Inserting jobs under conditions other than an idempotency key alone: unique keys, with or without a window."""

import json
from collections.abc import Mapping, Sequence
from typing import LiteralString, NamedTuple

from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import NewJob
from pgqueue.queries.base import Query, Row, fill, lines, nothing, packed, sparse
from pgqueue.queries.jobs.enqueue import (
    ENQUEUE,
    ENQUEUE_METERED,
    AdmissionResult,
    EnqueueQueries,
    are_metered,
    conditions_of,
    keyed_headers,
    list_params,
)
from pgqueue.queries.jobs.metered_parts import LANE, METERED_LIST
from pgqueue.queries.jobs.parts import NOTIFY_WORKERS

# The jobs of one call as rows, with their keys. An array of nothing but nulls is sent empty: unnest fills it up.
_GIVEN: LiteralString = r"""given as materialized (
    select nextval('{s}.job_id') as id, g.ord, g.task, g.queue, g.priority, g.args::jsonb as args, g.max_attempts,
           g.tags, g.headers, g.history,{lane} g.key::uuid as key, g.window_seconds,
           decode(g.unique_hash, 'hex') as unique_key,
           case when g.unique_hash is not null then g.while_live end as unique_live,
           coalesce(g.run_at, statement_timestamp() + make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + make_interval(secs => g.ttl)) as expires_at
    from unnest(string_to_array(%(tasks)s, E'\n'), string_to_array(%(queues)s, E'\n'), %(priorities)s::smallint[],
                string_to_array(%(args)s, E'\n'), %(max_attempts)s::int[],
                string_to_array(%(run_ats)s, ',', '')::timestamptz[], string_to_array(%(delays)s, ',', '')::float8[],
                string_to_array(%(tags)s, E'\n', ''), string_to_array(%(headers)s, E'\n', ''), %(histories)s::bool[],
                string_to_array(%(keys)s, E'\n', ''), string_to_array(%(windows)s, ',', '')::float8[],
                string_to_array(%(unique_hashes)s, E'\n', ''), %(while_live)s::bool[],
                string_to_array(%(expires)s, ',', '')::timestamptz[], string_to_array(%(ttls)s, ',', '')::float8[])
         with ordinality as g(task, queue, priority, args, max_attempts, run_at, delay, tags, headers, history, key,
                              window_seconds, unique_hash, while_live, expires, ttl, ord)
    where not %(read_committed_only)s::bool or current_setting('transaction_isolation') like 'read %%'
)"""

_PLAIN: dict[str, LiteralString] = {
    "columns": "", "values": "", "lane": "", "returned": "", "logged_state": "'pending'",
}  # fmt: skip
_METERED: dict[str, LiteralString] = {
    **{name: METERED_LIST[name] for name in ("columns", "values", "lane")},
    "returned": ", state", "logged_state": "state",
}  # fmt: skip

# Insert jobs as ENQUEUE does (what it says of ids, notifications and delays holds here too), each only if it gets its
# unique key. The key is a unique index, and the insert does nothing where the key is taken. The insert waits for a
# transaction that has just taken the key: when that commits, this job is not inserted; when that rolls back, it is. So
# two jobs never have one key, and a key is never left without a job.
# A key cannot make the statement fail, and so abort the caller's transaction, but in one case: the transaction is
# repeatable read or serializable, and the key was committed after its snapshot. Hence `read_committed_only`: in such a
# transaction the statement inserts nothing and returns no row, and the caller runs it again inside a savepoint.
# The naive forms: to look for the key and then insert, which two transactions can do at once; to catch a unique
# violation, which aborts the transaction; `on conflict do update`, which locks the key until the caller's transaction
# ends, though it only asked.
# For a job that was not inserted the caller runs FIND_UNIQUE_HOLDERS: this statement's snapshot is older than the
# transaction it waited for. Two batches cannot deadlock on their keys, because jobs come sorted by them.
# job_live_unique is the arbiter.
_UNIQUE: LiteralString = fill(
    """
with {given}, inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              unique_key, unique_live, expires_at{columns})
    select id, task, queue, priority, args, max_attempts, run_at, coalesce(tags::text[], '{{}}'),
           coalesce(headers::jsonb, '{{}}'), history, statement_timestamp(), unique_key, unique_live, expires_at{values}
    from given order by ord
    on conflict do nothing returning id, queue::text, run_at::timestamptz, history{returned}
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {logged_state} from inserted where history
), {notify_workers}
select given.id, given.run_at, statement_timestamp(), given.id in (select id from inserted), false
from given, workers_notified order by given.ord""",
    given=_GIVEN,
    notify_workers=fill(NOTIFY_WORKERS, jobs="inserted"),
)
ENQUEUE_UNIQUE: LiteralString = fill(_UNIQUE, **_PLAIN)
ENQUEUE_UNIQUE_METERED: LiteralString = fill(_UNIQUE, **_METERED)

# Insert jobs as ENQUEUE_UNIQUE does, each only if it also gets its key in idempotency_key, which stays taken for the
# window, whatever becomes of the job. The primary key of idempotency_key is the arbiter of that; the insert into it
# waits like the one into job_live. A job that gets this key and not the unique one is not inserted, and the caller runs
# GIVE_BACK_KEYS. For a job that did not get it, the caller runs FIND_KEY_HOLDERS.
# `in (select …)` beside another condition stays a hashed subplan; a join of two CTEs, whose sizes the planner does not
# know, would compare each row with each.
# Sealed arguments are not compared (`compared` is false), because a hash of them would help to guess them. That a key
# stands for one request only is then up to the caller.
# The statement is apart from ENQUEUE_UNIQUE so that a producer without windows needs no right to idempotency_key.
_UNIQUE_IN_WINDOW: LiteralString = fill(
    """
with {given}, taken as (
    insert into {s}.idempotency_key (key, request, job_id, created_at, expires_at)
    select key, case when %(compared)s::bool then hashtextextended(args::text collate "C", 0) end, id,
           statement_timestamp(), statement_timestamp() + make_interval(secs => window_seconds)
    from given where key is not null order by ord on conflict do nothing returning job_id
), admitted as materialized (
    select * from given where key is null or id in (select job_id from taken)
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              unique_key, unique_live, expires_at{columns})
    select id, task, queue, priority, args, max_attempts, run_at, coalesce(tags::text[], '{{}}'),
           coalesce(headers::jsonb, '{{}}'), history, statement_timestamp(), unique_key, unique_live, expires_at{values}
    from admitted order by ord
    on conflict do nothing returning id, queue::text, run_at::timestamptz, history{returned}
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {logged_state} from inserted where history
), {notify_workers}
select given.id, given.run_at, statement_timestamp(), given.id in (select id from inserted),
       given.id in (select job_id from taken)
from given, workers_notified order by given.ord""",
    given=_GIVEN,
    notify_workers=fill(NOTIFY_WORKERS, jobs="inserted"),
)
ENQUEUE_UNIQUE_IN_WINDOW: LiteralString = fill(_UNIQUE_IN_WINDOW, **_PLAIN)
ENQUEUE_UNIQUE_IN_WINDOW_METERED: LiteralString = fill(_UNIQUE_IN_WINDOW, **_METERED)

# Give jobs that have not started the arguments, times and options of new ones. The update waits for a claim in flight
# and then looks again: a job that has started meanwhile is left alone, and its id is missing from what comes back. So
# is one that has lost the unique key for which it was found: it expired, and a call that wanted the key has freed it.
# While the transaction that has replaced a job is open, no claim takes the job. By primary key: `is true` keeps the
# planner from the index of unique keys, in which it would step over the dead entries of each key. The state stays,
# but the replacement is logged. Where a rule concerns the new job and none the old one, or the other way round, the
# job is left as it is and returned as one that turns: the caller runs CHANGE_FLOWS, and then this statement again.
# Rows are locked in the order given, so that two of these statements do not wait for each other in a circle: `held`
# looks up one job after the other, whatever the statistics say. The naive form, a join alone, is turned round where the
# planner believes that few jobs have not begun; then rows are locked in the order of the table.
REPLACE: LiteralString = fill(
    r"""
with given as materialized (
    select g.id, g.queue, g.priority, g.args, g.max_attempts, g.tags, g.headers,
           decode(g.unique_hash, 'hex') as unique_key, {lane} as lane,
           coalesce(g.run_at, statement_timestamp() + make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + make_interval(secs => g.ttl)) as expires_at
    from unnest((select %(ids)s::bigint[]), (select string_to_array(%(queues)s, E'\n')),
                (select %(priorities)s::smallint[]), (select string_to_array(%(args)s, E'\n')),
                (select %(max_attempts)s::int[]),
                (select string_to_array(%(run_ats)s, ',', '')::timestamptz[]),
                (select string_to_array(%(delays)s, ',', '')::float8[]),
                (select string_to_array(%(tags)s, E'\n', '')), (select string_to_array(%(headers)s, E'\n', '')),
                (select string_to_array(%(expires)s, ',', '')::timestamptz[]),
                (select string_to_array(%(ttls)s, ',', '')::float8[]),
                (select string_to_array(%(unique_hashes)s, E'\n', '')))
         as g(id, queue, priority, args, max_attempts, run_at, delay, tags, headers, expires, ttl, unique_hash)
), held as materialized (
    select g.*, (job.lane is null) <> (g.lane is null) and (job.unique_key = g.unique_key) is true as turns
    from given g cross join lateral (
        select lane, unique_key from {s}.job_live where id = any(array[g.id]) and attempt = 0 for update
    ) as job
), changed as (
    update {s}.job_live j
    set queue = g.queue, priority = g.priority, args = g.args::jsonb, max_attempts = g.max_attempts, run_at = g.run_at,
        tags = coalesce(g.tags::text[], '{{}}'), headers = coalesce(g.headers::jsonb, '{{}}'),
        expires_at = g.expires_at, lane = g.lane
    from held g where j.id = any(array[g.id]) and j.attempt = 0 and j.state in ('pending', 'blocked')
    and (j.unique_key = g.unique_key) is true and not g.turns
    returning j.id, j.queue::text, j.run_at::timestamptz, j.state, j.lease, j.history
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, lease, reason)
    select id, state, state, lease, 'replaced' from changed where history
), {notify_workers}
select changed.id, false from changed, workers_notified
union all select held.id, true from held where held.turns""",
    lane=fill(LANE, headers="g.headers::jsonb"),
    notify_workers=fill(NOTIFY_WORKERS, jobs="changed"),
)

# Let jobs that have not started wait for other turns, or for none: see the function, in a migration, which only some
# roles need. REPLACE has locked the rows in the order of their keys. By primary key, once a job.
CHANGE_FLOWS: LiteralString = r"""
select {s}.change_flow(g.id, g.flow::jsonb)
from unnest(%(ids)s::bigint[], string_to_array(%(flows)s, E'\n', '')) as g(id, flow)"""

# Begins a transaction, because a driver begins one with its first statement. Needed before a savepoint: psycopg would
# take a savepoint outside of a transaction for the transaction itself, and commit it.
BEGIN: LiteralString = "select"


class Replaced(NamedTuple):
    """The jobs that were replaced, and those that must change their turn first."""

    ids: set[int]
    turning: set[int]


class ConditionalQueries(EnqueueQueries):
    """Inserting jobs under conditions."""

    def enqueue_conditionally(
        self, jobs: Sequence[NewJob], *, read_committed_only: bool = False
    ) -> Query[list[AdmissionResult]]:
        """Insert the jobs that get their keys; all come back in the order given. No two may want the same key.

        With `read_committed_only`, nothing is inserted and no row comes back where the caller's transaction keeps its
        snapshot (repeatable read or serializable).
        """
        conditions = [conditions_of(job) for job in jobs]
        keys, uniques = [each.key_hash for each in conditions], [each.unique_hash for each in conditions]
        params = list_params(jobs, self._args(jobs), [keyed_headers(job) for job in jobs])
        if not any(keys) and not any(uniques):
            return Query(self._sql(ENQUEUE_METERED if are_metered(jobs) else ENQUEUE), _all_admitted, params)
        params |= {
            "read_committed_only": read_committed_only,
            "keys": lines(keys) if any(keys) else "",
            "windows": sparse([each.window for each in conditions]) if any(keys) else "",
            "unique_hashes": lines(uniques) if any(uniques) else "",
            "while_live": packed([each.while_live for each in conditions]) if any(uniques) else "{}",
        }
        if any(keys):
            params["compared"] = self.codec is None
        metered = are_metered(jobs)
        if any(keys):
            template = ENQUEUE_UNIQUE_IN_WINDOW_METERED if metered else ENQUEUE_UNIQUE_IN_WINDOW
        else:
            template = ENQUEUE_UNIQUE_METERED if metered else ENQUEUE_UNIQUE
        return Query(self._sql(template), lambda rows: [AdmissionResult(*row) for row in rows], params)

    def replace(self, ids: Sequence[int], jobs: Sequence[NewJob]) -> Query[Replaced]:
        """Give the jobs with these ids what new ones have, where they have not started and hold the unique key."""
        params = list_params(jobs, self._args(jobs), [keyed_headers(job) for job in jobs])
        del params["tasks"], params["histories"]
        params |= {"ids": packed(ids), "unique_hashes": lines([conditions_of(job).unique_hash for job in jobs])}
        return Query(self._sql(REPLACE), _replaced, params)

    def change_flows(self, flows: Mapping[int, Flow | None]) -> Query[None]:
        """Let jobs that have not started wait for other turns, or for none."""
        texts = [None if flow is None else json.dumps(flow.header()) for flow in flows.values()]
        return Query(self._sql(CHANGE_FLOWS), nothing, {"ids": packed(flows), "flows": lines(texts)})

    def begin(self) -> Query[None]:
        """Do nothing, but begin a transaction where none is open."""
        return Query(BEGIN.encode(), nothing)


def _replaced(rows: Sequence[Row]) -> Replaced:
    return Replaced({job for job, turns in rows if not turns}, {job for job, turns in rows if turns})


def _all_admitted(rows: Sequence[Row]) -> list[AdmissionResult]:
    return [AdmissionResult(job_id, run_at, created_at, True, False) for job_id, run_at, created_at in rows]
