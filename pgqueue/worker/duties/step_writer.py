"""The duty that reads and records the steps of running jobs: what they ask at the same time is one statement."""

import asyncio
import json
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from psycopg.errors import LockNotAvailable

from pgqueue import db
from pgqueue.db.failures import blames_data
from pgqueue.db.link import Link
from pgqueue.errors import LeaseLost
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.step import UNDO, NewStep, can_be_undone
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries, Query
from pgqueue.tasks.journal import Collect, Load, Record, Request, Take
from pgqueue.timing import monotonic

BATCH = 500  # requests in one statement
LOCKED_SECONDS = 0.5  # between two tries of a request whose job somebody else has locked


class Asked(NamedTuple):
    """A request of a running job, and who waits for the answer."""

    job: ClaimedJob
    request: Request
    answer: "Future[Any] | asyncio.Future[Any]"


class StepWriter(Duty):
    """Answers the requests of running jobs, in batches that form while the last one is answered.

    Requests stay here while the database is away: the lease fences each record. Those of jobs whose lease is lost
    are answered by LeaseLost.
    """

    name = "steps"

    def __init__(self, link: Link, queries: Queries) -> None:
        super().__init__(link)
        self._queries = queries
        self.loop = asyncio.get_running_loop()
        self._asked: deque[Asked] = deque()
        self._locked: deque[Asked] = deque()
        self._locked_next = 0.0
        self._closed = False

    def submit(self, job: ClaimedJob, request: Request) -> "Future[Any]":
        """Ask from another thread; the future has the answer."""
        answer: Future[Any] = Future()
        self.loop.call_soon_threadsafe(self._add, Asked(job, request, answer))
        return answer

    async def ask(self, job: ClaimedJob, request: Request) -> Any:
        """Ask on the event loop, and wait for the answer."""
        answer = self.loop.create_future()
        self._add(Asked(job, request, answer))
        return await answer

    def drop(self, jobs: Collection[int]) -> None:
        """Answer the requests of jobs whose lease is lost, or may be."""
        for waiting in (self._asked, self._locked):
            for asked in waiting:
                if asked.job.id in jobs:
                    _refuse(asked)

    def close(self) -> None:
        """Answer all requests, and all that come: nobody reads or records any more."""
        self._closed = True
        for waiting in (self._asked, self._locked):
            while waiting:
                _refuse(waiting.popleft())

    async def step(self) -> float:
        """Answer what was asked since the last step, up to a batch of it."""
        if self._locked and monotonic() >= self._locked_next:
            self._asked.extendleft(reversed(self._locked))
            self._locked.clear()
        batch = [self._asked.popleft() for _ in range(min(BATCH, len(self._asked)))]
        batch = [asked for asked in batch if not asked.answer.done()]
        try:
            for kind in (Load, Record, Take, Collect):
                if part := [asked for asked in batch if isinstance(asked.request, kind)]:
                    await self._answer(part)
        finally:
            late = {id(asked) for asked in self._locked}
            left = [asked for asked in batch if not asked.answer.done() and id(asked) not in late]
            self._asked.extendleft(reversed(left))
        if self._asked:
            return 0.0
        return max(self._locked_next - monotonic(), 0.001) if self._locked else 3600.0

    async def _answer(self, part: list[Asked]) -> None:
        """Answer requests of one kind. If Postgres refuses them for their data, each is asked alone."""
        try:
            await self._run(part)
        except Exception as error:
            if not blames_data(error, self._backoff.failures):
                raise
            if len(part) == 1:
                _fail(part[0], error)
                return
            for asked in part:
                await self._answer([asked])

    async def _run(self, part: list[Asked]) -> None:
        try:
            answers = await self.link.run(self._query(part))
        except LockNotAvailable:
            async with self.link.connection() as conn, conn.transaction():
                held = await db.run_async(conn, self._queries.jobs.lock_unlocked([asked.job.id for asked in part]))
                free = [asked for asked in part if asked.job.id not in held]
                answers = await db.run_async(conn, self._query(free)) if free else []
            self._locked.extend(asked for asked in part if asked.job.id in held)
            self._locked_next, part = monotonic() + LOCKED_SECONDS, free
        for position, asked in enumerate(part):
            if isinstance(asked.request, Load):
                _set(asked, answers.get(asked.job.id, []))
            elif answers[position] is None:
                _refuse(asked)
            else:
                if isinstance(asked.request, Record):
                    mark(asked.job, asked.request.step)
                _set(asked, answers[position])

    def _query(self, part: Sequence[Asked]) -> Query[Any]:
        if isinstance(part[0].request, Load):
            return self._queries.steps.load([asked.job.id for asked in part])
        if isinstance(part[0].request, Take):
            return self._queries.signals.take([(a.job, a.request.name) for a in part if isinstance(a.request, Take)])
        if isinstance(part[0].request, Collect):
            return self._queries.calls.collect(
                [(a.job, a.request.name) for a in part if isinstance(a.request, Collect)]
            )
        return self._queries.steps.record([(a.job, a.request.step) for a in part if isinstance(a.request, Record)])

    def _add(self, asked: Asked) -> None:
        if self._closed:
            _refuse(asked)
            return
        self._asked.append(asked)
        self.wake()


def mark(job: ClaimedJob, step: NewStep) -> None:
    """Note at a job what the record of a step has changed in its row."""
    job.attempt = min(job.attempt, 1)
    if (step.undo is not None or step.kind == "call") and not can_be_undone(job):
        job.headers = json.dumps((json.loads(job.headers) if job.headers else {}) | {UNDO: True})


def _refuse(asked: Asked) -> None:
    _fail(asked, LeaseLost(f"job {asked.job.id} is no longer this worker's: the step was not recorded"))


def _fail(asked: Asked, error: BaseException) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(error)


def _set(asked: Asked, answer: Any) -> None:
    if not asked.answer.done():
        asked.answer.set_result(answer)
