"""Importing: the jobs that wait in another queue's tables become jobs of this app, in one transaction."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import psycopg

from pgqueue import db
from pgqueue.client.app_parts import AppParts
from pgqueue.client.client import Client
from pgqueue.client.joining import apart
from pgqueue.client.recording import Counts, RecordedStep, recorded
from pgqueue.client.settings import call_settings
from pgqueue.errors import ConfigError, Conflict, IdempotencyConflict, InvalidArguments, InvalidInput, InvalidOption
from pgqueue.jobs.job import NewJob
from pgqueue.queries.base import Templates
from pgqueue.queries.foreign import SYSTEMS, Chosen, ForeignJob, ForeignQueries, LeftJobs
from pgqueue.tasks.call_shape import ARGS, KWARGS, POSITIONAL, RESULT
from pgqueue.tasks.spec import TaskSpec

HEADER = "imported_from"
WAITING = Chosen()
LOCK_SECONDS = 10.0  # for which an import waits until nobody writes the jobs there
Locks: TypeAlias = dict[str, str]  # those whose jobs stay, and why
_RUNS = "a job with its lock runs there: import again when that has ended"
_ELSEWHERE = "a job with its lock waits there in another queue: import both queues together"
_WAIT = "they wait there: name their queues, too, or none"
_RUN = "they run there: their worker ends them"
_STAYS = {
    "todo": _WAIT,
    "ready": _WAIT,
    "doing": _RUN,
    "aborting": _RUN,
    "running": _RUN,
    "failed": "they have failed there: with --failed they are imported, too, and run again",
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
    what stays: chosen jobs that cannot be moved, and in words all others that wait, run or have failed."""

    moved: Sequence[tuple[str, int | None]]
    tasks: Mapping[str, int]
    left: Sequence[LeftJob]
    others: Sequence[str]


class _Ready(NamedTuple):
    """A job that can be moved: who inserts it, under which name, and with which arguments. `order`: the bucket whose
    jobs run in order, or None."""

    foreign: ForeignJob
    client: Client
    name: str
    args: dict[str, Any]
    order: str | None


