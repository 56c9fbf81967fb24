"""Publishing and replaying against others: nobody waits who need not, and each event reaches a subscriber once."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgqueue import App, Event, Limit, db
from pgqueue.jobs.bucket_key import key_text
from pgqueue.jobs.event import NewEvent, Published, Replayed
from pgqueue.jobs.topics import Pattern
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, wait_blocked, wait_for

Connect = Callable[..., Conn]
PAID = NewEvent("order.paid", '{"order_id": 1}', "1")
DELIVERED = "select array_agg((args ->> 'n')::int order by (args ->> 'n')::int) from pgqueue.job_live where task = %s"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    with psycopg.connect(emptied_dsn, autocommit=True) as conn:
        for table in ("published_event", "subscription", "subscription_release"):
            conn.execute(f"delete from pgqueue.{table}".encode())
    return emptied_dsn


def row(task: str, *patterns: str, **changes: Any) -> str:
    """The declaration of a task that takes `order_id` and `n`."""
    parsed = [Pattern(text) for text in patterns]
    return json.dumps(
        {
            "task": task, "patterns": list(patterns), "expressions": [one.expression for one in parsed],
            "queue": "default", "priority": 0, "max_attempts": 3, "tags": [], "headers": {}, "history": True,
            "ttl": None, "takes": ["order_id", "n"], "whole_as": None, "rules": None,
            "matching": [{"anchor": one.anchor, "pattern": one.text, "expression": one.expression} for one in parsed],
        } | changes
    )  # fmt: skip


def declare(conn: Conn, *rows: str) -> None:
    db.run(conn, QUERIES.events.declare("shop", rows))


def publish(conn: Conn, *events: NewEvent) -> list[Published]:
    return [published for published, _ in db.run(conn, QUERIES.events.publish(events or (PAID,)))]


def replay(conn: Conn, task: str = "t") -> int:
    (subscription,) = db.run(conn, QUERIES.events.subscriptions(task))
    to = db.run(conn, QUERIES.events.clock())
    return len(db.run(conn, QUERIES.events.replay(subscription.id, 0, "-infinity", to, 10_000)).jobs)


def test_publishing_does_not_wait_for_a_subscription_that_is_being_declared(conn: Conn, connect: Connect) -> None:
    declaring, publishing = connect(), connect()
    declare(declaring, row("t", "order.*"))
    publishing.execute("set lock_timeout = '1ms'")
    assert publish(publishing)[0].jobs == ()
    publishing.commit()
    declaring.commit()
    assert len(publish(conn)[0].jobs) == 1
    assert replay(conn) == 1  # the one that came before
    assert replay(conn) == 0


def test_declaring_does_not_wait_for_an_open_publisher(conn: Conn, connect: Connect) -> None:
    declare(conn, row("t", "order.*"))
    publishing, declaring = connect(), connect()
    publish(publishing)
    declaring.execute("set lock_timeout = '1ms'")
    declare(declaring, row("t", "user.*"), row("u", "#"))
    declaring.commit()
    assert len(publish(publishing)[0].jobs) == 1  # of the new ones, which are committed
    publishing.commit()
    assert scalar(conn, "select string_agg(task, ' ' order by id) from pgqueue.job_live") == "t u"


def test_two_processes_declare_one_after_the_other(conn: Conn, connect: Connect) -> None:
    one, other = connect(), connect()
    declare(one, row("t", "order.*"), row("u", "#"))
    waiting = InThread(lambda: declare(other, row("u", "#"), row("t", "user.*")))
    wait_blocked(conn, other, one)
    one.commit()
    waiting.result()
    other.commit()
    assert scalar(conn, "select patterns from pgqueue.subscription where task = 't'") == ["user.*"]
    publish(conn, NewEvent("order.paid", "{}"), NewEvent("user.left", "{}"))
    assert scalar(conn, "select string_agg(task, ' ' order by id) from pgqueue.job_live") == "u t u"


@pytest.mark.parametrize(("end", "made"), [("commit", 0), ("rollback", 1)])
def test_of_two_replays_at_once_one_makes_the_job(conn: Conn, connect: Connect, end: str, made: int) -> None:
    publish(conn)
    declare(conn, row("t", "order.*"))
    one, other = connect(), connect()
    assert replay(one) == 1
    waiting = InThread(lambda: replay(other))
    wait_blocked(conn, other, one)
    getattr(one, end)()
    assert waiting.result() == made
    other.commit()
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 1


@pytest.mark.parametrize(("end", "made"), [("commit", 1), ("rollback", 0)])
def test_a_replay_waits_for_who_published_before_the_subscription_was_there(
    app: App, conn: Conn, connect: Connect, end: str, made: int
) -> None:
    publishing = connect()
    publish(publishing)
    declare(conn, row("t", "order.*"))
    assert app.events.replay("t", patience=0) == Replayed(0, 1)
    replaying = InThread(lambda: app.events.replay("t"))
    asleep = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
    wait_for(lambda: scalar(conn, asleep), "the replay's wait")
    getattr(publishing, end)()
    assert replaying.result() == Replayed(made)
    app.close()


def test_live_events_and_replays_reach_a_new_subscriber_once_each(app: App, conn: Conn, dsn: str) -> None:
    committed, declared = list[int](), threading.Event()
    numbers, lock = iter(range(10**6)), threading.Lock()

    def produce(seed: int) -> None:
        chance = random.Random(seed)
        with psycopg.connect(dsn) as business:
            for _ in range(120):
                chosen = [next(numbers) for _ in range(chance.randint(1, 4))]
                for n in chosen:
                    publish(business, NewEvent("order.paid", json.dumps({"n": n})))
                if chance.random() < 0.2:
                    business.rollback()
                    continue
                business.commit()
                with lock:
                    committed.extend(chosen)
                    if len(committed) > 150:
                        declared.set()

    producers = [InThread(lambda seed=seed: produce(seed)) for seed in range(3)]  # type: ignore[misc]
    assert declared.wait(30)
    declare(conn, row("late", "order.#"))
    replays = [InThread(lambda: app.events.replay("late")) for _ in range(2)]
    made = sum(replaying.result().jobs for replaying in replays)
    for producer in producers:
        producer.result()
    assert made >= 100
    assert scalar(conn, DELIVERED, "late") == sorted(committed)
    assert app.events.replay("late") == Replayed(0)


def test_an_event_is_marked_with_who_got_it_in_the_statement_that_makes_the_jobs(conn: Conn) -> None:
    declare(conn, row("t", "order.*"), row("u", "#"), row("v", "user.*"))
    publish(conn)
    delivered = "select array_agg(s.task order by s.task) from pgqueue.published_event e join pgqueue.subscription s"
    assert scalar(conn, f"{delivered} on s.id = any(e.delivered)") == ["t", "u"]


@pytest.fixture
def varied(dsn: str) -> Iterator[App]:
    """An app with subscribers of all kinds."""
    app = App(dsn, name="shop", limits={"slow": Limit(3)})
    options: list[dict[str, Any]] = [
        {"on": "order.paid", "priority": -3, "tags": ["x"], "expires": 30, "retention": 0},
        {"on": ["order.*", "#.paid"], "queue": "slow", "limit": [Limit(2), Limit(1, by="tenant")]},
        {"on": "*.paid", "fair": "tenant", "version": 2, "upcasters": {1: dict}},
        {"on": "#.eu.#", "ordered": "tenant"},
        {"on": "user.#", "max_crashes": 1},
    ]

    def whole(tenant: str, event: Event) -> None: ...

    for at, option in enumerate(options):
        app.task(name=f"task{at}", **option)(lambda tenant="", n=0: None)
    app.task(name="whole", on="#", ordered="event.key", fair="tenant")(whole)
    app.events.declare()
    yield app
    app.close()


@pytest.mark.parametrize("key", [None, "k", "a" * 300, "line\nbreak", "ä"])
@pytest.mark.parametrize("topic", ["order.paid", "a.eu.b", "user", "eu", "order.eu.paid"])
@pytest.mark.parametrize(
    "data", [{}, {"tenant": "acme", "n": 2}, {"tenant": True}, {"tenant": ["x"]}, {"tenant": ""}, {"tenant": None}]
)
def test_sql_publishes_what_python_publishes(
    varied: App, conn: Conn, topic: str, data: dict[str, Any], key: str | None
) -> None:
    events = "select topic, key, data, headers, delivered from pgqueue.published_event where id = %s"
    of_jobs = """
    select task, queue, priority, args #- '{event,id}' #- '{event,at}', max_attempts, tags,
           headers - '$event', history, expires_at - created_at, state, waits_for, lane,
           array(select to_state from pgqueue.transition t where t.job_id = j.id)
    from pgqueue.job_live j where headers ->> '$event' = %s order by id"""
    text = json.dumps(data)
    named = None if key is None else key_text(key)
    one = db.run(conn, QUERIES.events.publish([NewEvent(topic, text, named)], '{"trace": "1"}'))[0][0].id
    other = scalar(conn, "select pgqueue.publish(%s, %s, %s, %s)", topic, text, key, '{"trace": "1"}')
    assert conn.execute(events.encode(), [one]).fetchall() == conn.execute(events.encode(), [other]).fetchall()
    made = conn.execute(of_jobs.encode(), [str(one)]).fetchall()
    assert made == conn.execute(of_jobs.encode(), [str(other)]).fetchall()
    assert len(made) >= 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("'order.*'", "topic 'order.*' cannot be used: give words"),
        ("null", "topic NULL cannot be used"),
        ("repeat('a.', 40) || 'b'", "at most 255 characters and 32 words"),
        ("'order.paid', '[]'", "data '[]' of event order.paid cannot be used: give an object"),
        ("""'order.paid', '{"$codec": 1}'""", "the names $codec and $event are taken"),
        ("'order.paid', '{}', ''", "an empty key of event order.paid cannot be used"),
        ("""'order.paid', '{}', null, '{"$flow": 1}'""", "names that begin with $ are taken"),
    ],
)
def test_sql_refuses_what_cannot_be_published_before_it_writes(conn: Conn, arguments: str, problem: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        conn.execute(f"select pgqueue.publish({arguments})".encode())
    assert problem in str(refused.value)
    assert scalar(conn, "select count(*) from pgqueue.published_event") == 0


def test_a_thousand_subscriptions_cost_a_publisher_what_the_matching_ones_cost(conn: Conn) -> None:
    texts = ("tenant-{}.#", "*.thing-{}", "#.x{}.#", "order.done.{}")
    few = [row(f"few{n}", texts[n % 4].format(n)) for n in range(8)]
    declare(conn, *few, row("t", "order.*"))
    cheap = read_blocks(conn)
    declare(conn, *[row(f"many{n}", texts[n % 4].format(n + 8)) for n in range(1000)])
    conn.execute("analyze pgqueue.subscription, pgqueue.subscription_pattern")
    assert read_blocks(conn) <= cheap + 60  # three levels of an index for each anchor, instead of all rows


def read_blocks(conn: Conn) -> int:
    """The blocks that publishing one event reads, and proof that it reached one subscriber."""
    assert len(publish(conn)[0].jobs) == 1
    query = QUERIES.events.publish([PAID])
    (plan,) = conn.execute(b"explain (analyze, buffers, format json) " + query.sql, query.params).fetchone() or ()
    top = plan[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


def test_a_plan_made_for_few_subscriptions_is_no_disaster_for_many(conn: Conn) -> None:
    conn.prepare_threshold = 0
    declare(conn, row("t", "order.*"))
    for _ in range(7):
        publish(conn)
    declare(conn, *[row(f"many{n}", f"*.thing-{n}.*") for n in range(1000)])
    conn.execute("set statement_timeout = '50ms'")  # a thousand regular expressions take twice as long
    for _ in range(3):
        assert len(publish(conn)[0].jobs) == 1


def test_many_events_with_many_subscribers_are_not_compiled(conn: Conn) -> None:
    """JIT would take longer than the statement: the planner must not expect too many rows."""
    declare(conn, *[row(f"t{n}", "order.*", "#.paid") for n in range(20)])
    query = QUERIES.events.publish([PAID] * 500)
    (plan,) = conn.execute(b"explain (format json) " + query.sql, query.params).fetchone() or ()
    assert plan[0]["Plan"]["Total Cost"] < 100_000
