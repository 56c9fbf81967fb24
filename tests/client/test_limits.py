"""Rules as rows: workers write what code declares, what people have set stands, and changes are checked."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgqueue import App, Breaker, InvalidOption, Limit, Rate, UnknownLimit, db
from pgqueue.jobs.limit_rule import LimitRule
from tests.conftest import scalar, work
from tests.harness import QUERIES, Conn, InThread, heard, wait_blocked

SETTINGS = """
select name, kind, max_running, rate_count, rate_seconds, on_full, breaker_failures, declared_by, updated_by
from pgqueue.limit_rule order by name"""
RULE = LimitRule.of_limit("stripe", Limit(20, rate="10/m"))


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def shop(dsn: str) -> Iterator[App]:
    app = App(dsn, name="shop", limits={"mail": Rate(1000, per=60)})
    stripe = app.limit("stripe", 20, breaker=Breaker(5))

    @app.task(name="sync", limit=[stripe, Limit(5, by="tenant", on_full="skip")], fair="tenant")
    def sync(tenant: str) -> None: ...

    yield app
    app.close()


def declare(conn: Conn, app: str = "shop", *rules: LimitRule) -> None:
    db.run(conn, QUERIES.limits.declare(app, rules))


def row(conn: Conn, name: str = "stripe") -> dict[str, Any]:
    found: dict[str, Any] = scalar(conn, "select to_jsonb(r) from pgqueue.limit_rule r where name = %s", name)
    return found


def test_a_worker_writes_the_rules_of_its_code_before_it_claims(shop: App, conn: Conn) -> None:
    asyncio.run(work(shop, lambda: scalar(conn, "select count(*) = 4 from pgqueue.limit_rule")))
    assert conn.execute(SETTINGS).fetchall() == [  # type: ignore[arg-type]
        ("queue:mail", "limit", None, 1000, 60.0, "wait", None, ["shop"], None),
        ("stripe", "limit", 20, None, None, "wait", 5, ["shop"], None),
        ("sync", "limit", 5, None, None, "skip", None, ["shop"], None),
        ("sync#fair", "fair", None, None, None, "wait", None, ["shop"], None),
    ]


def test_a_worker_without_rules_writes_none(app: App, conn: Conn) -> None:
    conn.execute("insert into pgqueue.limit_rule (name) values ('x')")
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) = 1 from pgqueue.worker")))
    assert scalar(conn, "select count(*) from pgqueue.limit_rule") == 1


def test_what_somebody_has_set_stands_until_the_code_declares_something_else(conn: Conn) -> None:
    declare(conn, "shop", RULE)
    conn.execute("update pgqueue.limit_rule set max_running = 3, updated_by = 'me', paused_at = now()")
    before = row(conn)
    declare(conn, "shop", RULE)
    assert row(conn) == before
    declare(conn, "shop", replace(RULE, max_running=30))
    after = row(conn)
    assert (after["max_running"], after["updated_by"]) == (30, None)
    assert after["paused_at"] == before["paused_at"]


def test_a_rule_that_code_no_longer_declares_stays_and_says_so(conn: Conn) -> None:
    declare(conn, "shop", RULE)
    declare(conn, "mail", RULE)
    assert row(conn)["declared_by"] == ["shop", "mail"]
    declare(conn, "shop", replace(RULE, name="other"))
    assert row(conn)["declared_by"] == ["mail"]
    declare(conn, "mail", replace(RULE, name="other"))
    assert (row(conn)["declared_by"], row(conn)["max_running"]) == ([], 20)
    assert row(conn, "other")["declared_by"] == ["shop", "mail"]


def test_an_app_without_a_name_takes_no_rule_away(conn: Conn) -> None:
    declare(conn, "", RULE)
    declare(conn, "", replace(RULE, name="other"))
    assert row(conn)["declared_by"] == [""]


@pytest.mark.parametrize("declared_before", [False, True])
def test_two_workers_that_start_at_once_wait_for_each_other(declared_before: bool, dsn: str, conn: Conn) -> None:
    """They declare the same rules in opposite orders. Without the turn their rows would be locked in these orders."""
    rules = [replace(RULE, name=f"r{n}") for n in range(20)]
    if declared_before:
        declare(conn, "shop", *[replace(rule, max_running=1) for rule in rules])
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        declare(first, "shop", *rules)
        other = InThread(lambda: declare(second, "shop", *rules[::-1]))
        wait_blocked(conn, second, first)
        first.commit()
        other.result()
        second.commit()
    assert scalar(conn, "select count(*) from pgqueue.limit_rule where max_running = 20") == 20
    names = "select array_agg(distinct declared_by[1] || cardinality(declared_by)) from pgqueue.limit_rule"
    assert scalar(conn, names) == ["shop1"]


def test_a_release_that_declares_otherwise_takes_its_turn_and_wins(dsn: str, conn: Conn) -> None:
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        declare(first, "shop", RULE)
        other = InThread(lambda: declare(second, "mail", replace(RULE, max_running=7)))
        wait_blocked(conn, second, first)
        first.commit()
        other.result()
        second.commit()
    assert (row(conn)["max_running"], row(conn)["declared_by"]) == (7, ["shop", "mail"])


def test_a_rule_is_changed_and_reset(shop: App, conn: Conn) -> None:
    changed = shop.limits.set("stripe", max_running=0, rate="10/m", breaker=None, on_full="replace_waiting", by="me")
    assert (changed.max_running, changed.rate_count, changed.rate_seconds) == (0, 10, 60.0)
    assert (changed.breaker_failures, changed.on_full, changed.updated_by) == (None, "replace_waiting", "me")
    again = shop.limits.set("stripe", rate=None)
    assert (again.max_running, again.rate_count) == (0, None)
    back = shop.limits.reset("stripe")
    assert (back.max_running, back.breaker_failures, back.on_full, back.updated_by) == (20, 5, "wait", None)
    assert shop.limits.get("stripe") == back
    assert row(conn)["declared"] == {
        "max_running": 20, "breaker_failures": 5, "breaker_seconds": 60.0, "breaker_cooldown": 30.0,
    }  # fmt: skip


def test_a_key_is_an_exception_and_one_no_longer(shop: App, conn: Conn) -> None:
    one = shop.limits.set("sync", key="acme", max_running=1)
    assert (one.rule, one.key, one.max_running) == ("sync", "acme", 1)
    assert shop.limits.set("sync#fair", key="acme", weight=3).weight == 3.0
    assert shop.limits.set("sync", key="acme", max_running=None).max_running == 5
    assert [(each.rule, each.key) for each in shop.limits.list("sync")] == [("sync", None), ("sync", "acme")]
    assert shop.limits.reset("sync", key="acme").max_running == 5
    assert scalar(conn, "select count(*) from pgqueue.limit_key where rule = 'sync'") == 0
    assert shop.limits.get("sync", key="zen") == replace(shop.limits.get("sync"), key="zen")


def test_resetting_a_key_leaves_its_pause(shop: App, conn: Conn) -> None:
    shop.limits.set("sync", key="acme", max_running=1)
    shop.pause(limit="sync", key="acme", by="me")
    found = shop.limits.reset("sync", key="acme")
    assert (found.max_running, found.paused_by) == (5, "me")


def test_the_async_twins_do_the_same(shop: App) -> None:
    async def twins() -> None:
        await shop.limits.aset("stripe", max_running=3)
        assert (await shop.limits.aget("stripe")).max_running == 3
        assert (await shop.limits.areset("stripe")).max_running == 20
        assert [one.rule for one in await shop.limits.alist()] == ["queue:mail", "stripe", "sync", "sync#fair"]
        await shop.aclose()

    asyncio.run(twins())


def test_a_change_in_a_transaction_counts_with_its_commit_and_wakes_workers(shop: App, dsn: str, conn: Conn) -> None:
    declare(conn, "shop", *shop.rules)
    with psycopg.connect(dsn, autocommit=True) as listener, psycopg.connect(dsn) as business:
        listener.execute("listen pgqueue")
        shop.limits.using(business).set("stripe", max_running=1)
        assert (row(conn)["max_running"], heard(listener, conn)) == (20, [])
        business.commit()
        assert (row(conn)["max_running"], heard(listener, conn)) == (1, ["!pause"])


def test_an_unknown_limit_is_an_error_that_names_the_known_ones(shop: App, app: App, conn: Conn) -> None:
    declare(conn, "shop", *shop.rules)
    for call in (
        lambda: app.limits.set("strpe", max_running=1),
        lambda: app.limits.set("strpe", key="a", max_running=1),
        lambda: app.limits.get("strpe"),
        lambda: app.limits.reset("strpe"),
        lambda: app.limits.reset("strpe", key="a"),
    ):
        with pytest.raises(UnknownLimit, match=r"\'strpe\' \(known: queue:mail, stripe, sync, sync#fair\)"):
            call()
    assert scalar(conn, "select count(*) from pgqueue.limit_key") == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give what is to change"),
        ({"max_running": -1}, "max_running=-1"),
        ({"max_running": False}, "max_running=False"),
        ({"rate": "often"}, "rate 'often'"),
        ({"on_full": "drop"}, "on_full='drop'"),
        ({"breaker": 3}, "breaker=3"),
        ({"weight": 3}, "weight cannot be set for a whole limit: give key="),
        ({"key": "a", "rate": "1/s"}, "rate cannot be set for one key"),
        ({"key": "a", "weight": 0}, "weight=0 cannot be used: give more than 0"),
        ({"key": "a", "weight": float("nan")}, "weight=nan"),
        ({"key": "", "max_running": 1}, "key cannot be used: an empty text is no key"),
        ({"key": [1], "max_running": 1}, "a list is no key"),
    ],
)
def test_what_cannot_be_set_is_refused(shop: App, conn: Conn, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        shop.limits.set("stripe", **options)
    assert scalar(conn, "select count(*) from pgqueue.limit_rule") == 0


def test_a_rule_that_no_code_has_declared_is_not_reset(app: App, conn: Conn) -> None:
    conn.execute("insert into pgqueue.limit_rule (name, max_running) values ('by hand', 1)")
    with pytest.raises(InvalidOption, match="limit by hand was declared by no code"):
        app.limits.reset("by hand")


def test_a_task_with_a_slash_in_its_name_is_named_as_it_is(dsn: str) -> None:
    app = App(dsn)

    @app.task(name="shop/sync", limit=Limit(1))
    def sync() -> None: ...

    assert app.limits.set("shop/sync", max_running=4).max_running == 4
    assert json.dumps([one.rule for one in app.limits.list()]) == '["shop%2Fsync"]'
    app.close()
