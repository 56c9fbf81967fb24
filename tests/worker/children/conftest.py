"""An app that never connects, and a check that no test leaves a child or a descriptor behind."""

import os
import signal
from collections.abc import Iterator

import pytest

from pgqueue import App
from tests.worker.children.scenes import announce, children_of_this_process, descriptors


@pytest.fixture
def app() -> App:
    """An app that never connects, with the tasks that most tests need."""
    app = App()

    @app.task(name="pid")
    def pid() -> int:
        return os.getpid()

    @app.task(name="hold")
    def hold(path: str) -> None:
        """Write the pid to a file, and run until killed."""
        announce(path)
        while True:
            signal.pause()

    @app.task(name="stubborn")
    def stubborn(path: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        announce(path)
        while True:
            signal.pause()

    return app


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Check that no test leaves a descriptor or a child in this process, whether the child has ended or not."""
    open_before, before = descriptors(), children_of_this_process()
    yield
    assert descriptors() <= open_before
    assert children_of_this_process() <= before
