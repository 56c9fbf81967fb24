"""Waiting for the end of jobs."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import LiteralString, NamedTuple

from pgqueue.jobs.job import Job
from pgqueue.queries.base import Query, Row, Statements, nothing, packed
from pgqueue.queries.jobs.read import JOB, read_error, read_job
from pgqueue.tasks.sealing import open_job

# What REGISTER_WAITS says on the workers' NOTIFY channel. No queue can be called like it.
WAIT_PAYLOAD = "!wait"

# Those who wait listen on a channel of their own: what ends there wakes no worker, and a new job wakes nobody here.
LISTEN_ENDED: LiteralString = "listen {ended}"

# Say whose end is waited for; said again now and then, and left to expire a minute after the last time. `announce`
# tells the workers, when this commits, that somebody waits at all: until then they look at no waiter.
# Nothing is lost if the waiter looks at the job after this has committed, and the worker at the waiters after its
# outcome has: one of the two sees the other. In id order, so that two processes that wait for the same jobs, or a
# worker that tells of them, cannot deadlock. By primary key; the table has no other index, so the update is HOT.
REGISTER_WAITS: LiteralString = """
with said as (
    insert into {s}.waiter (job_id, expires_at)
    select distinct id, now() + interval '1 minute' from unnest(%(ids)s::bigint[]) as g(id) order by id
    on conflict (job_id) do update set expires_at = excluded.expires_at
)
select count(pg_notify({channel}, '!wait')) where %(announce)s and pg_notification_queue_usage() < 0.5"""

# Look at many jobs at once: the state of those that are live, null for the others. One statement for all that wait in a
# process; a probe of the primary key for each, whatever the statistics say: a limit keeps the lateral part from being
# joined any other way. The naive form asks the view, and so each partition of the history, for jobs that still run.
READ_SNAPSHOTS: LiteralString = """
select g.id, j.state, j.attempt, j.later, case when g.followed then j.progress end
from unnest((select %(ids)s::bigint[]), (select %(followed)s::bool[])) as g(id, followed)
left join lateral (
    select l.state, l.attempt, l.run_at > now() as later, l.progress::text from {s}.job_live l
    where l.id = g.id limit 1
) as j on true"""

# Jobs by id, wherever they are, in one snapshot: what is in none of the tables is not there. Primary keys, one probe a
# partition: hence only for jobs that READ_SNAPSHOTS has not found. Where a job succeeded without a result, the log may
# say why: its index by job, from the day on which the job ended.
READ_JOBS: LiteralString = (
    JOB
    + """, null,
    case when j.state = 'succeeded' and j.result is null then (
        select t.error::text from {s}.transition t
        where t.job_id = j.id and t.at >= j.finished_at and t.to_state = 'succeeded' limit 1) end
from {s}.job j where j.id = any((select %(ids)s::bigint[])::bigint[])"""
)

# Those of `ended` that have left job_live are told to who waits. {ended} stands in parts of 300, for a payload holds
# 8000 bytes. Nobody is told while the server's queue of notifications is half full: waiters poll.
_TELL: LiteralString = """, parts as (
    select string_agg(n.job_id::text, ' ') as ids
    from (select job_id, (row_number() over (order by job_id) - 1) / 300 as part from ended) as n group by n.part
), told as (
    select count(pg_notify({channel} || '.ended', parts.ids)) from parts where pg_notification_queue_usage() < 0.5
)"""

# Tell who waits for jobs that this worker has ended, after that was committed, in a statement of its own: the one that
# writes outcomes is not slowed down, and a worker sends this only while it knows that somebody waits. Jobs that go on
# (retried, say) are passed over. The scalar subselect cannot become a join that reads all of job_live. Rows are locked
# in id order, as REGISTER_WAITS does.
ANNOUNCE_ENDED: LiteralString = (
    """
with ended as materialized (
    select w.job_id from {s}.waiter w
    where w.job_id = any((select %(ids)s::bigint[])::bigint[])
    and (select true from {s}.job_live l where l.id = w.job_id limit 1) is null
    order by w.job_id for update
), forgotten as (
    delete from {s}.waiter w using ended where w.job_id = any(array[ended.job_id])
)"""
    + _TELL
    + " select * from told"
)

# When a worker hears, or finds, that somebody waits: tell of what ended before it knew. Reads the whole table, which is
# small. A job that nobody sees yet, because its transaction is open, is told too; its waiter looks, and waits on. Drops
# what has expired; rows that somebody is just saying again are skipped. Returns whether anybody waits.
ANNOUNCE_MISSED: LiteralString = (
    """
with stale as (
    delete from {s}.waiter where job_id = any(array(
        select w.job_id from {s}.waiter w where w.expires_at < now() limit 1000 for update skip locked))
), ended as materialized (
    select w.job_id from {s}.waiter w
    where w.expires_at >= now() and (select true from {s}.job_live l where l.id = w.job_id limit 1) is null
    limit 3000
)"""
    + _TELL
    + " select exists (select from {s}.waiter w where w.expires_at >= now()) from told"
)


class JobSnapshot(NamedTuple):
    """A live job at one moment, as far as it can change; `state` is None for a job that is not live."""

    id: int
    state: str | None
    attempt: int | None
    later: bool | None
    progress: str | None


class WaitQueries(Statements):
    """Waiting for jobs."""

    def listen(self) -> Query[None]:
        """Listen for the ends of jobs that somebody waits for."""
        return Query(self._sql(LISTEN_ENDED), nothing)

    def register(self, ids: Collection[int], announce: bool) -> Query[None]:
        """Say that somebody waits for these jobs; `announce` it to the workers."""
        return Query(self._sql(REGISTER_WAITS), nothing, {"ids": packed(ids), "announce": announce})

    def read_snapshots(self, ids: Sequence[int], followed: Sequence[bool]) -> Query[list[JobSnapshot]]:
        """Where these jobs stand; of those that are `followed`, their progress, too."""
        params = {"ids": packed(ids), "followed": packed(followed)}
        return Query(self._sql(READ_SNAPSHOTS), lambda rows: [JobSnapshot(*row) for row in rows], params)

    def read_jobs(self, ids: Collection[int]) -> Query[list[Job]]:
        """These jobs, as far as they are there, without their attempts; `error` says why a result is missing."""
        return Query(self._sql(READ_JOBS), lambda rows: [self._job_and_why(row) for row in rows], {"ids": packed(ids)})

    def _job_and_why(self, row: Row) -> Job:
        job = read_job(row[:-1])
        if row[-1] is not None:
            job = replace(job, error=read_error(json.loads(row[-1])))
        return job if self.codec is None else open_job(self.codec, job)

    def announce_ended(self, ids: Collection[int]) -> Query[None]:
        """Notify who waits for these jobs of those that have ended."""
        return Query(self._sql(ANNOUNCE_ENDED), nothing, {"ids": packed(ids)})

    def announce_missed(self) -> Query[bool]:
        """Notify who waits for any job that has ended; returns whether somebody waits for one."""
        return Query(self._sql(ANNOUNCE_MISSED), lambda rows: bool(rows[0][0]))
