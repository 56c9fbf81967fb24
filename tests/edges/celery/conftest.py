"""An app in Celery's words on the test's database, and a worker that runs its jobs."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgqueue.celery import Celery
from pgqueue.celery.decorating import SHARED
from pgqueue.celery.parts import _Current
from tests.conftest import drain
from tests.harness import Conn


@pytest.fixture(autouse=True)
def no_other_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared tasks and the current app are of one process; each test has its own."""
    monkeypatch.setattr(SHARED, "tasks", {})
    monkeypatch.setattr(_Current, "adapter", None)


@pytest.fixture
def celery(dsn: str) -> Iterator[Celery]:
    """An app on the test's database."""
    app = Celery("tests", broker=dsn)
    yield app
    app.close()


@pytest.fixture
def run(conn: Conn) -> Callable[..., None]:
    """Run a worker until no job waits or runs."""

    def run(app: Celery, **settings: Any) -> None:
        drain(app.pgqueue, conn, **settings)

    return run