class Import:
    """One import, from one of SYSTEMS, whose tables are in the schema `theirs`. `renamed`: names of tasks there with
    those that they have here. `chosen`: the queues there, and whether jobs that have failed there run again here.

    The jobs are locked there, inserted here by the same checks as any call, and deleted there, all in one transaction:
    each is in one of the two queues, whatever dies. So a second run finds only what is left. All waiting jobs of a lock
    are moved, or none: the rest of them would run there beside those that run here.
    """

    def __init__(
        self,
        app: AppParts,
        system: str,
        theirs: str = "public",
        renamed: Mapping[str, str] | None = None,
        chosen: Chosen = WAITING,
    ) -> None:
        if system not in SYSTEMS:
            raise InvalidOption(f"{system!r:.100} cannot be imported: give one of {', '.join(SYSTEMS)}")
        self._app = app
        self._system = system
        self._theirs = theirs
        self._renamed = dict(renamed or {})
        self._chosen = chosen
        self._queries = ForeignQueries(Templates("pgqueue"), None)  # no statement of these names our schema
        if unknown := sorted(name for name in self._renamed.values() if app.tasks.get(name) is None):
            raise InvalidOption(f"no task of this app is called {unknown[0]!r}: name the app, or another task")

    def preview(self) -> Imported:
        """Return what `run` would do, without a lock and without a write. Keys that other jobs hold are not seen."""
        with apart(self._app), self._app.backend.pools.connection() as conn:
            self._check(conn)
            return self._done(conn, write=False)

    def run(self, by: str | None = None, via: str = "python") -> Imported:
        """Move the jobs, and write down as an operation who has done it and how many there were. Raises ConfigError
        where the tables are not there, Conflict where somebody writes them for long, QueueFull, and errors of the
        database; then nothing is moved."""
        what = {"from": self._system, "schema": self._theirs, "queues": ", ".join(self._chosen.queues or ())}
        options = {"map": ", ".join(map("=".join, self._renamed.items())), "failed": self._chosen.failed}
        with apart(self._app):
            step = RecordedStep("enqueue", what, options, by, via)
            return recorded(self._app, step, self._run, lambda done: Counts(len(done.moved), len(done.left)))

    def _run(self) -> Imported:
        with self._app.backend.pools.connection() as conn, conn.transaction():
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
        is_alone = write and self._lock_writers_out(conn)
        waiting = db.run(conn, self._queries.waiting(system, theirs, self._chosen, lock=write))
        kept = db.run(conn, self._queries.kept_locks(system, theirs, self._chosen))
        move = _Move(self, conn, {lock: _ELSEWHERE if waits else _RUNS for lock, waits in kept.items()}, write)
        for group in _by_lock(waiting):
            if write and not is_alone and group[0].lock is not None:
                raise Conflict("jobs with locks have come there since the import began: import again")
            move.together(group)
        if write and move.moved:
            db.run(conn, self._queries.on_path(theirs))
            db.run(conn, self._queries.gone(system, theirs, [key for key, _ in move.moved]))
        others = self._others(db.run(conn, self._queries.left(system, theirs)))
        return Imported(move.moved, move.tasks, move.left, others)

    def _lock_writers_out(self, conn: db.Connection) -> bool:
        """Let nobody write the jobs there until the transaction ends, if some of them have locks. Raises Conflict."""
        if not db.run(conn, self._queries.has_locks(self._system, self._theirs, self._chosen)):
            return False
        db.run(conn, self._queries.lock_timeout(LOCK_SECONDS))
        try:
            db.run(conn, self._queries.lock_table(self._theirs))
        except psycopg.errors.LockNotAvailable:
            raise Conflict(
                f"an open transaction writes the jobs of {self._system}: nothing was moved, import again when it has "
                "ended (pg_stat_activity shows it)"
            ) from None
        return True

    def _others(self, left: Sequence[LeftJobs]) -> list[str]:
        """Return in words which jobs there were not meant."""
        found = dict[str, tuple[int, list[str]]]()
        for queue, state, jobs in left:
            low = state.lower()
            is_meant = _STAYS[low] == _WAIT or (low == "failed" and self._chosen.failed)
            if not (is_meant and (self._chosen.queues is None or queue in self._chosen.queues)):
                before, queues = found.get(low, (0, []))
                found[low] = (before + jobs, [*queues, queue])
        return [f"{jobs} {state} in {', '.join(queues)}: {_STAYS[state]}" for state, (jobs, queues) in found.items()]

    def ready(self, conn: db.Connection, foreign: ForeignJob) -> _Ready:
        """Check one job as its call here would. Raises CannotMove."""
        name = self._renamed.get(foreign.task, foreign.task)
        spec = self._app.tasks.get(name)
        if spec is None:
            raise CannotMove(f"no task of this app is called {name!r}: register it, or give --map {name}=…")
        is_ordered = spec.metering is not None and spec.metering.order is not None
        if foreign.lock is not None and not is_ordered:
            raise CannotMove(f"it has a lock, and task {name} has no order here: give it ordered=…")
        try:
            args, positional = _arguments(spec, foreign)
            options = self._options(spec, foreign, positional, is_ordered=is_ordered)
            client = Client(self._app, conn, call_settings(options))
            return _Ready(foreign, client, name, args, _order(spec, client.prepared(name, args)))
        except InvalidArguments as error:
            raise CannotMove(f"task {error.task} does not take its arguments") from None  # which may be secret
        except InvalidInput as error:
            raise CannotMove(str(error)) from None

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


class CannotMove(Exception):
    """Why a job stays where it is."""


