"""Waiting for jobs: who waits, how the jobs stand, and the ends that workers announce."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import LiteralString, NamedTuple

from pgqueue.jobs.job import Job
from pgqueue.queries.base import Query, Row, Statements, fill, nothing, packed
from pgqueue.queries.jobs.read import JOB, read_error, read_job
from pgqueue.tasks.sealing import open_job

# The payload with which REGISTER notifies workers on the schema's channel. No queue can have this name.
WAIT_PAYLOAD = "!wait"

# Processes that wait for jobs listen on a channel of their own, so that the end of a job wakes no worker, and a new job
# wakes no waiter.
LISTEN: LiteralString = "listen {ended_channel}"

# Register that this process waits for the ends of jobs. It registers again from time to time, and a row expires a
# minute after the last time. `announce` notifies the workers at the commit that a process waits at all: until then they
# do not look for waiters.
# No end is missed if the waiter reads the job after this has committed, and the worker reads the waiters after its
# outcome has committed: one of the two sees the other. In id order, so that two processes that wait for the same jobs,
# or a worker that announces their ends, cannot deadlock. By primary key; the table has no other index, so the update is
# HOT.
REGISTER: LiteralString = """
with registered as (
    insert into {s}.waiter (job_id, expires_at)
    select distinct id, now() + interval '1 minute' from unnest(%(ids)s::bigint[]) as g(id) order by id
    on conflict (job_id) do update set expires_at = excluded.expires_at
)
select count(pg_notify({channel}, '!wait')) where %(announce)s and pg_notification_queue_usage() < 0.5::float8"""

# Read the state of many jobs at once: of those that are live, and null for the others. One statement serves all waits
# of a process. It probes the primary key for each job, whatever the statistics say, because the `limit` keeps the
# lateral part from being joined any other way. The naive form reads the view, and so each partition of the history, for
# jobs that still run.
READ_SNAPSHOTS: LiteralString = """
select g.id, j.state, j.attempt, j.later, case when g.followed then j.progress end, j.cancel_requested
from unnest((select %(ids)s::bigint[]), (select %(followed)s::bool[])) as g(id, followed)
left join lateral (
    select l.state, l.attempt, l.run_at::timestamptz > now() as later, l.progress::text,
        l.cancel_requested_at is not null as cancel_requested
    from {s}.job_live l
    where l.id = g.id limit 1
) as j on true"""

# Read jobs by id, in whichever table they are, in one snapshot: a job that comes back from none of them does not exist.
# By primary keys, with one probe in each partition; hence only for jobs that READ_SNAPSHOTS has not found. Where a job
# succeeded without a result, the log may say why: the row is found by the index transition_job, in the partitions from
# the day on which the job ended.
READ_JOBS: LiteralString = fill(
    """
select {job}, null,
    case when j.state = 'succeeded' and j.result is null then (
        select t.error::text from {s}.transition t
        where t.job_id = j.id and t.at >= j.finished_at and t.to_state = 'succeeded' limit 1) end
from {s}.job j where j.id = any((select %(ids)s::bigint[])::bigint[])""",
    job=JOB,
)

# Notify processes that wait for the jobs of `ended`, which have left job_live: 300 ids at a time, because a payload
# holds 8000 bytes. While at least half of the server's queue of notifications is in use (a session that listens, but
# stays in one transaction, keeps it from being emptied), nothing is sent: once that queue is full, every transaction
# that notifies fails at its commit. Waiters then learn of the end when they poll.
_NOTIFY_WAITERS: LiteralString = """parts as (
    select string_agg(n.job_id::text, ' ') as ids
    from (select job_id, (row_number() over (order by job_id) - 1) / 300 as part from ended) as n group by n.part
), notified as (
    select count(pg_notify({channel} || '.ended', parts.ids)) from parts
    where pg_notification_queue_usage() < 0.5::float8
)"""

# Announce the ends of jobs that this worker has resolved, to processes that wait for them. It runs after the outcomes
# were committed, and apart from RESOLVE, which it must not slow down; and only while the worker knows that a process
# waits. Jobs that go on, such as retried ones, are passed over. The scalar subselect cannot become a join that reads
# all of job_live. Rows are locked in id order, as in REGISTER.
ANNOUNCE_ENDED: LiteralString = fill(
    """
