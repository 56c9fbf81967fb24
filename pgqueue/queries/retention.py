"""Retention: what has ended and is old goes, by whole partitions where it can, else in batches.

No statement here waits for a lock that others want. Partitions of old days are emptied, then dropped, by functions of
the schema (migration 0019): an operator may give them to a role that owns nothing. Jobs whose rule is shorter than the
longest one are deleted in ranges of blocks, with their transitions, each range in a transaction of its own. There is
no index by time to find them, because each outcome of each worker would pay for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.retention import RetentionRule
from pgqueue.queries.base import Query, Statements, fill, first_value, nothing, sparse

BLOCKS = 64  # of a partition that one batch looks at

# Write what the code of an app declares. What an operator has set stands beside it and wins. An app without a name may
# be any of several, so nothing of it is dropped; else those rules go that the app no longer declares. By primary key.
# One process at a time declares: `turn` waits for the others. Two releases drop what the other one writes, and without
# it their rows are locked in opposite orders.
DECLARE: LiteralString = """
with turn as materialized (
    select pg_advisory_xact_lock(hashtext({channel}), hashtext('declare retention'))
), given as materialized (
    select 'retention.' || g.name as name, g.queue, g.task, make_interval(secs => g.seconds) as value
    from turn cross join unnest(%(names)s::text[], %(queues)s::text[], %(tasks)s::text[],
                (select string_to_array(%(seconds)s, ',', '')::float8[])) as g(name, queue, task, seconds)
), dropped as (
    delete from {s}.setting s where s.app = %(app)s::text and s.app <> '' and s.name like 'retention.%%'
    and not exists (select from given g where g.name = s.name and g.queue = s.queue and g.task = s.task)
)
insert into {s}.setting as s (name, queue, task, source, value, app)
select g.name, g.queue, g.task, 'code', g.value, %(app)s from given g
on conflict (name, queue, task, source) do update
set value = excluded.value, app = excluded.app, set_by = excluded.set_by, set_at = clock_timestamp()
where s.value is distinct from excluded.value or s.app <> excluded.app"""

# Set a rule of an operator, or take it away: then what the code declares holds, or the default. By primary key.
SET_RULE: LiteralString = """
insert into {s}.setting (name, queue, task, value, set_by)
values ('retention.' || %(name)s, %(queue)s, %(task)s, make_interval(secs => %(seconds)s::float8), %(by)s)
on conflict (name, queue, task, source) do update
set value = excluded.value, set_by = excluded.set_by, set_at = clock_timestamp()"""
UNSET_RULE: LiteralString = """
delete from {s}.setting
where name = 'retention.' || %(name)s and queue = %(queue)s and task = %(task)s and source = 'operator' returning 1"""

# List the rules that hold, the general ones first.
RULES: LiteralString = """
select r.name, r.queue, r.task, r.value, r.set_by from {s}.retention r
order by (r.queue, r.task) <> ('*', '*'), r.name, r.queue, r.task"""

# Let one process prune for a while, whichever comes first, so that locks are tried for at most three times a minute
# however many processes there are. Who holds the row at this moment has taken the turn. One row, by primary key.
TAKE_TURN: LiteralString = """
with held as materialized (
    select p.at from {s}.pruned p where p.relation = '' and p.age = interval '0'
), free as materialized (
    select p.at from {s}.pruned p where p.relation = '' and p.age = interval '0' for update skip locked
), taken as (
    insert into {s}.pruned as p (relation)
    select '' where not exists (select from held) or exists (select from free)
    on conflict (relation, age) do update set at = clock_timestamp()
    where p.at < now() - make_interval(secs => %(seconds)s::float8)
    returning 1
)
select count(*) > 0 from taken"""

# Tell whether this role can empty and drop old partitions: as the owner, or because the functions run with an owner's
# rights. Reads the catalogue.
ALLOWED: LiteralString = """
select coalesce(bool_and(has_function_privilege(f.oid, 'EXECUTE')
                         and (f.prosecdef or pg_has_role(f.proowner, 'USAGE'))), false)
