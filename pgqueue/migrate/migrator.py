"""Runs migrations on one connection: each in a transaction, or all of them in the caller's."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import psycopg

from pgqueue import db, roles
from pgqueue.db.failures import brief, read_only
from pgqueue.errors import MigrationBlocked, NotAllowed, NotMigrated, OlderReleaseRuns, SchemaNewer
from pgqueue.migrate import indexes, locks
from pgqueue.migrate.steps import Step, between, head, versions
from pgqueue.queries import Queries
from pgqueue.queries.partitions import empty_defaults
from pgqueue.queries.schema import MigrationSettings


class Migrator:
    """Brings one schema to the newest version. `force`: also where a process lives that a step would break."""

    def __init__(self, conn: db.Connection, schema: str, force: bool = False) -> None:
        self._conn = conn
        self._schema = schema
        self._force = force
        self._queries = Queries(schema)

    def any_version(self) -> str | None:
        """Return the version the schema has; None if it was never migrated."""
        queries = self._queries.schema
        return db.run(self._conn, queries.version()) if db.run(self._conn, queries.has_version()) else None

    def version(self) -> str | None:
        """As `any_version`. Raises SchemaNewer for one that this package does not know."""
        version = self.any_version()
        if version is not None and version not in versions():
            raise SchemaNewer(
                f"schema {self._schema} has version {version}, made by a newer release of pgqueue: this one knows "
                f"versions up to {head()}, and changes nothing"
            )
        return version

    def at_once(self) -> str | None:
        """Run what is missing in one transaction when no other process does; return the version it started from."""
        with self._unit():
            self._lock()
            before = self.version()
            for step in between(before, head()):
                self._run(step)
            roles.reapply(self._conn, self._queries)
        return before

    def step_by_step(self, dsn: str) -> str | None:
        """Run what is missing, each step in a transaction of its own; return the version it started from.

        `dsn` leads to the same database, for a second connection where indexes are built.
        """
        before = version = self._version_when_alone()
        while version != head():
            step = between(version, head())[0]
            for index in step.concurrently:
                with self._alone(dsn):
                    indexes.build(self._conn, self._queries, self._schema, index)
            locks.retrying(f"migration {step.revision}", partial(self._run_alone, step))
            version = self._version_when_alone()
        return before

    def finish(self, *, own: bool, new: bool) -> None:
        """Make partitions, and validate constraints where that keeps no lock on a large table.

        `own`: statements are committed one by one; `new`: the schema was empty.
        """
        partitions = self._queries.partitions
        with self._unit():
            db.run(self._conn, partitions.make())
            roles.reapply(self._conn, self._queries)
            if own or new:
                db.run(self._conn, self._queries.schema.validate())
        if own:
            for query in (*empty_defaults(partitions), partitions.make()):
                with suppress(psycopg.errors.LockNotAvailable):  # somebody else is at it; workers do it again
                    db.run(self._conn, query)

    def apply_roles(self, prefix: str) -> roles.Applied:
        """Make the roles whose names begin with `prefix`, and give them what they need."""
        schema = self._queries.schema
        if self.version() != head():
            raise NotMigrated(f"schema {self._schema} is not at version {head()}: run `pgqueue migrate` first")
        with self.explained(), self._unit():
            self._lock()
            db.run(self._conn, schema.set_settings(MigrationSettings(lock_timeout=locks.LOCK_TIMEOUT)))
            try:
                return roles.apply(self._conn, self._queries, prefix)
            except NotAllowed as error:
                raise NotAllowed(f"{error}. Whoever may can run what `pgqueue migrate --roles` prints") from None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise errors of the database that have a remedy as ours."""
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise NotAllowed(
                f"{brief(error)}: migrate as the owner of the database, or as the owner of a schema {self._schema} "
                "that exists"
            ) from None
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise read_only(error, f"database {self._conn.info.dbname!r}") from None
        except psycopg.errors.LockNotAvailable:
            raise MigrationBlocked(locks.blocked("nothing was changed", f"for {locks.LOCK_TIMEOUT}")) from None
        except psycopg.errors.ObjectInUse as error:
            raise OlderReleaseRuns(f"{brief(error)}; stop it first, or say --force") from None

    @contextmanager
    def _unit(self) -> Iterator[None]:
        """Make statements one unit: a transaction, or a savepoint in the caller's, whose settings stay as they are."""
        conn, schema = self._conn, self._queries.schema
        if not db.autocommits(conn):
            db.run(conn, schema.settings())  # begins the caller's transaction: psycopg would commit one of its own
        with conn.transaction():
            before = db.run(conn, schema.settings())
            db.run(conn, schema.set_settings(MigrationSettings()))
            yield
            db.run(conn, schema.set_settings(before))

    def _lock(self) -> None:
        db.run(self._conn, self._queries.schema.lock_migrations())

    def _version_when_alone(self) -> str | None:
        with self._unit():
            self._lock()
            return self.version()

    def _run_alone(self, step: Step) -> None:
        """Run a step in a transaction, unless another process has done it meanwhile."""
        with self._unit():
            self._lock()
            if self.version() == step.previous:
                self._run(step)
                if step.revision == head():
                    roles.reapply(self._conn, self._queries)

    def _run(self, step: Step) -> None:
        settings = MigrationSettings(lock_timeout=locks.LOCK_TIMEOUT)
        db.run(self._conn, self._queries.schema.set_settings(settings))
        psycopg.Cursor(self._conn).execute(step.sql(self._schema, force=self._force).encode(), prepare=False)

    @contextmanager
    def _alone(self, dsn: str) -> Iterator[None]:
        """Keep other migrators away while statements run that cannot be in a transaction, by another connection.

        That one is idle meanwhile and has no snapshot, so a concurrent build does not wait for it.
        """
        with db.Database(dsn).connect("pgqueue migrate lock") as guard, guard.transaction():
            db.run(guard, self._queries.schema.set_settings(MigrationSettings()))
            db.run(guard, self._queries.schema.lock_migrations())
            yield
