"""Named locks: one block at a time, over all processes, runs under a name."""

import asyncio
import logging
import math
import os
import random
import socket
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Protocol, Self
from uuid import uuid4

import psycopg

from pgqueue import events
from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.lock_renewer import SHARE, Hold
from pgqueue.client.steps import OWN_CONNECTION, StepRunner
from pgqueue.config import check_name
from pgqueue.db.failures import BROKEN, DATABASE_ERRORS, brief
from pgqueue.errors import ConfigError, DatabaseUnreachable, LockHeld, LockLost
from pgqueue.queries import Query
from pgqueue.queries.locks import Look, Wanted
from pgqueue.tasks.context import current_context
from pgqueue.timing import DAY, DELAY, Backoff, Bounds, Seconds, check_duration, check_optional_duration, monotonic

log = logging.getLogger("pgqueue.locks")
TTL = Bounds(1, DAY)
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two looks at a lock that is waited for
SWEEP_SHARE = 0.02  # of the locks taken, with which others that dead holders left behind are removed
# After these a waiter looks again. The first comes where the default isolation of the role is a higher one, and another
# was faster.
PASSING = (psycopg.errors.SerializationFailure, DatabaseUnreachable, *BROKEN)


class NamedLock:
    """A lock for one block: `with app.lock("sync:42") as lock:`, or `async with` alike.

    It is a row that is committed at once, on a connection of pgqueue's own, also inside `ctx.transaction()`. A thread
    renews it until the block ends. `token` is the fencing token: greater than that of every earlier holder of the name.
    """

    def __init__(self, app: AppParts, key: str, ttl: float, wait: float | None) -> None:
        self.key = key
        self._app = app
        self._runner = StepRunner(app, OWN_CONNECTION)
        self._ttl = ttl
        self._wait = wait
        self._used = False
        self._hold: Hold | None = None

    def __repr__(self) -> str:
        return f"<NamedLock {self.key!r}{' held' if self.held else ''}>"

    @property
    def token(self) -> int:
        """The fencing token. Write it with what the block writes elsewhere, and refuse lower ones there."""
        return self._taken.token

    @property
    def held(self) -> bool:
        """Whether nobody else can have the lock, because it was renewed in time. Asks no database: that an operator has
        released it shows with the next renewal."""
        return self._hold is not None and self._hold.held

    def check(self) -> None:
        """Raise LockLost unless the lock is held; else do nothing. For long blocks: call it between steps."""
        if not self._taken.held:
            raise LockLost(self.key, self.token, self._taken.lost_why)

    def __enter__(self) -> Self:
        taking = self._begin()
        try:
            found = self._look(taking)
            if not isinstance(found, Hold):
                with self._app.backend.lock_hints.waiting(self.key) as hint:
                    while not isinstance(found, Hold):
                        hint.wait(found)
                        hint.clear()
                        _check_job()
                        found = self._look(taking)
            self._keep(found, taking)
        except BaseException:
            self._abandon(taking)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        hold = self._end()
        if hold is not None:
            try:
                kept = self._runner.run(self._app.queries.locks.release(self.key, hold.owner))
            except BaseException as failure:  # noqa: BLE001 - raised, if it is no error of the database
                kept = self._leave(hold, failure)
            else:
                hold.gone = not kept
            self._report(hold, kept, error)

    async def __aenter__(self) -> Self:
        taking = self._begin()
        try:
            found = await self._alook(taking)
            if not isinstance(found, Hold):
                with self._app.backend.lock_hints.awaiting(self.key) as hint:
                    while not isinstance(found, Hold):
                        with suppress(TimeoutError):
                            async with asyncio.timeout(found):
                                await hint.wait()
                        hint.clear()
                        found = await self._alook(taking)
            self._keep(found, taking)
        except BaseException:
            self._abandon(taking)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        hold = self._end()
        if hold is not None:
            try:
                kept = await self._runner.arun(self._app.queries.locks.release(self.key, hold.owner))
            except BaseException as failure:  # noqa: BLE001 - raised, if it is no error of the database
                kept = self._leave(hold, failure)
            else:
                hold.gone = not kept
            self._report(hold, kept, error)

    @property
    def _taken(self) -> Hold:
        if self._hold is None:
            raise ConfigError(f"lock {self.key!r:.210} is not taken: use it in `with app.lock(…) as lock:`")
        return self._hold

    def _begin(self) -> "_Taking":
        if self._used:
            raise ConfigError(f"lock {self.key!r:.210}: each app.lock(…) is for one block: call it again for another")
        taking = _Taking(self._app, self.key, self._ttl, self._wait)
        self._used = True
        return taking

    def _look(self, taking: "_Taking") -> "Hold | float":
        try:
            return taking.judge(self._runner.run(taking.statement()))
        except PASSING as error:
            return taking.again_after(error)

    async def _alook(self, taking: "_Taking") -> "Hold | float":
        try:
            return taking.judge(await self._runner.arun(taking.statement()))
        except PASSING as error:
            return taking.again_after(error)

    def _keep(self, hold: Hold, taking: "_Taking") -> None:
        self._hold = hold
        self._app.backend.lock_renewer.add(hold)
        taking.tell_waited(hold)

    def _abandon(self, taking: "_Taking") -> None:
        """Free the lock in the background, if nobody knows whether it was taken."""
        if taking.asked:
            self._app.backend.lock_renewer.free(self._hold or taking.hold(0))

    def _end(self) -> Hold | None:
        """Stop renewing; return what is to be released. A forked child has nothing to release."""
        hold = self._taken
        if hold.pid != os.getpid():
            return None
        self._app.backend.lock_renewer.drop(hold)
        return hold

    def _leave(self, hold: Hold, failure: BaseException) -> bool:
        """Leave the release to the renewer; return whether it is certain that the lock was held until now. Raises what
        is no error of the database, such as a cancellation."""
        held = hold.held
        self._app.backend.lock_renewer.free(hold)
        if not isinstance(failure, DATABASE_ERRORS):
            hold.over = True
            raise failure
        return held

    def _report(self, hold: Hold, kept: bool, error: BaseException | None) -> None:
        """Say at the end of the block that the lock was lost: by LockLost, or by a note on the block's own error.

        `kept`: the database still had its row, so nobody else had the lock meanwhile, however late it was renewed.
        """
        why = None if kept else hold.lost_why
        lost = None if why is None else LockLost(self.key, hold.token, why)
        hold.over = True
        if why is not None and not hold.told:
            hold.tell_lost(why)
        if lost is not None and error is None:
            raise lost
        if lost is not None and error is not None and not isinstance(error, LockLost):
            error.add_note(f"pgqueue: {lost}")


