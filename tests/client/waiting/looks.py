"""Waits seen from outside, and a job that ends without a notification."""

from typing import Any

from pgqueue import App, db
from pgqueue.client import wait_hub as hub
from pgqueue.jobs.lifecycle import Resolution
from tests.conftest import DEADLINE
from tests.harness import QUERIES, Conn, claimed

_WAITS = "from pg_stat_activity where application_name = 'pgqueue waits' and datname = current_database()"
CONNECTIONS = f"select count(*) {_WAITS}"
CUT = f"select count(pg_terminate_backend(pid)) {_WAITS}"
WAITED = "select count(*) from pgqueue.waiter"


def end(conn: Conn, job_id: int, **outcome: Any) -> None:
    """End a job as a worker does that does not know of the wait."""
    conn.execute(
        "update pgqueue.job_live set state = 'running', lease = 1, attempt = 1, claimed_at = now(),"
        " worker_id = gen_random_uuid() where id = %s",
        (job_id,),
    )
    assert db.run(conn, QUERIES.jobs.resolve([(claimed(job_id, 1), Resolution("succeed", **outcome))])) == {job_id}


def heard(listening: Conn, conn: Conn) -> list[str]:
    """Return the payloads received until now."""
    conn.execute("select pg_notify('pgqueue.ended', 'the end')")
    payloads: list[str] = []
    for notification in listening.notifies(timeout=DEADLINE):
        if notification.payload == "the end":
            return payloads
        payloads.append(notification.payload)
    raise AssertionError("the notification that ends the wait did not come")


def hub_of(app: App) -> hub.WaitHub:
    assert isinstance(app.waits._hub, hub.WaitHub)
    return app.waits._hub
