"""Letting jobs in by their terms: the steps are statements and answers, the same for sync and async callers."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pgqueue import db
from pgqueue.client.chunks import chunks
from pgqueue.db.steps import Steps, T, follow, follow_async
from pgqueue.errors import DuplicateJob, IdempotencyConflict, PgqueueError, SnapshotConflict
from pgqueue.jobs.job import NewJob
from pgqueue.queries import Queries, Query
from pgqueue.queries.jobs.enqueue import AdmissionResult, conditions_of
from pgqueue.queries.jobs.keys import KeyHolder, UniqueHolder

ROUNDS = 100  # how often a job may find its key taken, and then free again
TRIES = 10  # of a transaction of our own that could not be serialized
_UNSEEN = (
    "another transaction has taken the same key, and this one's snapshot is older (repeatable read or serializable): "
    "roll back and do it again, or use read committed"
)


class NeedsSavepoint(Exception):
    """The transaction keeps its snapshot: it needs a savepoint, for a key that it cannot see is an error there."""


class Again(Exception):
    """A key has changed hands meanwhile, and others are held already: give all of them back and begin again."""


class Admitted(NamedTuple):
    """What became of many calls: the ids of their jobs, in the order of the calls, and of those the new ones."""

    ids: list[int]
    new: list[int]


class Bulk(Protocol):
    """Many calls of one task that are let in together. All have the options of `like`."""

    @property
    def like(self) -> NewJob: ...
    def __len__(self) -> int: ...
    def admitted(self, queries: Queries) -> Steps[Admitted]: ...


class Admission:
    """Lets jobs in that have distinct keys, or finds the ones that are there in their place."""

    def __init__(self, queries: Queries, jobs: Sequence[NewJob]) -> None:
        self._queries = queries
        self._jobs = jobs
        self._waiting = dict(enumerate(jobs))
        self._done: dict[int, AdmissionResult] = {}

    def steps(self, *, guarded: bool) -> Steps[list[AdmissionResult]]:
        """Ask until each job is in, or has met another. A key may become free in between: then ask again.

        Raises IdempotencyConflict, DuplicateJob, and NeedsSavepoint before anything is written.
        """
        for _ in range(ROUNDS):
            throttled, rivalled = yield from self._enter(guarded)
            yield from self._meet_keys(throttled)
            yield from self._meet_rivals(rivalled)
            if not self._waiting:
                return [self._done[at] for at in range(len(self._jobs))]
        raise PgqueueError(f"keys were taken and freed {ROUNDS} times while {len(self._waiting)} jobs wanted them")

    def _enter(self, guarded: bool) -> Steps[tuple[list[int], list[int]]]:
        """Insert what gets its keys. Return who has not got the one in the table of keys, and who the other."""
        waiting = list(self._waiting.items())
        entries = yield self._inserting([job for _, job in waiting], guarded)
        if not entries:
            raise NeedsSavepoint
        if all(entry.admitted for entry in entries):
            self._done.update(zip(self._waiting, entries, strict=True))
            self._waiting = {}
            return [], []
        throttled, rivalled, orphans = [], [], []
        for (at, job), entry in zip(waiting, entries, strict=True):
            if entry.admitted:
                self._finish(at, entry)
            elif conditions_of(job).key_hash is not None and not entry.took_key:
                throttled.append(at)
            else:
                rivalled.append(at)
                orphans += [(entry.id, job)] if entry.took_key else []
        if orphans:
            yield self._queries.jobs.give_back_keys([job_id for job_id, _ in orphans], [job for _, job in orphans])
        return throttled, rivalled

    def _inserting(self, jobs: Sequence[NewJob], guarded: bool) -> Query[list[AdmissionResult]]:
        if (
            len(jobs) == 1
            and conditions_of(jobs[0]).key_hash is not None
            and conditions_of(jobs[0]).unique_hash is None
        ):
            return self._queries.jobs.enqueue_one_keyed(jobs[0], guarded=guarded)
        return self._queries.jobs.enqueue_conditionally(jobs, guarded=guarded)

    def _meet_keys(self, lost: list[int]) -> Steps[None]:
        """Find who has the keys. Those whose time is over are freed, and wanted again."""
        if not lost:
            return
        jobs = [self._waiting[at] for at in lost]
        found: list[KeyHolder] = sorted(
            (yield self._queries.jobs.find_key_holders(jobs))
        )  # rows are locked in the order of keys
        over = [jobs[key.ord - 1] for key in found if key.expired]
        if over:
            yield self._queries.jobs.free_expired_keys(over)
        replacing = []
        for key in found:
            at, job = lost[key.ord - 1], jobs[key.ord - 1]
            if key.expired:
                continue
            if conditions_of(job).key is not None and not conditions_of(job).by_args and not key.same_args:
                raise IdempotencyConflict(job.task, str(conditions_of(job).key), key.job_id)
            if self._meet(at, key):
                replacing.append((at, key.job_id))
            self._finish(at, _existing(key))
        yield from self._replace(replacing)

    def _meet_rivals(self, lost: list[int]) -> Steps[None]:
        """Find who has the unique keys. One that could not be replaced has just started: its key may be free. Those of
        jobs that have expired are freed, and wanted again."""
        if not lost:
            return
        found: list[UniqueHolder] = sorted(
            (yield self._queries.jobs.find_unique_holders([self._waiting[at] for at in lost]))
        )
        over = [self._waiting[lost[rival.ord - 1]] for rival in found if rival.expired]
        if over:
            yield self._queries.jobs.free_expired_unique_keys(over)
        replacing = []
        for rival in found:
            at = lost[rival.ord - 1]
            if rival.expired:
                continue
            if self._meet(at, rival) and not rival.started:
                replacing.append((at, rival.job_id))
            else:
                self._finish(at, _existing(rival))
        replaced = yield from self._replace(replacing)
        for rival in found:
            if rival.job_id in replaced:
                self._finish(lost[rival.ord - 1], _existing(rival))

    def _meet(self, at: int, met: KeyHolder | UniqueHolder) -> bool:
        """Whether the job that was met is to be replaced. Raises DuplicateJob if the call wants to be told."""
        conditions = conditions_of(self._jobs[at])
        if conditions.unique is None:
            return False
        if conditions.on_conflict == "raise":
            raise DuplicateJob(self._jobs[at].task, conditions.unique, met.job_id)
        return conditions.on_conflict == "replace"

    def _replace(self, replacing: list[tuple[int, int]]) -> Steps[set[int]]:
        if not replacing:
            return set()
        query = self._queries.jobs.replace([job_id for _, job_id in replacing], [self._jobs[at] for at, _ in replacing])
        replaced: set[int] = yield query
        return replaced

    def _finish(self, at: int, entry: AdmissionResult) -> None:
        self._done[at] = entry
        self._waiting.pop(at, None)


@dataclass(frozen=True, slots=True)
class Batch:
    """The jobs of one call, each key once, in the order of their keys: so no two batches wait for each other in a
    circle. All are of one task. `places` says which of `jobs` each of the call's is."""

    jobs: list[NewJob]
    places: list[int]

    @classmethod
    def of(cls, given: Sequence[NewJob]) -> "Batch":
        """Put jobs with the same key together, as if they came one after the other.

        Raises DuplicateJob for a key that stands twice, if the call wants to be told.
        """
        kept: dict[str, NewJob] = {}
        keys = []
        for at, job in enumerate(given):
            conditions = conditions_of(job)
            key = (
                conditions.unique_hash or conditions.key_hash or f"{at:09}"
            )  # in this order: with a window or without, one order
            kept[key] = _again(kept[key], job) if key in kept else job
            keys.append(key)
        order = sorted(kept)
        position = {key: at for at, key in enumerate(order)}
        return cls([kept[key] for key in order], [position[key] for key in keys])

    @property
    def like(self) -> NewJob:
        """One of them."""
        return self.jobs[0]

    def __len__(self) -> int:
        return len(self.places)

    def steps(self, queries: Queries) -> Steps[list[AdmissionResult]]:
        """Let them in, or find those in their place. Raises IdempotencyConflict and DuplicateJob."""
        admitted: list[AdmissionResult] = []
        for part in chunks(self.jobs):
            admitted += yield from Admission(queries, part).steps(guarded=False)
        return self.spread(admitted)

    def admitted(self, queries: Queries) -> Steps[Admitted]:
        """As `steps`: what became of the calls."""
        entries = yield from self.steps(queries)
        return Admitted([entry.id for entry in entries], [entry.id for entry in entries if entry.admitted])

    def spread(self, admitted: Sequence[AdmissionResult]) -> list[AdmissionResult]:
        """Return what became of each job of the call; of those that were put together the first is the new one."""
        if len(admitted) == len(self.places):
            return [admitted[at] for at in self.places]
        seen: set[int] = set()
        spread = []
        for at in self.places:
            spread.append(admitted[at]._replace(admitted=False) if at in seen else admitted[at])
            seen.add(at)
        return spread


