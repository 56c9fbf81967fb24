"""Jobs with retention=0, which keep no row after success."""

import pytest

from pgqueue import App, InvalidOption
from tests.conftest import drain, scalar
from tests.harness import Conn

LEFT = """select (select count(*) from pgqueue.job_live) + (select count(*) from pgqueue.job_finished)
               + (select count(*) from pgqueue.transition)"""


@pytest.mark.parametrize("where", ["task", "queue"])
def test_nothing_is_kept_of_what_succeeds(app: App, conn: Conn, where: str) -> None:
    ran = []
    app.retention = {"bulk": 0}

    @app.task(name="t", queue="bulk" if where == "queue" else "default", retention=0 if where == "task" else None)
    def t(n: int) -> None:
        ran.append(n)

    t.enqueue_many({"n": n} for n in range(3))
    drain(app, conn, queues=["default", "bulk"])
    assert sorted(ran) == [0, 1, 2]
    assert scalar(conn, LEFT) == 0


def test_failures_are_kept_with_their_errors(app: App, conn: Conn) -> None:
    @app.task(name="t", retention=0, retry=[0.01])
    def t() -> None:
        raise KeyError("no")

    job = t.enqueue()
    drain(app, conn)
    dead = app.get(job.id)
    assert (dead.state, dead.reason, dead.error and dead.error.type) == ("failed", "exhausted", "KeyError")
    moves = conn.execute("select from_state, to_state, error ->> 'type' from pgqueue.transition order by at").fetchall()
    assert moves == [("running", "pending", "KeyError"), ("running", "failed", "KeyError")]


@pytest.mark.parametrize("kept", [1, -1, 0.0, False, "0"])
def test_only_all_or_nothing_can_be_kept(app: App, kept: object) -> None:
    with pytest.raises(InvalidOption, match="cannot be used: give 0"):
        app.task(retention=kept)  # type: ignore[call-overload]
