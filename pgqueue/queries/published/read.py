"""Reading published events."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from pgqueue.queries.base import Query, Row, Statements, first_value, start_of
from pgqueue.tasks.sealing import open_event

LOOKED = 10_000  # events that a list looks at
COUNTED = 1_000  # jobs that wait for one event, where they are counted

# List events, the newest first. It looks at no more than 10,000 of those below the id `before`, however few of them
# fit. By the primary key, backwards, in the partitions of the days.
LIST: LiteralString = """
select e.id, e.at, e.topic, e.key, e.data::text, cardinality(e.delivered)
from (select e.id, e.at, e.topic, e.key, e.data, e.delivered from {s}.published_event e
      where (%(before)s::bigint is null or e.id < %(before)s::bigint) and e.at >= %(since)s::timestamptz
      order by e.id desc limit %(looked)s::int) as e
where (%(expression)s::text is null or '.' || e.topic ~ %(expression)s::text)
and (%(key)s::text is null or e.key = %(key)s::text)
order by e.id desc limit %(limit)s"""

# Read one event, and the tasks whose jobs it has made. By the primary key, in each partition.
GET: LiteralString = """
select e.id, e.at, e.topic, e.key, e.data::text, cardinality(e.delivered),
       array(select s.task from {s}.subscription s where s.id = any(e.delivered) order by s.task)
from {s}.published_event e where e.id = %(id)s"""

# Count the jobs that wait for an event of a topic and a key, up to a bound: what an event that is published now wakes,
# but for those that begin to wait later and find it. A step outlives its job for a while, so the job is looked for.
# By step_waits_for_event and the primary key of job_live. The naive place is PUBLISH itself: a publisher may insert an
# event and read no step.
AWAITING: LiteralString = """
select count(*) from (
    select from {s}.step t
    cross join lateral (select from {s}.job_live j where j.id = t.job_id limit 1) as j
    where t.kind = 'event' and not t.done and t.waits = %(topic)s::text and t.wait_key = %(key)s::text
    limit %(most)s::int) as w"""

# The time by the clock of the database.
CLOCK: LiteralString = "select clock_timestamp()"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A published event as it is kept. `subscribers`: how many tasks have got it; `tasks`: which, of a single event."""

    id: int
    at: datetime
    topic: str
    key: str | None
    data: Any
    subscribers: int
    tasks: tuple[str, ...] = ()


class EventReadQueries(Statements):
    """Reading published events."""

    def list(
        self, expression: str | None, key: str | None, since: datetime | None, before: int | None, limit: int
    ) -> Query[list[StoredEvent]]:
        """List the newest events, of topics that fit an expression."""
        params = {
            "expression": expression, "key": key, "since": start_of(since), "before": before, "limit": limit,
            "looked": LOOKED,
        }  # fmt: skip
        return Query(self._sql(LIST), lambda rows: [self._read(row) for row in rows], params)

    def get(self, event: int) -> Query[StoredEvent | None]:
        """Read one event; None if there is none of that id."""

        def read(rows: Sequence[Row]) -> StoredEvent | None:
            return self._read(rows[0]) if rows else None

        return Query(self._sql(GET), read, {"id": event})

    def awaiting(self, topic: str, key: str) -> Query[int]:
        """Count the jobs that wait for an event, up to COUNTED."""
        return Query(self._sql(AWAITING), first_value, {"topic": topic, "key": key, "most": COUNTED})

    def clock(self) -> Query[datetime]:
        """The time by the clock of the database."""
        return Query(self._sql(CLOCK), first_value)

    def _read(self, row: Row) -> StoredEvent:
        event, at, topic, key, text, subscribers, *tasks = row
        data = open_event(self.codec, topic, text)
        return StoredEvent(event, at, topic, key, data, subscribers, tuple(tasks[0]) if tasks else ())
