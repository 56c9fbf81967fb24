"""Publishing events, and replaying those that are kept: each makes the jobs of subscribers."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.jobs.event import EventJob, NewEvent, Published
from pgqueue.jobs.topics import anchors_of
from pgqueue.queries.base import Query, Row, Statements, fill, lines
from pgqueue.queries.jobs.metered_parts import STATE
from pgqueue.queries.jobs.parts import MAY_NOTIFY, NOTIFY_WORKERS
from pgqueue.tasks.sealing import seal_event

# Make the jobs of events and insert them with their first transition. Reads `wanted`: an event and a subscription in
# each row. What a job gets stands in the subscription, so the publisher needs no code of the task. Arguments: the
# fields of the data that the task takes, and the whole event where it has a parameter for that. Of data that is
# sealed no field is known here: the job carries the event, and whoever opens it takes the fields. The function
# `event_flow` (migration 0039) makes the flow that `Metering.flow` and the SQL function `enqueue` make. Where the
# data has no text, number or boolean for a key, the job takes the bucket of the rule without a key. Ids are drawn
# after the sort: jobs of one order run by their ids, so they run in the order of the events. This part also stands in
# the SQL function `publish`, as its migration has frozen it; tests/statements/test_publish.py compares the two.
EVENT_JOBS: LiteralString = fill(
    """due as materialized (
    select nextval('{s}.job_id') as job_id, w.event_id, w.task, w.queue, w.priority, w.max_attempts, w.tags, w.history,
           w.headers || jsonb_strip_nulls(jsonb_build_object('$flow', w.flow, '$event', w.event_id)) as headers,
           case when w.data ? '$codec'::text
               then jsonb_build_object('$event', w.whole || jsonb_build_object('takes', w.takes, 'whole_as',
                                                                               w.whole_as))
               else case when w.whole_as is null then '{{}}' else jsonb_build_object(w.whole_as, w.whole) end
                   || coalesce((select jsonb_object_agg(d.key, d.value) from jsonb_each(w.data) as d
                                where d.key = any(w.takes)), '{{}}') end as args,
           statement_timestamp() as run_at, (w.flow ->> 'lane'::text)::bigint as lane,
           statement_timestamp() + make_interval(secs => w.ttl) as expires_at
    from (select w.event_id, w.topic, w.data, s.task, s.queue, s.priority, s.max_attempts, s.tags, s.history, s.takes,
                 s.whole_as, s.ttl, s.headers || coalesce(w.headers, '{{}}') as headers,
                 case when s.rules is not null then {s}.event_flow(s.rules, w.key, w.data) end as flow,
                 jsonb_build_object('id', w.event_id, 'topic', w.topic, 'key', w.key, 'at', w.at,
                                    'data', w.data) as whole
          from wanted w join {s}.subscription s on s.id = any(array[w.subscription_id])
          order by w.event_id, s.id) as w
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at, lane, state, waits_for)
    select job_id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, run_at, expires_at, lane,
           {state}, case when lane is not null then 'turn' end
    from due order by job_id
), logged as (
    insert into {s}.transition (job_id, to_state) select job_id, {state} from due where history
    order by job_id
), {notify_workers}""",
    state=STATE,
    notify_workers=fill(NOTIFY_WORKERS, jobs="due"),
)

# Find the subscriptions that events go to. Reads `given`: events; and `{anchored}`: each topic with its anchors. A
# topic has few of them, and the primary key of subscription_pattern finds the patterns under them, so a thousand
# subscriptions cost what the matching ones cost. The array keeps the planner from joining by a walk through all
# patterns (queries/__init__.py says why). Naive is `topic ~ expression` over all of them, which compiles a regular
# expression for each: `offset 0` keeps that to the patterns under the anchors, also in a plan that was made when
# there were few. Naive is, too, to make the anchors here by generate_series, of which the planner expects so many
# rows that JIT compiles the statement, 10 times what it takes. It sees the subscriptions that are committed when it
# begins, and waits for nobody who declares one.
# An event with a key and of a topic for which any job has ever waited is told to those who wait: a second row, which
# other events do not cost. The naive form, to write it only if a job waits now, loses the event that is published
# before a job begins to wait and commits after that has looked.
MATCHED: LiteralString = """matched as materialized (
    select distinct a.topic, p.subscription_id
    from {anchored} as a(topic, anchor)
    cross join lateral (select p.* from {s}.subscription_pattern p where p.anchor = any(array[a.anchor]) offset 0) as p
    join {s}.subscription s on s.id = any(array[p.subscription_id])
        and s.disabled_at is null and p.pattern = any(s.patterns)
    where p.expression is null or '.' || a.topic ~ p.expression
), published as (
    insert into {s}.published_event (id, at, topic, key, data, headers, delivered)
    select g.id, g.at, g.topic, g.key, g.data, g.headers, coalesce(d.subscriptions, '{{}}'::int[])
    from given g left join (select m.topic, array_agg(m.subscription_id order by m.subscription_id) as subscriptions
                            from matched m group by m.topic) as d using (topic)
), awaited as (
    insert into {s}.awaited_event (name, key, data, at, published_id)
    select g.topic, g.key, g.data, g.at, g.id from given g
    where g.key is not null and g.topic = any(array(
        select t.name from (select distinct a.topic from {anchored} as a(topic, anchor)) as d
        cross join lateral (select a.name from {s}.awaited_topic a where a.name = d.topic limit 1) as t))
    order by g.id
    returning id
), wanted as not materialized (
    select g.id as event_id, g.at, g.topic, g.key, g.data, g.headers, m.subscription_id
    from given g join matched m using (topic)
)"""

# Publish events, in the caller's transaction: insert each as one row, with the subscriptions it goes to, and one job
# for each of these. All of it exists if and only if the transaction commits. It takes no lock that another publisher,
# an enqueue, a claim or a declaration needs.
PUBLISH: LiteralString = fill(
    """
