"""The backend of an app: its database, and everything through which the app reaches it."""

import threading
from typing import Protocol

from pgqueue import db
from pgqueue.client.lock_renewer import LockRenewer
from pgqueue.client.lock_waiting import LockHints
from pgqueue.client.waiting import Waits
from pgqueue.config import find_dsn
from pgqueue.db import embedded
from pgqueue.jobs.job import Job
from pgqueue.queries import Queries


class Inline(Protocol):
    """Runs jobs as soon as they are inserted: `jobs.inline()` of pgqueue.testing."""

    def run(self, job: Job) -> Job: ...
    async def arun(self, job: Job) -> Job: ...
    def run_many(self, ids: list[int]) -> list[int]: ...
    async def arun_many(self, ids: list[int]) -> list[int]: ...


class Backend:
    """The database behind an app: its DSN, the statements, the pools of own connections, the waits for jobs, and
    what named locks need.

    Opens no connection until one is needed. An app reaches its database through this object alone, so a test can put
    another one in its place.
    """

    inline: Inline | None = None  # None in production: workers run jobs
    declares_at_once = False  # whether publishing writes the app's subscriptions first: workers do, in production

    def __init__(
        self, dsn: str | None, queries: Queries, *, pgbouncer: bool = False, listen_dsn: str | None = None
    ) -> None:
        self.queries = queries
        self.pgbouncer = pgbouncer
        self.listen_dsn = listen_dsn
        self.pools = db.Pools(lambda: self.database)
        self.waits = Waits(self)
        self.lock_renewer = LockRenewer(self)
        self.lock_hints = LockHints(self)
        self._given_dsn = dsn
        self._server: embedded.EmbeddedServer | None = None
        self._starting = threading.Lock()

    @property
    def dsn(self) -> str:
        """The connection string that libpq reads. Reading an `embedded:` one for the first time starts its server."""
        dsn = find_dsn(self._given_dsn)
        if not dsn.startswith(embedded.PREFIX):
            return dsn
        with self._starting:  # a worker and the scheduler beside it look at the same time
            if self._server is None:
                self._server = embedded.start(dsn.removeprefix(embedded.PREFIX))
            return self._server.dsn

    @dsn.setter
    def dsn(self, dsn: str) -> None:
        self.close()
        self.pools = db.Pools(lambda: self.database)  # the async pools of other event loops cannot be closed from here
        self._server = None
        self._given_dsn = dsn

    @property
    def known_dsn(self) -> str | None:
        """The connection string, read without starting a server; None for an `embedded:` one that has not started."""
        dsn = find_dsn(self._given_dsn)
        if dsn.startswith(embedded.PREFIX):
            return None if self._server is None else self._server.dsn
        return dsn

    @property
    def database(self) -> db.Database:
        """Where own connections lead."""
        dsn = self.dsn
        return db.Database(dsn, prepare=not self.pgbouncer, is_embedded=self._server is not None)

    @property
    def listen_database(self) -> db.Database | None:
        """Where connections that listen for notifications lead. None: LISTEN does not work there, so we only poll."""
        if self.listen_dsn is not None:
            return db.Database(find_dsn(self.listen_dsn))
        return None if self.pgbouncer else self.database

    def close(self) -> None:
        """Close the sync pool and the connections of waits and locks. Later calls open new ones."""
        self.waits.close()
        self.lock_hints.close()
        self.lock_renewer.close()
        self.pools.close()
