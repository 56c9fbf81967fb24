"""One database for all tests of a file: each test must leave nothing in it."""

from collections.abc import Iterator

import pytest

from pgqueue import App
from pgqueue.testing import Jobs, rolled_back
from tests.conftest import scalar
from tests.edges.testing.looks import LEFT
from tests.harness import Conn


@pytest.fixture
def dsn(kept_database: str) -> str:
    """The database of these tests."""
    return kept_database


@pytest.fixture
def others(conn: Conn) -> Iterator[Conn]:
    """A connection of other code, which commits."""
    yield conn
    conn.execute("truncate pgqueue.job_live, pgqueue.transition, pgqueue.schedule, pgqueue.schedule_ahead")


@pytest.fixture
def jobs(app: App, conn: Conn) -> Iterator[Jobs]:
    """The jobs of the test. At the end a second connection checks that they left nothing."""
    with rolled_back(app) as jobs:
        yield jobs
        assert scalar(conn, LEFT) == 0
    assert scalar(conn, LEFT) == 0
    assert scalar(conn, "select count(*) from pgqueue.schedule") == 0
