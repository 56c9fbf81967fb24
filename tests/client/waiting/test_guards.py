"""Nothing that somebody else puts into a notification or a row ends a wait that it does not concern."""

from typing import Any

import pytest

from pgqueue import App, ResultMissing
from pgqueue.queries import waits
from tests.client.waiting.looks import end, hub_of
from tests.conftest import DEADLINE
from tests.harness import Conn, InThread, wait_for


def _looked_at(app: App, job_id: int) -> None:
    wait_for(lambda: app.waits._hub and hub_of(app).snapshot(job_id), "a look")


@pytest.mark.parametrize("payload", ["9" * 5000, "x", "-1 1e9 ٣ ²", "", "1 " * 3000])
def test_a_notification_of_a_stranger_ends_no_wait(no_polling: None, app: App, conn: Conn, payload: str) -> None:
    job = app.enqueue("t")
    waiting = InThread(lambda: job.wait(DEADLINE))
    _looked_at(app, job.id)
    conn.execute("select pg_notify('pgqueue.ended', %s)", (payload,))
    end(conn, job.id, result="3")
    conn.execute("select pg_notify('pgqueue.ended', %s)", (str(job.id),))  # heard after the other
    assert waiting.result() == 3


def test_a_job_that_cannot_be_read_ends_its_own_wait_alone(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = app.enqueue("t"), app.enqueue("t")
    read = waits.read_job

    def fail(row: Any) -> Any:
        if row[0] == bad.id:
            raise RecursionError("card 4111")
        return read(row)

    monkeypatch.setattr(waits, "read_job", fail)
    waiting = [InThread(lambda job=job: job.wait(DEADLINE)) for job in (bad, good)]
    for job in (bad, good):
        end(conn, job.id, result="3")
    with pytest.raises(ResultMissing, match=r"cannot be read here: RecursionError$"):
        waiting[0].result()
    assert waiting[1].result() == 3
