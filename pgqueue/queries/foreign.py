"""Jobs of other queues in the same database: locked and read, and deleted there once they are ours."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import sql

from pgqueue.queries.base import Query, Statements, fill, nothing

# Read the jobs of procrastinate that wait, and on demand those that have failed, after them. They come in its own order
# of ids, so that jobs of one lock keep theirs. `for update` locks them until the end of the transaction. Workers of
# procrastinate pass by locked rows (SKIP LOCKED), so none takes a job that is on its way to us. A row that a worker is
# taking at this moment is waited for, and then left out, because Postgres looks at the state once more when it has the
# lock; the naive form, a read without the lock, would move a job that runs. By the partial index of waiting jobs, or a
# scan: asked by hand.
_PROCRASTINATE: LiteralString = """
select id::text, task_name::text, queue_name::text, priority, args, null, scheduled_at,
       case when status = 'todo' then attempts else 0 end, lock, queueing_lock, status = 'failed'
from {theirs}.procrastinate_jobs where (status = 'todo' or status = 'failed' and %(failed)s::boolean)
and (%(queues)s::text[] is null or queue_name::text = any(%(queues)s::text[])) order by status = 'failed', id"""
_PROCRASTINATE_GONE: LiteralString = """
delete from {theirs}.procrastinate_jobs where id = any(%(keys)s::bigint[]) and status in ('todo', 'failed')"""

# Whether jobs with locks wait. Where some do, nobody may write the table until the import has ended: a lock moves with
# all of its jobs or not at all, or else the rest of them would run there beside those that run here. Row locks alone do
# not hold back a job that is inserted, or that a worker puts back for another attempt, after the rows were read.
# The lock is taken before any row is, so that no writer can wait for a row and keep the lock from us.
_ANY_LOCK: LiteralString = """
select exists (select from {theirs}.procrastinate_jobs
where (status = 'todo' or status = 'failed' and %(failed)s::boolean) and lock is not null)"""
_LOCK_TIMEOUT: LiteralString = "select set_config('lock_timeout'::text, %(timeout)s::text, true)"
_LOCK_TABLE: LiteralString = "lock table {theirs}.procrastinate_jobs in share row exclusive mode"

# The locks that stay, and whether the job that holds one there waits: in a queue that is not chosen. All others run.
# "aborting" is the word of releases before 3.0 for a job that runs and shall end.
_PROCRASTINATE_LOCKS: LiteralString = """
select lock, bool_and(status = 'todo') from {theirs}.procrastinate_jobs
where lock is not null and (status::text = any('{{doing,aborting}}'::text[])
or status = 'todo' and not queue_name::text = any(%(queues)s::text[])) group by lock"""
_PROCRASTINATE_LEFT: LiteralString = """
select queue_name::text, status::text, count(*) from {theirs}.procrastinate_jobs
where status::text = any('{{todo,doing,aborting,failed}}'::text[])
group by queue_name, status order by queue_name, status"""

# The same for django-tasks-db, whose workers pass by locked rows likewise. The year 9999 is its word for "at once".
_DJANGO: LiteralString = """
select id::text, task_path, queue_name::text, priority, args_kwargs -> 'kwargs'::text, args_kwargs -> 'args'::text,
       case when run_after < '9999-01-01'::timestamptz then run_after end, 0, null, null, status::text = 'FAILED'::text
from {theirs}.django_tasks_database_dbtaskresult
where (status::text = 'READY'::text or status::text = 'FAILED'::text and %(failed)s::boolean)
and (%(queues)s::text[] is null or queue_name::text = any(%(queues)s::text[]))
order by status::text = 'FAILED'::text, enqueued_at, id"""
_DJANGO_GONE: LiteralString = """
delete from {theirs}.django_tasks_database_dbtaskresult
where id = any(%(keys)s::uuid[]) and status::text = any('{{READY,FAILED}}'::text[])"""
_DJANGO_LEFT: LiteralString = """
select queue_name::text, status::text, count(*) from {theirs}.django_tasks_database_dbtaskresult
where status::text = any('{{READY,RUNNING,FAILED}}'::text[])
group by queue_name, status order by queue_name, status"""

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
    `lock`: what no two running jobs there have in common; `unique`: what no two waiting ones have. `has_failed`: it
    does not wait there any more."""

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
    has_failed: bool


class Chosen(NamedTuple):
    """Which jobs of another queue are meant: those that wait in these of its queues (None: in all), and on demand those
    that have failed there."""

    queues: Sequence[str] | None = None
    failed: bool = False


class LeftJobs(NamedTuple):
    """How many jobs of one of its queues are in a state there."""

    queue: str
    state: str
    jobs: int


class ForeignQueries(Statements):
    """The tables of other queues; `theirs` is the schema in which they are."""

    def has_table(self, system: str, theirs: str) -> Query[bool]:
        """Whether the tables of a queue are there."""
        given = {"schema": theirs, "table": _TABLES[system]}
        return Query(self._sql(_HAS_TABLE), lambda rows: bool(rows[0][0]), given)

    def has_locks(self, system: str, theirs: str, chosen: Chosen) -> Query[bool]:
        """Whether jobs that wait have locks, or chosen ones that have failed; django-tasks-db has no locks."""
        if system != "procrastinate":
            return Query(b"select", lambda _: False)
        return Query(self._of(_ANY_LOCK, theirs), lambda rows: bool(rows[0][0]), {"failed": chosen.failed})

    def lock_timeout(self, seconds: float) -> Query[None]:
        """Bound how long a statement waits for a lock, until the transaction ends."""
        return Query(self._sql(_LOCK_TIMEOUT), nothing, {"timeout": f"{int(1000 * seconds)}ms"})

    def lock_table(self, theirs: str) -> Query[None]:
        """Keep everybody from writing jobs of procrastinate until the transaction ends."""
        return Query(self._of(_LOCK_TABLE, theirs), nothing)

    def waiting(self, system: str, theirs: str, chosen: Chosen, *, lock: bool) -> Query[list[ForeignJob]]:
        """Read the chosen jobs; `lock`: and keep them from its workers until the transaction ends."""
        template = (_LOCKED if lock else _WAITING)[system]
        given = {"failed": chosen.failed, "queues": chosen.queues}
        return Query(self._of(template, theirs), lambda rows: [ForeignJob(*row) for row in rows], given)

    def kept_locks(self, system: str, theirs: str, chosen: Chosen) -> Query[dict[str, bool]]:
        """Read the locks that other jobs there have than the chosen ones, and whether these others wait."""
        if system != "procrastinate":
            return Query(b"select", lambda _: {})
        return Query(self._of(_PROCRASTINATE_LOCKS, theirs), dict, {"queues": chosen.queues})

    def on_path(self, theirs: str) -> Query[None]:
        """Let triggers find the tables of their schema, until the transaction ends."""
        return Query(self._sql(_ON_PATH), nothing, {"schema": theirs})

    def gone(self, system: str, theirs: str, keys: Sequence[str]) -> Query[None]:
        """Delete jobs there."""
        return Query(self._of(_GONE[system], theirs), nothing, {"keys": list(keys)})

    def left(self, system: str, theirs: str) -> Query[Sequence[LeftJobs]]:
        """Count the jobs that wait or run there, and those that have failed."""
        return Query(self._of(_LEFT[system], theirs), lambda rows: [LeftJobs(*row) for row in rows])

    def _of(self, template: LiteralString, theirs: str) -> bytes:
        return self._sql(template, theirs=sql.Identifier(theirs))
