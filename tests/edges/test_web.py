"""Jobs over HTTP: the example of the docs, who may see what, cancelling, events, and clients that go away."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from pgqueue import App, ConfigError, Context, InvalidOption, Job, web
from pgqueue.testing import rolled_back
from tests.conftest import DEADLINE, drain, eventually, scalar
from tests.harness import Conn, insert_job, working

DOCS = Path(__file__).parents[2] / "docs"
EVENTS = re.compile(r"(?:id: (\w+)\n)?event: (\w+)\ndata: (.*)\n")


def client(api: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test")


def everybody(request: Request, job: Job) -> bool:
    return True


def events(text: str) -> list[tuple[str, Any]]:
    return [(kind, json.loads(data)) for _, kind, data in EVENTS.findall(text)]


def run(app: App, body: Callable[[], Any]) -> Any:
    """Run an async test and let go of the app's connections in its loop."""

    async def whole() -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                return await body()
        finally:
            await app.aclose()

    return asyncio.run(whole())


@pytest.fixture(params=["starlette", "fastapi"])
def api(request: pytest.FixtureRequest, app: App) -> Any:
    """The router in both frameworks, with an endpoint that starts a job."""

    async def start(request: Request) -> JSONResponse:
        return web.accepted(request, await app.aenqueue("t", {"secret": "password"}))

    routes = web.router(app, authorize=everybody)
    if request.param == "starlette":
        return Starlette(routes=[Mount("/api/jobs", routes), Route("/start", start, methods=["POST"])])
    api = FastAPI()
    api.mount("/api/jobs", routes)
    api.add_route("/start", start, methods=["POST"])
    return api


def test_a_request_becomes_a_job_whose_status_can_be_asked_for(api: Any, app: App, conn: Conn) -> None:
    @app.task(name="t")
    async def t(secret: str) -> dict[str, int]:
        return {"pages": 3}

    async def body() -> None:
        async with client(api) as http:
            answer = await http.post("/start")
            assert answer.status_code == 202
            place = answer.headers["location"]
            assert place == f"/api/jobs/{answer.json()['job_id']}" == answer.json()["poll_url"]
            waiting = await http.get(place)
            assert (waiting.status_code, waiting.headers["retry-after"]) == (200, "1")
            assert waiting.headers["cache-control"] == "no-store"
            assert (waiting.json()["status"], waiting.json()["is_terminal"]) == ("pending", False)
            async with working(app):
                await app.await_result(answer.json()["job_id"], DEADLINE)
            done = await http.get(place)
            assert "password" not in done.text + waiting.text + answer.text
            assert "retry-after" not in done.headers
        told = done.json()
        at = app.get(told["job_id"])
        assert at.claimed_at
        assert at.finished_at
        assert told == {
            "job_id": at.id, "status": "succeeded", "phase": "succeeded", "created_at": at.created_at.isoformat(),
            "started_at": at.claimed_at.isoformat(), "completed_at": at.finished_at.isoformat(), "attempt": 1,
            "max_attempts": 20, "progress": None, "result": {"pages": 3}, "error": None, "is_terminal": True,
        }  # fmt: skip

    run(app, body)


@pytest.mark.parametrize("shown", ["none", "type", "message", "traceback"])
def test_as_much_of_an_error_is_shown_as_was_chosen(app: App, conn: Conn, shown: Any) -> None:
    @app.task(name="bad", max_attempts=1)
    def bad() -> None:
        raise ValueError("no good")

    job = bad.enqueue()
    drain(app, conn)
    parts = {"type": "ValueError", "message": "no good", "traceback": app.get(job.id).errors[0].traceback}
    names = ["none", "type", "message", "traceback"]
    expected = {name: parts[name] for name in names[1 : names.index(shown) + 1]} or None

    async def body() -> None:
        async with client(web.router(app, authorize=everybody, errors=shown)) as http:
            told = (await http.get(f"/{job.id}")).json()
            assert (told["status"], told["result"], told["error"]) == ("failed", None, expected)

    run(app, body)


@pytest.mark.parametrize("kind", ["def", "async", "nothing", "callable"])
def test_who_is_refused_learns_no_more_than_that_there_is_no_such_job(app: App, kind: str) -> None:
    async def refuse(request: Request, job: Job) -> bool:
        return False

    class Refuse:
        async def __call__(self, request: Request, job: Job) -> bool:
            return False

    authorize: Any = {
        "def": lambda request, job: False, "async": refuse, "nothing": lambda request, job: None, "callable": Refuse()
    }[kind]  # fmt: skip
    job = app.enqueue("t")

    async def body() -> None:
        async with client(web.router(app, authorize=authorize)) as http:
            for verb, path in (("GET", "/{}"), ("DELETE", "/{}"), ("POST", "/{}/cancel"), ("GET", "/{}/events")):
                refused, unknown = [await http.request(verb, path.format(n)) for n in (job.id, job.id + 1)]
                assert (refused.status_code, refused.json()) == (404, {"detail": "no such job"})
                assert (unknown.status_code, unknown.json()) == (404, refused.json())
                assert refused.headers == unknown.headers

    run(app, body)
    assert app.get(job.id).state == "pending"


