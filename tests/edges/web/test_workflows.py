"""Workflows over HTTP: how they stand, and cancelling them, for those who may."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount

from pgqueue import App, InvalidOption, Workflow, web
from pgqueue.queries.workflows.read import WorkflowStatus
from tests.conftest import drain
from tests.edges.web.clients import client, run
from tests.harness import Conn


def mine(request: Request, workflow: WorkflowStatus) -> bool:
    return workflow.name == "mine" and request.headers.get("x-user") == "ann"


def asked(app: App, body: Callable[[httpx.AsyncClient], Awaitable[None]], authorize: Any = mine) -> None:
    site = Starlette(routes=[Mount("/workflows", web.workflow_router(app, authorize=authorize))])

    async def whole() -> None:
        async with client(site) as http:
            http.headers["x-user"] = "ann"
            await body(http)

    run(app, whole)


numbers = itertools.count()


def made(app: App, conn: Conn, name: str = "mine", *, sealed: bool = True) -> int:
    """A workflow of two jobs one after the other."""
    t = app.task(name=f"t{next(numbers)}")(lambda: None)
    flow = Workflow(name, sealed=sealed)
    flow.add(t.si(), after=flow.add(t.si()))
    return flow.using(conn).enqueue().id


def test_a_client_reads_how_its_workflow_stands(app: App, conn: Conn) -> None:
    workflow = made(app, conn)

    async def before(http: httpx.AsyncClient) -> None:
        answer = await http.get(f"/workflows/{workflow}")
        assert (answer.status_code, answer.headers["retry-after"]) == (200, "1")
        assert answer.headers["cache-control"] == "no-store"
        found = answer.json()
        assert found.pop("created_at") is not None
        assert found == {
            "workflow_id": workflow, "name": "mine", "status": "running", "completed_at": None,
            "jobs": {"all": 2, "waiting": 2, "running": 0, "ended": 0, "failed": 0},
            "is_open": False, "is_stopping": False, "is_terminal": False,
        }  # fmt: skip

    async def after(http: httpx.AsyncClient) -> None:
        answer = await http.get(f"/workflows/{workflow}")
        found = answer.json()
        assert (found["status"], found["is_terminal"], found["jobs"]["ended"]) == ("succeeded", True, 2)
        assert "retry-after" not in answer.headers
        for refused in (await http.delete(f"/workflows/{workflow}"), await http.post(f"/workflows/{workflow}/cancel")):
            assert (refused.status_code, refused.json()) == (
                409,
                {"detail": f"workflow {workflow} has already succeeded"},
            )

    asked(app, before)
    drain(app, conn)
    asked(app, after)


def test_a_client_cancels_its_workflow_and_again(app: App, conn: Conn) -> None:
    for path, sealed in (("", True), ("/cancel", False)):
        workflow = made(app, conn, sealed=sealed)

        async def body(http: httpx.AsyncClient, path: str = f"/workflows/{workflow}{path}") -> None:
            send = http.post if path.endswith("cancel") else http.delete
            for _ in range(2):
                answer = await send(path)
                assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")

        asked(app, body)


def test_a_workflow_whose_job_runs_is_being_stopped(app: App, conn: Conn) -> None:
    workflow = made(app, conn)
    conn.execute("update pgqueue.job_live set state = 'running', attempt = 1, lease = 1, claimed_at = now(),"
                 " worker_id = gen_random_uuid() where state = 'pending'")  # fmt: skip

    async def body(http: httpx.AsyncClient) -> None:
        answer = await http.delete(f"/workflows/{workflow}")
        assert answer.status_code == 202
        found = answer.json()
        assert (found["status"], found["is_stopping"], found["jobs"]["running"]) == ("running", True, 1)

    asked(app, body)


def test_who_may_not_see_a_workflow_learns_nothing_of_it(app: App, conn: Conn) -> None:
    theirs, own = made(app, conn, "theirs"), made(app, conn)

    async def body(http: httpx.AsyncClient) -> None:
        for path in (str(theirs), f"{own}0", "0", "-1", "x", "9" * 30):
            for answer in (await http.get(f"/workflows/{path}"), await http.delete(f"/workflows/{path}")):
                assert (answer.status_code, answer.json()) == (404, {"detail": "no such workflow"})
        job = app.workflows.jobs(own)[0].id
        assert (await http.get(f"/workflows/{job}")).status_code == 404
        http.headers["x-user"] = "bob"
        assert (await http.post(f"/workflows/{own}/cancel")).status_code == 404

    asked(app, body)
    assert {app.workflows.get(one).state for one in (theirs, own)} == {"running"}


def test_only_true_lets_a_request_through_and_errors_are_left_to_the_framework(
    app: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = made(app, conn)

    async def truthy(request: Request, found: WorkflowStatus) -> Any:
        return "yes"

    async def refuses(request: Request, found: WorkflowStatus) -> bool:
        raise HTTPException(403)

    for authorize, code in ((truthy, 404), (refuses, 403)):

        async def body(http: httpx.AsyncClient, code: int = code) -> None:
            assert (await http.get(f"/workflows/{workflow}")).status_code == code

        asked(app, body, authorize)
    assert "authorize returned a str" in caplog.text
    with pytest.raises(InvalidOption, match=r"give a function of \(request, workflow\)"):
        web.workflow_router(app, authorize=True)  # type: ignore[arg-type]
