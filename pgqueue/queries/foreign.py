"""Jobs of other queues in the same database: locked and read, and deleted there once they are ours."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import sql

from pgqueue.queries.base import Query, Statements, fill, nothing

# Read the jobs of procrastinate that wait, in its own order of ids, so that jobs of one lock keep theirs. `{lock}`
# locks them until the end of the transaction. Workers of procrastinate pass by locked rows (SKIP LOCKED), so none takes
# a job that is on its way to us. A row that a worker is taking at this moment is waited for, and then left out, because
# Postgres looks at the state once more when it has the lock; the naive form, a read without the lock, would move a job
# that runs. By the partial index of waiting jobs, or a scan: asked by hand.
_PROCRASTINATE: LiteralString = """
select id::text, task_name::text, queue_name::text, priority, args, null, scheduled_at, attempts, lock, queueing_lock
from {theirs}.procrastinate_jobs where status = 'todo' order by id"""
_PROCRASTINATE_GONE: LiteralString = """
delete from {theirs}.procrastinate_jobs where id = any(%(keys)s::bigint[]) and status = 'todo'"""
# The locks of the jobs that run. Asked after the waiting ones are locked: from then on none begins to run.
_PROCRASTINATE_LOCKS: LiteralString = """
select lock from {theirs}.procrastinate_jobs where status = 'doing' and lock is not null"""
_PROCRASTINATE_LEFT: LiteralString = """
select status::text, count(*) from {theirs}.procrastinate_jobs where status in ('doing', 'failed') group by status"""

# The same for django-tasks-db, whose workers pass by locked rows likewise. The year 9999 is its word for "at once".
_DJANGO: LiteralString = """
select id::text, task_path, queue_name::text, priority, args_kwargs -> 'kwargs'::text, args_kwargs -> 'args'::text,
       case when run_after < '9999-01-01'::timestamptz then run_after end, 0, null, null
from {theirs}.django_tasks_database_dbtaskresult where status::text = 'READY'::text order by enqueued_at, id"""
_DJANGO_GONE: LiteralString = """
delete from {theirs}.django_tasks_database_dbtaskresult
where id = any(%(keys)s::uuid[]) and status::text = 'READY'::text"""
_DJANGO_LEFT: LiteralString = """
select status::text, count(*) from {theirs}.django_tasks_database_dbtaskresult
where status::text = any('{{RUNNING,FAILED}}'::text[]) group by status"""

# Let the triggers of the other queue find its tables until the transaction ends: those of procrastinate name them
# without a schema. Without it a delete fails where their schema is not on the path of the connection. Reads no table.
_ON_PATH: LiteralString = """
select set_config('search_path'::text, quote_ident(%(schema)s::text) || ', pg_temp'::text, true)"""

# Whether there is a table of that name, without an error where there is none, and with one where it may not be read.
_HAS_TABLE: LiteralString = """
select to_regclass(format('%%I.%%I'::text, %(schema)s::text, %(table)s::text)) is not null"""

_TABLES = {"procrastinate": "procrastinate_jobs", "django-tasks-db": "django_tasks_database_dbtaskresult"}
_WAITING = {"procrastinate": _PROCRASTINATE, "django-tasks-db": _DJANGO}
_LOCKED = {name: fill("{read} for update", read=read) for name, read in _WAITING.items()}
_GONE = {"procrastinate": _PROCRASTINATE_GONE, "django-tasks-db": _DJANGO_GONE}
_LEFT = {"procrastinate": _PROCRASTINATE_LEFT, "django-tasks-db": _DJANGO_LEFT}
SYSTEMS = tuple(_WAITING)


class ForeignJob(NamedTuple):
    """A job that waits in another queue. `positional`: the arguments that it has by position, None if all are named.
    `lock`: what no two running jobs there have in common; `unique`: what no two waiting ones have."""

    key: str
    task: str
    queue: str
    priority: int
    args: Any
    positional: Any
    run_at: datetime | None
    attempts: int
    lock: str | None
    unique: str | None


class ForeignQueries(Statements):
    """The tables of other queues; `theirs` is the schema in which they are."""

    def has_table(self, system: str, theirs: str) -> Query[bool]:
        """Whether the tables of a queue are there."""
        given = {"schema": theirs, "table": _TABLES[system]}
        return Query(self._sql(_HAS_TABLE), lambda rows: bool(rows[0][0]), given)

    def waiting(self, system: str, theirs: str, *, lock: bool) -> Query[list[ForeignJob]]:
        """Read the jobs that wait; `lock`: and keep them from its workers until the transaction ends."""
        template = (_LOCKED if lock else _WAITING)[system]
        return Query(self._of(template, theirs), lambda rows: [ForeignJob(*row) for row in rows])

    def running_locks(self, system: str, theirs: str) -> Query[set[str]]:
        """Read the locks of the jobs that run; django-tasks-db has no locks."""
        if system != "procrastinate":
            return Query(b"select", lambda _: set())
        return Query(self._of(_PROCRASTINATE_LOCKS, theirs), lambda rows: {row[0] for row in rows})

    def on_path(self, theirs: str) -> Query[None]:
        """Let triggers find the tables of their schema, until the transaction ends."""
        return Query(self._sql(_ON_PATH), nothing, {"schema": theirs})

    def gone(self, system: str, theirs: str, keys: Sequence[str]) -> Query[None]:
        """Delete waiting jobs there."""
        return Query(self._of(_GONE[system], theirs), nothing, {"keys": list(keys)})

    def left(self, system: str, theirs: str) -> Query[dict[str, int]]:
        """Count the jobs that run there, and those that have failed."""
        return Query(self._of(_LEFT[system], theirs), lambda rows: {row[0]: row[1] for row in rows})

    def _of(self, template: LiteralString, theirs: str) -> bytes:
        return self._sql(template, theirs=sql.Identifier(theirs))
