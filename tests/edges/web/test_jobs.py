"""Jobs over HTTP: the example of the docs, which client may see which job, cancelling."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pgqueue import App, ConfigError, InvalidOption, Job, web
from pgqueue.testing import rolled_back
from tests.conftest import DEADLINE, drain, scalar
from tests.edges.web.clients import client, events, everybody, run
from tests.harness import Conn, insert_job, working

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


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
        status = done.json()
        at = app.get(status["job_id"])
        assert at.claimed_at
        assert at.finished_at
        assert status == {
            "job_id": at.id, "status": "succeeded", "phase": "succeeded", "created_at": at.created_at.isoformat(),
            "started_at": at.claimed_at.isoformat(), "completed_at": at.finished_at.isoformat(), "attempt": 1,
            "max_attempts": 20, "progress": None, "cancel_requested": False, "result": {"pages": 3}, "error": None,
            "is_terminal": True,
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
            status = (await http.get(f"/{job.id}")).json()
            assert (status["status"], status["result"], status["error"]) == ("failed", None, expected)

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
                assert answer.json()["cancel_requested"] is True
                answer = await http.post("/1000/cancel")
                assert (answer.status_code, answer.json()) == (409, {"detail": "job 1000 has already succeeded"})
            assert (await http.get(f"/{waiting}/cancel")).status_code == 405

    run(app, body)
    assert scalar(conn, "select cancel_requested_at is not null from pgqueue.job_live where id = %s", running)


def test_a_test_s_transaction_is_where_the_routes_look(api: Any, app: App) -> None:
    app.task(name="t")(lambda secret: "done")

    async def body() -> None:
        with rolled_back(app) as jobs:
            async with client(api) as http:
                place = (await http.post("/start")).headers["location"]
                waiting = events((await http.get(f"{place}/events")).text)
                assert [status["status"] for _, status in waiting] == ["pending"]  # without an end: the job goes on
                await jobs.adrain()
                assert (await http.get(place)).json()["result"] == "done"
                assert events((await http.get(f"{place}/events")).text)[-1][0] == "end"

    run(app, body)


def test_the_example_in_the_docs_runs(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, *_ = re.findall(r"^```python\n(.*?)^```", (DOCS / "web.md").read_text(), re.MULTILINE | re.DOTALL)
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
            for path in (place, f"/jobs/{nobodys.id}"):  # a client without a name sees no job
                assert (await http.get(path)).status_code == 404
                assert (await http.delete(path)).status_code == 404
            others = await app.using(delay=60).aenqueue("billing.nightly", {"month": 11})  # it has no owner
            assert (await http.delete(f"/jobs/{others.id}")).status_code == 404
            sent = events((await http.get(f"{place}/events", headers={"x-user": "ann"})).text)
            assert (sent[-2][1]["status"], sent[-2][1]["result"]) == ("succeeded", {"pages": 2})
            assert (await http.delete(place, headers={"x-user": "ann"})).status_code == 409
        documented = json.loads(re.findall(r"^```json\n(.*?)^```", (DOCS / "web.md").read_text(), re.M | re.S)[0])
        assert documented.keys() == sent[-2][1].keys()

    run(app, body)


def test_what_cannot_be_used_is_refused_when_the_router_is_made(app: App) -> None:
    with pytest.raises(InvalidOption, match="ids of jobs count up and can be guessed"):
        web.router(app)
    for bad in ({"authorize": "me"}, {"authorize": everybody, "errors": "all"}, {"ids": "secret"}):
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
        target = job.id if "id" in request.query_params else await app.aget(job.id)
        return web.accepted(request, target, location="/elsewhere/17" if "here" in request.query_params else None)

    async def body() -> None:
        async with client(Starlette(routes=[Route("/", start)])) as http:
            assert (await http.get("/?here&id")).headers["location"] == "/elsewhere/17"
            assert [(await http.get(f"/?here{also}")).json()["status"] for also in ("", "&id")] == [
                "cancelled", "pending"
            ]  # fmt: skip
            with pytest.raises(ConfigError, match=r"mount it as api\.mount"):
                await http.get("/")

    run(app, body)
