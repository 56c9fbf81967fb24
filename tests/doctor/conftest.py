"""A server of the doctor's own, on which everything may be set."""

from collections.abc import Iterator

import psycopg
import pytest

from pgqueue import App
from tests.harness import Conn
from tests.stress.clusters import Cluster, clusters


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Cluster, Cluster]]:
    """A running server with pgqueue in it, and a place for another one."""
    with clusters(2) as (primary, other):
        primary.make().start("max_prepared_transactions=2", "wal_level=logical", "max_notify_queue_pages=64")
        primary.migrate()
        yield primary, other


@pytest.fixture
def own_conn(server: tuple[Cluster, Cluster]) -> Iterator[Conn]:
    """A connection to that server; settings that a test has altered are reset."""
    with psycopg.connect(server[0].dsn(), autocommit=True) as conn:
        yield conn
        conn.execute("alter system reset all")
        conn.execute("select pg_reload_conf()")


@pytest.fixture
def own_app(server: tuple[Cluster, Cluster]) -> Iterator[App]:
    """An app on that server."""
    app = App(server[0].dsn())
    yield app
    app.close()
