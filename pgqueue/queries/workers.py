"""Workers and schedulers as rows: their heartbeats, how they ended, whether they sleep."""

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from pgqueue.queries.base import Query, Row, Statements, fill, first_value, nothing
from pgqueue.queries.jobs.claim import NEXT_DUE
from pgqueue.queries.jobs.parts import MAY_NOTIFY
from pgqueue.revisions import newest

# The payload with which REQUEST notifies one process, followed by the process's id.
REQUEST_PAYLOAD = "!request "

# The payload with which RECORD_DEATHS notifies workers on the schema's channel. No queue can have this name.
RESCUE_PAYLOAD = "!rescue"

# Insert the row of a process that starts. Its id is new, so that two processes never write one row.
REGISTER: LiteralString = """
insert into {s}.worker
    (id, kind, host, pid, version, knows, queues, tasks, slots, lease_seconds, release, health_address, shares, limits,
     max_wait)
values (%(id)s, %(kind)s, %(host)s, %(pid)s, %(version)s, %(knows)s, %(queues)s::text[], %(tasks)s::text[], %(slots)s,
        %(lease_seconds)s, %(release)s, %(health_address)s, %(shares)s::jsonb, %(limits)s::jsonb, %(max_wait)s)"""

# Write the heartbeat of a process. By primary key, and no index has the columns, so the update is HOT. If no row comes
# back, another process has declared this worker lost and may have taken its jobs. The answer brings what was asked of
# the process: the row decides, so that a NOTIFY that is lost, or that a stranger sends, changes nothing.
HEARTBEAT: LiteralString = """
update {s}.worker set heartbeat_at = clock_timestamp(), duties = %(duties)s::jsonb, rss_bytes = %(rss_bytes)s,
    quiet_at = case when %(quiet)s then coalesce(quiet_at, clock_timestamp()) end
where id = %(id)s and lost_at is null returning requested, requested_at, requested_by"""

# The heartbeat of a worker that rests: HEARTBEAT, and a look at what would end its rest. In how many seconds a job of
# its queues is due and whether metered ones wait, as NEXT_DUE says; and whether a process has stopped beating, or left
# jobs behind: the table has a row for each process. One statement instead of one for each duty, for a process that has
# many schemas, of which most are idle. The look reads the snapshot of the statement's beginning: what is committed
# later is notified, or seen by the next beat. The update is as cheap as HEARTBEAT, and locks no more.
WATCH: LiteralString = fill(
    """
with beat as (
    update {s}.worker set heartbeat_at = clock_timestamp(), duties = %(duties)s::jsonb, rss_bytes = %(rss_bytes)s,
        quiet_at = case when %(quiet)s then coalesce(quiet_at, clock_timestamp()) end
    where id = %(id)s and lost_at is null returning requested, requested_at, requested_by
)
select beat.requested, beat.requested_at, beat.requested_by, due.seconds, due.metered,
    exists (select from {s}.worker w where w.id <> %(id)s and case
        when w.lost_at is null
        then w.heartbeat_at < clock_timestamp() - make_interval(secs => least(w.lease_seconds, 86400))
        else (select true from {s}.job_live j where j.worker_id = w.id limit 1) end)
from beat cross join lateral ({next_due}) as due(seconds, metered, lanes)""",
    next_due=NEXT_DUE,
)

# Ask processes to go quiet, to resume or to stop, and notify each of them at the commit. By primary key, so that no
# other process is meant that comes meanwhile. Rows are locked in the order of their ids, so that two operators who ask
# all workers do not wait for each other in a circle: heartbeats move rows about, and a scan of the table meets them in
# another order each time. A scheduler only stops. MAY_NOTIFY says when nobody is notified; then a
# process reads its row with its next heartbeat.
REQUEST: LiteralString = fill(
    """
with found as materialized (
    select id from {s}.worker
    where id = any(%(ids)s::uuid[]) and lost_at is null and (kind = 'worker' or %(what)s = 'stop')
    order by id for update
), asked as (
    update {s}.worker set requested = %(what)s, requested_at = clock_timestamp(), requested_by = %(by)s
    where id = any(array(select id from found)) and lost_at is null returning id
), notified as (
    select count(pg_notify({channel}, '!request ' || asked.id::text)) from asked where {may_notify}
)
select asked.id from asked, notified""",
    may_notify=MAY_NOTIFY,
)

