"""Publishing: an event is a row and a job of each subscriber, in the caller's transaction."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import pgqueue
from pgqueue import (
    App,
    Event,
    InvalidEvent,
    InvalidOption,
    InvalidTask,
    Limit,
    Ordered,
    Replayed,
    UnknownEvent,
    UnknownSubscription,
    events,
)
from tests.conftest import scalar, work
from tests.harness import Conn

Connect = Callable[..., Conn]
JOBS = "select task, args from pgqueue.job_live order by id"


@pytest.fixture
def dsn(emptied_dsn: str, kept_database: str) -> str:
    with psycopg.connect(kept_database, autocommit=True) as conn:
        for table in ("published_event", "subscription", "subscription_release"):
            conn.execute(f"delete from pgqueue.{table}".encode())
    return emptied_dsn


@pytest.fixture
def shop(dsn: str) -> Iterator[App]:
    """An app with two subscribers whose subscriptions are written."""
    app = App(dsn, name="shop")

    @app.task(name="mail", on="order.*", queue="mail", priority=5, max_attempts=3, tags=["a"])
    def mail(order_id: int, note: str = "") -> None: ...

    @app.task(name="audit", on=["order.#", "user.deleted"])
    def audit(event: Event) -> None: ...

    app.events.declare()
    yield app
    app.close()


def jobs(conn: Conn) -> list[tuple[str, Any]]:
    return conn.execute(JOBS).fetchall()


def test_each_subscriber_gets_a_job_with_its_own_options(shop: App, conn: Conn) -> None:
    published = shop.publish("order.paid", {"order_id": 7, "total": 5}, key=7)
    rows = conn.execute(
        "select id, task, queue, priority, max_attempts, tags, headers, state, phase from pgqueue.job order by id"
    ).fetchall()
    assert rows == [
        (published.jobs[0], "audit", "default", 0, 20, [], {"$event": published.id}, "pending", "pending"),
        (published.jobs[1], "mail", "mail", 5, 3, ["a"], {"$event": published.id}, "pending", "pending"),
    ]
    assert scalar(conn, "select array_agg((job_id, to_state)::text order by job_id) from pgqueue.transition") == [
        f"({job},pending)" for job in published.jobs
    ]


def test_a_task_gets_the_fields_that_it_takes_or_the_whole_event(shop: App, conn: Conn) -> None:
    published = shop.publish("order.paid", {"order_id": 7, "total": 5}, key="k")
    (_, audit), (_, mail) = jobs(conn)
    assert mail == {"order_id": 7}
    assert audit["event"] | {"at": None} == {
        "id": published.id, "topic": "order.paid", "key": "k", "at": None, "data": {"order_id": 7, "total": 5},
    }  # fmt: skip


def test_the_task_runs_with_a_typed_event(dsn: str, conn: Conn) -> None:
    app, got = App(dsn, name="shop"), list[Any]()

    @app.task(name="both", on="#")
    def both(ctx: pgqueue.Context, order_id: int, event: pgqueue.Event) -> None:
        got.append((order_id, event, ctx.headers))

    app.events.declare()
    published = app.using().publish("order.paid", {"order_id": 7}, key=7)
    asyncio.run(work(app, lambda: bool(got)))
    app.close()
    assert got == [(7, Event("order.paid", {"order_id": 7}, "7", published.id, published.at), {})]


def test_an_event_of_a_transaction_that_is_rolled_back_reaches_nobody(shop: App, conn: Conn, connect: Connect) -> None:
    business = connect()
    published = shop.using(business).publish("order.paid", {"order_id": 7})
    assert len(published.jobs) == 2
    business.rollback()
    assert jobs(conn) == []
    assert scalar(conn, "select count(*) from pgqueue.published_event") == 0
    assert shop.events.replay("mail") == Replayed(0)


def test_an_event_and_its_jobs_are_there_when_the_caller_commits(shop: App, conn: Conn, connect: Connect) -> None:
    business = connect()
    shop.using(business).publish("order.paid", {"order_id": 7})
    assert jobs(conn) == []
    business.commit()
    assert [task for task, _ in jobs(conn)] == ["audit", "mail"]


def test_publishing_joins_the_transaction_of_a_task(dsn: str, conn: Conn) -> None:
    app = App(dsn, name="shop")
    ended: list[str] = []
    app.on(events.JobDeadLettered)(lambda event: ended.append(event.task))

    @app.task(name="pay", max_attempts=1)
    def pay(ctx: pgqueue.Context) -> None:
        with ctx.transaction():
            app.publish("order.paid", {})
            raise ValueError("the block rolls back, and with it the event")

    pay.enqueue()
    asyncio.run(work(app, lambda: bool(ended)))
    app.close()
    assert scalar(conn, "select count(*) from pgqueue.published_event") == 0


def test_the_async_twins_do_the_same(shop: App, dsn: str, conn: Conn) -> None:
    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as business:
            await shop.using(business).apublish("order.paid", {"order_id": 1})
            await shop.using(business).apublish_many([("order.paid", {"order_id": 2}), ("user.deleted", {})])
        await shop.apublish("order.paid", {"order_id": 3})
        await shop.apublish_many([])
        assert (await shop.events.areplay("mail")) == Replayed(0)
        await shop.aclose()

    asyncio.run(run())
    assert [args.get("order_id") for task, args in jobs(conn) if task == "mail"] == [1, 2, 3]


def test_an_event_without_a_subscriber_costs_one_row_and_no_job(dsn: str, app: App, conn: Conn) -> None:
    assert app.publish("nobody.hears", {"a": 1}).jobs == ()
    assert jobs(conn) == []
    assert scalar(conn, "select count(*) from pgqueue.transition") == 0
    assert conn.execute("select topic, key, data, delivered from pgqueue.published_event").fetchall() == [
        ("nobody.hears", None, {"a": 1}, [])
    ]


def test_many_events_are_published_in_order_all_or_none(shop: App, conn: Conn) -> None:
    published = shop.publish_many([("order.paid", {"order_id": n}, n) for n in range(2500)])
    assert [event.id for event in published] == sorted(event.id for event in published)
    assert [args["order_id"] for task, args in jobs(conn) if task == "mail"] == list(range(2500))
    assert conn.execute("select key from pgqueue.published_event order by id limit 2").fetchall() == [("0",), ("1",)]
    with pytest.raises(InvalidEvent, match=r"cannot publish order.paid: event 1: data a: inf is not JSON"):
        shop.publish_many([("order.paid", {"order_id": 1}), ("order.paid", {"a": float("inf")})])
    with pytest.raises(InvalidEvent, match=r"cannot publish event 1: .* give a topic, its data, and perhaps a key"):
        shop.publish_many([("order.paid", {"order_id": 1}), "order.paid"])  # type: ignore[list-item]
    assert scalar(conn, "select count(*) from pgqueue.published_event") == 2500


@pytest.mark.parametrize(
    ("topic", "data", "key", "problem"),
    [
        ("order..paid", {}, None, r"'order..paid': topic .* such as 'order.paid'"),
        ("order.*", {}, None, r"\* and # are for on="),
        ("order.paid", [1], None, r"order.paid: data \[1\] cannot be used: give a dict"),
        ("order.paid", {1: 2}, None, "order.paid: data arguments must be an object with a name for each value"),
        ("order.paid", {"at": datetime(2026, 1, 1)}, None, r"order.paid: data at: .*"),
        ("order.paid", {"$codec": 1}, None, r"order.paid: data \$codec: this name is pgqueue's own"),
        ("order.paid", {"x": "a" * 1_000_001}, None, "order.paid: data arguments: .* keep the data elsewhere"),
        ("order.paid", {}, 1.5, "order.paid: key: a float is no key: give a text, a number"),
        ("order.paid", {}, "", "order.paid: key: an empty text is no key"),
    ],
)
def test_what_cannot_be_published_is_refused_by_topic_with_the_remedy(
    shop: App, conn: Conn, topic: str, data: Any, key: Any, problem: str
) -> None:
    with pytest.raises(InvalidEvent, match=f"cannot publish .*{problem}"):
        shop.publish(topic, data, key=key)
    assert scalar(conn, "select count(*) from pgqueue.published_event") == 0


def test_options_of_jobs_are_refused_because_each_subscriber_has_its_own(shop: App) -> None:
    with pytest.raises(InvalidOption, match=r"queue, delay cannot be used with publish\(\): give headers alone"):
        shop.using(queue="q", delay=5).publish("order.paid", {})


def test_headers_of_a_call_go_to_each_job_and_stay_with_the_event(shop: App, conn: Conn) -> None:
    shop.using(headers={"trace": "1"}).publish("order.paid", {"order_id": 1})
    assert scalar(conn, "select array_agg(headers ->> 'trace') from pgqueue.job_live") == ["1", "1"]
    assert scalar(conn, "select headers from pgqueue.published_event") == {"trace": "1"}


def test_hooks_around_enqueueing_add_headers_to_the_jobs_of_an_event(shop: App, conn: Conn) -> None:
    calls: list[Any] = []
    ended: list[Any] = []

    @shop.around_enqueue
    def trace(call: pgqueue.EnqueueCall) -> Callable[[BaseException | None], object]:
        call.headers["trace"] = "7"
        calls.append(call)
        return ended.append

    published = shop.publish("order.paid", data={"order_id": 1})
    shop.publish_many([("user.deleted", {}), ("other", {})])
    shop.publish_many([])
    assert [(call.topic, call.task, call.count, len(call.job_ids)) for call in calls] == [
        ("order.paid", "order.paid", 1, 2), ("user.deleted", "user.deleted", 2, 1),
    ]  # fmt: skip
    assert tuple(calls[0].job_ids) == published.jobs
    assert scalar(conn, "select array_agg(headers ->> 'trace') from pgqueue.job_live") == ["7"] * 3
    with pytest.raises(InvalidEvent):
        shop.publish("order paid")
    assert ended == [None, None]


def test_listeners_hear_of_each_job(shop: App) -> None:
    heard: list[Any] = []
    shop.on(events.JobEnqueued)(heard.append)
    published = shop.publish("order.paid", {"order_id": 1})
    assert [(event.job_id, event.task, event.queue) for event in heard] == [
        (published.jobs[0], "audit", "default"), (published.jobs[1], "mail", "mail"),
    ]  # fmt: skip


def test_the_settings_of_the_task_are_in_its_subscription(dsn: str, conn: Conn) -> None:
    app = App(dsn, name="shop", limits={"slow": Limit(3)})

    @app.task(name="dead")
    def dead(job_id: int, task: str, queue: str, reason: str, error: Any, fingerprint: str) -> None: ...

    @app.task(
        name="all", on="#", queue="slow", version=2, upcasters={1: dict}, max_crashes=2, dead_letter_task="dead",
        expires=60, retention=0, limit=[Limit(2), Limit(1, by="tenant")], fair="tenant",
    )  # fmt: skip
    def everything(tenant: str) -> None: ...

    app.events.declare()
    by_hand = everything.enqueue(tenant="acme")
    (by_event,) = app.publish("x", {"tenant": "acme"}).jobs
    columns = "queue, priority, max_attempts, tags, history, state, waits_for, lane, args, headers - '$event'"
    query = f"select {columns}, expires_at - created_at from pgqueue.job_live where id = %s"
    assert conn.execute(query.encode(), [by_event]).fetchall() == conn.execute(query.encode(), [by_hand.id]).fetchall()
    app.close()


def test_events_of_one_key_run_in_order(dsn: str, conn: Conn) -> None:
    app, got = App(dsn, name="shop"), list[tuple[str | None, int]]()

    @app.task(name="book", on="order.*", ordered=Ordered("event.key"))
    async def book(event: Event) -> None:
        got.append((event.key, event.data["n"]))

    app.events.declare()
    app.publish_many([("order.paid", {"n": n}, n % 3) for n in range(60)])
    asyncio.run(work(app, lambda: len(got) == 60, concurrency=8))
    app.close()
    for key in "012":
        assert [n for given, n in got if given == key] == list(range(int(key), 60, 3))


def test_rules_whose_keys_a_publisher_cannot_make_are_refused(app: App) -> None:
    with pytest.raises(InvalidOption, match=r"the key of its rule f is made by a function, and a publisher does"):

        @app.task(name="f", on="#", limit=Limit(1, by=lambda n: n))
        def f(n: int) -> None: ...

    with pytest.raises(InvalidOption, match=r"say 'event.key' for its key"):

        @app.task(name="g", on="#", ordered="event")
        def g(event: Event) -> None: ...

    with pytest.raises(InvalidOption, match=r"'n\.key' is the key of an event: annotate n as pgqueue\.Event"):

        @app.task(name="h", on="#", ordered="n.key")
        def h(n: int) -> None: ...

    with pytest.raises(InvalidOption, match="on=… cannot be used with idempotent or unique"):
        app.task(on="#", idempotent=True)
    with pytest.raises(InvalidTask, match=r"one parameter at most is annotated pgqueue\.Event"):

        @app.task(name="i", on="#")
        def i(one: Event, two: Event) -> None: ...


def test_a_subscriber_that_somebody_disabled_gets_no_events_until_it_is_enabled(shop: App, conn: Conn) -> None:
    disabled = shop.events.disable("mail", by="alice")
    assert (disabled.disabled_by, disabled.disabled_at is not None) == ("alice", True)
    shop.events.declare()  # a worker that starts
    shop.publish("order.paid", {"order_id": 1})
    assert [task for task, _ in jobs(conn)] == ["audit"]
    assert shop.events.enable("mail").disabled_at is None
    shop.publish("order.paid", {"order_id": 2})
    assert [task for task, _ in jobs(conn)] == ["audit", "audit", "mail"]
    assert shop.events.replay("mail") == Replayed(1)


def test_a_new_subscriber_gets_kept_events_once_each(shop: App, conn: Conn) -> None:
    shop.publish_many([("order.paid", {"order_id": n}) for n in range(3)] + [("user.deleted", {})])

    @shop.task(name="late", on="order.paid")
    def late(order_id: int) -> None: ...

    shop.events.declare()
    shop.publish("order.paid", {"order_id": 3})
    assert shop.events.replay(late) == Replayed(3)
    assert shop.events.replay(late) == Replayed(0)
    assert sorted(args["order_id"] for task, args in jobs(conn) if task == "late") == [0, 1, 2, 3]


def test_a_replay_takes_a_range_of_time_in_the_order_of_the_events(shop: App, conn: Conn) -> None:
    published = shop.publish_many([("order.paid", {"order_id": n}) for n in range(2500)])
    conn.execute("update pgqueue.published_event set delivered = '{}'")
    conn.execute("delete from pgqueue.job_live")
    assert shop.events.replay("mail", since=published[10].at, to=published[2400].at) == Replayed(2390)
    assert [args["order_id"] for _, args in jobs(conn)] == list(range(10, 2400))
    assert shop.events.replay("mail", since=datetime.now(UTC) + timedelta(days=1)) == Replayed(0)
    with pytest.raises(InvalidOption, match="has no timezone"):
        shop.events.replay("mail", since=datetime(2026, 1, 1))


def test_a_replay_happens_if_and_only_if_its_transaction_commits(shop: App, conn: Conn, connect: Connect) -> None:
    shop.publish("order.paid", {"order_id": 1})
    conn.execute("update pgqueue.published_event set delivered = '{}'")
    conn.execute("delete from pgqueue.job_live")
    operator = connect()
    assert shop.events.using(operator).replay("mail") == Replayed(1)
    operator.rollback()
    assert jobs(conn) == []
    assert shop.events.replay("mail") == Replayed(1)


def test_a_task_without_a_subscription_cannot_be_replayed(shop: App) -> None:
    with pytest.raises(UnknownSubscription, match=r"task 'ship' gets no events \(those do: audit, mail\): give"):
        shop.events.replay("ship")


def test_events_are_listed_and_shown(shop: App) -> None:
    first, second, _ = shop.publish_many(
        [("order.paid", {"order_id": 1}, "k"), ("user.deleted", {}), ("other", {"a": 1}, "k")]
    )
    assert [event.topic for event in shop.events.list()] == ["other", "user.deleted", "order.paid"]
    assert [event.topic for event in shop.events.list("#.deleted")] == ["user.deleted"]
    assert [event.topic for event in shop.events.list(key="k", limit=1)] == ["other"]
    assert [event.id for event in shop.events.list(before=second.id)] == [first.id]
    shown = shop.events.get(first.id)
    assert (shown.topic, shown.key, shown.data, shown.tasks) == ("order.paid", "k", {"order_id": 1}, ("audit", "mail"))
    with pytest.raises(UnknownEvent, match="no event 0: never committed, or dropped by retention"):
        shop.events.get(0)


def test_the_views_show_events_and_subscriptions(shop: App, conn: Conn) -> None:
    shop.publish("order.paid", {"order_id": 1}, key="k")
    assert conn.execute("select topic, key, subscribers from pgqueue.event_status").fetchall() == [
        ("order.paid", "k", 2)
    ]
    rows = "select task, patterns, queue, takes, whole_as, app from pgqueue.subscription_status order by task"
    assert conn.execute(rows.encode()).fetchall() == [
        ("audit", ["order.#", "user.deleted"], "default", [], "event", "shop"),
        ("mail", ["order.*"], "mail", ["order_id", "note"], None, "shop"),
    ]


def test_a_task_that_got_a_new_name_stays_the_same_subscriber(shop: App, dsn: str, conn: Conn) -> None:
    shop.publish("order.paid", {"order_id": 1})
    newer = App(dsn, name="shop")

    @newer.task(name="letter", aliases=["mail"], on="order.paid")
    def letter(order_id: int) -> None: ...

    newer.events.declare()
    assert newer.events.replay(letter) == Replayed(0)
    newer.publish("order.paid", {"order_id": 2})
    assert sorted(task for task, _ in jobs(conn)) == ["audit", "audit", "letter", "mail"]
    newer.close()


def test_a_declaration_that_changes_nothing_writes_nothing(shop: App, conn: Conn) -> None:
    rows = "select xmin::text from pgqueue.subscription union all select xmin::text from pgqueue.subscription_pattern"
    before = sorted(conn.execute(rows.encode()).fetchall())
    shop.events.declare()
    assert sorted(conn.execute(rows.encode()).fetchall()) == before


def test_a_changed_pattern_replaces_the_old_one(shop: App, dsn: str, conn: Conn) -> None:
    newer = App(dsn, name="shop")

    @newer.task(name="mail", on=["user.*"], queue="other")
    def mail() -> None: ...

    newer.events.declare()
    newer.publish("order.paid", {})
    newer.publish("user.created", {})
    assert conn.execute("select task, queue from pgqueue.job_live where task = 'mail'").fetchall() == [
        ("mail", "other")
    ]
    assert json.dumps(scalar(conn, "select array_agg(pattern order by pattern) from pgqueue.subscription_pattern")) == (
        '["order.#", "user.*", "user.deleted"]'
    )
    newer.close()
