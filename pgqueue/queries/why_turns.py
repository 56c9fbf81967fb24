"""What one must know to say why a metered job waits for its turn. Each statement costs the same on any backlog."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.jobs.job import Job
from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.turns import BUCKET, BURST, PAUSED, STEP, TURN_AT, WAITS

MOST_BEFORE = 10_000
MOST_HOLDERS = 5
MOST_RUNNING = 10_000  # running jobs among which the holders of a bucket are looked for

# Read what the rules say of the buckets of a job: how many jobs of each run and may run, until when it is closed or
# paused, and in how many seconds its rate admits the next start. The version is looked up from the right end of the
# primary key; rules and keys are few. Of a full bucket the statement finds some jobs that hold it, among those that run
# (job_live_running). `wait` by the rate is the claims' own arithmetic, so that both say the same.
BUCKETS: LiteralString = fill(
    """
select b.name, r.name is not null, coalesce(k.max_running, r.max_running), coalesce(u.running, 0),
       r.rate_count, r.rate_seconds, r.scope = 'worker', rate.step,
       greatest(extract(epoch from u.tat - make_interval(secs => (rate.burst - 1)::float8 * rate.step) - now())::float8,
                0::float8),
       case when u.closed_until > now() then u.closed_until end, coalesce(u.opened, 0) > 0,
       case when {rule_paused} then r.paused_at end, case when {rule_paused} then r.paused_until end,
       case when {rule_paused} then r.paused_by end, case when {rule_paused} then r.paused_why end,
       case when {key_paused} then k.paused_at end, case when {key_paused} then k.paused_until end,
       case when {key_paused} then k.paused_by end, case when {key_paused} then k.paused_why end,
       array(select held.id from (
                 select j.id, j.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets
                 from {s}.job_live j where j.worker_id is not null and u.running > 0
                 order by j.worker_id limit %(most_running)s::int) as held
             where held.buckets ? b.name limit %(most)s::int)
from unnest(%(buckets)s::text[]) with ordinality as b(name, ord)
left join lateral (select u.* from {bucket} as u) as u on true
left join {s}.limit_rule r on r.name = split_part(b.name, '/', 1)
left join {s}.limit_key k on k.rule = split_part(b.name, '/', 1)
    and k.key = substr(b.name, char_length(split_part(b.name, '/', 1)) + 2)
left join lateral (
    select {burst} as burst, {step} as step where r.rate_count is not null and r.scope = 'fleet'
) as rate on true
order by b.ord""",
    rule_paused=fill(PAUSED, p="r"),
    key_paused=fill(PAUSED, p="k"),
    burst=BURST,
    step=STEP,
    bucket=fill(BUCKET, name="b.name"),
)

# Tell how many due jobs of a lane go before a job, up to `most` and one more, and which is the first. By job_live_turn,
# the part of the lane before the job alone; in two reads of each priority, as AHEAD: before Postgres 18 a comparison of
# rows reads to the end of all jobs that have the same time.
PLACE: LiteralString = fill(
    """
with recursive step(priority) as (
    (select j.priority::smallint from {s}.job_live j
     where {waits} and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
     and j.priority::smallint >= %(priority)s::int::smallint
     order by j.lane, j.priority desc limit 1)
    union all
    select (select j.priority::smallint from {s}.job_live j
            where {waits} and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
            and j.priority::smallint < step.priority and j.priority::smallint >= %(priority)s::int::smallint
            order by j.lane, j.priority desc limit 1)
    from step where step.priority is not null
)
select (select count(*) from (
            select from step cross join lateral (
                select case when step.priority > %(priority)s::int::smallint then now()
                            when %(lane)s::bigint < 0::bigint then '-infinity'::timestamptz
                            else %(run_at)s::timestamptz end as at
            ) as place cross join lateral (
                (select from {s}.job_live j
                 where {waits} and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
                 and j.priority::smallint = step.priority and {turn_at} < place.at
                 order by {turn_at}, j.id limit %(most)s::int + 1)
                union all
                (select from {s}.job_live j
                 where {waits} and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
                 and j.priority::smallint = step.priority and {turn_at} = place.at and j.id < %(id)s::bigint
                 order by {turn_at}, j.id limit %(most)s::int + 1)
            ) as first
            limit %(most)s::int + 1) as counted),
       head.id, head.attempt, extract(epoch from head.run_at - now())::float8
from (select 1) as one left join lateral (
    select j.id, j.attempt, j.run_at::timestamptz as run_at from {s}.job_live j
    where {waits} and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
    order by j.lane, j.priority desc, {turn_at}, j.id limit 1
) as head on true""",
    waits=WAITS,
    turn_at=TURN_AT,
)


class BucketState(NamedTuple):
    """A bucket: how many of its jobs run, how many may, and what holds others back.

    `rate_count` in `rate_seconds`, one each `step` seconds; `paced`: each worker keeps that rate for itself.
    `next_start_in`: seconds until the rate admits a start. `opened`: a breaker has closed it, and lets one job run at a
    time until one has ended well. `holders`: some of the jobs that hold it.
    """

    name: str
    has_rule: bool
    most: int | None
    running: int
    rate_count: int | None
    rate_seconds: float | None
    paced: bool | None
    step: float | None
    next_start_in: float | None
    closed_until: datetime | None
    opened: bool
    rule_paused_at: datetime | None
    rule_paused_until: datetime | None
    rule_paused_by: str | None
    rule_paused_why: str | None
    key_paused_at: datetime | None
    key_paused_until: datetime | None
    key_paused_by: str | None
    key_paused_why: str | None
    holders: list[int]

    @property
    def rule(self) -> str:
        """The name of its rule."""
        return self.name.partition("/")[0]


class TurnPlace(NamedTuple):
    """Where a metered job stands in its lane: how many due jobs go before it, and the first one of the lane."""

    before: int
    head: int | None
    head_attempt: int | None
    head_due_in: float | None


class TurnWhyQueries(Statements):
    """What one must know to say why a metered job waits for its turn."""

    def buckets(self, names: Sequence[str]) -> Query[list[BucketState]]:
        """Read buckets by their names."""
        params = {"buckets": list(names), "most": MOST_HOLDERS, "most_running": MOST_RUNNING}
        return Query(self._sql(BUCKETS), lambda rows: [BucketState(*row) for row in rows], params)

    def place(self, job: Job, lane: int, most: int = MOST_BEFORE) -> Query[TurnPlace]:
        """Tell where a metered job stands in its lane: jobs before it up to `most` and one more."""
        params = {
            "queue": job.queue, "lane": lane, "priority": job.priority, "run_at": job.run_at, "id": job.id,
            "most": most,
        }  # fmt: skip
        return Query(self._sql(PLACE), lambda rows: TurnPlace(*rows[0]), params)
