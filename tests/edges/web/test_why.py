"""Why a job does not run, over HTTP: for staff, where the router says so."""

import json
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from pgqueue import App, web
from pgqueue.jobs.flow import Flow
from tests.client.test_dead import add_dead
from tests.edges.web.clients import client, everybody, run
from tests.harness import Conn, add_rule, insert_metered


def mounted(app: App, **options: Any) -> Starlette:
    return Starlette(routes=[Mount("/jobs", web.router(app, **{"authorize": everybody} | options))])


def asked(app: App, path: str, **options: Any) -> Any:
    answers: list[Any] = []

    async def body() -> None:
        async with client(mounted(app, **options)) as http:
            answers.append(await http.get(path))

    run(app, body)
    return answers[0]


def test_every_reason_is_told_with_its_facts(app: App, conn: Conn) -> None:
    add_rule(conn, "sync", "acme", max_running=1, running=1)
    job = insert_metered(conn, Flow(("sync/acme",)))
    answer = asked(app, f"/jobs/{job}/why", why=True)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    found = answer.json()
    assert (found["job_id"], found["status"], found["phase"]) == (job, "blocked", "blocked")
    full, *others = found["reasons"]
    assert full == {
        "code": "full", "text": "sync/acme is full: 1 of 1 run.",
        "facts": {"bucket": "sync/acme", "running": 1, "most": 1, "jobs": []},
    }  # fmt: skip
    assert [one["code"] for one in others] == ["no_worker", "due"]


def test_it_is_not_there_unless_it_is_asked_for_and_refuses_as_the_others(app: App, conn: Conn) -> None:
    job = insert_metered(conn, Flow(("sync/acme",)))
    assert asked(app, f"/jobs/{job}/why").status_code == 404
    assert asked(app, f"/jobs/{job}/why", why=True, authorize=lambda request, job: False).status_code == 404
    assert asked(app, "/jobs/4711/why", why=True).status_code == 404


def test_errors_are_shown_as_far_as_elsewhere(app: App, conn: Conn) -> None:
    add_dead(conn, 900)
    conn.execute(
        "insert into pgqueue.transition (job_id, at, from_state, to_state, attempt, lease, error)"
        " values (900, now() - interval '1 min', 'pending', 'running', 1, 1, null),"
        " (900, now(), 'running', 'failed', 1, 1, %s)", (json.dumps({"type": "E", "message": "card 4711"}),)
    )  # fmt: skip
    assert "card 4711" not in asked(app, "/jobs/900/why", why=True).text
    assert "card 4711" in asked(app, "/jobs/900/why", why=True, errors="message").text
    for errors in ("none", "type"):
        assert "card 4711" not in asked(app, "/jobs/900/why", why=True, errors=errors).text
