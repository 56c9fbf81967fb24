"""Importing: the jobs that wait in another queue's tables become jobs of this app, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pgqueue import db
from pgqueue.client.app_parts import AppParts
from pgqueue.client.client import Client
from pgqueue.client.joining import apart
from pgqueue.client.settings import call_settings
from pgqueue.errors import ConfigError, IdempotencyConflict, InvalidArguments, InvalidInput, InvalidOption
from pgqueue.queries.base import Templates
from pgqueue.queries.foreign import SYSTEMS, ForeignJob, ForeignQueries
from pgqueue.tasks.call_shape import ARGS, KWARGS, POSITIONAL, RESULT
from pgqueue.tasks.spec import TaskSpec

HEADER = "imported_from"
Locks: TypeAlias = dict[str, str]  # those whose jobs stay, and why
_RUNS = "a job with its lock runs there: import again when that has ended"
_STAYS = {
    "doing": "they run there: their worker ends them",
    "running": "they run there: their worker ends them",
    "failed": "they have failed there: let them wait again there, and import them then",
}


@dataclass(frozen=True, slots=True)
class LeftJob:
    """A job that stays where it is, and why."""

    key: str
    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has moved, as pairs of the key there and the id here (None in a preview), by task how many; and
    what stays: jobs that wait and cannot be moved, and in words those that do not wait."""

    moved: Sequence[tuple[str, int | None]]
    tasks: Mapping[str, int]
    left: Sequence[LeftJob]
    others: Sequence[str]


