"""What is recorded as an operation while it is done: also where the database goes away meanwhile."""

from typing import Any, NoReturn

import pytest

from pgqueue import App
from pgqueue.client.recording import RecordedStep, recorded
from pgqueue.errors import InvalidArguments
from pgqueue.queries import Query
from tests.conftest import scalar
from tests.harness import Conn

STEP = RecordedStep("pause", {"queue": "mail"}, {}, "alice", "cli")
ERROR = "select error from pgqueue.operation"


class Broken(Exception):
    """What goes wrong."""


def test_the_first_error_is_raised_where_the_row_cannot_say_so(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gone = app.backend.pools.run, []

    def run_until_gone(query: Query[Any]) -> Any:
        if gone:
            raise ConnectionError("the database is gone")
        return run(query)

    def fail() -> NoReturn:
        gone.append(True)
        raise Broken("why it failed")

    monkeypatch.setattr(app.backend.pools, "run", run_until_gone)
    with pytest.raises(Broken, match="why it failed"):
        recorded(app, STEP, fail)
    assert conn.execute("select done, error from pgqueue.operation").fetchall() == [(0, None)]


def test_what_is_done_is_done_where_the_row_cannot_say_so(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gone = app.backend.pools.run, []

    def run_until_gone(query: Query[Any]) -> Any:
        if gone:
            raise ConnectionError("the database is gone")
        return run(query)

    monkeypatch.setattr(app.backend.pools, "run", run_until_gone)
    assert recorded(app, STEP, lambda: gone.append(True) or "paused") == "paused"
    assert conn.execute("select done, error from pgqueue.operation").fetchall() == [(0, None)]


def test_an_error_is_in_the_row_but_for_what_is_wrong_with_arguments(app: App, conn: Conn) -> None:
    def fail() -> NoReturn:
        raise Broken("why it failed")

    def refuse() -> NoReturn:
        raise InvalidArguments("shop.charge", ["card: Value error, no such card: 4242"])

    with pytest.raises(Broken):
        recorded(app, STEP, fail)
    assert scalar(conn, ERROR) == "why it failed"
    conn.execute("delete from pgqueue.operation")
    with pytest.raises(InvalidArguments, match="no such card: 4242"):
        recorded(app, STEP, refuse)
    assert scalar(conn, ERROR).startswith("shop.charge does not take the arguments")
    assert "4242" not in scalar(conn, ERROR)
