"""Workers: their rows, their heartbeats, whether they sleep."""

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from pgqueue.queries.base import Query, Statements, first_value, nothing

# What RECORD_DEATHS says on the NOTIFY channel. No queue can be called like it.
RESCUE_PAYLOAD = "!rescue"

REGISTER: LiteralString = """
insert into {s}.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds)
values (%(id)s, %(kind)s, %(host)s, %(pid)s, %(version)s, %(queues)s::text[], %(tasks)s::text[], %(slots)s,
        %(lease_seconds)s)"""

# One row a process, by primary key, no indexed column: a HOT update. No row back means that others have declared this
# worker dead and may have taken its jobs. `duties` is what `status` shows of them.
HEARTBEAT: LiteralString = """
update {s}.worker set heartbeat_at = clock_timestamp(), duties = %(duties)s::jsonb
where id = %(id)s and lost_at is null returning true"""

# Declare dead who has not beaten for as long as it promised to. By the database's clock alone. A heartbeat that comes
# in at the same moment holds the row, and this statement passes it by: a worker whose beat succeeded has not been
# declared dead before it.
DECLARE_LOST: LiteralString = """
update {s}.worker set lost_at = clock_timestamp(), waiting = false
where id in (select w.id from {s}.worker w
             where w.lost_at is null and w.heartbeat_at < clock_timestamp() - make_interval(secs => w.lease_seconds)
             for update skip locked)
returning id, kind, host, pid"""

# Say how processes ended, by somebody who saw it: their jobs are rescued now and not when the lease has run out. What
# the others may have judged already stands; only how it ended is new. By primary key.
RECORD_DEATHS: LiteralString = """
with dead as (
    update {s}.worker w set lost_at = coalesce(w.lost_at, clock_timestamp()), death = d.death, waiting = false
    from unnest(%(ids)s::uuid[], %(deaths)s::text[]) as d(id, death) where w.id = d.id returning w.id
)
select (select count(*) from dead), count(pg_notify({channel}, '!rescue'))
from dead where pg_notification_queue_usage() < 0.5"""

# Say whether this worker sleeps, and so wants to be notified. It is set before the last look for jobs that precedes
# the sleep, and stays set while the worker is only lightly loaded: it changes seldom.
SET_WAITING: LiteralString = "update {s}.worker set waiting = %(waiting)s where id = %(id)s and waiting <> %(waiting)s"

SET_STOPPING: LiteralString = "update {s}.worker set stopping = true, waiting = false where id = %(id)s"

UNREGISTER: LiteralString = "delete from {s}.worker where id = %(id)s"

# Drop the rows of processes long dead. Kept for an hour so that `status` shows who was lost; never while a job still
# names the worker, so that the rescue can say whose it was.
DELETE_LOST: LiteralString = """
delete from {s}.worker w
where w.lost_at < now() - interval '1 hour'
and (select true from {s}.job_live j where j.worker_id = w.id limit 1) is null"""

LISTEN: LiteralString = "listen {s}"

LIST_WORKERS: LiteralString = """
select w.id, w.kind, w.host, w.pid, w.version, w.queues, w.slots,
       (select count(*) from {s}.job_live j where j.worker_id = w.id)::int,
       case when w.lost_at is not null then 'lost' when w.stopping then 'stopping' else 'alive' end,
       extract(epoch from now() - w.heartbeat_at)::float8, w.started_at, w.death, w.duties
from {s}.worker w order by w.kind, w.started_at"""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a process tells about itself when it starts."""

    id: UUID
    kind: str
    host: str
    pid: int
    version: str
    queues: Sequence[str]
    tasks: Sequence[str]
    slots: int
    lease_seconds: float


class LostWorker(NamedTuple):
    """A process that has stopped beating."""

    id: UUID
    kind: str
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker or scheduler as its row has it. `duties`: at its last beat, how many seconds ago each last worked; None
    for one that had nothing to do yet. `death`: how it ended, if its supervisor saw it."""

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


class WorkerQueries(Statements):
    """Workers and schedulers: their rows, heartbeats and flags."""

    def register(self, info: WorkerInfo) -> Query[None]:
        """Insert the row of a new process."""
        params: dict[str, Any] = {name: getattr(info, name) for name in info.__slots__}
        return Query(self._sql(REGISTER), nothing, params | {"queues": list(info.queues), "tasks": list(info.tasks)})

    def heartbeat(self, worker: UUID, duties: Mapping[str, float | None] = {}) -> Query[bool]:
        """Say that the process lives, and how many seconds ago each duty worked; False when it was declared dead."""
        return Query(self._sql(HEARTBEAT), lambda rows: bool(rows), {"id": worker, "duties": json.dumps(duties)})

    def record_deaths(self, deaths: Mapping[UUID, str]) -> Query[int]:
        """Say how processes ended ("was killed by SIGKILL"); returns how many of them had a row."""
        params = {"ids": list(deaths), "deaths": list(deaths.values())}
        return Query(self._sql(RECORD_DEATHS), first_value, params)

    def set_waiting(self, worker: UUID, waiting: bool) -> Query[None]:
        """Say whether the process sleeps and wants to be notified."""
        return Query(self._sql(SET_WAITING), nothing, {"id": worker, "waiting": waiting})

    def set_stopping(self, worker: UUID) -> Query[None]:
        """Say that the process takes no more jobs."""
        return Query(self._sql(SET_STOPPING), nothing, {"id": worker})

    def unregister(self, worker: UUID) -> Query[None]:
        """Delete the row of a process that ends in order."""
        return Query(self._sql(UNREGISTER), nothing, {"id": worker})

    def declare_lost(self) -> Query[builtins.list[LostWorker]]:
        """Mark the processes that have stopped beating."""
        return Query(self._sql(DECLARE_LOST), lambda rows: [LostWorker(*row) for row in rows])

    def delete_lost(self) -> Query[None]:
        """Delete the rows of processes lost for an hour."""
        return Query(self._sql(DELETE_LOST), nothing)

    def listen(self) -> Query[None]:
        """Listen on the schema's channel."""
        return Query(self._sql(LISTEN), nothing)

    def list(self) -> Query[builtins.list[WorkerStatus]]:
        """Workers and schedulers."""
        return Query(self._sql(LIST_WORKERS), lambda rows: [WorkerStatus(*row) for row in rows])
