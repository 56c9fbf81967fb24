"""Subscriptions as rows: declared by the code of apps, of the newest release, and disabled by people."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from pgqueue.queries.base import Query, Row, Statements, fill, first_value, nothing
from pgqueue.queries.schedules.release import IS_NEWEST_RELEASE, REGISTER_RELEASE, SILENCE, UNREGISTER_RELEASE

_COLUMNS: LiteralString = """patterns, expressions, queue, priority, max_attempts, tags, headers, history, ttl, takes,
    whole_as, rules"""

# Give the subscription of a task the name that the task has now, where code names the old one as its alias: it stays
# one subscriber, which gets each event once. By the unique key of task.
RENAME: LiteralString = """
update {s}.subscription s set task = g.task
from jsonb_to_recordset(%(renames)s::jsonb) as g(task text, alias text)
where s.task = any(array[g.alias]) and not exists (select from {s}.subscription k where k.task = g.task)"""

# Write the subscriptions that the code of an app declares. Nothing is written where nothing is new. One that has left
# the code and came back is enabled again; one that somebody has disabled stays so. One process at a time declares:
# `turn` waits for the others, whose rows would be locked in opposite orders by two releases. Publishers wait for none
# of them: they read the rows that are committed. This statement's snapshot may be older than its wait for the turn, so
# `gone` may leave a pattern that another release has just written: MATCHED asks the subscription whether it still has
# the pattern. Rows by the unique key of task, their patterns by the index on subscription_id; there are few rows.
DECLARE: LiteralString = fill(
    """
with turn as materialized (
    select pg_advisory_xact_lock(hashtext({channel}), hashtext('declare subscriptions'))
), given as materialized (
    select g.task, {given_columns}, d.declared
    from turn cross join jsonb_array_elements(%(rows)s::jsonb) as d(declared)
    cross join lateral jsonb_populate_record(null::{s}.subscription, d.declared) as g
), written as (
    insert into {s}.subscription as s (task, app, declared, {columns})
    select g.task, %(app)s, g.declared, {given_columns}
    from given g where not exists (
        select from {s}.subscription k where k.task = g.task and k.declared = g.declared and k.app = %(app)s
        and (k.disabled_at is null or k.disabled_by is not null))
    order by g.task
    on conflict (task) do update set ({columns}, app, declared, declared_at, disabled_at) = (
        select {excluded_columns}, excluded.app, excluded.declared, clock_timestamp(),
               case when s.disabled_by is not null then s.disabled_at end)
    where s.declared is distinct from excluded.declared or s.app <> excluded.app
    or s.disabled_at is not null and s.disabled_by is null
    returning s.id, s.declared
), gone as (
    delete from {s}.subscription_pattern p using written w
    where p.subscription_id = w.id and not exists (
        select from jsonb_array_elements(w.declared -> 'matching'::text) as m(one)
        where m.one ->> 'anchor'::text = p.anchor and m.one ->> 'pattern'::text = p.pattern)
)
insert into {s}.subscription_pattern (anchor, subscription_id, pattern, expression)
select m.one ->> 'anchor'::text, w.id, m.one ->> 'pattern'::text, m.one ->> 'expression'::text
from written w cross join lateral jsonb_array_elements(w.declared -> 'matching'::text) as m(one)
on conflict do nothing""",
    columns=_COLUMNS,
    given_columns="g." + _COLUMNS.replace(", ", ", g.").replace(",\n    ", ",\n    g."),
    excluded_columns="excluded." + _COLUMNS.replace(", ", ", excluded.").replace(",\n    ", ",\n    excluded."),
)

# Which release of an app runs, and which is the newest: what schedules have, in a table of their own.
REGISTER: LiteralString = REGISTER_RELEASE.replace("schedule_release", "subscription_release")
IS_NEWEST: LiteralString = IS_NEWEST_RELEASE.replace("schedule_release", "subscription_release")
UNREGISTER: LiteralString = UNREGISTER_RELEASE.replace("schedule_release", "subscription_release")

# Disable the subscriptions of an app that no living release of it declares any more. They stay as rows, which know what
# they have got. One that another transaction has locked is left for the next time. A few rows.
DISABLE_LEFT: LiteralString = """
update {s}.subscription s set disabled_at = clock_timestamp()
where s.id in (
    select d.id from {s}.subscription d where d.app = %(app)s and d.disabled_at is null
    and not exists (select from {s}.subscription_release r where r.app = d.app and d.task = any(r.names)
                    and r.seen_at >= clock_timestamp() - make_interval(secs => %(silence)s))
    for update skip locked)