with given as materialized (
    select nextval('{s}.event_id') as id, clock_timestamp() as at, g.topic, g.key, g.data::jsonb as data,
           %(headers)s::jsonb as headers, g.ord
    from unnest(string_to_array(%(topics)s, E'\\n'), string_to_array(%(keys)s, E'\\n', ''),
                string_to_array(%(data)s, E'\\n')) with ordinality as g(topic, key, data, ord)
), {matched}, {event_jobs}, waiters_notified as (
    select count(pg_notify({channel}, '!signal')) from awaited where {may_notify}
)
select g.id, g.topic, g.at, d.jobs
from workers_notified cross join waiters_notified cross join given g
left join (select d.event_id, json_agg(json_build_array(d.job_id, d.task, d.queue) order by d.job_id) as jobs
           from due d group by d.event_id) as d on d.event_id = g.id
order by g.ord""",
    matched=fill(
        MATCHED, anchored="unnest(string_to_array(%(anchored)s, E'\\n'), string_to_array(%(anchors)s, E'\\n'))"
    ),
    event_jobs=EVENT_JOBS,
    may_notify=MAY_NOTIFY,
)

# Make jobs of kept events for one subscription that has not got them yet, those of one batch. It begins at the first
# event of the range of time beyond the id `after`, looks at so many ids from there on, and returns the last of them. By
# the primary key, in the partitions of the days; `order by id limit 1000` over the whole range would be sorted where
# statistics are old. `locked` takes the rows in one order, so that two replays do not lock each other out, and looks
# again at what another one has just delivered; `wanted` writes it down in the same statement, so an event becomes a job
# of a subscriber once, however often and by however many it is replayed. Publishing wrote its own deliveries into the
# row. Naive is an anti-join with jobs: those may be pruned before the event.
REPLAY: LiteralString = fill(
    """
