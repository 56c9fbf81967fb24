"""What a running task enqueues says by which job; what is enqueued elsewhere says nothing."""

from collections.abc import Iterator

import pytest

import pgqueue
from pgqueue import App, chain, db
from pgqueue.tasks.subscription import subscriptions_of
from tests.conftest import drain, scalar
from tests.harness import Conn


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    """The database of the module."""
    return emptied_dsn


@pytest.fixture
def other(dsn: str) -> Iterator[App]:
    """Another app: what its ids mean, only its own database knows."""
    app = App(dsn)
    yield app
    app.close()


def test_jobs_know_the_job_whose_task_enqueued_them(app: App, other: App, conn: Conn) -> None:
    seen: dict[str, object] = {}

    @app.task(name="made")
    def made(ctx: pgqueue.Context, n: int) -> int:
        if n == 1:
            seen["headers"] = ctx.headers
        return n

    @app.task(name="heard", on=["order.paid"])
    def heard() -> None: ...

    @app.task(name="in a thread", max_attempts=1)
    def in_a_thread(ctx: pgqueue.Context) -> None:
        seen["returned"] = made.enqueue(n=1).enqueued_by
        made.enqueue_many([{"n": 2}, {"n": 3}])
        made.using(idempotency_key="k", headers={"a": "b"}).enqueue(n=4)
        made.using(idempotency_key=lambda n: f"k{n}").enqueue_many([{"n": 5}, {"n": 6}])
        chain(made.s(n=7), made.si(n=8)).enqueue()
        app.enqueue("made", {"n": 9})
        app.publish("order.paid")
        other.enqueue("made", {"n": 10})
        with ctx.transaction():
            made.enqueue(n=11)

    @app.task(name="on the loop")
    async def on_the_loop() -> None:
        await made.aenqueue(n=12)

    @app.task(name="in a process", isolation="process")
    def in_a_process() -> None:
        made.enqueue(n=13)

    declared = subscriptions_of(app.tasks, app.queue, app.retention)
    db.run(conn, app.queries.events.declare("", [one.row for one in declared]))
    thread, loop, process = in_a_thread.enqueue(), on_the_loop.enqueue(), in_a_process.enqueue()
    made.enqueue(n=14)
    drain(app, conn)
    assert scalar(conn, "select min(error ->> 'message') from pgqueue.dead_letter") is None
    rows = "select headers -> '$by', args -> 'n' from pgqueue.job where task = 'made'"
    found = {n: by for by, n in conn.execute(rows)}
    assert found == {
        **dict.fromkeys([*range(1, 10), 11], thread.id), 10: None, 12: loop.id, 13: process.id, 14: None
    }  # fmt: skip
    assert scalar(conn, "select headers -> '$by' from pgqueue.job where task = 'heard'") == thread.id
    assert seen == {"returned": thread.id, "headers": {}}
    assert scalar(conn, "select count(*) from pgqueue.job where task like 'in %' and headers ? '$by'") == 0
    read = app.get(scalar(conn, "select id from pgqueue.job where args = '{\"n\": 4}'"))
    assert (read.enqueued_by, read.headers) == (thread.id, {"a": "b", "idempotency_key": "k"})
