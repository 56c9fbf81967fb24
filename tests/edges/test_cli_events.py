"""`pgqueue events …` and `pgqueue subscriptions …`: the verbs of `app.events`, with tables and JSON."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pgqueue import App, Context, NotAllowed, PgqueueError
from pgqueue.cli import cli, output
from pgqueue.client.published import Events
from tests.conftest import scalar, work
from tests.harness import Conn


@pytest.fixture
def shop(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.setattr(output, "console", output.SafeConsole(width=200))
    app = App(dsn, name="shop")

    @app.task(name="mail", on=["order.paid", "user.#"], queue="mail")
    def mail(order_id: int = 0) -> None: ...

    app.publish("order.paid", {"order_id": 1}, key="before")
    app.events.declare()
    app.publish("order.paid", {"order_id": 2, "note": "n" * 100})
    app.publish("order.sent", {})
    yield app
    app.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def answer(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.usefixtures("shop")
def test_events_are_listed_by_topic_key_and_time() -> None:
    assert [(one["topic"], one["subscribers"]) for one in answer("events", "list")] == [
        ("order.sent", 0), ("order.paid", 1), ("order.paid", 0),
    ]  # fmt: skip
    (one,) = answer("events", "list", "*.paid", "--key", "before", "--since", "1h", "-n", "5")
    assert (one["key"], one["data"]) == ("before", {"order_id": 1})
    table = run("events", "list").stdout
    assert "order.sent" in table
    assert "nnn…" in table
    assert "events: none" in run("events", "list", "nothing").stdout


@pytest.mark.usefixtures("shop")
def test_an_event_is_shown_with_who_got_it() -> None:
    found = {one["topic"]: one["id"] for one in answer("events", "list", "order.*")}
    assert answer("events", "show", str(found["order.sent"]))["tasks"] == []
    listed = answer("events", "list", "order.paid")
    assert answer("events", "show", str(listed[0]["id"]))["tasks"] == ["mail"]
    assert "order.paid" in run("events", "show", str(listed[0]["id"])).stdout
    with pytest.raises(PgqueueError, match="no event 77"):
        CliRunner().invoke(cli, ["events", "show", "77"], catch_exceptions=False)


def test_kept_events_are_replayed(shop: App, conn: Conn) -> None:
    assert answer("events", "replay", "mail", "--since", "1h") == {"jobs": 1, "open": 0}
    again = run("events", "replay", "mail", "--to", "2999-01-01T00:00:00Z", "--patience", "1")
    assert "0 jobs are made" in again.stderr
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 2


def test_subscriptions_are_listed_disabled_and_enabled(shop: App) -> None:
    (one,) = answer("subscriptions", "list")
    assert (one["task"], one["patterns"], one["app"]) == ("mail", ["order.paid", "user.#"], "shop")
    assert "order.paid, user.#" in run("subscriptions", "list").stdout
    assert "disabled by alice" in run("subscriptions", "disable", "mail", "--by", "alice").stdout
    assert shop.publish("order.paid", {}).jobs == ()
    assert "gets events" in run("subscriptions", "enable", "mail").stdout
    assert len(shop.publish("order.paid", {}).jobs) == 1
    with pytest.raises(PgqueueError, match="task 'ship' gets no events"):
        CliRunner().invoke(cli, ["subscriptions", "disable", "ship"], catch_exceptions=False)


def test_an_event_is_published(shop: App) -> None:
    made = answer("events", "publish", "order.paid", '{"order_id": 9}', "--key", "9")
    assert (made["topic"], len(made["jobs"])) == ("order.paid", 1)
    event = shop.events.get(made["id"])
    assert (event.key, event.data, event.tasks) == ("9", {"order_id": 9}, ("mail",))
    assert f"event {event.id + 1} is published; 1 subscriber gets it" in run("events", "publish", "user.new").output
    for data in ("nothing", "[1]"):
        refused = run("events", "publish", "order.paid", data)
        assert "is no JSON object" in str(refused.exception)


def test_an_event_that_jobs_wait_for_says_how_many(shop: App, conn: Conn) -> None:
    @shop.task(name="pay")
    def pay(ctx: Context) -> None:
        ctx.wait_event("order.packed", key=7)

    for _ in range(2):
        pay.enqueue()
    asleep = "select count(*) from pgqueue.step_status where not done"
    asyncio.run(work(shop, lambda: scalar(conn, asleep) == 2))
    said = run("events", "publish", "order.packed", "--key", "8").output
    assert said.endswith("is published; 0 subscribers get it, 0 jobs wait for it\n")
    assert answer("events", "publish", "order.packed", "--key", "7")["waiting"] == 2
    assert "0 subscribers get it, 2 jobs wait for it" in run("events", "publish", "order.packed", "--key", "7").output
    conn.execute("delete from pgqueue.job_live where id = (select min(id) from pgqueue.job_live where task = 'pay')")
    assert "0 subscribers get it, 1 job waits for it" in run("events", "publish", "order.packed", "--key", "7").output
    assert shop.events.awaiting("order.packed", None) == 0


def test_a_role_that_may_only_publish_publishes(shop: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise NotAllowed("a producer sees no job")

    monkeypatch.setattr(Events, "awaiting", refused)
    assert run("events", "publish", "user.new", "--key", "1").output.endswith("is published; 1 subscriber gets it\n")
    assert len(shop.events.list("user.new")) == 1
