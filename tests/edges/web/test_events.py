"""Streams of events: what they send, how they end, and clients that disconnect."""

import asyncio
from typing import Any

import pytest

from pgqueue import App, Context, web
from tests.conftest import eventually, scalar
from tests.edges.web.clients import client, events, everybody, listening, run
from tests.harness import Conn, working


def test_a_stream_tells_of_each_change_and_ends(app: App, conn: Conn) -> None:
    said = asyncio.Event()

    @app.task(name="t", retry=[0.01])
    async def t(ctx: Context) -> str:
        if ctx.attempt == 1:
            raise ConnectionError
        ctx.progress(1, 2, "half")
        await said.wait()
        return "done"

    job = app.enqueue("t")

    async def body() -> str:
        async with listening(web.router(app, authorize=everybody), job.id) as (received, _):
            await received.get()
            text = (await received.get())["body"].decode()
            async with working(app):
                while "event: end" not in text:
                    text += (await received.get())["body"].decode()
                    if "half" in text:
                        said.set()
        return text

    sent = events(run(app, body))
    assert [kind for kind, _ in sent] == ["status"] * (len(sent) - 1) + ["end"]
    states = [status["status"] for _, status in sent[:-1]]
    assert (states[0], states[-1], states[-2]) == ("pending", "succeeded", "running")
    assert {"done": 1, "total": 2, "note": "half"} in [status["progress"] for _, status in sent[:-1]]
    assert (sent[-2][1]["result"], sent[-2][1]["is_terminal"], sent[-2][1]["attempt"]) == ("done", True, 2)


def test_a_client_that_goes_away_leaves_nothing_behind(app: App) -> None:
    job = app.enqueue("t")

    async def body() -> None:
        await app.aget(job.id)  # opens the pool, which has tasks of its own
        before = asyncio.all_tasks()
        async with listening(web.router(app, authorize=everybody, heartbeat=0.05), job.id) as (received, leaves):
            start = await received.get()
            assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
            assert b"event: status" in (await received.get())["body"]
            assert (await received.get())["body"] == b":\n\n"  # nothing has happened
            hub = app.waits._hub
            assert hub
            assert list(hub._watched) == [job.id]
            leaves.set()
            await eventually(lambda: not hub._watched, "the hub to forget it")
        await eventually(lambda: asyncio.all_tasks() == before, "its tasks to end")

    run(app, body)


def test_no_more_streams_are_open_than_there_may_be(app: App) -> None:
    job = app.enqueue("t")

    async def body() -> None:
        api = web.router(app, authorize=everybody, max_streams=1)
        async with listening(api, job.id) as (received, leaves):
            await received.get()
            async with client(api) as http:
                refused = await http.get(f"/{job.id}/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            leaves.set()
        async with listening(api, job.id) as (received, _):  # the first has closed
            assert (await received.get())["status"] == 200

    run(app, body)


def test_a_stream_whose_client_cannot_be_written_to_ends_quietly(app: App) -> None:
    job = app.enqueue("t")

    async def body() -> None:
        async def send(message: Any) -> None:
            raise OSError("the client is gone")

        async def receive() -> Any:
            await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": f"/{job.id}/events", "headers": [], "query_string": b""}
        with pytest.raises(OSError, match="the client is gone"):
            await web.router(app, authorize=everybody)(scope, receive, send)

    run(app, body)


def test_a_stream_of_which_only_the_head_is_wanted_ends_at_once(app: App) -> None:
    job = app.enqueue("t")

    async def body() -> None:
        async with client(web.router(app, authorize=everybody)) as http:
            answer = await http.head(f"/{job.id}/events")
        assert (answer.status_code, answer.text) == (200, "")
        assert answer.headers["content-type"].startswith("text/event-stream")

    run(app, body)


def test_a_stream_of_a_job_that_has_ended_says_so_and_is_not_opened_again(app: App) -> None:
    job = app.enqueue("t")
    app.cancel(job.id)

    async def body() -> None:
        async with client(web.router(app, authorize=everybody)) as http:
            answer = await http.get(f"/{job.id}/events")
            assert [kind for kind, _ in events(answer.text)] == ["status", "end"]
            assert events(answer.text)[0][1]["status"] == "cancelled"
            again = await http.get(f"/{job.id}/events", headers={"Last-Event-ID": "end"})
            assert (again.status_code, again.text) == (204, "")
        assert app.waits._hub is None  # no wait was needed

    run(app, body)


def test_a_stream_sees_the_end_of_a_job_of_which_nothing_is_kept(app: App) -> None:
    job = app.task(name="t", retention=0)(lambda: None).enqueue()

    async def body() -> str:
        text = ""
        async with listening(web.router(app, authorize=everybody), job.id) as (received, _):
            await received.get()
            async with working(app):
                while "event: end" not in text:
                    text += (await received.get())["body"].decode()
        return text

    assert events(run(app, body))[-2][1]["status"] == "succeeded"


def test_a_stream_outlives_the_apps_connection_but_not_the_app(app: App, conn: Conn) -> None:
    job = app.enqueue("t")
    waits = "from pg_stat_activity where application_name = 'pgqueue waits' and datname = current_database()"

    async def body() -> None:
        async with listening(web.router(app, authorize=everybody), job.id) as (received, _):
            await received.get()
            await eventually(lambda: app.waits._hub and app.waits._hub.snapshot(job.id), "a look")
            assert scalar(conn, f"select count(pg_terminate_backend(pid)) {waits}") == 1
            conn.execute("update pgqueue.job_live set progress = '{\"done\": 1}'")
            while b'"done": 1' not in (message := await received.get())["body"]:
                pass
            await asyncio.to_thread(app.waits.close)
            while message.get("more_body"):
                message = await received.get()
                assert b"event: end" not in message["body"]  # so the browser reconnects

    run(app, body)
