"""Waiting for jobs to end, from threads and from event loops."""

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol, Self

from pgqueue import db
from pgqueue.client.wait_hub import WaitHub
from pgqueue.client.wait_poller import WaitPoller, in_gevent
from pgqueue.client.watched import Waiter
from pgqueue.errors import InvalidOption, JobFailed, JobWasCancelled, ResultMissing, UnknownJob, WaitTimeout
from pgqueue.jobs.job import Job, JobState
from pgqueue.queries import Queries
from pgqueue.queries.jobs.expire import RESULT_DROPPED, RESULT_EXPIRED
from pgqueue.tasks.sealing import sealed_by
from pgqueue.timing import WAIT, check_duration, seconds

Timeout = float | timedelta | None
Change = tuple[Job | None, bool]  # a job, and whether it has ended; None: nothing is kept of it
MAX_ID = 2**63 - 1
# Kept after a fork: the connections are the parent's and must not be closed here.
_hubs_of_parent: list[WaitHub | WaitPoller] = []


class WaitSource(Protocol):
    """The parts of an app that waits use."""

    queries: Queries

    @property
    def database(self) -> db.Database: ...
    @property
    def listen_database(self) -> db.Database | None: ...


class JobWatcher(Protocol):
    """Watches jobs for waiters, and calls those whose jobs change or end: a hub, or a test's stand-in."""

    def drop(self, waiter: Waiter) -> None: ...
    def last_seen(self, job_id: int) -> str: ...


class EndWaiter:
    """Waits for the end of a job."""

    follows = False

    def __init__(self, job_id: int, committed: bool) -> None:
        self.job_id = check_id(job_id)
        self.committed = committed
        self.future: Future[Job | None] = Future()
        self.future.set_running_or_notify_cancel()  # Only the hub ends it: a caller that gives up cancels nothing.

    def changed(self, job: Job) -> None:
        """Go on waiting."""

    def ended(self, job: Job | None) -> None:
        """Stop waiting. None: nothing is kept of the job."""
        self.future.set_result(job)

    def failed(self, error: Exception) -> None:
        """Stop waiting."""
        self.future.set_exception(error)