class _Stay(Exception):
    """Why jobs of a group stay, by their key, and so the whole group."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons
        super().__init__(reasons)


class _Move:
    """Moves jobs one after the other, or the jobs of a lock together, and keeps what was moved and what was not.

    `locks`: those whose jobs stay. `orders`: the order that the jobs of each lock have here.
    """

    def __init__(self, of: Import, conn: db.Connection, locks: Locks, write: bool) -> None:
        self._of, self._conn, self._locks, self._write = of, conn, locks, write
        self._orders = dict[str, str | None]()
        self.moved = list[tuple[str, int | None]]()
        self.tasks = dict[str, int]()
        self.left = list[LeftJob]()

    def together(self, group: Sequence[ForeignJob]) -> None:
        """Move jobs of one lock, or one job without a lock; or none of them, and say why."""
        try:
            ready = self._checked(group)
            ids = self._written(ready) if self._write else [None] * len(ready)
        except _Stay as stay:
            self._leave(group, stay.reasons)
            return
        self.moved += zip((each.foreign.key for each in ready), ids, strict=True)
        for each in ready:
            self.tasks[each.name] = self.tasks.get(each.name, 0) + 1

    def _checked(self, group: Sequence[ForeignJob]) -> list[_Ready]:
        ready, reasons = list[_Ready](), dict[str, str]()
        for foreign in group:
            try:
                ready.append(self._ready(foreign))
            except CannotMove as error:
                reasons[foreign.key] = str(error)
        if reasons:
            raise _Stay(reasons)
        return ready

    def _ready(self, foreign: ForeignJob) -> _Ready:
        ready = self._of.ready(self._conn, foreign)
        if foreign.lock in self._locks:
            raise CannotMove(self._locks[foreign.lock])
        if foreign.lock is not None and self._orders.setdefault(foreign.lock, ready.order) != ready.order:
            raise CannotMove("jobs with its lock have another task or ordering key here, and would run beside it")
        return ready

    def _written(self, group: Sequence[_Ready]) -> list[int]:
        """Insert jobs. The last of several may have a key that a job of ours has: then the others go back, too."""
        ids = list[int]()
        with self._conn.transaction() if len(group) > 1 else nullcontext():
            for each in group:
                try:
                    ids.append(_enqueued(each))
                except CannotMove as error:
                    raise _Stay({each.foreign.key: str(error)}) from None
        return ids

    def _leave(self, group: Sequence[ForeignJob], reasons: Mapping[str, str]) -> None:
        first = next(iter(reasons))
        for foreign in group:
            reason = reasons.get(foreign.key, f"job {first}, which has its lock, stays there")
            self.left.append(LeftJob(foreign.key, foreign.task, reason))
        if group[0].lock is not None and not group[0].has_failed:  # one that has failed holds no lock there
            self._locks.setdefault(group[0].lock, f"job {first}, which has its lock, stays there")


def _by_lock(waiting: Sequence[ForeignJob]) -> list[list[ForeignJob]]:
    """Return jobs in groups: those that wait with one lock in one, in their order, and each other job alone."""
    groups = dict[tuple[str, str], list[ForeignJob]]()
    for foreign in waiting:
        has_lock = foreign.lock is not None and not foreign.has_failed
        groups.setdefault(("lock", foreign.lock or "") if has_lock else ("key", foreign.key), []).append(foreign)
    return list(groups.values())


def _enqueued(ready: _Ready) -> int:
    """Insert one job, and return its id. Raises CannotMove before it has written."""
    try:
        job = ready.client.enqueue(ready.name, ready.args)
    except IdempotencyConflict:
        raise CannotMove("its idempotency key was used here with other arguments") from None
    if job.existing:
        raise CannotMove(f"job {job.id} has its key here")
    return job.id


def _order(spec: TaskSpec, job: NewJob) -> str | None:
    """Return the bucket whose jobs run in order, also where one that is retried lets others pass."""
    if spec.metering is None or spec.metering.order is None or job.flow is None:
        return None
    rule = f"{spec.metering.order.rule.name}/"
    return next((bucket for bucket in job.flow.buckets if bucket.startswith(rule)), None)


def _arguments(spec: TaskSpec, foreign: ForeignJob) -> tuple[dict[str, Any], int]:
    """Return the arguments of a job by name, and how many of them it has by position there."""
    if not isinstance(foreign.args, dict) or not isinstance(foreign.positional, list | None):
        raise CannotMove("its arguments are no JSON object")
    if foreign.positional is None:
        return foreign.args, 0
    names = list(spec.coder.signature.parameters)
    if names == [RESULT, ARGS, KWARGS]:  # a function without names, as CallShape stores its calls
        return {ARGS: foreign.positional, KWARGS: foreign.args}, 0
    by_position = dict(zip(names, foreign.positional, strict=False))
    if len(foreign.positional) > len(names) or by_position.keys() & foreign.args.keys():
        raise InvalidArguments(spec.name, ["too many arguments"])
    return by_position | foreign.args, len(foreign.positional)
