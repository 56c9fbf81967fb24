"""Rules of flow control as rows: what code declares and people change."""

import builtins
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, LiteralString

from pgqueue.jobs.limit_rule import LimitRule
from pgqueue.queries.base import Query, Statements, fill, nothing
from pgqueue.queries.jobs.parts import MAY_NOTIFY

# Write the rules that the code of an app declares. A rule gets what is declared if that is new or has changed; else
# what somebody has set by hand stands. Pauses and exceptions of keys stay in any case. `declared_by` says which apps
# declare a rule now; one that none declares any more stays, because jobs may carry it.
# One process at a time declares: `turn` waits for the others, whose rows would be locked in opposite orders by two
# releases. This statement's snapshot may be older than that wait, so each part looks again at the newest row: a row
# that another process has just written is not written twice. The parts write different rows: an upsert raises where its
# own statement has changed the row. By primary key; there are few rows.
DECLARE: LiteralString = """
with turn as materialized (
    select pg_advisory_xact_lock(hashtext({channel}), hashtext('declare limits'))
), given as materialized (
    select g.* from turn cross join jsonb_to_recordset(%(rules)s::jsonb) as g(
        name text, kind text, max_running int, rate_count int, rate_seconds float8, rate_burst int, rate_strict boolean,
        scope text, on_full text, on_dead text, breaker_failures int, breaker_seconds float8, breaker_cooldown float8,
        declared jsonb)
), joined as (
    update {s}.limit_rule r set declared_by = array_append(r.declared_by, %(app)s::text)
    from given g where r.name = g.name and r.declared = g.declared and not %(app)s::text = any(r.declared_by)
), left_out as (
    update {s}.limit_rule r set declared_by = array_remove(r.declared_by, %(app)s::text)
    where %(app)s::text <> '' and %(app)s::text = any(r.declared_by) and not exists (
        select from given g where g.name = r.name)
)
insert into {s}.limit_rule as r (name, kind, max_running, rate_count, rate_seconds, rate_burst, rate_strict, scope,
    on_full, on_dead, breaker_failures, breaker_seconds, breaker_cooldown, declared, declared_by)
select g.name, g.kind, g.max_running, g.rate_count, g.rate_seconds, g.rate_burst, g.rate_strict, g.scope, g.on_full,
       g.on_dead, g.breaker_failures, g.breaker_seconds, g.breaker_cooldown, g.declared, array[%(app)s::text]
from given g where not exists (select from {s}.limit_rule k where k.name = g.name and k.declared = g.declared)
order by g.name
on conflict (name) do update set kind = excluded.kind, max_running = excluded.max_running,
    rate_count = excluded.rate_count, rate_seconds = excluded.rate_seconds, rate_burst = excluded.rate_burst,
    rate_strict = excluded.rate_strict, scope = excluded.scope, on_full = excluded.on_full, on_dead = excluded.on_dead,
    breaker_failures = excluded.breaker_failures, breaker_seconds = excluded.breaker_seconds,
    breaker_cooldown = excluded.breaker_cooldown, declared = excluded.declared,
    declared_by = array_append(array_remove(r.declared_by, %(app)s::text), %(app)s::text),
    updated_at = clock_timestamp(), updated_by = null
where r.declared is distinct from excluded.declared"""

_COLUMNS: LiteralString = """l.rule, l.key, l.kind, l.keyed_by, l.max_running, l.running, l.waiting, l.waiting_capped,
       l.rate_count, l.rate_seconds, l.rate_burst, l.rate_strict, l.scope, l.on_full, l.on_dead, l.weight,
       l.breaker_failures, l.breaker_seconds, l.breaker_cooldown, l.closed_until, l.paused_at, l.paused_until,
       l.paused_by, l.paused_why, l.declared_by, l.in_code, l.updated_at, l.updated_by"""

# List rules, and those keys of each that matter. The view reads a bounded number of lanes, jobs and keys.
LIST: LiteralString = fill(
    """
select {columns} from {s}.limits l where %(rule)s::text is null or l.rule = %(rule)s::text
order by l.rule, l.key nulls first""",
    columns=_COLUMNS,
)

# The names of all rules: few rows.
NAMES: LiteralString = "select r.name from {s}.limit_rule r order by r.name"

# Change settings of a rule, those that are given; and wake workers, whose next claim looks at them. By primary key.
# Claims read the row without a lock: one that is under way goes by the settings that it has seen.
SET_RULE: LiteralString = fill(
    """
with given as (
    select * from jsonb_populate_record(
        (select r from {s}.limit_rule r where r.name = %(rule)s::text), %(changes)s::jsonb)
), changed as (
    update {s}.limit_rule r set max_running = g.max_running, rate_count = g.rate_count, rate_seconds = g.rate_seconds,
        rate_burst = g.rate_burst, rate_strict = g.rate_strict, scope = g.scope, on_full = g.on_full,
        breaker_failures = g.breaker_failures, breaker_seconds = g.breaker_seconds,
        breaker_cooldown = g.breaker_cooldown, updated_at = clock_timestamp(), updated_by = %(by)s::text
    from given g where r.name = %(rule)s::text
    returning r.name
), notified as (
    select count(pg_notify({channel}, '!pause')) from changed where {may_notify}
)
select changed.name from changed, notified""",
    may_notify=MAY_NOTIFY,
)