# Notify processes, which then beat at once, and return when each has last beaten before. By primary key; it locks
# nothing and writes nothing, so a heartbeat never waits for it: to write a mark that a process clears would. The
# notifications go out with the commit, so a later look finds a newer heartbeat only of a process that lives. As with
# REQUEST, MAY_NOTIFY says when nobody is notified; then a process answers with its next heartbeat.
PING: LiteralString = fill(
    """
with asked as (
    select id, heartbeat_at from {s}.worker where id = any(%(ids)s::uuid[]) and lost_at is null
), notified as (
    select count(pg_notify({channel}, '!request ' || asked.id::text)) from asked where {may_notify}
)
select asked.id, asked.heartbeat_at from asked, notified""",
    may_notify=MAY_NOTIFY,
)

# Read when processes have last beaten: by primary key.
BEATS: LiteralString = "select id, heartbeat_at from {s}.worker where id = any(%(ids)s::uuid[])"

# Read which tasks the living processes know: the table has as many rows as there are processes.
KNOWN_TASKS: LiteralString = "select id, tasks from {s}.worker where lost_at is null"

# Declare processes lost whose heartbeat is older than their lease, by the database's clock alone. A heartbeat at the
# same moment locks the row, and this statement skips it: a worker whose heartbeat succeeded was not declared lost
# before.
DECLARE_LOST: LiteralString = """
update {s}.worker set lost_at = clock_timestamp(), waiting = false
where id in (select w.id from {s}.worker w
             where w.lost_at is null
             and w.heartbeat_at < clock_timestamp() - make_interval(secs => least(w.lease_seconds, 86400))
             for update skip locked)
returning id, kind, host, pid"""

# Record how processes ended, on behalf of their supervisor, which saw it: their jobs are rescued now and not when the
# lease has run out. If a process was declared lost already, that time stays, and only the manner of its end is new. By
# primary key. Rows are locked in the order of their ids, as in REQUEST.
RECORD_DEATHS: LiteralString = """
with found as materialized (
    select id from {s}.worker where id = any(%(ids)s::uuid[]) order by id for update
), dead as (
    update {s}.worker w set lost_at = coalesce(w.lost_at, clock_timestamp()), death = d.death, waiting = false
    from found join unnest(%(ids)s::uuid[], %(deaths)s::text[]) as d(id, death) on d.id = found.id
    where w.id = found.id returning w.id
)
select (select count(*) from dead), count(pg_notify({channel}, '!rescue'))
from dead where pg_notification_queue_usage() < 0.5::float8"""

# Set whether this worker sleeps, and so wants to be notified. A worker sets it before the last claim that precedes the
# sleep, and leaves it set while it is only lightly loaded, so that it changes seldom. By primary key.
SET_WAITING: LiteralString = "update {s}.worker set waiting = %(waiting)s where id = %(id)s and waiting <> %(waiting)s"

# Write the queues that a worker serves now, beside its patterns: jobs committed there notify it. By primary key.
SET_QUEUES: LiteralString = "update {s}.worker set queues = %(queues)s::text[] where id = %(id)s"

# Note that this worker claims no more jobs. By primary key.
SET_STOPPING: LiteralString = "update {s}.worker set stopping = true, waiting = false where id = %(id)s"

# Delete the row of a process that has stopped. By primary key.
UNREGISTER: LiteralString = "delete from {s}.worker where id = %(id)s"

# Delete the rows of processes that are lost for an hour; until then `status` shows them. A row stays while a job names
# the worker, so that RESCUE can name the worker in the job's error.
DELETE_LOST: LiteralString = """
delete from {s}.worker w
where w.lost_at < now() - interval '1 hour'
and (select true from {s}.job_live j where j.worker_id = w.id limit 1) is null"""

LISTEN: LiteralString = "listen {s}"

