"""Routes: tasks get their queues by name, unless the task or the call says otherwise."""

from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, InvalidOption
from tests.conftest import scalar
from tests.harness import Conn

ROUTES = {"emails.*": "mail", "*.report": "bulk", "emails.*.x": "never"}


def by_name(task: str) -> str | None:
    return "mail" if task.startswith("emails.") else "bulk" if task.endswith(".report") else None


@pytest.mark.parametrize("routes", [ROUTES, by_name])
def test_the_first_route_that_fits_gives_a_task_its_queue(routes: Any) -> None:
    app = App(routes=routes, queue="rest")
    tasks = {
        name: app.task(name=name)(lambda: None).spec.queue
        for name in ("emails.welcome", "emails.report", "shop.report", "shop.sync", "xemails.y")
    }
    assert tasks == {
        "emails.welcome": "mail", "emails.report": "mail", "shop.report": "bulk", "shop.sync": "rest",
        "xemails.y": "rest",
    }  # fmt: skip


def test_what_the_task_or_the_call_says_goes_first(dsn: str, conn: Conn) -> None:
    app = App(dsn, routes=ROUTES)
    own = app.task(name="emails.own", queue="own")(lambda: None)
    routed = app.task(name="emails.routed")(lambda: None)
    jobs = [own.enqueue(), routed.enqueue(), routed.using(queue="call").enqueue(), app.enqueue("emails.elsewhere")]
    assert [job.queue for job in jobs] == ["own", "mail", "call", "mail"]
    assert scalar(conn, "select array_agg(queue::text order by id) from pgqueue.job_live") == [
        "own",
        "mail",
        "call",
        "mail",
    ]
    app.close()


BAD = ["emails.*", ["a"], {"": "mail"}, {"a": "no queue!"}, {"a": 1}, {1: "mail"}, {"a": {"queue": "no queue!"}}]
BAD += [{"a": {"priority": 101}}, {"a": {"max_attempts": 0}}, {"a": {"exchange": "x"}}, {"a": {"timeout": 5}}]


@pytest.mark.parametrize("routes", BAD)
def test_routes_that_cannot_be_used_are_refused_where_they_are_given(routes: Any) -> None:
    with pytest.raises(InvalidOption):
        App(routes=routes)


def test_a_function_that_returns_no_name_of_a_queue_is_refused_where_the_task_is() -> None:
    route: Callable[[str], Any] = lambda task: "no queue!"  # noqa: E731
    app = App(routes=route)
    with pytest.raises(InvalidOption, match="queue name 'no queue!'"):
        app.task(name="t")(lambda: None)


def test_a_route_gives_priority_and_attempts_too_where_the_task_says_nothing(dsn: str, conn: Conn) -> None:
    app = App(dsn, routes={"emails.*": {"queue": "mail", "priority": 7, "max_attempts": 3}, "*": {"priority": -5}})
    plain = app.task(name="emails.plain")(lambda: None)
    own = app.task(name="emails.own", priority=1, retry=[1, 2])(lambda: None)
    other = app.task(name="other")(lambda: None)
    for call in (plain.enqueue, own.enqueue, other.enqueue, plain.using(priority=9, max_attempts=1).enqueue):
        call()
    app.enqueue("emails.elsewhere")
    found = conn.execute("select queue, priority, max_attempts from pgqueue.job_live order by id").fetchall()
    assert found == [("mail", 7, 3), ("mail", 1, 3), ("default", -5, 20), ("mail", 9, 1), ("mail", 7, 3)]
    app.close()


def test_a_function_may_return_a_route(dsn: str) -> None:
    app = App(dsn, routes=lambda task: {"queue": "bulk", "priority": 3} if task == "a" else None)
    assert (app.task(name="a")(lambda: None).spec.queue, app.task(name="a2")(lambda: None).spec.queue) == (
        "bulk",
        "default",
    )
    assert app.tasks["a"].priority == 3
