"""Metered jobs as they are enqueued: each way writes the same row, reads nothing and holds no lock of a rule."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgqueue import (
    App,
    Exponential,
    InvalidArguments,
    InvalidOption,
    Job,
    JobState,
    Limit,
    Ordered,
    Rate,
    Task,
    Unique,
    db,
)
from pgqueue.client.steps import OWN_CONNECTION
from pgqueue.codecs import AESGCM
from pgqueue.jobs.flow import Flow
from tests.callers import AT_ONCE, TRANSACTIONAL, Caller, on
from tests.conftest import scalar
from tests.harness import Conn

ROW = """select j.task, j.queue, j.priority, j.state, j.waits_for, j.lane, j.headers,
       (select array_agg(t.to_state) from pgqueue.transition t where t.job_id = j.id)
from pgqueue.job_live j order by j.id"""
TENANT: ContextVar[str] = ContextVar("tenant")


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def metered(dsn: str) -> App:
    """An app with limits of queues, and tasks with each kind of rule."""
    app = App(dsn, limits={"mail": Limit(50)})
    stripe = app.limit("stripe", 20)

    @app.task(name="charge", limit=[stripe, Limit(2, by="customer")], aliases=["old.charge"])
    def charge(customer: str, cents: int = 1) -> None: ...

    @app.task(name="fixed", limit=stripe)
    def fixed(n: int = 0) -> None: ...

    @app.task(name="plain")
    def plain(n: int = 0) -> None: ...

    @app.task(name="ship", ordered="order", fair=lambda tenant: tenant.upper(), priority=7)
    def ship(order: int, tenant: str = "acme") -> None: ...

    return app


def flows(conn: Conn) -> list[Flow | None]:
    """Return the flow of each job, and check that its row and its transition go with it."""
    found: list[Flow | None] = []
    for _, _, _, state, waits_for, lane, headers, log in conn.execute(ROW).fetchall():
        flow = None if "$flow" not in headers else Flow.of_header(headers["$flow"])
        assert (state, waits_for) == (("pending", None) if flow is None else ("blocked", "turn"))
        assert lane == (None if flow is None else flow.lane == headers["$flow"]["lane"] and flow.lane)
        assert log == [state]
        found.append(flow)
    return found


ACME = Flow(("charge/acme", "stripe"))
ZEN = Flow(("charge/zen", "stripe"))
FIXED = Flow(("stripe",))
SHIP = Flow(("ship#order/5",), "ship#order/5", "ship#fair/ACME")


@pytest.mark.parametrize("kind", [*AT_ONCE, *TRANSACTIONAL])
def test_each_connection_writes_the_same_flow(kind: str, dsn: str, metered: App, conn: Conn) -> None:
    charge, fixed = (Task(metered, metered.tasks[name]) for name in ("charge", "fixed"))

    async def body(caller: Caller) -> None:
        job = await caller.enqueue(charge.using(caller.conn), "acme")
        assert (job.state, job.phase, job.waits_for) == (JobState.BLOCKED, "blocked", "turn")
        await caller.enqueue(fixed.using(caller.conn, idempotency_key="k", delay=60))
        await caller.enqueue_many(charge.using(caller.conn), [{"customer": "acme"}, {"customer": "zen"}])
        await caller.enqueue_many(fixed.using(caller.conn), [{"n": 1}, {"n": 2}])
        if kind in TRANSACTIONAL:
            await caller.commit()

    on(kind, dsn, metered, body)
    assert flows(conn) == [ACME, FIXED, ACME, ZEN, FIXED, FIXED]
    metered.close()


MANY = [{"customer": "acme"}, {"customer": "zen"}, {"customer": "acme", "cents": 2}]
WAYS: list[tuple[str, Callable[[App], object], list[Flow | None]]] = [
    ("call", lambda app: task(app, "charge").enqueue("acme"), [ACME]),
    ("by name", lambda app: app.enqueue("charge", {"customer": "acme"}), [ACME]),
    ("alias", lambda app: app.enqueue("old.charge", {"customer": "acme"}), [ACME]),
    ("key given", lambda app: task(app, "charge").using(limit_key="zen").enqueue("acme"), [ZEN]),
    ("key by rule", lambda app: app.using(limit_key={"charge": "zen"}).enqueue("charge", {"customer": "acme"}), [ZEN]),
    ("queue", lambda app: task(app, "fixed").using(queue="mail").enqueue(), [Flow(("queue:mail", "stripe"))]),
    ("queue of a plain task", lambda app: task(app, "plain").using(queue="mail").enqueue(), [Flow(("queue:mail",))]),
    ("queue of an unknown task", lambda app: app.using(queue="mail").enqueue("elsewhere"), [Flow(("queue:mail",))]),
    ("order and share", lambda app: task(app, "ship").enqueue(5), [SHIP]),
    ("order and share given", lambda app: task(app, "ship").using(ordering_key=5, fair_key="ACME").enqueue(9, "x"),
     [SHIP]),
    ("unknown task with keys", lambda app: app.using(limit_key="a", ordering_key=5, fair_key="b").enqueue("x/y"),
     [Flow(("x%2Fy#order/5", "x%2Fy/a"), "x%2Fy#order/5", "x%2Fy#fair/b")]),
    ("idempotency key", lambda app: task(app, "charge").using(idempotency_key="k").enqueue("acme"), [ACME]),
    ("unique key", lambda app: task(app, "charge").using(unique_key="k").enqueue("acme"), [ACME]),
    ("unique in a window", lambda app: task(app, "charge").using(unique=Unique(window=60)).enqueue("acme"), [ACME]),
    ("expires", lambda app: task(app, "charge").using(expires=60).enqueue("acme"), [ACME]),
    ("many", lambda app: task(app, "charge").enqueue_many(MANY), [ACME, ZEN, ACME]),
    ("many of one flow", lambda app: task(app, "fixed").enqueue_many([{}, {"n": 1}]), [FIXED, FIXED]),
    ("many plain ones", lambda app: task(app, "plain").enqueue_many([{}, {"n": 1}]), [None, None]),
    ("many with keys", lambda app: task(app, "charge").using(idempotency_key=["a", None, "b"]).enqueue_many(MANY),
     [ACME, ZEN, ACME]),
    ("many of one flow with keys", lambda app: task(app, "fixed").using(idempotency_key=["a", "b"]).enqueue_many(
        [{}, {"n": 1}]), [FIXED, FIXED]),
    ("many that expire", lambda app: task(app, "charge").using(expires=60).enqueue_many(MANY), [ACME, ZEN, ACME]),
    ("many with headers", lambda app: task(app, "charge").using(headers={"a": "b"}).enqueue_many(MANY),
     [ACME, ZEN, ACME]),
]  # fmt: skip


def task(app: App, name: str) -> Task[..., Any]:
    return Task(app, app.tasks[name])


@pytest.mark.parametrize(("way", "enqueue", "expected"), WAYS, ids=[way for way, _, _ in WAYS])
def test_each_way_writes_the_flow_of_its_job(
    way: str, enqueue: Callable[[App], object], expected: list[Flow | None], metered: App, conn: Conn
) -> None:
    enqueue(metered)
    assert flows(conn) == expected
    metered.close()


def test_many_keep_their_headers_and_keys_beside_the_flow(metered: App, conn: Conn) -> None:
    task(metered, "charge").using(headers={"a": "b"}, idempotency_key=["k", None, "l"]).enqueue_many(MANY)
    headers = [row[6] for row in conn.execute(ROW)]
    assert [{name: value for name, value in each.items() if name != "$flow"} for each in headers] == [
        {"a": "b", "idempotency_key": "k"}, {"a": "b"}, {"a": "b", "idempotency_key": "l"},
    ]  # fmt: skip
    metered.close()


def test_a_plain_job_is_what_it_was(metered: App, conn: Conn) -> None:
    job = task(metered, "plain").enqueue()
    assert (job.state, job.phase, job.waits_for) == (JobState.PENDING, "pending", None)
    assert conn.execute(ROW).fetchall() == [("plain", "default", 0, "pending", None, None, {}, ["pending"])]
    metered.close()


def test_enqueueing_reads_no_rule_and_holds_no_lock_of_one(metered: App, dsn: str, conn: Conn) -> None:
    conn.execute("insert into pgqueue.limit_rule (name, max_running) values ('charge', 0)")
    with psycopg.connect(dsn) as business:
        task(metered, "charge").using(business).enqueue("acme")
        task(metered, "charge").using(business).enqueue_many(MANY)
        task(metered, "charge").using(business, unique_key="k").enqueue("acme")
        business.execute("select pgqueue.enqueue('charge', '{\"customer\": \"acme\"}', limit_key => 'acme')")
        touched = scalar(
            conn,
            "select array_agg(distinct relation::regclass::text) from pg_locks where pid = %s and relation is not null",
            business.info.backend_pid,
        )
        assert "pgqueue.job_live" in touched
        assert not [name for name in touched if "limit" in name]
        with conn.transaction():
            conn.execute("lock table pgqueue.limit_rule, pgqueue.limit_use in access exclusive mode nowait")
    metered.close()


def test_a_key_that_cannot_be_made_is_an_error_before_anything_is_written(metered: App, conn: Conn) -> None:
    @metered.task(name="sync", limit=Limit(1, by="tenant"))
    def sync(tenant: str | None = None) -> None: ...

    with pytest.raises(InvalidArguments, match="tenant: the key of rule sync cannot be made: a NoneType is no key"):
        sync.enqueue()
    with pytest.raises(InvalidArguments, match=r"call 1: tenant: .*an empty text is no key"):
        sync.enqueue_many([{"tenant": "a"}, {"tenant": ""}])
    with pytest.raises(InvalidArguments, match="call 1: "):
        sync.using(expires=60).enqueue_many([{"tenant": "a"}, {}])
    with pytest.raises(InvalidArguments, match="call 1: "):
        sync.using(idempotency_key=["a", "b"]).enqueue_many([{"tenant": "a"}, {}])
    assert scalar(conn, "select count(*) from pgqueue.job") == 0
    metered.close()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("plain", {"limit_key": "a"}, "task plain has no rule that takes a key"),
        ("fixed", {"limit_key": "a"}, "task fixed has 0 limits with keys: give it limit="),
        ("fixed", {"ordering_key": "a"}, "task fixed has no option ordered"),
        ("charge", {"fair_key": "a"}, "task charge has no option fair"),
        ("charge", {"limit_key": {"stripe": "a"}}, r"limit_key names stripe: no limit of task charge .*\(charge\)"),
        ("charge", {"limit_key": ["a"]}, "limit_key cannot be used: a list is no key"),
        ("charge", {"limit_key": ""}, "an empty text is no key"),
        ("ship", {"priority": 1}, "priority=1 cannot be used: jobs of task ship run in order.*priority, 7"),
        ("elsewhere", {"limit_key": {"a": "b"}}, "the rules of task elsewhere are not known here"),
    ],
)
def test_keys_and_priorities_that_mean_nothing_are_refused(
    name: str, options: dict[str, Any], says: str, metered: App, conn: Conn
) -> None:
    args = {"charge": {"customer": "a"}, "ship": {"order": 5}}.get(name, {})
    with pytest.raises(InvalidOption, match=says):
        metered.using(**options).enqueue(name, args)
    if name != "elsewhere":
        with pytest.raises(InvalidOption, match=says):
            task(metered, name).using(**options).enqueue(**args)
        with pytest.raises(InvalidOption, match=says):
            task(metered, name).using(**options).enqueue_many([args])
    assert scalar(conn, "select count(*) from pgqueue.job") == 0
    metered.close()


def test_with_several_keyed_limits_keys_are_given_by_rule(dsn: str, conn: Conn) -> None:
    app = App(dsn)

    @app.task(
        name="t", limit=[Limit(1, by="a"), Limit(2, by=lambda a, b: f"{a}-{b}"), Rate(5, by=lambda: TENANT.get())]
    )
    def t(a: int, b: int = 2) -> None: ...

    TENANT.set("acme")
    t.enqueue(1)
    t.using(limit_key={"t#2": "x", "t#3": "y"}).enqueue(1)
    assert flows(conn) == [Flow(("t#2/1-2", "t#3/acme", "t/1")), Flow(("t#2/x", "t#3/y", "t/1"))]
    with pytest.raises(InvalidOption, match="task t has 3 limits with keys: give a dict of keys by rule: t, t#2, t#3"):
        t.using(limit_key="x").enqueue(1)
    app.close()


def test_a_retry_may_let_others_pass(dsn: str, conn: Conn) -> None:
    app = App(dsn)

    @app.task(name="t", ordered=Ordered("n", on_retry="pass", on_dead="stop"))
    def t(n: int) -> None: ...

    t.enqueue(1)
    assert flows(conn) == [Flow(("t#order/1",))]
    assert [rule.declared() for rule in app.rules] == [
        {"kind": "order", "keyed_by": "n", "max_running": 1, "on_dead": "stop"}
    ]
    app.close()


def test_sealed_arguments_have_keys_in_clear(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"1": b"k" * 32}))

    @app.task(name="t", limit=Limit(1, by="n"))
    def t(n: str) -> None: ...

    t.enqueue("acme")
    t.enqueue_many([{"n": "zen"}])
    assert flows(conn) == [Flow(("t/acme",)), Flow(("t/zen",))]
    assert "acme" not in scalar(conn, "select args::text from pgqueue.job_live order by id limit 1")
    app.close()


def replaced(conn: Conn) -> list[tuple[Any, ...]]:
    """Return what replaced what: from state to state."""
    return conn.execute(
        "select from_state, to_state from pgqueue.transition where reason = 'other rules' order by at"
    ).fetchall()


@pytest.mark.parametrize("in_sql", [False, True], ids=["python", "sql"])
def test_a_job_that_replaces_another_brings_its_own_flow(in_sql: bool, metered: App, conn: Conn) -> None:
    def put(queue: str = "default", **keys: str) -> None:
        if in_sql:
            given = "".join(f", {name} => '{value}'" for name, value in keys.items())
            given += ", flow => '{queue:mail}'" if queue == "mail" else ""
            conn.execute(f"select pgqueue.enqueue('x', queue => '{queue}', unique_key => 'k', "  # type: ignore[arg-type]
                         f"on_conflict => 'replace'{given})")  # fmt: skip
        else:
            metered.using(unique_key="k", on_conflict="replace", queue=queue, **keys).enqueue("x")  # type: ignore[misc]

    seen = []
    for queue, keys in (("default", {}), ("mail", {}), ("mail", {"limit_key": "a"}), ("default", {})):
        put(queue, **keys)
        (row,) = conn.execute(ROW).fetchall()
        seen.append((row[3], row[4], row[5] is None, row[6].get("$flow", {}).get("buckets")))
    assert seen == [
        ("pending", None, True, None),
        ("blocked", "turn", False, ["queue:mail"]),
        ("blocked", "turn", False, ["queue:mail", "x/a"]),
        ("pending", None, True, None),
    ]
    assert replaced(conn) == [("pending", "blocked"), ("blocked", "pending")]
    metered.close()


@pytest.mark.parametrize("in_sql", [False, True], ids=["python", "sql"])
def test_a_parked_job_that_is_replaced_by_a_metered_one_waits_for_its_turn(
    in_sql: bool, metered: App, conn: Conn
) -> None:
    metered.using(unique_key="k").enqueue("x")
    conn.execute("update pgqueue.job_live set state = 'blocked', waits_for = 'task'")
    if in_sql:
        conn.execute("select pgqueue.enqueue('x', unique_key => 'k', on_conflict => 'replace', limit_key => 'a')")
    else:
        metered.using(unique_key="k", on_conflict="replace", limit_key="a").enqueue("x")
    assert conn.execute("select state, waits_for, lane is null from pgqueue.job_live").fetchall() == [
        ("blocked", "turn", False)
    ]
    metered.close()


def test_a_dead_letter_task_waits_for_its_turn(dsn: str, conn: Conn) -> None:
    app = App(dsn, limits={"dead": Limit(1)})

    @app.task(name="t", dead_letter_task="report", retry=Exponential())
    def t() -> None: ...

    @app.task(name="report", queue="dead", limit=Limit(3))
    def report(job_id: int, task: str, queue: str, reason: str, error: str, fingerprint: str) -> None: ...

    job: Job = t.enqueue()
    header = scalar(conn, "select headers -> '$dead_letter_task' from pgqueue.job_live")
    assert header["flow"] == Flow(("queue:dead", "report")).header()
    conn.execute("delete from pgqueue.job_live; delete from pgqueue.transition")
    conn.execute(
        "insert into pgqueue.dead_letter (id, task, queue, reason, headers) values (%s, 't', 'default', 'why', "
        "jsonb_build_object('$dead_letter_task', %s::jsonb))",
        (job.id, Jsonb(header)),
    )
    assert db.run(conn, app.queries.jobs.enqueue_dead_letter_tasks([job.id], {})) == 1
    assert flows(conn) == [Flow(("queue:dead", "report"))]
    app.close()


@pytest.mark.parametrize("lane", ['"x"', "99999999999999999999", "null", "[1]", "9223372036854775808"])
def test_a_flow_that_sql_has_spoilt_makes_a_dead_letter_task_a_plain_job(lane: str, app: App, conn: Conn) -> None:
    conn.execute(
        "insert into pgqueue.dead_letter (id, task, queue, reason, headers) values (1, 't', 'default', 'why', "
        "jsonb_build_object('$dead_letter_task', jsonb_build_object('task', 'u', 'queue', 'q', 'flow', "
        "jsonb_build_object('lane', %s::jsonb, 'buckets', '[\"u\"]'::jsonb))))",
        (lane,),
    )
    assert db.run(conn, app.queries.jobs.enqueue_dead_letter_tasks([1], {})) == 1
    assert flows(conn) == [None]


def test_only_a_job_that_has_not_begun_changes_its_flow_and_only_to_one_that_fits(app: App, conn: Conn) -> None:
    first = app.enqueue("x")
    conn.execute("select pgqueue.change_flow(%s, %s)", (first.id, Jsonb({"lane": 5, "buckets": "stripe"})))
    assert flows(conn) == [None]
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        conn.execute("select pgqueue.change_flow(%s, %s)", (first.id, Jsonb({"lane": "x", "buckets": []})))
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("select pgqueue.change_flow(%s, %s)", (first.id, Jsonb({"buckets": []})))
    conn.execute("update pgqueue.job_live set attempt = 1")
    conn.execute("select pgqueue.change_flow(%s, %s)", (first.id, Jsonb(ACME.header())))
    assert flows(conn) == [None]


def test_own_connections_and_blocks_do_not_differ(metered: App, conn: Conn) -> None:
    task(metered, "charge").using(OWN_CONNECTION).enqueue("acme")
    assert flows(conn) == [ACME]
    metered.close()