def _again(before: NewJob, job: NewJob) -> NewJob:
    """What two jobs with one key are."""
    conditions = conditions_of(job)
    if conditions.on_conflict == "raise":
        raise DuplicateJob(job.task, str(conditions.unique), None)
    return job if conditions.on_conflict == "replace" else before


def _may_give_back(job: NewJob) -> bool:
    """Whether a job may take a key, for its window, and then not be let in for the other."""
    return conditions_of(job).unique is not None and conditions_of(job).window is not None


def _existing(met: KeyHolder | UniqueHolder) -> AdmissionResult:
    return AdmissionResult(met.job_id, met.created_at, met.created_at, False, False, met.readable)


def admit(conn: db.Connection, queries: Queries, job: NewJob) -> AdmissionResult:
    """Let one job in, in the caller's transaction. What it meets is no error of the server, and aborts nothing."""
    try:
        with db.all_or_nothing(conn) if _may_give_back(job) else nullcontext():
            return follow(conn, Admission(queries, [job]).steps(guarded=True))[0]
    except NeedsSavepoint:
        return admit_all(conn, queries, Batch.of([job]).steps)[0]


async def admit_async(conn: db.AnyAsyncConnection, queries: Queries, job: NewJob) -> AdmissionResult:
    """Let one job in, in the caller's transaction. What it meets is no error of the server, and aborts nothing."""
    try:
        async with db.all_or_nothing_async(conn) if _may_give_back(job) else nullcontext():
            return (await follow_async(conn, Admission(queries, [job]).steps(guarded=True)))[0]
    except NeedsSavepoint:
        return (await admit_all_async(conn, queries, Batch.of([job]).steps))[0]


