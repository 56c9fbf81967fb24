"""Fixtures for pytest. Enable them in the conftest.py at the root: `pytest_plugins = ["pgqueue.testing.plugin"]`."""

from collections.abc import Iterator

import pytest

from pgqueue.app import App
from pgqueue.testing import Jobs, connections, using


@pytest.fixture
def pgqueue_app() -> App:
    """The app under test. Yours to define."""
    raise pytest.UsageError(
        "pgqueue does not know your app: define a fixture pgqueue_app in conftest.py that returns it (docs/testing.md)"
    )


@pytest.fixture
def pgqueue_connection(pgqueue_app: App) -> Iterator[object]:
    """The connection whose transaction the test's jobs belong to. Define your own to share it with your tests' data."""
    with connections.rolled_back(pgqueue_app.database) as conn:
        yield conn


@pytest.fixture
def jobs(pgqueue_app: App, pgqueue_connection: object) -> Iterator[Jobs]:
    """The jobs of this test."""
    with using(pgqueue_app, pgqueue_connection) as jobs:
        yield jobs