@pytest.mark.parametrize(
    "answer",
    [JSONResponse({}, 403), HTTPException(403), (False, "not yours"), "no", 1, object],
    ids=lambda value: type(value).__name__,
)
def test_only_true_lets_a_client_through(app: App, caplog: pytest.LogCaptureFixture, answer: Any) -> None:
    job = app.enqueue("t")

    async def body() -> None:
        async with client(web.router(app, authorize=lambda request, job: answer)) as http:
            assert (await http.get(f"/{job.id}")).status_code == 404
            assert (await http.delete(f"/{job.id}")).status_code == 404

    run(app, body)
    assert app.get(job.id).state == "pending"
    assert f"authorize returned a {type(answer).__name__}, which lets nobody through" in caplog.text


def test_what_authorize_raises_is_the_frameworks_answer(app: App) -> None:
    def forbid(request: Request, job: Job) -> bool:
        raise HTTPException(403, f"not {job.id}")

    job = app.enqueue("t")
    api = FastAPI()
    api.mount("/jobs", web.router(app, authorize=forbid))

    async def body() -> None:
        async with client(api) as http:
            answer = await http.get(f"/jobs/{job.id}")
            assert (answer.status_code, answer.json()) == (403, {"detail": f"not {job.id}"})

    run(app, body)


def test_what_is_no_id_is_not_there(app: App) -> None:
    async def body() -> None:
        async with client(web.router(app, authorize=everybody)) as http:
            for job_id in ["0", "-1", "x", "1e3", "²", "9" * 19, "9" * 30, "9" * 5000, "%00", "1 or 1=1"]:
                assert (await http.get(f"/{job_id}")).status_code == 404

    run(app, body)


def test_cancelling(app: App, conn: Conn) -> None:
    waiting = app.enqueue("t").id
    running = insert_job(conn, state="running", worker_id="00000000-0000-0000-0000-000000000001",
                         claimed_at="2026-01-01Z", attempt=1, lease=1)  # fmt: skip
    conn.execute("insert into pgqueue.job_finished (id, task, queue, state) values (1000, 't', 'q', 'succeeded')")

    async def body() -> None:
        async with client(web.router(app, authorize=everybody)) as http:
            for _ in range(2):
                answer = await http.delete(f"/{waiting}")
                assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
                answer = await http.post(f"/{running}/cancel")
                assert (answer.status_code, answer.json()["status"]) == (202, "running")
                answer = await http.post("/1000/cancel")
                assert (answer.status_code, answer.json()) == (409, {"detail": "job 1000 has already succeeded"})
            assert (await http.get(f"/{waiting}/cancel")).status_code == 405

    run(app, body)
    assert scalar(conn, "select cancel_requested_at is not null from pgqueue.job_live where id = %s", running)


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

    told = events(run(app, body))
    assert [kind for kind, _ in told] == ["status"] * (len(told) - 1) + ["end"]
    states = [status["status"] for _, status in told[:-1]]
    assert (states[0], states[-1], states[-2]) == ("pending", "succeeded", "running")
    assert {"done": 1, "total": 2, "note": "half"} in [status["progress"] for _, status in told[:-1]]
    assert (told[-2][1]["result"], told[-2][1]["is_terminal"], told[-2][1]["attempt"]) == ("done", True, 2)


@asynccontextmanager
async def listening(api: Any, job_id: int) -> AsyncIterator[tuple[asyncio.Queue[Any], asyncio.Event]]:
    """A client that reads a stream as it comes; it goes away when the event is set, at the latest at the end."""
    received: asyncio.Queue[Any] = asyncio.Queue()
    leaves = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await leaves.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": f"/{job_id}/events", "headers": [], "query_string": b"",
             "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "root_path": ""}  # fmt: skip
    serving = asyncio.create_task(api(scope, receive, received.put))
    try:
        yield received, leaves
    finally:
        leaves.set()
        await asyncio.wait_for(serving, DEADLINE)


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
        assert app.waits._hub is None  # nobody had to wait

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
    cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'pgqueue waits'"

    async def body() -> None:
        async with listening(web.router(app, authorize=everybody), job.id) as (received, _):
            await received.get()
            await eventually(lambda: app.waits._hub and app.waits._hub.snapshot(job.id), "a look")
            assert scalar(conn, cut) == 1
            conn.execute("update pgqueue.job_live set progress = '{\"done\": 1}'")
            while b'"done": 1' not in (message := await received.get())["body"]:
                pass
            await asyncio.to_thread(app.waits.close)
            while message.get("more_body"):
                message = await received.get()
                assert b"event: end" not in message["body"]  # so the browser comes back

    run(app, body)