class Waits:
    """The waits for jobs of one app. They share one connection, which the first wait opens.

    A forked child never uses its parent's connection: it gets one of its own.
    """

    def __init__(self, source: WaitSource) -> None:
        self._source = source
        self._hub: WaitHub | WaitPoller | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def wait(self, ids: Sequence[int], timeout: Timeout, *, committed: bool = False) -> list[Any]:
        """Wait until jobs have ended; return their results in order."""
        until = _deadline(timeout)
        waiters = [EndWaiter(job_id, committed) for job_id in ids]
        watcher = self.add(waiters)
        try:
            return [_result(w.job_id, w.future.result(_left(until))) for w in waiters]
        except TimeoutError:
            _check_late(watcher, waiters, timeout)
            return [_result(w.job_id, w.future.result()) for w in waiters]
        finally:
            _drop(watcher, waiters)

    async def await_results(self, ids: Sequence[int], timeout: Timeout, *, committed: bool = False) -> list[Any]:
        """The async twin of `wait`."""
        until = _deadline(timeout)
        waiters = [EndWaiter(job_id, committed) for job_id in ids]
        watcher = self.add(waiters)
        try:
            async with asyncio.timeout(_left(until)):
                return [_result(w.job_id, await asyncio.wrap_future(w.future)) for w in waiters]
        except TimeoutError:
            _check_late(watcher, waiters, timeout)
            return [_result(w.job_id, w.future.result()) for w in waiters]
        finally:
            _drop(watcher, waiters)

    def add(self, waiters: Iterable[Waiter]) -> JobWatcher:
        """Watch the jobs of these waiters; return what watches them."""
        self._forget_parent()
        with self._lock:
            if self._hub is None or not self._hub.alive:
                self._hub = self._new_hub()
            for waiter in waiters:
                self._hub.add(waiter)
            return self._hub

    def _new_hub(self) -> WaitHub | WaitPoller:
        if in_gevent():
            return WaitPoller(self._source.database, self._source.queries)
        listening = self._source.listen_database
        return WaitHub(listening or self._source.database, self._source.queries, listens=listening is not None)

    def close(self) -> None:
        """Close the connection. Waits that go on raise DatabaseUnreachable; a new wait opens a new connection."""
        self._forget_parent()
        with self._lock:
            hub, self._hub = self._hub, None
        if hub is not None:
            hub.close()

    def _forget_parent(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            if self._hub is not None:
                _hubs_of_parent.append(self._hub)
                self._hub = None


class HasWaits(Protocol):
    """An app. Its waits are looked up by each call, because a test puts others in their place."""

    @property
    def waits(self) -> Waits: ...


class WaitHandle:
    """Waits for the end of the job that carries it. It is not part of the job's value: a pickled copy has none."""

    def __init__(self, app: HasWaits, *, committed: bool) -> None:
        self._app = app
        self._committed = committed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def wait(self, job_id: int, timeout: Timeout) -> Any:
        """Wait for a job to end."""
        return self._app.waits.wait([job_id], timeout, committed=self._committed)[0]

    async def await_result(self, job_id: int, timeout: Timeout) -> Any:
        """The async twin of `wait`."""
        return (await self._app.waits.await_results([job_id], timeout, committed=self._committed))[0]


class WaitVerbs:
    """The verbs of an app that wait. Timeouts are seconds or a timedelta; None waits without end."""

    def wait(self: HasWaits, job_id: int, timeout: Timeout = None) -> Any:
        """Wait until a job has ended; return what its task returned (None if that is not stored).

        Raises JobFailed, JobWasCancelled, ResultMissing (the result could not be stored, has expired, or is sealed with
        a key that is not here), WaitTimeout (the job goes on), or DatabaseUnreachable if no first connection could be
        made or the app is closed. A job that cannot be seen is waited for, too: its transaction may still commit.
        """
        return self.waits.wait([job_id], timeout)[0]

    async def await_result(self: HasWaits, job_id: int, timeout: Timeout = None) -> Any:
        """The async twin of `wait`."""
        return (await self.waits.await_results([job_id], timeout))[0]

    def wait_all(self: HasWaits, job_ids: Iterable[int], timeout: Timeout = None) -> list[Any]:
        """Wait until all of these jobs have ended; return their results in order. `timeout` is for all together.

        Raises as `wait` does, for the first of them, in order, that has no result.
        """
        return self.waits.wait(list(job_ids), timeout)

    async def await_all(self: HasWaits, job_ids: Iterable[int], timeout: Timeout = None) -> list[Any]:
        """The async twin of `wait_all`."""
        return await self.waits.await_results(list(job_ids), timeout)


class Follower:
    """Follows the changes of a job in this event loop: `async with Follower(app.waits, id) as f: await f.next(15)`.

    Between two calls of `next` only the newest state is kept.
    """

    follows = True
    committed = True

    def __init__(self, waits: Waits, job_id: int) -> None:
        self.job_id = check_id(job_id)
        self.done = False  # whether the job has ended and `next` has returned that
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        self._change: asyncio.Future[Change] = self._loop.create_future()

    async def __aenter__(self) -> Self:
        self._watcher = self._waits.add([self])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watcher.drop(self)

    async def next(self, timeout: float) -> Job | None:
        """Return the job as it is after the next change; None when nothing has changed for `timeout` seconds.

        After its end `done` is true; None then means that nothing is kept of it. Raises what broke the connection.
        """
        done, _ = await asyncio.wait([self._change], timeout=timeout)
        if not done:
            return None
        change, self._change = self._change, self._loop.create_future()
        job, self.done = change.result()
        return job

    def changed(self, job: Job) -> None:
        """Note a change. Runs in the hub's thread."""
        self._note((job, False))

    def ended(self, job: Job | None) -> None:
        """Note the end. Runs in the hub's thread."""
        self._note((job, True))

    def failed(self, error: Exception) -> None:
        """Note an error that ends the watching. Runs in the hub's thread."""
        self._note(error)

    def _note(self, change: Change | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed, so `next` is not called any more
            self._loop.call_soon_threadsafe(self._set, change)

    def _set(self, change: Change | Exception) -> None:
        if self._change.done():
            self._change = self._loop.create_future()
        if isinstance(change, Exception):
            self._change.set_exception(change)
            self._change.exception()  # marks it as seen: `next` may not be called again, and asyncio would warn
        else:
            self._change.set_result(change)


def check_id(job_id: object) -> int:
    """Return the id of a job; refuse what cannot be one."""
    if type(job_id) is not int or not 1 <= job_id <= MAX_ID:
        raise InvalidOption(f"job id {job_id!r:.100} cannot be used: give the id of a job, a whole number from 1")
    return job_id


def possible_id(job_id: object) -> int:
    """Return a number that Postgres can look for. Raises UnknownJob for another one, InvalidOption if it is none."""
    if type(job_id) is not int:
        return check_id(job_id)
    if abs(job_id) > MAX_ID:
        raise UnknownJob(f"no job {job_id}: never committed, or dropped by retention")
    return job_id


def _deadline(timeout: Timeout) -> float | None:
    if timeout is None:
        return None
    return time.monotonic() + check_duration("timeout", timeout, WAIT)


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - time.monotonic(), 0.0)


def _drop(watcher: JobWatcher, waiters: Iterable[EndWaiter]) -> None:
    for waiter in waiters:
        if not waiter.future.done():
            watcher.drop(waiter)


def _check_late(watcher: JobWatcher, waiters: Sequence[EndWaiter], timeout: Timeout) -> None:
    """After the timeout, raise WaitTimeout with the state of the first late job; return if the last has just ended."""
    late = [w.job_id for w in waiters if not w.future.done()]
    if late and timeout is not None:
        others = f" ({len(late)} of {len(waiters)} have not)" if len(waiters) > 1 else ""
        within = f"within {seconds(timeout):g} s{others}"
        raise WaitTimeout(f"job {late[0]} has not ended {within}: {watcher.last_seen(late[0])}") from None


def _result(job_id: int, job: Job | None) -> Any:
    if job is None:
        return None  # It succeeded, and nothing is kept of it.
    if job.state is JobState.FAILED:
        raise JobFailed(job.id, job.task, job.reason, job.error)
    if job.state is JobState.CANCELLED:
        raise JobWasCancelled(job.id, job.task, job.reason)
    if missing := _missing(job):
        raise ResultMissing(f"job {job.id} {job.task} has succeeded, but its result {missing}")
    return job.result


def _missing(job: Job) -> str | None:
    """Return why a result is missing from its job; None if it is there, or was not to be stored."""
    if sealed := sealed_by(job.result):
        return f"is {sealed}, and this app cannot open it: give it the worker's codec and key"
    if job.result is None and job.error is not None:
        return f"is not stored: {job.error.message}"
    if job.result is None and job.reason == RESULT_EXPIRED:
        return "has expired (result_ttl)"
    if job.result is None and job.reason == RESULT_DROPPED:
        return "was dropped (drop_result)"
    return None
