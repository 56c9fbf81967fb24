"""`app.control` and `inspect`: what workers do and hold, read from rows, in Celery's shape."""

import asyncio
import threading
from typing import Any

import pytest

from pgqueue.celery import Celery
from pgqueue.errors import UnknownLimit, UnknownVerb
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import eventually, scalar
from tests.harness import Conn, add_worker


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def test_without_a_worker_inspect_answers_none(celery: Celery) -> None:
    inspect = celery.control.inspect(timeout=0.1)
    assert [inspect.ping(), inspect.active(), inspect.stats(), inspect.registered()] == [None] * 4
    assert celery.control.ping(timeout=0.1) == []


def test_inspect_shows_what_a_worker_runs_knows_and_has_before_it(celery: Celery, conn: Conn) -> None:
    begun, let_go = threading.Event(), threading.Event()

    @celery.task(name="hold")
    def hold(n: int, *, name: str = "") -> None:
        begun.set()
        let_go.wait(30)

    running = hold.delay(7, name="x")
    later = hold.apply_async((8,), countdown=600)
    elsewhere = hold.apply_async((9,), queue="elsewhere")

    def ask() -> dict[str, Any]:
        inspect = celery.control.inspect(timeout=20)
        return {
            "ping": celery.control.ping(timeout=20),
            "active": inspect.active(),
            "scheduled": inspect.scheduled(),
            "reserved": inspect.reserved(),
            "registered": inspect.registered(),
            "active_queues": inspect.active_queues(),
            "stats": inspect.stats(),
            "query_task": inspect.query_task(running.id, [later.id, "chosen"]),
            "others": celery.control.inspect(["nobody"], timeout=0.1).active(),
        }

    async def scenario() -> dict[str, Any]:
        app = celery.pgqueue
        worker = Worker(app, WorkerSettings(queues=["default", "celery"], concurrency=1))
        at_work = asyncio.create_task(worker.run())
        try:
            await eventually(begun.is_set, "a job that runs")
            app.queues.pause("celery")  # a worker may claim a job ahead of its slot
            app.using(queue="celery").enqueue("hold", {"n": 1, "name": ""})
            return await asyncio.to_thread(ask)
        finally:
            let_go.set()
            worker.stop()
            await at_work

    found = asyncio.run(scenario())
    ((name, pong),) = found["ping"][0].items()
    assert pong == {"ok": "pong"}
    (active,) = found["active"][name]
    assert (active["id"], active["name"], active["args"], active["kwargs"]) == (running.id, "hold", [7], {"name": "x"})
    assert active["hostname"] == name
    (scheduled,) = found["scheduled"][name]
    assert (scheduled["request"]["id"], scheduled["request"]["args"]) == (later.id, [8])
    assert len(found["reserved"][name]) == 1
    assert elsewhere.id not in {each["id"] for each in found["reserved"][name]}
    assert "hold" in found["registered"][name]
    assert {"name": "default"} in found["active_queues"][name]
    assert found["stats"][name]["pool"] == {"max-concurrency": 1, "running": 1}
    assert list(found["query_task"][name]) == [running.id]
    assert found["others"] is None


def test_shutdown_asks_all_workers_or_those_that_are_named(celery: Celery, conn: Conn) -> None:
    add_worker(conn)
    asked = "select requested from pgqueue.worker"
    celery.control.shutdown(destination=["h:1"])
    assert scalar(conn, asked) == "stop"
    conn.execute("update pgqueue.worker set requested = null")
    celery.control.shutdown()
    assert scalar(conn, asked) == "stop"


def test_rate_limit_changes_the_rate_of_a_task(celery: Celery, conn: Conn) -> None:
    celery.task(name="paced", rate_limit="10/m")(lambda: None)
    celery.task(name="free")(lambda: None)
    rate = "select rate_count::text || ' in ' || rate_seconds from pgqueue.limit_rule where name = 'paced'"
    celery.control.rate_limit("paced", "5/s")
    assert scalar(conn, rate) == "5 in 1"
    celery.control.rate_limit("paced", 0)
    assert scalar(conn, rate) is None
    with pytest.raises(UnknownLimit):
        celery.control.rate_limit("free", "5/s")


@pytest.mark.parametrize("name", ["conf", "clock", "report", "memdump"])
def test_what_has_no_place_names_another_one(celery: Celery, name: str) -> None:
    with pytest.raises(UnknownVerb, match="inspect"):
        getattr(celery.control.inspect(), name)
