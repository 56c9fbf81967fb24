"""Jobs that wait without being due: for other jobs of their workflow, or asleep because their task lets them wait."""

from dataclasses import replace
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.count import MOST_COUNTED, MOST_TOGETHER, SERVES, QueueCounts
from pgqueue.queries.jobs.parts import PAUSED
from pgqueue.queries.phase import ASLEEP_AS, MAY_BE_ASLEEP, RESTING

# A job that waits for others of its workflow: the predicate of job_live_for_jobs.
FOR_JOBS: LiteralString = "j.state = 'blocked' and j.waits_for = 'jobs'"

# The queues that have such jobs: hops along their index from one to the next. `{name}` is the list, `{kind}` the
# predicate of the index, which begins with the queue.
_QUEUES: LiteralString = """{name}(queue) as (
    (select j.queue::text from {s}.job_live j where {kind} order by j.queue limit 1)
    union all
    select (select j.queue::text from {s}.job_live j where {kind} and j.queue::text > {name}.queue
            order by j.queue limit 1)
    from {name} where {name}.queue is not null
)"""
RESTING_QUEUES: LiteralString = fill(_QUEUES, name="resting", kind=RESTING)

# Count the jobs that wait for others, and those that are asleep, by queue, with what COUNT tells of a queue: it may
# hold no others. Of each queue the statement looks at the first jobs in the order of job_live_for_jobs, and at the
# first ones of later in that of job_live_asleep; up to a bound and one more, as COUNT does. A job that is asleep takes
# a look at its steps, by step_open, so the bound of those is for all queues together. The naive form finds who is
# asleep from the steps that go on: those of cancelled jobs stay until retention drops the job, and would fill it.
# Without the `offset 0` the look is made for each of the two counts.
COUNT_WAITING: LiteralString = fill(
    """
with recursive {for_jobs_queues}, {resting_queues}, waiters as materialized (
    select f.queue, f.most, counted.jobs from (
        select queue, case when %(most)s::int > 0
            then least(%(most)s::int, greatest(100, %(together)s::int / count(*) over ()::int) - 1) end as most
        from for_jobs where queue is not null) as f
    cross join lateral (
        select count(*) as jobs from (
            select from {s}.job_live j where {for_jobs} and j.queue::text = f.queue
            order by j.queue, j.id limit f.most + 1) as w) as counted
), sleepers as materialized (
    select r.queue, r.most, counted.jobs, counted.sleeping, counted.waiting from (
        select queue, case when %(most)s::int > 0
            then least(%(most)s::int, greatest(10, %(most)s::int / count(*) over ()::int)) end as most
        from resting where queue is not null) as r
    cross join lateral (
        select count(*) as jobs, count(*) filter (where w.phase = 'sleeping') as sleeping,
               count(*) filter (where w.phase = 'waiting') as waiting
        from (select {asleep_as} as phase from (
            select j.id from {s}.job_live j where {may_be_asleep} and j.queue::text = r.queue
            order by j.queue, j.run_at, j.id limit r.most + 1) as j offset 0) as w) as counted
)
select n.queue, coalesce(n.jobs, 0), coalesce(n.sleeping, 0), coalesce(n.waiting, 0), coalesce(n.jobs > n.most, false),
    coalesce(n.looked > n.most_looked, false),
    (select count(*) from {s}.worker_health w where w.status = 'alive' and {served}),
    exists (select from {s}.queue q where q.name = n.queue and {paused})
from (select queue, w.jobs, w.most, s.jobs as looked, s.most as most_looked, s.sleeping, s.waiting
      from waiters w full join sleepers s using (queue)) as n
where n.jobs > 0 or n.looked > 0 order by n.queue""",
    for_jobs_queues=fill(_QUEUES, name="for_jobs", kind=FOR_JOBS),
    resting_queues=RESTING_QUEUES,
    for_jobs=FOR_JOBS,
    asleep_as=ASLEEP_AS,
    may_be_asleep=MAY_BE_ASLEEP,
    served=fill(SERVES, queue="n.queue"),
    paused=PAUSED,
)


class WaitingCounts(NamedTuple):
    """How many jobs of a queue wait for others of their workflow, sleep, and wait for a signal, an event or a call.
    `at_least`: more wait for others than were counted; `asleep_at_least`: more are asleep. The rest is as in
    QueueCounts."""

    queue: str
    for_jobs: int
    sleeping: int
    waiting: int
    at_least: bool
    asleep_at_least: bool
    workers: int
    paused: bool


def with_waiting(counts: list[QueueCounts], waiting: list[WaitingCounts]) -> list[QueueCounts]:
    """Return what queues hold, with the jobs that wait for others, and with those that are asleep apart from the
    scheduled ones, among which they were counted; by the names of the queues."""
    found = {count.queue: count for count in counts}
    for one in waiting:
        plain = found.get(one.queue) or QueueCounts(
            one.queue, 0, 0, 0, 0, 0, 0, None, one.workers, one.paused, at_least=[]
        )
        more = [*(["blocked"] if one.at_least else []),
                *(["scheduled", "sleeping", "waiting"] if one.asleep_at_least else [])]  # fmt: skip
        # Where not all that are asleep were counted, any of the scheduled ones may be.
        scheduled = 0 if one.asleep_at_least else max(plain.scheduled - one.sleeping - one.waiting, 0)
        found[one.queue] = replace(
            plain,
            scheduled=scheduled,
            blocked=plain.blocked + one.for_jobs,
            sleeping=one.sleeping,
            waiting=one.waiting,
            at_least=[*plain.at_least, *(phase for phase in more if phase not in plain.at_least)],
        )
    return [found[queue] for queue in sorted(found)]


class CountWaitingQueries(Statements):
    """Counting jobs that wait for others or are asleep."""

    def count_waiting(self, most: int | None = MOST_COUNTED) -> Query[list[WaitingCounts]]:
        """Count the jobs that wait for others, and those that are asleep: of each queue up to `most` and one more, of
        many queues fewer; for None all."""
        params = {"most": most, "together": MOST_TOGETHER}
        return Query(self._sql(COUNT_WAITING), lambda rows: [WaitingCounts(*row) for row in rows], params)