class Import:
    """One import, from one of SYSTEMS, whose tables are in the schema `theirs`. `renamed`: names of tasks there with
    those that they have here.

    The waiting jobs are locked there, inserted here by the same checks as any call, and deleted there, all in one
    transaction: each is in one of the two queues, whatever dies. So a second run finds only what is left.
    """

    def __init__(self, app: AppParts, system: str, theirs: str = "public", renamed: Mapping[str, str] | None = None):
        if system not in SYSTEMS:
            raise InvalidOption(f"{system!r:.100} cannot be imported: give one of {', '.join(SYSTEMS)}")
        self._app = app
        self._system = system
        self._theirs = theirs
        self._renamed = dict(renamed or {})
        self._queries = ForeignQueries(Templates("pgqueue"), None)  # no statement of these names our schema
        if unknown := sorted(name for name in self._renamed.values() if app.tasks.get(name) is None):
            raise InvalidOption(f"no task of this app is called {unknown[0]!r}: name the app, or another task")

    def preview(self) -> Imported:
        """Return what `run` would do, without a lock and without a write. Keys that other jobs hold are not seen."""
        with apart(self._app), self._app.backend.pools.connection() as conn:
            self._check(conn)
            return self._done(conn, write=False)

    def run(self) -> Imported:
        """Move the jobs. Raises ConfigError where the tables are not there, QueueFull, and errors of the database;
        then nothing is moved."""
        with apart(self._app), self._app.backend.pools.connection() as conn, conn.transaction():
            self._check(conn)
            return self._done(conn, write=True)

    def _check(self, conn: db.Connection) -> None:
        if not db.run(conn, self._queries.has_table(self._system, self._theirs)):
            raise ConfigError(
                f"the database has no tables of {self._system} in the schema {self._theirs!r}: "
                "name the schema that has them (--from-schema)"
            )

    def _done(self, conn: db.Connection, *, write: bool) -> Imported:
        system, theirs = self._system, self._theirs
        waiting = db.run(conn, self._queries.waiting(system, theirs, lock=write))
        running = db.run(conn, self._queries.running_locks(system, theirs))
        locks = dict.fromkeys(running, _RUNS)
        moved, tasks, left = list[tuple[str, int | None]](), dict[str, int](), list[LeftJob]()
        for foreign in waiting:
            name = self._renamed.get(foreign.task, foreign.task)
            try:
                job_id = self._move(conn, name, foreign, locks, write=write)
            except _CannotMove as error:
                left.append(LeftJob(foreign.key, foreign.task, str(error)))
                if foreign.lock is not None:  # what waits behind it stays behind it
                    locks.setdefault(
                        foreign.lock, f"job {foreign.key}, which has its lock and comes first, stays there"
                    )
                continue
            moved.append((foreign.key, job_id))
            tasks[name] = tasks.get(name, 0) + 1
        if write and moved:
            db.run(conn, self._queries.on_path(theirs))
            db.run(conn, self._queries.gone(system, theirs, [key for key, _ in moved]))
        others = db.run(conn, self._queries.left(system, theirs))
        said = [f"{jobs} {state.lower()}: {_STAYS[state.lower()]}" for state, jobs in sorted(others.items())]
        return Imported(moved, tasks, left, said)

    def _move(self, conn: db.Connection, name: str, foreign: ForeignJob, locks: Locks, *, write: bool) -> int | None:
        """Insert one job, and return its id. Raises _CannotMove before anything is written."""
        spec = self._app.tasks.get(name)
        if spec is None:
            raise _CannotMove(f"no task of this app is called {name!r}: register it, or give --map {name}=…")
        is_ordered = spec.metering is not None and spec.metering.order is not None
        if foreign.lock is not None and not is_ordered:
            raise _CannotMove(f"it has a lock, and task {name} has no order here: give it ordered=…")
        if foreign.lock in locks:
            raise _CannotMove(locks[foreign.lock])
        try:
            args, positional = _arguments(spec, foreign)
            options = self._options(spec, foreign, positional, is_ordered=is_ordered)
            client = Client(self._app, conn, call_settings(options))
            client.prepared(name, args)
        except InvalidArguments as error:
            raise _CannotMove(f"task {error.task} does not take its arguments") from None  # which may be secret
        except InvalidInput as error:
            raise _CannotMove(str(error)) from None
        if not write:
            return None
        try:
            job = client.enqueue(name, args)
        except IdempotencyConflict:
            raise _CannotMove("its idempotency key was used here with other arguments") from None
        if job.existing:
            raise _CannotMove(f"job {job.id} has its key here")
        return job.id

    def _options(self, spec: TaskSpec, foreign: ForeignJob, positional: int, *, is_ordered: bool) -> dict[str, Any]:
        headers = {HEADER: f"{self._system} {foreign.key}"} | ({POSITIONAL: str(positional)} if positional else {})
        options: dict[str, Any] = {"queue": foreign.queue, "headers": headers, "run_at": foreign.run_at}
        if not (is_ordered and foreign.priority == spec.priority):
            options["priority"] = foreign.priority
        if foreign.attempts:
            options["max_attempts"] = max(1, spec.max_attempts - foreign.attempts)
        if foreign.unique is not None:
            options["unique_key"] = foreign.unique
        rules = spec.rules
        if foreign.unique is not None or (rules is not None and (rules.unique or rules.unique_key) is not None):
            options["on_conflict"] = "skip"  # a job that waits here stays as it is, whatever the task says
        return options


class _CannotMove(Exception):
    """Why a job stays where it is."""


def _arguments(spec: TaskSpec, foreign: ForeignJob) -> tuple[dict[str, Any], int]:
    """Return the arguments of a job by name, and how many of them it has by position there."""
    if not isinstance(foreign.args, dict) or not isinstance(foreign.positional, list | None):
        raise _CannotMove("its arguments are no JSON object")
    if foreign.positional is None:
        return foreign.args, 0
    names = list(spec.coder.signature.parameters)
    if names == [RESULT, ARGS, KWARGS]:  # a function without names, as CallShape stores its calls
        return {ARGS: foreign.positional, KWARGS: foreign.args}, 0
    by_position = dict(zip(names, foreign.positional, strict=False))
    if len(foreign.positional) > len(names) or by_position.keys() & foreign.args.keys():
        raise InvalidArguments(spec.name, ["too many arguments"])
    return by_position | foreign.args, len(foreign.positional)