def test_a_test_s_transaction_is_where_the_routes_look(api: Any, app: App) -> None:
    app.task(name="t")(lambda secret: "done")

    async def body() -> None:
        with rolled_back(app) as jobs:
            async with client(api) as http:
                place = (await http.post("/start")).headers["location"]
                waiting = events((await http.get(f"{place}/events")).text)
                assert [status["status"] for _, status in waiting] == ["pending"]  # without an end: it will go on
                await jobs.adrain()
                assert (await http.get(place)).json()["result"] == "done"
                assert events((await http.get(f"{place}/events")).text)[-1][0] == "end"

    run(app, body)


def test_the_example_in_the_docs_runs(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "web.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    example: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "web.md", "exec"), example)
    app: App = example["app"]

    async def body() -> None:
        async with client(example["api"]) as http, working(app):
            answer = await http.post("/reports?pages=2", headers={"x-user": "ann"})
            assert answer.status_code == 202
            place = answer.headers["location"]
            assert (await http.get(place, headers={"x-user": "bob"})).status_code == 404
            nobodys = await app.using(delay=60).aenqueue(example["build"].name, {"owner": "", "pages": 1})
            for path in (place, f"/jobs/{nobodys.id}"):  # a client that says no name sees no job
                assert (await http.get(path)).status_code == 404
                assert (await http.delete(path)).status_code == 404
            others = await app.using(delay=60).aenqueue("billing.nightly", {"month": 11})  # has no owner
            assert (await http.delete(f"/jobs/{others.id}")).status_code == 404
            told = events((await http.get(f"{place}/events", headers={"x-user": "ann"})).text)
            assert (told[-2][1]["status"], told[-2][1]["result"]) == ("succeeded", {"pages": 2})
            assert (await http.delete(place, headers={"x-user": "ann"})).status_code == 409
        documented = json.loads(re.findall(r"^```json\n(.*?)^```", (DOCS / "web.md").read_text(), re.M | re.S)[0])
        assert documented.keys() == told[-2][1].keys()

    run(app, body)


def test_what_cannot_be_used_is_refused_when_the_router_is_made(app: App) -> None:
    for bad in ({"authorize": None}, {"authorize": everybody, "errors": "all"}):
        with pytest.raises(InvalidOption, match="cannot be used: give"):
            web.router(app, **bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="heartbeat"):
        web.router(app, authorize=everybody, heartbeat=0)
    with pytest.raises(InvalidOption, match="max_streams"):
        web.router(app, authorize=everybody, max_streams=0)


def test_without_its_extra_the_module_says_what_to_install() -> None:
    code = "import sys; sys.modules['starlette'] = None; import pgqueue.web"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("pip install 'pgqueue-jobs[web]'")


def test_accepted_says_how_a_job_is_that_was_there(app: App, conn: Conn) -> None:
    @app.task(name="t", idempotent=True)
    def t() -> None: ...

    first = t.enqueue()
    drain(app, conn)
    request = Request({"type": "http", "method": "POST", "headers": []})
    for job, status in ((first, b"pending"), (t.enqueue(), b"succeeded"), (first.id, b"pending")):
        assert b'"status":"%s"' % status in web.accepted(request, job, location="/jobs/1").body


def test_accepted_needs_to_know_where_the_router_is(app: App) -> None:
    job = app.enqueue("t")
    app.cancel(job.id)

    async def start(request: Request) -> JSONResponse:
        told = job.id if "id" in request.query_params else await app.aget(job.id)
        return web.accepted(request, told, location="/elsewhere/17" if "here" in request.query_params else None)

    async def body() -> None:
        async with client(Starlette(routes=[Route("/", start)])) as http:
            assert (await http.get("/?here&id")).headers["location"] == "/elsewhere/17"
            assert [(await http.get(f"/?here{also}")).json()["status"] for also in ("", "&id")] == [
                "cancelled", "pending"
            ]  # fmt: skip
            with pytest.raises(ConfigError, match=r"mount it as api\.mount"):
                await http.get("/")

    run(app, body)