with mine as materialized (
    select s.id, s.expressions from {s}.subscription s where s.id = %(subscription)s
), first as materialized (
    select e.id from {s}.published_event e
    where e.id > %(after)s::bigint and e.at >= %(since)s::timestamptz and e.at < %(to)s::timestamptz
    order by e.id limit 1
), looked as materialized (
    select e.id, e.at, e.topic from {s}.published_event e
    where e.id >= (select f.id from first f) and e.id < (select f.id from first f) + %(at_most)s::bigint
    and e.at >= %(since)s::timestamptz and e.at < %(to)s::timestamptz
), locked as materialized (
    select e.id, e.at from looked l cross join mine m
    join {s}.published_event e on e.id = any(array[l.id]) and e.at = l.at
    where '.' || l.topic ~ any(m.expressions) and not m.id = any(e.delivered)
    order by e.id for update of e
), wanted as (
    update {s}.published_event e set delivered = array_append(e.delivered, m.id)
    from locked l cross join mine m
    where e.id = any(array[l.id]) and e.at = l.at and not m.id = any(e.delivered)
    returning e.id as event_id, e.at, e.topic, e.key, e.data, e.headers, m.id as subscription_id
), {event_jobs}
select (select f.id from first f) + %(at_most)s::bigint - 1,
       (select json_agg(json_build_array(d.job_id, d.task, d.queue) order by d.job_id) from due d)
from workers_notified""",
    event_jobs=EVENT_JOBS,
)

# List the transactions of others that have published or replayed and have not ended. Each holds a lock on the table
# from its first statement there to its end, which everybody sees in pg_locks.
PUBLISHERS: LiteralString = """
select l.virtualtransaction from pg_catalog.pg_locks l
where l.locktype = 'relation' and l.relation = to_regclass(format('%I.%I', {channel}::text, 'published_event'))::oid
and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
and l.mode = 'RowExclusiveLock' and l.pid is distinct from pg_backend_pid()"""


class ReplayedBatch(NamedTuple):
    """One batch of a replay: the last id that it looked at, None where no event was left, and the jobs that it made."""

    last: int | None
    jobs: list[EventJob]


class PublishQueries(Statements):
    """Publishing and replaying."""

    def publish(
        self, events: Sequence[NewEvent], headers: str | None = None
    ) -> Query[list[tuple[Published, list[EventJob]]]]:
        """Publish events, whose jobs get these headers; returns each with its jobs, in the order given."""
        codec = self.codec
        anchored = [(topic, anchor) for topic in dict.fromkeys(e.topic for e in events) for anchor in anchors_of(topic)]
        params = {
            "topics": lines([event.topic for event in events]),
            "keys": lines([event.key for event in events]),
            "data": lines([e.data if codec is None else seal_event(codec, e.topic, e.data) for e in events]),
            "anchored": lines([topic for topic, _ in anchored]),
            "anchors": lines([anchor for _, anchor in anchored]),
            "headers": headers,
        }
        return Query(self._sql(PUBLISH), _read_published, params)

    def replay(
        self, subscription: int, after: int, since: datetime | str, to: datetime, at_most: int
    ) -> Query[ReplayedBatch]:
        """Replay events beyond the id `after`, of a range of time, for one subscription."""
        params = {"subscription": subscription, "after": after, "since": since, "to": to, "at_most": at_most}
        return Query(self._sql(REPLAY), lambda rows: ReplayedBatch(rows[0][0], _jobs(rows[0][1])), params)

    def publishers(self) -> Query[set[str]]:
        """List the open transactions of others that have published."""
        return Query(self._sql(PUBLISHERS), lambda rows: {row[0] for row in rows})


def _read_published(rows: Sequence[Row]) -> list[tuple[Published, list[EventJob]]]:
    found = []
    for event, topic, at, stored in rows:
        jobs = _jobs(stored)
        found.append((Published(event, topic, at, tuple(job.id for job in jobs)), jobs))
    return found


def _jobs(stored: list[list[object]] | None) -> list[EventJob]:
    return [EventJob(*job) for job in stored or ()]  # type: ignore[arg-type]  # as the statement makes them