class _Taking:
    """One attempt to take a lock: which statement is next, and what its answer means."""

    def __init__(self, app: AppParts, key: str, ttl: float, wait: float | None) -> None:
        self._queries = app.queries.locks
        self._listeners = app.listeners
        self._key, self._ttl, self._wait = key, ttl, wait
        self._waits = wait != 0 and app.backend.lock_renewer.waits
        self._owner = uuid4()
        self._holder, self._job_id = _holder()
        self._began = self._sent = monotonic()
        self._pause = FIRST_PAUSE
        self._backoff = Backoff()
        self._seen = False  # the database has answered once
        self._met = False  # another has held it
        self.asked = False  # a statement was sent, and has taken the lock, for all that is known

    def statement(self) -> Query[Look]:
        """Return the next statement."""
        sweeps = random.random() < SWEEP_SHARE  # noqa: S311
        self._sent, self.asked = monotonic(), True
        return self._queries.acquire(
            Wanted(self._key, self._owner, self._ttl, self._holder, self._job_id, self._waits, sweeps)
        )

    def judge(self, look: Look) -> "Hold | float":
        """Return the lock that was taken, or after how many seconds to look again. Raises LockHeld."""
        if look.token is not None:
            return self.hold(look.token)
        self.asked, self._seen = False, True
        self._backoff.reset()
        if look.held is None:
            return 0.0
        self._met = True
        left = self._left
        if left <= 0:
            waited = round(monotonic() - self._began, 3) if self._waits else 0
            raise LockHeld(self._key, look.held.holder, look.held.job_id, look.held.expires_at, waited)
        pause = self._pause * random.uniform(0.75, 1.0) if look.noted else FIRST_PAUSE  # noqa: S311
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return max(min(pause, look.seconds, left), 0.001)

    def again_after(self, error: Exception) -> float:
        """Return after how many seconds to look again after an error that passes. Raises it if that is too late, or if
        the database has never answered."""
        if isinstance(error, psycopg.errors.SerializationFailure):
            return 0.0
        left = self._left
        if not self._seen or left <= 0:
            raise error
        delay = self._backoff.next()
        if self._backoff.failures == 1:
            log.warning("waiting for lock %r goes on: %s: %s", self._key, type(error).__name__, brief(error))
        return min(delay, left)

    @property
    def _left(self) -> float:
        """For how many seconds to wait."""
        if not self._waits:
            return 0.0
        return math.inf if self._wait is None else self._wait - (monotonic() - self._began)

    def hold(self, token: int) -> Hold:
        """Return the holding of the lock under a token."""
        sent, ttl, tell = self._sent, self._ttl, partial(self._tell_lost, token)
        return Hold(
            self._key, self._owner, ttl, token, deadline=sent + ttl, renew_at=sent + ttl * SHARE, tell_lost=tell
        )

    def tell_waited(self, hold: Hold) -> None:
        """Tell listeners for how long the lock was waited for, if another held it."""
        if self._met and self._listeners:
            seconds = round(monotonic() - self._began, 3)
            self._listeners.emit(events.LockWaited(self._key, hold.token, self._job_id, seconds))

    def _tell_lost(self, token: int, why: str) -> None:
        self._listeners.emit(events.LockLost(self._key, token, self._job_id, why))


class HasApp(Protocol):
    """An app."""

    @property
    def _app(self) -> AppParts: ...


class LockVerbs:
    """The verb of an app that takes named locks."""

    def lock(self: HasApp, key: str, *, ttl: Seconds = 60.0, wait: Seconds | None = 0.0) -> NamedLock:
        """Let one block at a time run under a name: `with app.lock("sync:42") as lock:`, or `async with`.

        If the lock is held, the block waits for it for at most `wait` seconds (0: not at all; None: without end), and
        then raises LockHeld, which names the holder. It is renewed as long as the block runs. `ttl` is how long it
        outlives a holder that died, or that cannot reach the database: `lock.check()` then raises LockLost, and so
        does the end of the block. It is taken on a connection of pgqueue's own, and belongs to no transaction.

        Raises InvalidOption for a key or a duration that cannot be used.
        """
        return NamedLock(
            self._app,
            check_name("lock", key),
            check_duration("ttl", ttl, TTL),
            check_optional_duration("wait", wait, DELAY),
        )


def _holder() -> tuple[str, int | None]:
    """Return who takes a lock here, for people, and the job that it is for."""
    place = f"{socket.gethostname()}:{os.getpid()}"
    context = current_context.get()
    if context is None:
        return f"{who(None)} on {place}", None
    return f"job {context.job_id} {context.task} on {place}", context.job_id


def _check_job() -> None:
    """End a wait in a thread whose job was cancelled or has run too long: nothing else could."""
    context = current_context.get()
    if context is not None:
        context.check()