from pg_catalog.pg_proc f
where f.pronamespace = to_regnamespace(quote_ident({channel}))::oid
and f.proname in ('empty_partition'::name, 'drop_partition'::name)"""

# List old partitions, with Postgres's estimate of their rows, and whether each is to be looked at: what stayed in one
# is looked at once a day. Reads the catalogue.
OLD: LiteralString = """
select o.history, o.partition, o.heap_bytes, o.bytes, greatest(c.reltuples::bigint, 0::bigint),
       coalesce(p.at < now() - interval '1 day', true)
from {s}.old_partition o
join pg_catalog.pg_class c on c.oid = to_regclass(format('%I.%I', {channel}::text, o.partition))::oid
left join {s}.pruned p on p.relation = o.partition and p.age = interval '0'
order by o.first, o.history, o.partition"""

# Empty or drop one old partition: see the migration. False where it cannot be had now.
EMPTY: LiteralString = "select {s}.empty_partition(%(name)s::text)"
DROP: LiteralString = "select {s}.drop_partition(%(name)s::text)"

# The rules by their patterns, and the hash of all of them: whoever has swept under other rules begins anew.
_RULES: LiteralString = """rule as materialized (
    select r.name, r.queue, r.task, coalesce(r.value, interval '1000 years') as value,
           r.queue = '*' and r.task = '*' as general,
           replace(replace(replace(replace(r.queue, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as queues,
           replace(replace(replace(replace(r.task, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as tasks
    from {s}.retention r where r.name in ('succeeded', 'cancelled', 'failed')
)"""
# How long a job is kept: rules for its queue or task replace the general one, and the longest of those counts.
_KEPT: LiteralString = """(
    select coalesce(max(r.value) filter (where not r.general), max(r.value)) from rule r
    where r.name = {state} and {job}.queue::text like r.queues escape '!'
    and {job}.task::text like r.tasks escape '!')"""

# The workflows among `{named}` whose jobs stay, because they live, or a callback of theirs does, which reads results
# after the end, or somebody has them locked: a retry, which needs what has succeeded. Those that have ended are locked,
# so that a retry waits, and then misses what is gone. The state is judged by the newest row: a retry that has committed
# after this statement began is seen. A callback is there before its workflow is settled, so one that is not found has
# ended. By job_live_workflow. The naive form, to ask the workflow alone, lets a callback succeed with a part.
_LIVING: LiteralString = """named as materialized (
    select w.id from {s}.workflow w where w.id = any(array({named}))
), over as materialized (
    select w.id from {s}.workflow w where w.id = any(array(select id from named)) and w.settled
    and (select true from {s}.job_live j where j.workflow_id = w.id limit 1) is null for share skip locked
), living as materialized (
    select id from named except select id from over
)"""

# List where jobs are to be looked for that are too old, though their partition stays: for each partition and each age
# of a rule the block from which on. A partition whose days are not over is swept as rows age, and once more from its
# beginning when all of it is old, because room that became free in it is filled again. Ages from the longest on are for
# whole partitions; in one of several days, and where this role can empty none, they are swept like the others.
SWEEPS: LiteralString = fill(
    """
with {rules}, held as (
    select c.oid, c.relname::text as name, p.*
    from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    cross join lateral regexp_match(c.relname::text, '_([0-9]{{8}})(?:_([0-9]{{8}}))?$') as named
    cross join lateral (
        select to_date(named[1], 'YYYYMMDD')::timestamp at time zone 'UTC',
               coalesce(to_date(named[2], 'YYYYMMDD'), to_date(named[1], 'YYYYMMDD') + 1)::timestamp
               at time zone 'UTC', named[2] is not null
    ) as p(first, past, many)
    where i.inhparent = to_regclass(format('%%I.%%I', {channel}::text, 'job_finished'))::oid and named is not null
), hash as (
    select md5(string_agg(concat_ws(' ', r.name, r.queue, r.task, r.value::text), ',' order by r.name, r.queue, r.task))
    from rule r where r.name <> 'failed'
)
select h.name, h.first, h.past, a.age, h.past <= now() - a.age as closed,
       case when p.closed or h.past > now() - a.age then coalesce(p.block, 0::bigint) else 0::bigint end as block,
       b.blocks, hash.md5
from held h cross join hash
cross join (select max(r.value) as age from rule r where r.name <> 'failed') as longest
cross join (select distinct r.value as age from rule r
            where r.name <> 'failed' and r.value < interval '1000 years') as a
cross join lateral (
    select pg_relation_size(h.oid::regclass) / current_setting('block_size')::bigint as blocks
) as b
left join {s}.pruned p on p.relation = h.name and p.age = a.age and p.rules = hash.md5 and p.age > interval '0'
where h.first < now() - a.age
and (not %(whole)s::bool or h.past > now() - longest.age and (h.many or a.age < longest.age))
and case when p.closed or h.past > now() - a.age then coalesce(p.block, 0::bigint) else 0::bigint end < b.blocks
order by h.first, a.age""",
    rules=_RULES,
)

# Delete the jobs in a range of blocks that are too old, and their transitions, and note how far this is. The range is
# read twice, once for the kinds of jobs in it, so that rules are matched for each kind and not for each job. Rows that
# another transaction has locked (a result that expires) are left: no deadlock, and their partition goes one day anyway.
# So do jobs of workflows that live, and called ones whose callers have not taken their results yet.
# A range with younger rows is not done: it is read again later. By ctid; the times prune partitions, of the transitions
# too, where the index by job finds the rows. The naive `delete … where finished_at < …` reads a whole partition each
# time, and holds its rows and a snapshot for minutes.
SWEEP: LiteralString = fill(
    """
with turn as materialized (
    select pg_try_advisory_xact_lock(hashtext({channel}), hashtext('make partitions')) as mine
), {rules}, kind as materialized (
    select k.*, {kept} as keep
    from (select f.state::text, f.queue::text, f.task::text, max(f.finished_at) as newest,
                 array_agg(f.workflow_id) filter (where f.workflow_id is not null) as workflows
          from {s}.job_finished f where {range} group by 1, 2, 3) as k
), {living}, old as materialized (
    select f.id, f.finished_at, f.created_at from {s}.job_finished f
    join kind k on k.state = f.state and k.queue = f.queue::text and k.task = f.task::text
    where {range} and f.finished_at < now() - k.keep and (select mine from turn)
    and (f.workflow_id is null or f.workflow_id not in (select id from living))
    and (select c.child_id from {s}.call c
         join {s}.step t on t.job_id = c.job_id and t.name = c.step and t.number = c.number and not t.done
         where c.child_id = f.id limit 1) is null
    for update of f skip locked
), gone as (
    delete from {s}.job_finished f using old o
    where f.id = any(array[o.id]) and f.finished_at = o.finished_at
    and f.finished_at >= %(first)s::timestamptz and f.finished_at < %(past)s::timestamptz
), logged as (
    delete from {s}.transition t using old o
    where t.job_id = any(array[o.id]) and t.at >= (select min(o.created_at) from old o)
    and t.at < (select max(o.finished_at) from old o) + interval '1 day'
), young as (
    select coalesce(max(k.newest) >= now() - %(age)s::interval, false) as any from kind k
), noted as (
    insert into {s}.pruned (relation, age, block, closed, rules)
    select %(name)s, %(age)s, case when young.any then %(from)s::bigint else %(to)s::bigint end, %(closed)s, %(rules)s
    from turn, young where turn.mine
    on conflict (relation, age) do update
    set block = excluded.block, closed = excluded.closed, rules = excluded.rules, at = clock_timestamp()
)
select (select count(*) from old), turn.mine, turn.mine and not young.any from turn, young""",
    rules=_RULES,
    living=fill(_LIVING, named="select unnest(k.workflows) from kind k"),
    kept=fill(_KEPT, state="k.state", job="k"),
    range="""f.ctid >= %(start)s::tid and f.ctid < %(end)s::tid
          and f.finished_at >= %(first)s::timestamptz and f.finished_at < %(past)s::timestamptz""",
)

# Delete dead letters that are older than a rule says, and their transitions, in the order of their failure; returns
# where this batch ended. Without a rule, as by default, none is looked at. By dead_letter_failed_at; rows that another
# transaction has locked (a redrive) are left, and those of workflows that live.
PRUNE_DEAD: LiteralString = fill(
    """
with {rules}, looked as materialized (
    select d.id, d.failed_at, d.created_at, d.workflow_id, {kept} as keep from {s}.dead_letter d
    where (d.failed_at, d.id) > (%(after)s::timestamptz, %(after_id)s::bigint)
    and d.failed_at < now() - (select min(r.value) from rule r where r.name = 'failed')
    order by d.failed_at, d.id limit %(at_most)s for update skip locked
), {living}, gone as (
    delete from {s}.dead_letter d using looked l
    where d.id = any(array[l.id]) and l.failed_at < now() - l.keep
    and (l.workflow_id is null or l.workflow_id not in (select id from living))
    returning d.id, d.created_at
), logged as (
    delete from {s}.transition t using gone g
    where t.job_id = any(array[g.id]) and t.at >= (select min(g.created_at) from gone g)
)
select (select count(*) from gone), max(l.failed_at), (array_agg(l.id order by l.failed_at desc, l.id desc))[1]
from looked l""",
    rules=_RULES,
    living=fill(_LIVING, named="select l.workflow_id from looked l"),
    kept=fill(_KEPT, state="'failed'", job="d"),
)

# Delete the oldest ticks that are older than the rule says: never the last one of a schedule, nor one that waits. Walks
# from schedule to schedule on the primary key, and deletes at most so many of each.
PRUNE_TICKS: LiteralString = """
with recursive name as (
    (select f.schedule from {s}.schedule_fire f order by f.schedule limit 1)
    union all
    select (select f.schedule from {s}.schedule_fire f where f.schedule > n.schedule order by f.schedule limit 1)
    from name n where n.schedule is not null
), old as materialized (
    select f.schedule, f.tick from name n cross join lateral (
        select f.schedule, f.tick from {s}.schedule_fire f
        where f.schedule = n.schedule and f.outcome <> 'queued'
        and f.tick < now() - (select r.value from {s}.retention r where r.name = 'ticks')
        and f.tick < (select l.tick from {s}.schedule_fire l where l.schedule = n.schedule
                      order by l.tick desc limit 1)
        order by f.tick limit %(at_most)s for update skip locked) as f
), gone as (
    delete from {s}.schedule_fire f using old o where f.schedule = any(array[o.schedule]) and f.tick = o.tick
)
select count(*) from old"""

# Delete operations that ended longer ago than the rule says. Few rows, and by primary key.
PRUNE_OPERATIONS: LiteralString = """
with old as materialized (
    select p.id from {s}.operation p
    where p.ended_at < now() - (select r.value from {s}.retention r where r.name = 'operations')
    order by p.id limit %(at_most)s for update skip locked
), gone as (
    delete from {s}.operation p using old o where p.id = any(array[o.id])
)
select count(*) from old"""

# Forget the marks of partitions that are gone.
FORGET: LiteralString = """
delete from {s}.pruned p where p.relation <> ''
and to_regclass(format('%I.%I', {channel}::text, p.relation)) is null"""

# Count in a sample of a partition's pages how many of its jobs SWEEP would delete. As many pages are read as the caller
# says, of however many.
SAMPLE: LiteralString = fill(
    """
with {rules}, kind as materialized (
    select f.state, f.queue::text, f.task::text, f.finished_at
    from {s}.job_finished f tablesample system (%(percent)s::real)
    where f.finished_at >= %(first)s::timestamptz and f.finished_at < %(past)s::timestamptz
), kept as materialized (
    select k.*, {kept} as keep from (select distinct k.state, k.queue, k.task from kind k) as k
)
select count(*), count(*) filter (where j.finished_at < now() - k.keep)
from kind j join kept k on k.state = j.state and k.queue = j.queue and k.task = j.task""",
    rules=_RULES,
    kept=fill(_KEPT, state="k.state", job="k"),
)

# Count what the other statements would delete.
COUNT_OLD: LiteralString = fill(
    """
with {rules}
select 'dead_letter', count(*) from {s}.dead_letter d
where d.failed_at < now() - (select min(r.value) from rule r where r.name = %(state)s::text)
and d.failed_at < now() - {kept}
union all
select 'schedule_fire', count(*) from {s}.schedule_fire f
where f.outcome <> 'queued' and f.tick < now() - (select r.value from {s}.retention r where r.name = 'ticks')
and exists (select from {s}.schedule_fire l where l.schedule = f.schedule and l.tick > f.tick)
union all
select 'operation', count(*) from {s}.operation p
where p.ended_at < now() - (select r.value from {s}.retention r where r.name = 'operations')""",
    rules=_RULES,
    kept=fill(_KEPT, state="%(state)s::text", job="d"),
)

# Rest between two batches, so that pruning takes no connection's place at the processor for long.
REST: LiteralString = "select pg_sleep(%(seconds)s::float8)"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that holds: what `name` says is kept for `age`; None is for ever. `set_by`: who said so."""

    name: str
    queue: str
    task: str
    age: timedelta | None
    set_by: str

    def as_dict(self) -> dict[str, Any]:
        """Return the rule as `--json` prints it."""
        seconds = None if self.age is None else self.age.total_seconds()
        return {"name": self.name, "queue": self.queue, "task": self.task, "seconds": seconds, "set_by": self.set_by}


class OldPartition(NamedTuple):
    """A partition of which every row is older than the longest rule. `rows` is Postgres's estimate."""

    history: str
    name: str
    heap_bytes: int
    bytes: int
    rows: int
    due: bool


class Sweep(NamedTuple):
    """Where to look for jobs that are older than `age`: in the blocks of a partition from `block` on."""

    name: str
    first: datetime
    past: datetime
    age: timedelta
    closed: bool
    block: int
    blocks: int
    rules: str

    @property
    def next_range(self) -> "Sweep":
        """Where it goes on after a batch."""
        return self._replace(block=self.block + BLOCKS)


class Swept(NamedTuple):
    """What became of a range: how many jobs went, whether this process had the turn, and whether to go on."""

    gone: int
    mine: bool
    goes_on: bool


class RetentionQueries(Statements):
    """Retention."""

    def declare(self, app: str, rules: Sequence[RetentionRule]) -> Query[None]:
        """Write the rules that the code of an app declares. Those of operators stay."""
        params = {
            "app": app,
            "names": [rule.name for rule in rules],
            "queues": [rule.queue for rule in rules],
            "tasks": [rule.task for rule in rules],
            "seconds": sparse([rule.seconds for rule in rules]),
        }
        return Query(self._sql(DECLARE), nothing, params)

    def set_rule(self, rule: RetentionRule, by: str) -> Query[None]:
        """Set an operator's rule."""
        params = {"name": rule.name, "queue": rule.queue, "task": rule.task, "seconds": rule.seconds, "by": by}
        return Query(self._sql(SET_RULE), nothing, params)

    def unset_rule(self, name: str, queue: str, task: str) -> Query[bool]:
        """Take an operator's rule away; tells whether there was one."""
        return Query(self._sql(UNSET_RULE), bool, {"name": name, "queue": queue, "task": task})

    def rules(self) -> Query[list[Rule]]:
        """Return the rules that hold."""
        return Query(self._sql(RULES), lambda rows: [Rule(*row) for row in rows])

    def take_turn(self, seconds: float) -> Query[bool]:
        """Tell whether this process may prune now: no other one has begun within so many seconds."""
        return Query(self._sql(TAKE_TURN), first_value, {"seconds": seconds})

    def allowed(self) -> Query[bool]:
        """Tell whether this role can empty and drop old partitions."""
        return Query(self._sql(ALLOWED), first_value)

    def old_partitions(self) -> Query[list[OldPartition]]:
        """Return the partitions that can be emptied and dropped, the oldest first."""
        return Query(self._sql(OLD), lambda rows: [OldPartition(*row) for row in rows])

    def empty_partition(self, name: str) -> Query[bool]:
        """Empty an old partition; false if it cannot be had now."""
        return Query(self._sql(EMPTY), first_value, {"name": name})

    def drop_partition(self, name: str) -> Query[bool]:
        """Drop an old partition that is empty; false if it cannot be had now."""
        return Query(self._sql(DROP), first_value, {"name": name})

    def sweeps(self, whole: bool) -> Query[list[Sweep]]:
        """Return where to look for old jobs. `whole`: whether old partitions are emptied as a whole."""
        return Query(self._sql(SWEEPS), lambda rows: [Sweep(*row) for row in rows], {"whole": whole})

    def sweep(self, sweep: Sweep, blocks: int = BLOCKS) -> Query[Swept]:
        """Prune a range of blocks."""
        params = {
            "name": sweep.name, "first": sweep.first, "past": sweep.past, "age": sweep.age, "closed": sweep.closed,
            "from": sweep.block, "to": sweep.block + blocks, "rules": sweep.rules,
            "start": f"({sweep.block},0)", "end": f"({sweep.block + blocks},0)",
        }  # fmt: skip
        return Query(self._sql(SWEEP), lambda rows: Swept(*rows[0]), params)

    def prune_dead(self, at_most: int, after: tuple[datetime, int] | None) -> Query[tuple[int, datetime | None, int]]:
        """Prune dead letters; returns how many went, and the last one that was looked at."""
        params = {"at_most": at_most, "after": after[0] if after else "-infinity", "after_id": after[1] if after else 0}
        return Query(self._sql(PRUNE_DEAD), lambda rows: (rows[0][0], rows[0][1], rows[0][2]), params)

    def prune_ticks(self, at_most: int) -> Query[int]:
        """Prune at most so many old ticks of each schedule; returns how many."""
        return Query(self._sql(PRUNE_TICKS), first_value, {"at_most": at_most})

    def prune_operations(self, at_most: int) -> Query[int]:
        """Prune at most so many operations; returns how many."""
        return Query(self._sql(PRUNE_OPERATIONS), first_value, {"at_most": at_most})

    def sample(self, sweep: Sweep, percent: float) -> Query[tuple[int, int]]:
        """Count the jobs in a sample of a partition, and those among them that a sweep would delete."""
        params = {"percent": percent, "first": sweep.first, "past": sweep.past}
        return Query(self._sql(SAMPLE), lambda rows: (rows[0][0], rows[0][1]), params)

    def count_old(self) -> Query[list[tuple[str, int]]]:
        """Count old dead letters, ticks and operations, by their table."""
        return Query(self._sql(COUNT_OLD), lambda rows: [(row[0], row[1]) for row in rows], {"state": "failed"})

    def forget(self) -> Query[None]:
        """Forget the marks of partitions that are gone."""
        return Query(self._sql(FORGET), nothing)

    def rest(self, seconds: float) -> Query[None]:
        """Wait on the server."""
        return Query(self._sql(REST), nothing, {"seconds": seconds})
