"""What is seen of waits from outside, and a job that ends without anybody being told."""

from typing import Any

from pgqueue import App, db
from pgqueue.client import wait_hub as hub
from pgqueue.jobs.lifecycle import Resolution
from tests.conftest import DEADLINE
from tests.harness import QUERIES, Conn, claimed

CONNECTIONS = "select count(*) from pg_stat_activity where application_name = 'pgqueue waits'"
CUT = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'pgqueue waits'"
WAITED = "select count(*) from pgqueue.waiter"


def end(conn: Conn, job_id: int, **told: Any) -> None:
    """End a job as a worker would, who does not know that somebody waits."""
    conn.execute(
        "update pgqueue.job_live set state = 'running', lease = 1, attempt = 1, claimed_at = now(),"
        " worker_id = gen_random_uuid() where id = %s",
        (job_id,),
    )
    assert db.run(conn, QUERIES.jobs.resolve([(claimed(job_id, 1), Resolution("succeed", **told))])) == {job_id}


def heard(listening: Conn, conn: Conn) -> list[str]:
    """The payloads that came in until now."""
    conn.execute("select pg_notify('pgqueue.ended', 'the end')")
    payloads: list[str] = []
    for notification in listening.notifies(timeout=DEADLINE):
        if notification.payload == "the end":
            return payloads
        payloads.append(notification.payload)
    raise AssertionError("the notification that ends the wait did not come")


def hub_of(app: App) -> hub.WaitHub:
    assert app.waits._hub
    return app.waits._hub