class _Tries:
    """How often jobs may be let in anew, after what could not be helped."""

    def __init__(self, *, own: bool) -> None:
        self._snapshots = TRIES if own else 1
        self._rounds = ROUNDS

    def again(self, error: Exception) -> bool:
        """Whether to try again after an error. Raises what it amounts to at the end."""
        if isinstance(error, Again):
            self._rounds -= 1
            if not self._rounds:
                raise PgqueueError(f"keys were taken and freed {ROUNDS} times while jobs wanted them") from None
            return True
        if getattr(error, "sqlstate", None) != SnapshotConflict.sqlstate:  # asyncpg's errors have it, too
            return False
        self._snapshots -= 1
        if not self._snapshots:
            raise SnapshotConflict(_UNSEEN) from error
        return True


def admit_all(conn: db.Connection, queries: Queries, steps: Callable[[Queries], Steps[T]]) -> T:
    """Let jobs in, all of them or none: one that may not come in leaves none of them behind."""
    own = db.autocommits(conn)
    tries = _Tries(own=own)
    while True:
        try:
            with db.all_or_nothing(conn), nullcontext() if own else _savepoint(conn, queries):
                return follow(conn, steps(queries))
        except Exception as error:
            if not tries.again(error):
                raise


async def admit_all_async(conn: db.AnyAsyncConnection, queries: Queries, steps: Callable[[Queries], Steps[T]]) -> T:
    """The async twin of `admit_all`."""
    own = db.autocommits(conn)
    tries = _Tries(own=own)
    while True:
        try:
            async with db.all_or_nothing_async(conn), nullcontext() if own else _savepoint_async(conn, queries):
                return await follow_async(conn, steps(queries))
        except Exception as error:
            if not tries.again(error):
                raise


@contextmanager
def _savepoint(conn: db.Connection, queries: Queries) -> Iterator[None]:
    db.run(conn, queries.jobs.begin())  # or psycopg would take the savepoint for the transaction, and commit it
    with conn.transaction():
        yield


@asynccontextmanager
async def _savepoint_async(conn: db.AnyAsyncConnection, queries: Queries) -> AsyncIterator[None]:
    await db.run_async(conn, queries.jobs.begin())
    async with db.savepoint_async(conn):
        yield