returning s.task"""

# Disable a subscription by hand, or enable it again. By the unique key of task.
DISABLE: LiteralString = """
update {s}.subscription s set disabled_at = coalesce(s.disabled_at, clock_timestamp()), disabled_by = %(by)s
where s.task = %(task)s returning s.id"""
ENABLE: LiteralString = """
update {s}.subscription s set disabled_at = null, disabled_by = null where s.task = %(task)s returning s.id"""

# List subscriptions; few rows.
SUBSCRIPTIONS: LiteralString = """
select s.id, s.task, s.patterns, s.queue, s.priority, s.max_attempts, s.app, s.declared_at, s.disabled_at, s.disabled_by
from {s}.subscription_status s where %(task)s::text is null or s.task = %(task)s::text order by s.task"""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as its row says: the events that its task gets, and the options of its jobs.

    `app`: the app whose code declares it. `disabled_at`: since when it gets no events; `disabled_by`: who said so, None
    where the code declares it no longer.
    """

    id: int
    task: str
    patterns: tuple[str, ...]
    queue: str
    priority: int
    max_attempts: int
    app: str
    declared_at: datetime
    disabled_at: datetime | None
    disabled_by: str | None


class SubscriptionQueries(Statements):
    """Subscriptions."""

    def rename(self, renames: str) -> Query[None]:
        """Give subscriptions the new names of their tasks: a JSON array of objects with `task` and `alias`."""
        return Query(self._sql(RENAME), nothing, {"renames": renames})

    def declare(self, app: str, rows: Sequence[str]) -> Query[None]:
        """Write the subscriptions that the code of an app declares, each a JSON object."""
        return Query(self._sql(DECLARE), nothing, {"app": app, "rows": f"[{','.join(rows)}]"})

    def register_release(
        self, process: UUID, app: str, release: str, names: Sequence[str], since: datetime | None = None
    ) -> Query[datetime]:
        """Register a living process of a release, with its subscribers; returns when the release first appeared."""
        params = {"id": process, "app": app, "release": release, "names": list(names), "since": since}
        return Query(self._sql(REGISTER), first_value, params | {"silence": SILENCE})

    def is_newest_release(self, process: UUID) -> Query[bool]:
        """Tell whether no newer release of the app has living processes."""
        return Query(self._sql(IS_NEWEST), first_value, {"id": process, "silence": SILENCE})

    def unregister_release(self, process: UUID) -> Query[None]:
        """Delete the row of a process that has stopped."""
        return Query(self._sql(UNREGISTER), nothing, {"id": process})

    def disable_left(self, app: str) -> Query[list[str]]:
        """Disable the subscriptions of an app that none of its living releases declares; returns their tasks."""
        params = {"app": app, "silence": SILENCE}
        return Query(self._sql(DISABLE_LEFT), lambda rows: [row[0] for row in rows], params)

    def disable(self, task: str, by: str) -> Query[bool]:
        """Disable the subscription of a task; False if it has none."""
        return Query(self._sql(DISABLE), bool, {"task": task, "by": by})

    def enable(self, task: str) -> Query[bool]:
        """Enable the subscription of a task; False if it has none."""
        return Query(self._sql(ENABLE), bool, {"task": task})

    def subscriptions(self, task: str | None = None) -> Query[list[Subscription]]:
        """List subscriptions, or the one of a task."""

        def read(rows: Sequence[Row]) -> list[Subscription]:
            return [Subscription(row[0], row[1], tuple(row[2]), *row[3:]) for row in rows]

        params: dict[str, Any] = {"task": task}
        return Query(self._sql(SUBSCRIPTIONS), read, params)
