"""One connection for all waits of a process: shared, lost, forked, closed, and absent while there are no waits."""

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from pgqueue import App, DatabaseUnreachable
from pgqueue.client.waiting import EndWaiter
from pgqueue.db.link import Link
from pgqueue.queries.waits import WaitQueries
from tests.client.waiting.looks import CONNECTIONS, CUT, WAITED, end, hub_of
from tests.conftest import DEADLINE, drain, eventually, scalar
from tests.harness import Conn, InThread, wait_for, working


def test_the_loss_of_the_connection_is_survived(no_polling: None, app: App, conn: Conn, add: Any) -> None:
    first, second = add.enqueue(1, 2), add.enqueue(3, 4)
    waits = [InThread(lambda: first.wait(DEADLINE)), InThread(lambda: second.wait(DEADLINE))]
    wait_for(
        lambda: app.waits._hub and app.waits._hub.snapshot(first.id) and app.waits._hub.snapshot(second.id), "a look"
    )
    end(conn, first.id, result="3")  # without a notification
    assert not waits[0].done
    assert scalar(conn, CUT) == 1
    assert waits[0].result() == 3  # it read again once it was connected again
    drain(app, conn)
    assert waits[1].result() == 7  # and it listens again
    assert scalar(conn, CONNECTIONS) == 1


def test_thousands_of_waits_share_a_connection_and_their_looks(
    app: App, conn: Conn, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    read = WaitQueries.read_snapshots

    def counted(self: WaitQueries, ids: Sequence[int], followed: Sequence[bool]) -> Any:
        looks.append(len(ids))
        return read(self, ids, followed)

    monkeypatch.setattr(WaitQueries, "read_snapshots", counted)
    ids = add.enqueue_many({"a": n, "b": 1} for n in range(2000))

    async def body() -> list[Any]:
        waiting = asyncio.gather(*(app.await_result(job_id, DEADLINE) for job_id in ids))
        in_thread = asyncio.create_task(asyncio.to_thread(app.wait_all, ids[:100], DEADLINE))
        await eventually(lambda: scalar(conn, WAITED) == 2000, "all to wait")
        await eventually(lambda: sum(looks) > 3 * 2000, "some looks")
        assert scalar(conn, CONNECTIONS) == 1
        assert len(looks) < 200  # and not thousands
        async with working(app):
            results: list[Any] = await waiting
            assert await in_thread == results[:100]
        await app.aclose()
        return results

    assert asyncio.run(body()) == [n + 1 for n in range(2000)]


def test_while_nobody_waits_no_statement_is_sent(
    app: App, conn: Conn, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[set[int]] = []
    tell = WaitQueries.announce_ended
    monkeypatch.setattr(WaitQueries, "announce_ended", lambda self, ids: announced.append(set(ids)) or tell(self, ids))
    add.enqueue_many({"a": n, "b": 1} for n in range(50))
    drain(app, conn)
    assert announced == []
    conn.execute("insert into pgqueue.waiter values (0, now() + interval '1 minute'), (1, now() - interval '1 s')")
    (job,) = add.enqueue_many([{"a": 1, "b": 1}])
    drain(app, conn)
    assert announced == [{job}]
    assert scalar(conn, "select array_agg(job_id) from pgqueue.waiter") == [0]  # expired rows are deleted


def test_who_comes_while_the_connection_is_given_up_is_told_so(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = app.enqueue("t"), app.enqueue("t")
    late: list[EndWaiter] = []
    close = Link.close

    async def come(self: Link) -> None:
        if self is hub_of(app)._link:
            late.append(EndWaiter(second.id, committed=True))
            hub_of(app).add(late[0])
        await close(self)

    def look(self: WaitQueries, *_: Any) -> Any:
        raise RuntimeError("what nobody has foreseen")

    monkeypatch.setattr(WaitQueries, "read_snapshots", look)
    monkeypatch.setattr(Link, "close", come)
    for wait in (first.wait, lambda limit: late[0].future.result(limit)):
        with pytest.raises(RuntimeError, match="foreseen"):
            wait(DEADLINE)
    assert "in an unforeseen way" in caplog.text


def test_who_stops_waiting_leaves_nothing_behind(app: App, add: Any) -> None:
    job = add.enqueue(1, 2)

    async def body() -> None:
        waits = [asyncio.create_task(job.await_result()) for _ in range(3)]
        await eventually(lambda: app.waits._hub and app.waits._hub.snapshot(job.id), "a look")
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        await eventually(lambda: app.waits._hub and not app.waits._hub._watched, "all to be gone")

    asyncio.run(body())


def test_close_ends_the_waits_and_the_app_can_be_used_again(app: App, conn: Conn, add: Any) -> None:
    job = add.enqueue(1, 2)
    waiting = InThread(lambda: job.wait(DEADLINE))
    wait_for(lambda: scalar(conn, WAITED), "the wait")
    app.close()
    with pytest.raises(DatabaseUnreachable, match="the app was closed"):
        waiting.result()
    wait_for(lambda: scalar(conn, CONNECTIONS) == 0, "the connection to be closed")
    assert not [thread for thread in threading.enumerate() if thread.name == "pgqueue-waits"]
    drain(app, conn)
    assert job.wait(DEADLINE) == 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_waits_on_a_connection_of_its_own(app: App, conn: Conn, add: Any) -> None:
    jobs = [add.enqueue(n, 0) for n in range(2)]
    waiting = InThread(lambda: jobs[0].wait(DEADLINE))
    wait_for(lambda: scalar(conn, WAITED), "the wait")
    end(conn, jobs[1].id, result="1")
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if jobs[1].wait(DEADLINE) == 1 else 2)
        except BaseException:  # noqa: BLE001 - the child must never run on into the tests
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not waiting.done
    end(conn, jobs[0].id, result="0")
    assert waiting.result() == 0


def test_without_listen_it_polls(dsn: str, conn: Conn) -> None:
    app = App(dsn, pgbouncer=True)
    app.task(name="t")(lambda: "done")
    job = app.enqueue("t")
    waiting = InThread(lambda: job.wait(DEADLINE))
    wait_for(lambda: app.waits._hub and app.waits._hub.snapshot(job.id), "a look")
    drain(app, conn)
    assert waiting.result() == "done"
    assert scalar(conn, WAITED) == 0
    app.close()
