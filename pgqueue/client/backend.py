"""The backend of an app: its database, and everything through which the app reaches it."""

import threading
from typing import Protocol

import psycopg

from pgqueue import db
from pgqueue.client.lock_renewer import LockRenewer
from pgqueue.client.lock_waiting import LockHints
from pgqueue.client.waiting import Waits
from pgqueue.db import embedded
from pgqueue.db.source import DsnSource, GivenDsn, GivenPassword
from pgqueue.errors import DatabaseUnreachable
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
        self,
        dsn: GivenDsn | None,
        queries: Queries,
        *,
        password: GivenPassword | None = None,
        pgbouncer: bool = False,
        listen_dsn: GivenDsn | None = None,
    ) -> None:
        self.queries = queries
        self.pgbouncer = pgbouncer
        self.listen_dsn = listen_dsn
        self._listen_source = None if listen_dsn is None else DsnSource(listen_dsn, password)
        self._pools = db.Pools(lambda: self.database)
        self.waits = Waits(self)
        self.lock_renewer = LockRenewer(self)
        self.lock_hints = LockHints(self)
        self._source, self._password = DsnSource(dsn, password), password
        self._server: embedded.EmbeddedServer | None = None
        self._starting = threading.Lock()

    @property
    def pools(self) -> db.Pools:
        """The pools of own connections."""
        return self._pools

    @pools.setter
    def pools(self, pools: db.Pools) -> None:
        self._pools = pools

    @property
    def dsn(self) -> str:
        """The connection string that libpq reads. Reading an `embedded:` one for the first time starts its server.

        Where functions give it, each look asks them. Raises DatabaseUnreachable if one fails.
        """
        dsn = _read(self._source)
        if not dsn.startswith(embedded.PREFIX):
            return dsn
        with self._starting:  # a worker and the scheduler beside it look at the same time
            if self._server is None:
                self._server = embedded.start(dsn.removeprefix(embedded.PREFIX))
            return self._server.dsn

    @dsn.setter
    def dsn(self, dsn: str) -> None:
        self.close()
        self._pools = db.Pools(lambda: self.database)  # the async pools of other event loops cannot be closed from here
        self._server = None
        self._source = DsnSource(dsn, self._password)

    @property
    def known_dsn(self) -> str | None:
        """The connection string, read without starting a server; None for an `embedded:` one that has not started."""
        return self._without_starting(_read(self._source))

    @property
    def told_dsn(self) -> str | None:
        """As `known_dsn`, but no function is asked, which may take its time: what is given as a text, empty where a
        function gives all of it."""
        return self._without_starting(self._source.known)

    def _without_starting(self, dsn: str) -> str | None:
        if dsn.startswith(embedded.PREFIX):
            return None if self._server is None else self._server.dsn
        return dsn

    @property
    def database(self) -> db.Database:
        """Where own connections lead."""
        source, prepare = self._source, not self.pgbouncer
        if source.changes and not source.known.startswith(embedded.PREFIX):
            return db.Database(source.known, prepare=prepare, fresh=source.read)
        dsn = self.dsn
        return db.Database(dsn, prepare=prepare, is_embedded=self._server is not None)

    @property
    def listen_database(self) -> db.Database | None:
        """Where connections that listen for notifications lead. None: LISTEN does not work there, so we only poll."""
        listens = self._listen_source
        if listens is not None:
            return db.Database(listens.known, fresh=listens.read if listens.changes else None)
        return None if self.pgbouncer else self.database

    def close(self) -> None:
        """Close the sync pool and the connections of waits and locks. Later calls open new ones."""
        self.close_waits()
        self.pools.close()

    def close_waits(self) -> None:
        """Close the connections of waits and locks. Later calls open new ones."""
        self.waits.close()
        self.lock_hints.close()
        self.lock_renewer.close()


def _read(source: DsnSource) -> str:
    try:
        return source.read()
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(f"no DSN: {error}") from error