# Listen on the schema's channel no longer, on a connection that listens for several schemas.
UNLISTEN: LiteralString = "unlisten {s}"

# List all processes, with how many jobs each runs: the view counts by job_live_running.
LIST: LiteralString = """
select w.id, w.kind, w.host, w.pid, w.version, w.queues, w.slots, w.running::int, w.status, w.heartbeat_age_seconds,
       w.started_at, w.death, w.duties, w.release, w.rss_bytes, w.health_address, w.quiet_at, w.requested,
       w.requested_at, w.requested_by, w.shares, w.limits, w.max_wait
from {s}.worker_health w order by w.kind, w.started_at"""

# Find where processes run: by primary key. A process that has stopped has no row any more.
LOCATE: LiteralString = "select id, host, pid from {s}.worker where id = any(%(ids)s::uuid[])"


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a process writes about itself when it starts."""

    id: UUID
    kind: str
    host: str
    pid: int
    version: str
    queues: Sequence[str]
    tasks: Sequence[str]
    slots: int
    lease_seconds: float
    release: str | None = None  # of the user's app
    health_address: str | None = None
    shares: Mapping[str, int] | None = None
    limits: Mapping[str, int] | None = None
    max_wait: float | None = None


class Request(NamedTuple):
    """What somebody asks of a process: to go quiet, to resume, or to stop. Each `at` is one request."""

    what: str
    at: datetime
    by: str


class Beat(NamedTuple):
    """The answer to a heartbeat: whether the process still has its row, and what was last asked of it."""

    alive: bool
    request: Request | None = None


class Watched(NamedTuple):
    """The answer to the heartbeat of a worker that rests: in how many seconds its next job is due, None without any;
    whether metered jobs wait; and whether another process has left something behind."""

    beat: Beat
    due_seconds: float | None = None
    metered: bool = False
    lost: bool = False


class LostWorker(NamedTuple):
    """A process that was declared lost."""

    id: UUID
    kind: str
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker or scheduler as its row has it.

    `duties`: how many seconds before its last heartbeat each duty made a step; None for a duty that had nothing to do
    yet. `death`: how the process ended, if its supervisor saw it. `rss_bytes`: its resident memory, without child
    processes. `quiet_at`: since when it claims no more jobs. `requested`: what it was last asked to do. `shares` and
    `limits`: how its queues divide its slots. `max_wait`: how long a job is due when it goes first in some claims.
    """

    id: UUID
    kind: str
    host: str
    pid: int
    version: str
    queues: list[str]
    slots: int
    running: int
    status: str
    heartbeat_age_seconds: float
    started_at: datetime
    death: str | None
    duties: dict[str, float | None]
    release: str | None
    rss_bytes: int | None
    health_address: str | None
    quiet_at: datetime | None
    requested: str | None
    requested_at: datetime | None
    requested_by: str | None
    shares: dict[str, int] | None = None
    limits: dict[str, int] | None = None
    max_wait: float | None = None


class Located(NamedTuple):
    """Where a process runs."""

    host: str
    pid: int


def _beat(rows: Sequence[Row]) -> Beat:
    if not rows:
        return Beat(alive=False)
    what, at, by = rows[0]
    return Beat(True, Request(what, at, by or "somebody") if what and at else None)


def _watched(rows: Sequence[Row]) -> Watched:
    return Watched(_beat([row[:3] for row in rows]), *(rows[0][3:] if rows else ()))


