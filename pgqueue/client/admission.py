"""Admission: deciding whether a job with conditions is inserted, or an existing job stands in its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from pgqueue.client.chunks import job_chunks
from pgqueue.client.steps import Ask, Steps, Transaction, all_or_nothing
from pgqueue.errors import DuplicateJob, IdempotencyConflict, PgqueueError, SnapshotConflict
from pgqueue.jobs.job import NewJob
from pgqueue.queries import Queries, Query
from pgqueue.queries.jobs.enqueue import AdmissionResult, conditions_of
from pgqueue.queries.jobs.enqueue_conditional import Replaced
from pgqueue.queries.jobs.keys import KeyHolder, UniqueHolder

T = TypeVar("T")
ROUNDS = 100  # How often a job may find its key taken, and then free again.
SNAPSHOT_TRIES = 10  # How often a transaction of our own is tried that could not be serialized.
_UNSEEN = (
    "another transaction has taken the same key, and this one's snapshot is older (repeatable read or serializable): "
    "roll back and do it again, or use read committed"
)


class NeedsSavepoint(Exception):
    """The caller's transaction is repeatable read or serializable. A key committed after its snapshot raises there
    instead of being skipped, so the insert must run in a savepoint."""


class KeysChanged(Exception):
    """A key was taken or freed while this call held others. It must give them all back and begin again: calls
    that wait for a key while they hold others may deadlock."""


class Admitted(NamedTuple):
    """The result of many calls: the ids of their jobs, in the order of the calls, and those of the new jobs alone."""

    ids: list[int]
    new: list[int]


class Bulk(Protocol):
    """Many calls of one task that are admitted together. `shared` has the options that are the same for all."""

    @property
    def shared(self) -> NewJob: ...
    def __len__(self) -> int: ...
    def admitted(self, queries: Queries) -> Steps[Admitted]: ...


class Admission:
    """Inserts jobs that have distinct keys, or finds the existing jobs that hold those keys."""

    def __init__(self, queries: Queries, jobs: Sequence[NewJob]) -> None:
        self._queries = queries
        self._jobs = jobs
        self._undecided = dict(enumerate(jobs))
        self._decided: dict[int, AdmissionResult] = {}

    def decide(self, *, guarded: bool) -> Steps[list[AdmissionResult]]:
        """Decide about each job. A key may become free after it was found taken, so this repeats until all are decided.

        Raises IdempotencyConflict, DuplicateJob, and, if `guarded`, NeedsSavepoint before anything is written.
        """
        for _ in range(ROUNDS):
            key_taken, unique_taken = yield from self._insert(guarded)
            yield from self._find_key_holders(key_taken)
            yield from self._find_unique_holders(unique_taken)
            if not self._undecided:
                return [self._decided[at] for at in range(len(self._jobs))]
        raise PgqueueError(f"keys were taken and freed {ROUNDS} times while {len(self._undecided)} jobs wanted them")

    def _insert(self, guarded: bool) -> Steps[tuple[list[int], list[int]]]:
        """Insert the jobs that get their keys. Return those whose idempotency key or window is taken, and those whose
        unique key is."""
        wanted = list(self._undecided.items())
        results = yield self._inserting([job for _, job in wanted], guarded)
        if not results:
            raise NeedsSavepoint
        if all(result.admitted for result in results):
            self._decided.update(zip(self._undecided, results, strict=True))
            self._undecided = {}
            return [], []
        key_taken, unique_taken, unused_keys = [], [], []
        for (at, job), result in zip(wanted, results, strict=True):
            if result.admitted:
                self._decide(at, result)
            elif conditions_of(job).key_hash is not None and not result.took_key:
                key_taken.append(at)
            else:
                unique_taken.append(at)
                unused_keys += [(result.id, job)] if result.took_key else []
        if unused_keys:
            ids, jobs = [job_id for job_id, _ in unused_keys], [job for _, job in unused_keys]
            yield self._queries.jobs.give_back_keys(ids, jobs)
        return key_taken, unique_taken

    def _inserting(self, jobs: Sequence[NewJob], guarded: bool) -> Query[list[AdmissionResult]]:
        conditions = conditions_of(jobs[0])
        if len(jobs) == 1 and conditions.key_hash is not None and conditions.unique_hash is None:
            return self._queries.jobs.enqueue_one_keyed(jobs[0], read_committed_only=guarded)
        return self._queries.jobs.enqueue_conditionally(jobs, read_committed_only=guarded)

    def _find_key_holders(self, refused: list[int]) -> Steps[None]:
        """Find the jobs that hold the idempotency keys of refused jobs. Expired keys are freed, and tried again."""
        if not refused:
            return
        jobs = [self._undecided[at] for at in refused]
        holders: list[KeyHolder] = sorted((yield self._queries.jobs.find_key_holders(jobs)))  # rows lock in key order
        expired = [jobs[holder.ord - 1] for holder in holders if holder.expired]
        if expired:
            yield self._queries.jobs.free_expired_keys(expired)
        replacing = []
        for holder in holders:
            at, job = refused[holder.ord - 1], jobs[holder.ord - 1]
            if holder.expired:
                continue
            if conditions_of(job).key is not None and not conditions_of(job).by_args and not holder.same_args:
                raise IdempotencyConflict(job.task, str(conditions_of(job).key), holder.job_id)
            if self._replaces(at, holder):
                replacing.append((at, holder.job_id))
            self._decide(at, _existing(holder))
        yield from self._replace(replacing)

    def _find_unique_holders(self, refused: list[int]) -> Steps[None]:
        """Find the jobs that hold the unique keys of refused jobs. Keys of expired jobs are freed, and tried again; so
        is the key of a job that was to be replaced and has just started: it may be free now."""
        if not refused:
            return
        jobs = [self._undecided[at] for at in refused]
        holders: list[UniqueHolder] = sorted((yield self._queries.jobs.find_unique_holders(jobs)))
        expired = [jobs[holder.ord - 1] for holder in holders if holder.expired]
        if expired:
            yield self._queries.jobs.free_expired_unique_keys(expired)
        replacing = []
        for holder in holders:
            at = refused[holder.ord - 1]
            if holder.expired:
                continue
            if self._replaces(at, holder) and not holder.started:
                replacing.append((at, holder.job_id))
            else:
                self._decide(at, _existing(holder))
        replaced = yield from self._replace(replacing)
        for holder in holders:
            if holder.job_id in replaced:
                self._decide(refused[holder.ord - 1], _existing(holder))

    def _replaces(self, at: int, holder: KeyHolder | UniqueHolder) -> bool:
        """Whether a job replaces the one that holds its key. Raises DuplicateJob if its call wants that."""
        conditions = conditions_of(self._jobs[at])
        if conditions.unique is None:
            return False
        if conditions.on_conflict == "raise":
            raise DuplicateJob(self._jobs[at].task, conditions.unique, holder.job_id)
        return conditions.on_conflict == "replace"

    def _replace(self, replacing: list[tuple[int, int]]) -> Steps[set[int]]:
        if not replacing:
            return set()
        jobs = {job_id: self._jobs[at] for at, job_id in replacing}
        replaced: Replaced = yield self._queries.jobs.replace(list(jobs), list(jobs.values()))
        if not replaced.turning:
            return replaced.ids
        turning = {job_id: job for job_id, job in jobs.items() if job_id in replaced.turning}
        yield self._queries.jobs.change_flows({job_id: job.flow for job_id, job in turning.items()})
        turned: Replaced = yield self._queries.jobs.replace(list(turning), list(turning.values()))
        return replaced.ids | turned.ids

    def _decide(self, at: int, result: AdmissionResult) -> None:
        self._decided[at] = result
        self._undecided.pop(at, None)


@dataclass(frozen=True, slots=True)
class JobBatch:
    """The jobs of one bulk call, all of one task, each key once and in the order of keys: so no two batches deadlock.

    `positions` gives for each call its job's place in `jobs`.
    """

    jobs: list[NewJob]
    positions: list[int]

    @classmethod
    def of(cls, jobs: Sequence[NewJob]) -> "JobBatch":
        """Merge jobs with the same key, as if they were enqueued one after the other.

        Raises DuplicateJob for a key that comes twice if the call wants that.
        """
        kept: dict[str, NewJob] = {}
        keys = []
        for at, job in enumerate(jobs):
            conditions = conditions_of(job)
            # In this order, so that unique keys with and without a window are sorted alike.
            key = conditions.unique_hash or conditions.key_hash or f"{at:09}"
            kept[key] = _merged(kept[key], job) if key in kept else job
            keys.append(key)
        order = sorted(kept)
        position = {key: at for at, key in enumerate(order)}
        return cls([kept[key] for key in order], [position[key] for key in keys])

    @property
    def shared(self) -> NewJob:
        """One of the jobs: it has the options that all have."""
        return self.jobs[0]

    def __len__(self) -> int:
        return len(self.positions)

    def decide(self, queries: Queries) -> Steps[list[AdmissionResult]]:
        """Decide about each call. Raises IdempotencyConflict and DuplicateJob."""
        results: list[AdmissionResult] = []
        for chunk in job_chunks(self.jobs):
            results += yield from Admission(queries, chunk).decide(guarded=False)
        return self._per_call(results)

    def admitted(self, queries: Queries) -> Steps[Admitted]:
        """Decide about each call, and return the ids. Raises IdempotencyConflict and DuplicateJob."""
        results = yield from self.decide(queries)
        return Admitted([result.id for result in results], [result.id for result in results if result.admitted])

    def _per_call(self, results: Sequence[AdmissionResult]) -> list[AdmissionResult]:
        """Return the result of each call. Of calls that were merged only the first has made a new job."""
        if len(results) == len(self.positions):
            return [results[at] for at in self.positions]
        seen: set[int] = set()
        per_call = []
        for at in self.positions:
            per_call.append(results[at]._replace(admitted=False) if at in seen else results[at])
            seen.add(at)
        return per_call


def _merged(first: NewJob, second: NewJob) -> NewJob:
    conditions = conditions_of(second)
    if conditions.on_conflict == "raise":
        raise DuplicateJob(second.task, str(conditions.unique), None)
    return second if conditions.on_conflict == "replace" else first


def _existing(holder: KeyHolder | UniqueHolder) -> AdmissionResult:
    return AdmissionResult(holder.job_id, holder.created_at, holder.created_at, False, False, holder.readable)


def admit(queries: Queries, job: NewJob) -> Steps[AdmissionResult]:
    """Insert a job, or find the job that holds its key. A taken key is no error of the server and aborts nothing."""
    conditions, admission = conditions_of(job), Admission(queries, [job])
    may_give_back = conditions.unique is not None and conditions.window is not None  # a key taken, and then refused
    decide = all_or_nothing(admission.decide) if may_give_back else admission.decide
    try:
        return (yield from decide(guarded=True))[0]
    except NeedsSavepoint:
        return (yield from admit_all(queries, JobBatch.of([job]).decide))[0]


def admit_all(queries: Queries, decide: Callable[[Queries], Steps[T]]) -> Steps[T]:
    """Admit jobs, all of them or none. In a transaction of the caller's a refused call undoes only its own writes."""
    autocommits = yield Ask.AUTOCOMMITS
    tries = _Tries(snapshots=SNAPSHOT_TRIES if autocommits else 1)
    while True:
        try:
            if not autocommits:
                yield queries.jobs.begin()  # else psycopg would commit the savepoint: it takes it for the transaction
            result: T = yield Transaction(decide(queries))
        except Exception as error:
            if not tries.again(error):
                raise
        else:
            return result


class _Tries:
    """Counts how often a call may be tried again after another transaction was in its way."""

    def __init__(self, *, snapshots: int) -> None:
        self._snapshots = snapshots
        self._rounds = ROUNDS

    def again(self, error: Exception) -> bool:
        """Whether to try again after an error. After the last try, raises what the caller is to see."""
        if isinstance(error, KeysChanged):
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