with ended as materialized (
    select w.job_id from {s}.waiter w
    where w.job_id = any((select %(ids)s::bigint[])::bigint[])
    and (select true from {s}.job_live l where l.id = w.job_id limit 1) is null
    order by w.job_id for update
), forgotten as (
    delete from {s}.waiter w using ended where w.job_id = any(array[ended.job_id])
), {notify_waiters}
select * from notified""",
    notify_waiters=_NOTIFY_WAITERS,
)

# Announce the ends that a worker has not announced, because it did not know yet that a process waits. The statement
# reads the whole table of waiters, which is small. It also announces a job that is not visible yet, because the
# transaction that inserts it is open: its waiter reads the job, and goes on waiting. Deletes rows that have expired;
# rows that a process is just registering again are skipped. Returns whether any process waits.
ANNOUNCE_MISSED: LiteralString = fill(
    """
with stale as (
    delete from {s}.waiter where job_id = any(array(
        select w.job_id from {s}.waiter w where w.expires_at < now() limit 1000 for update skip locked))
), ended as materialized (
    select w.job_id from {s}.waiter w
    where w.expires_at >= now() and (select true from {s}.job_live l where l.id = w.job_id limit 1) is null
    limit 3000
), {notify_waiters}
select exists (select from {s}.waiter w where w.expires_at >= now()) from notified""",
    notify_waiters=_NOTIFY_WAITERS,
)


class JobSnapshot(NamedTuple):
    """What can change of a live job, at one moment. `state` is None for a job that is not live; `later`: it is not due
    yet."""

    id: int
    state: str | None
    attempt: int | None
    later: bool | None
    progress: str | None
    cancel_requested: bool | None = None


class UnreadableJob(NamedTuple):
    """A job whose row cannot be read here, and the class of the error: its message may quote what the job holds."""

    id: int
    reason: str


class WaitQueries(Statements):
    """Waiting for jobs."""

    def listen(self) -> Query[None]:
        """Listen for the ends of jobs that a process waits for."""
        return Query(self._sql(LISTEN), nothing)

    def register(self, ids: Collection[int], announce: bool) -> Query[None]:
        """Register that this process waits for these jobs; with `announce`, notify the workers of it."""
        return Query(self._sql(REGISTER), nothing, {"ids": packed(ids), "announce": announce})

    def read_snapshots(self, ids: Sequence[int], followed: Sequence[bool]) -> Query[list[JobSnapshot]]:
        """Read the state of these jobs, and the progress of those that are `followed`."""
        params = {"ids": packed(ids), "followed": packed(followed)}
        return Query(self._sql(READ_SNAPSHOTS), lambda rows: [JobSnapshot(*row) for row in rows], params)

    def read_jobs(self, ids: Collection[int]) -> Query[list[Job | UnreadableJob]]:
        """Read these jobs, as far as they exist, without their attempts; `error` says why a result is missing."""
        return Query(self._sql(READ_JOBS), lambda rows: [self._job_or_fault(row) for row in rows], {"ids": packed(ids)})

    def _job_or_fault(self, row: Row) -> Job | UnreadableJob:
        try:
            return self._job_and_why(row)
        except Exception as error:  # noqa: BLE001 - a row or a codec may fail in any way, and not for the other jobs
            return UnreadableJob(row[0], type(error).__name__)

    def _job_and_why(self, row: Row) -> Job:
        job = read_job(row[:-1])
        if row[-1] is not None:
            job = replace(job, error=read_error(json.loads(row[-1])))
        return job if self.codec is None else open_job(self.codec, job)

    def announce_ended(self, ids: Collection[int]) -> Query[None]:
        """Notify processes that wait for these jobs of the ones that have ended."""
        return Query(self._sql(ANNOUNCE_ENDED), nothing, {"ids": packed(ids)})

    def announce_missed(self) -> Query[bool]:
        """Notify processes that wait for any job that has ended; returns whether any process waits for one."""
        return Query(self._sql(ANNOUNCE_MISSED), lambda rows: bool(rows[0][0]))
