"""One database and one server for the tests of a file; each test begins without answers."""

from collections.abc import Iterator

import pytest

from pgqueue import App
from pgqueue.http import Target, target
from pgqueue.testing import Jobs, rolled_back
from tests.edges.http.hook_server import HookServer, serving

OLD, NEW = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "TmV3" * 11
TOKEN = "Bearer s3cr3t-t0ken"


@pytest.fixture
def dsn(kept_database: str) -> str:
    return kept_database


@pytest.fixture
def jobs(app: App) -> Iterator[Jobs]:
    with rolled_back(app) as jobs:
        yield jobs


@pytest.fixture(scope="session")
def _server() -> Iterator[HookServer]:
    with serving() as server:
        yield server


@pytest.fixture
def server(_server: HookServer) -> HookServer:
    _server.answers.clear()
    _server.received.clear()
    return _server


@pytest.fixture
def hooks(app: App) -> Target:
    """A target that may call the test's server."""
    secrets = {"shop": [NEW, OLD], "partner": TOKEN}
    return target(
        app, "webhook", secrets=secrets, sign="shop", allow=["127.0.0.0/8"], plain_http=True, retry=[60, 600, 6000]
    )