# Change the exception of one key, as SET_RULE changes a rule; without one it gets one. By primary key.
SET_KEY: LiteralString = fill(
    """
with changed as (
    insert into {s}.limit_key as k (rule, key, max_running, weight, updated_at, updated_by)
    select r.name, %(key)s::text, %(max_running)s::int, %(weight)s::float8::real, clock_timestamp(), %(by)s::text
    from {s}.limit_rule r where r.name = %(rule)s::text
    on conflict (rule, key) do update set
        max_running = case when %(sets_max)s::bool then excluded.max_running else k.max_running end,
        weight = case when %(sets_weight)s::bool then excluded.weight else k.weight end,
        updated_at = excluded.updated_at, updated_by = excluded.updated_by
    returning k.rule
), notified as (
    select count(pg_notify({channel}, '!pause')) from changed where {may_notify}
)
select changed.rule from changed, notified""",
    may_notify=MAY_NOTIFY,
)

# Let a rule be again what code declares. Returns nothing for a rule that is unknown, or that no code has declared.
RESET_RULE: LiteralString = fill(
    """
with changed as (
    update {s}.limit_rule r set max_running = (r.declared ->> 'max_running'::text)::int,
        rate_count = (r.declared ->> 'rate_count'::text)::int,
        rate_seconds = (r.declared ->> 'rate_seconds'::text)::float8,
        rate_burst = (r.declared ->> 'rate_burst'::text)::int,
        rate_strict = coalesce((r.declared ->> 'rate_strict'::text)::bool, true),
        scope = coalesce(r.declared ->> 'scope'::text, 'fleet'),
        on_full = coalesce(r.declared ->> 'on_full'::text, 'wait'),
        breaker_failures = (r.declared ->> 'breaker_failures'::text)::int,
        breaker_seconds = (r.declared ->> 'breaker_seconds'::text)::float8,
        breaker_cooldown = (r.declared ->> 'breaker_cooldown'::text)::float8,
        updated_at = clock_timestamp(), updated_by = null
    where r.name = %(rule)s::text and r.declared is not null
    returning r.name
), notified as (
    select count(pg_notify({channel}, '!pause')) from changed where {may_notify}
)
select changed.name from changed, notified""",
    may_notify=MAY_NOTIFY,
)

# Take the exception of a key away. Its pause, if it has one, stays until somebody resumes it. By primary key.
RESET_KEY: LiteralString = fill(
    """
with gone as (
    delete from {s}.limit_key k where k.rule = %(rule)s::text and k.key = %(key)s::text and k.paused_at is null
    returning k.rule
), kept as (
    update {s}.limit_key k set max_running = null, weight = null, updated_at = clock_timestamp(),
        updated_by = %(by)s::text
    where k.rule = %(rule)s::text and k.key = %(key)s::text and k.paused_at is not null
    returning k.rule
), changed as (
    select gone.rule from gone union all select kept.rule from kept
), notified as (
    select count(pg_notify({channel}, '!pause')) from changed where {may_notify}
)
select changed.rule from changed, notified""",
    may_notify=MAY_NOTIFY,
)


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """A rule, or with `key` one key of it: its settings, what runs and waits, and what is closed or paused.

    `running` and `waiting` of a rule with keys are the sums over the keys that are listed; `waiting` stops at 1,000,
    and `waiting_capped` says so. `kind` is None where jobs carry a rule that has no row: nothing limits them.
    `declared_by`: the apps whose code declares it. `updated_by`: who has changed it since.
    """

    rule: str
    key: str | None
    kind: str | None
    keyed_by: str | None
    max_running: int | None
    running: int | None
    waiting: int
    waiting_capped: bool
    rate_count: int | None
    rate_seconds: float | None
    rate_burst: int | None
    rate_strict: bool | None
    scope: str | None
    on_full: str | None
    on_dead: str | None
    weight: float | None
    breaker_failures: int | None
    breaker_seconds: float | None
    breaker_cooldown: float | None
    closed_until: datetime | None
    paused_at: datetime | None
    paused_until: datetime | None
    paused_by: str | None
    paused_why: str | None
    declared_by: list[str]
    in_code: bool
    updated_at: datetime | None
    updated_by: str | None


class LimitQueries(Statements):
    """Rules of flow control."""

    def declare(self, app: str, rules: Iterable[LimitRule]) -> Query[None]:
        """Write the rules that the code of an app declares."""
        rows = [{**asdict(rule), "declared": rule.declared()} for rule in rules]
        return Query(self._sql(DECLARE), nothing, {"app": app, "rules": json.dumps(rows)})

    def list(self, rule: str | None = None) -> Query[builtins.list[LimitStatus]]:
        """List rules with their keys, or one of them."""
        return Query(self._sql(LIST), lambda rows: [LimitStatus(*row) for row in rows], {"rule": rule})

    def names(self) -> Query[builtins.list[str]]:
        """List the names of all rules."""
        return Query(self._sql(NAMES), lambda rows: [row[0] for row in rows])

    def set_rule(self, rule: str, changes: Mapping[str, Any], by: str) -> Query[bool]:
        """Change settings of a rule; False if there is none of that name."""
        return Query(self._sql(SET_RULE), bool, {"rule": rule, "changes": json.dumps(changes), "by": by})

    def set_key(self, rule: str, key: str, changes: Mapping[str, Any], by: str) -> Query[bool]:
        """Change the exception of a key; False if there is no such rule."""
        given = {"max_running": changes.get("max_running"), "weight": changes.get("weight")}
        given |= {"sets_max": "max_running" in changes, "sets_weight": "weight" in changes}
        return Query(self._sql(SET_KEY), bool, {"rule": rule, "key": key, "by": by, **given})

    def reset_rule(self, rule: str) -> Query[bool]:
        """Let a rule be again what code declares; False if none does."""
        return Query(self._sql(RESET_RULE), bool, {"rule": rule})

    def reset_key(self, rule: str, key: str, by: str) -> Query[bool]:
        """Take the exception of a key away; False if there is none."""
        return Query(self._sql(RESET_KEY), bool, {"rule": rule, "key": key, "by": by})