class WorkerQueries(Statements):
    """Workers and schedulers as rows."""

    def register(self, info: WorkerInfo) -> Query[None]:
        """Insert the row of a new process."""
        params: dict[str, Any] = {name: getattr(info, name) for name in info.__slots__}
        params |= {"queues": list(info.queues), "tasks": list(info.tasks), "knows": newest()}
        params |= {name: json.dumps(dict(params[name])) if params[name] else None for name in ("shares", "limits")}
        return Query(self._sql(REGISTER), nothing, params)

    def heartbeat(
        self,
        worker: UUID,
        duties: Mapping[str, float | None] = {},
        *,
        quiet: bool = False,
        rss_bytes: int | None = None,
    ) -> Query[Beat]:
        """Write that the process lives, how long ago each duty made a step, its memory, and whether it is quiet."""
        params = {"id": worker, "duties": json.dumps(duties), "quiet": quiet, "rss_bytes": rss_bytes}
        return Query(self._sql(HEARTBEAT), _beat, params)

    def watch(self, heartbeat: Query[Beat], queues: Sequence[str]) -> Query[Watched]:
        """Write a heartbeat, and tell what a worker that rests should know of these queues."""
        params = {**heartbeat.params, "queues": builtins.list(queues)}
        return Query(self._sql(WATCH), _watched, params)

    def request(self, workers: Sequence[UUID], what: str, by: str) -> Query[builtins.list[UUID]]:
        """Ask processes to go quiet, to resume or to stop; return those that were asked."""
        params = {"ids": builtins.list(workers), "what": what, "by": by}
        return Query(self._sql(REQUEST), lambda rows: [row[0] for row in rows], params)

    def ping(self, workers: Sequence[UUID]) -> Query[dict[UUID, datetime]]:
        """Ask processes to beat now; return when each has last beaten before."""
        return Query(self._sql(PING), lambda rows: {row[0]: row[1] for row in rows}, {"ids": builtins.list(workers)})

    def beats(self, workers: Sequence[UUID]) -> Query[dict[UUID, datetime]]:
        """Return when processes have last beaten."""
        return Query(self._sql(BEATS), lambda rows: {row[0]: row[1] for row in rows}, {"ids": builtins.list(workers)})

    def known_tasks(self) -> Query[dict[UUID, builtins.list[str]]]:
        """Return the tasks that each living process knows: names, and name@version beyond the first version."""
        return Query(self._sql(KNOWN_TASKS), lambda rows: {row[0]: row[1] for row in rows})

    def record_deaths(self, deaths: Mapping[UUID, str]) -> Query[int]:
        """Record how processes ended ("was killed by SIGKILL"); returns how many of them had a row."""
        params = {"ids": list(deaths), "deaths": list(deaths.values())}
        return Query(self._sql(RECORD_DEATHS), first_value, params)

    def set_waiting(self, worker: UUID, waiting: bool) -> Query[None]:
        """Set whether the process sleeps and wants to be notified."""
        return Query(self._sql(SET_WAITING), nothing, {"id": worker, "waiting": waiting})

    def set_queues(self, worker: UUID, queues: Sequence[str]) -> Query[None]:
        """Write the queues that the worker serves."""
        return Query(self._sql(SET_QUEUES), nothing, {"id": worker, "queues": builtins.list(queues)})

    def set_stopping(self, worker: UUID) -> Query[None]:
        """Note that the process claims no more jobs."""
        return Query(self._sql(SET_STOPPING), nothing, {"id": worker})

    def unregister(self, worker: UUID) -> Query[None]:
        """Delete the row of a process that has stopped."""
        return Query(self._sql(UNREGISTER), nothing, {"id": worker})

    def declare_lost(self) -> Query[builtins.list[LostWorker]]:
        """Declare processes lost whose heartbeat is older than their lease."""
        return Query(self._sql(DECLARE_LOST), lambda rows: [LostWorker(*row) for row in rows])

    def delete_lost(self) -> Query[None]:
        """Delete the rows of processes that are lost for an hour."""
        return Query(self._sql(DELETE_LOST), nothing)

    def listen(self) -> Query[None]:
        """Listen on the schema's channel."""
        return Query(self._sql(LISTEN), nothing)

    def unlisten(self) -> Query[None]:
        """Listen on the schema's channel no longer."""
        return Query(self._sql(UNLISTEN), nothing)

    def locate(self, workers: Sequence[UUID]) -> Query[Mapping[UUID, Located]]:
        """Find where these processes run; a process without a row is left out."""
        return Query(self._sql(LOCATE), lambda rows: {row[0]: Located(*row[1:]) for row in rows}, {"ids": workers})

    def list(self) -> Query[builtins.list[WorkerStatus]]:
        """List workers and schedulers."""
        return Query(self._sql(LIST), lambda rows: [WorkerStatus(*row) for row in rows])
