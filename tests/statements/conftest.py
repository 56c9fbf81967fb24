"""A transaction on a migrated database, for tests of single statements."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.harness import Conn


@pytest.fixture
def tx(kept_database: str) -> Iterator[Conn]:
    """A connection in a transaction that is rolled back."""
    with psycopg.connect(kept_database, options="-c search_path=") as conn:
        yield conn
        conn.rollback()
