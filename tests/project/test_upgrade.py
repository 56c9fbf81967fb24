"""A schema of an older release is upgraded: with its jobs, and without blocking others behind a long transaction."""

import psycopg
import pytest

from pgqueue import App, migrate
from pgqueue.errors import MigrationBlocked
from pgqueue.migrate import locks
from tests.conftest import drain, scalar
from tests.harness import insert_job


@pytest.fixture
def first_schema(empty_dsn: str) -> str:
    """A database with the schema of the first release, and five jobs in it."""
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(migrate.script(until="0001").encode())
        for _ in range(5):
            insert_job(conn)
    assert migrate.current(empty_dsn) == "0001"
    return empty_dsn


def test_jobs_of_an_older_schema_are_there_in_the_new_one_and_run(first_schema: str) -> None:
    assert migrate.upgrade(first_schema) == ("0001", migrate.head())
    app = App(first_schema)

    @app.task(name="t")
    def t() -> None: ...

    with psycopg.connect(first_schema, autocommit=True) as conn:
        drain(app, conn)
        assert scalar(conn, "select count(*) from pgqueue.job_finished ") == 5
    app.close()


def test_an_upgrade_gives_up_behind_a_long_transaction_and_holds_up_nobody(
    first_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(locks, "PAUSE", 0.0)
    with psycopg.connect(first_schema) as business:
        insert_job(business)
        with pytest.raises(MigrationBlocked, match="5 times for 100ms, and migration 0002 was not done"):
            migrate.upgrade(first_schema)
        assert migrate.current(first_schema) == "0001"
        business.commit()
    assert migrate.upgrade(first_schema) == ("0001", migrate.head())
