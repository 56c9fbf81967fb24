"""What several files of tests of schedules share."""

import pytest

from pgqueue import App


@pytest.fixture
def report(app: App) -> App:
    """An app that knows a task."""

    @app.task(name="report", queue="reports", tags=["r"])
    def report(day: int = 0) -> None: ...

    return app
