"""Enqueueing from plain SQL: the same rows, conditions and checks as from Python; in triggers; any search_path."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App, Unique, migrate
from tests.conftest import drain, scalar
from tests.harness import Conn, InThread, add_worker, wait_blocked

PAGE = (Path(__file__).parents[2] / "docs" / "enqueue.md").read_text()
JOBS = "select count(*) from pgqueue.job"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [block for name, block in fenced if name == language]


@pytest.fixture
def pair(dsn: str) -> Iterator[tuple[Conn, Conn]]:
    with psycopg.connect(dsn) as a, psycopg.connect(dsn) as b:
        yield a, b
        a.rollback()
        b.rollback()


def test_the_example_of_the_docs_runs(dsn: str, conn: Conn, app: App) -> None:
    (example,) = blocks("sql")
    with psycopg.connect(dsn, autocommit=True) as shop:
        shop.execute(example.encode())
    rows = conn.execute("select task, args, queue, priority from pgqueue.job order by id").fetchall()
    receipt = {"order_id": 1, "to": "a@example.com"}
    assert rows == [
        ("shop.send_receipt", receipt, "email", 5),
        ("shop.send_receipt", receipt | {"order_id": 42}, "email", 0),
    ]
    app.task(name="shop.send_receipt")(lambda order_id, to: order_id)
    drain(app, conn, queues=["email"])
    assert scalar(conn, "select array_agg(result order by id) from pgqueue.job") == [1, 42]


def test_times_count_from_the_call_and_not_from_the_statement_that_calls(conn: Conn) -> None:
    begun = scalar(conn, "select clock_timestamp()")
    conn.execute("""do $$ begin
        perform pg_sleep(0.1);
        perform pgqueue.enqueue('t', '{}', expires => '1 second');
        perform pgqueue.enqueue('t', '{}', delay => '1 second');
    end $$""")
    rows = conn.execute("select expires_at - created_at, run_at - created_at from pgqueue.job_live order by id")
    second = timedelta(seconds=1)
    assert rows.fetchall() == [(second, timedelta()), (None, second)]
    assert scalar(conn, "select min(created_at) from pgqueue.job_live") >= begun + second / 10


def test_a_trigger_enqueues_with_its_transaction(dsn: str, conn: Conn) -> None:
    (example,) = blocks("sql")
    with psycopg.connect(dsn) as shop:
        shop.execute(example.encode())
        shop.rollback()
        shop.execute(example.encode())
        assert scalar(conn, JOBS) == 0
        shop.commit()
    assert scalar(conn, JOBS) == 2


ROW = """select task, queue, priority, args, tags, headers, max_attempts, attempt, state, run_at = created_at,
                expires_at, unique_key, unique_live, history from pgqueue.job_live where id = %s"""
CALLS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"queue": "email", "priority": -3, "max_attempts": 2, "tags": ["a", 'b"']},
     ", queue => 'email', priority => -3, max_attempts => 2, tags => '{a,\"b\\\"\"}'"),
    ({"idempotency_key": "k"}, ", idempotency_key => 'k'"),
    ({"unique_key": "k"}, ", unique_key => 'k'"),
    ({"unique_key": "k", "unique": Unique(while_="live", window=60)},
     ", unique_key => 'k', unique_while => 'live', unique_window => '60 seconds'"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "arguments"), CALLS, ids=[sql or "plain" for _, sql in CALLS])
def test_it_writes_the_rows_that_python_writes_and_each_meets_the_keys_of_the_other(
    conn: Conn, app: App, options: dict[str, Any], arguments: str
) -> None:
    call = f'select pgqueue.enqueue(\'t\', \'{{"b": [1.50, null], "a": "x"}}\'{arguments})'
    ours = app.using(**options).enqueue("t", {"a": "x", "b": [1.5, None]})
    (ours_row,) = conn.execute(ROW, (ours.id,)).fetchall()
    keyed = bool({"idempotency_key", "unique_key"} & options.keys())
    args_differ = "idempotency_key" in options  # 1.50 and 1.5 are different texts, and so two requests
    if args_differ:
        call = call.replace("1.50", "1.5")
    theirs = scalar(conn, call)
    assert (theirs == ours.id) is keyed
    conn.execute("delete from pgqueue.job_live; delete from pgqueue.idempotency_key")
    theirs = scalar(conn, call)
    (row,) = conn.execute(ROW, (theirs,)).fetchall()
    assert row == ours_row
    moves = "select from_state, to_state, attempt, lease from pgqueue.transition where job_id = %s"
    assert conn.execute(moves, (theirs,)).fetchall() == [(None, "pending", 0, 0)]
    assert app.using(**options).enqueue("t", {"a": "x", "b": [1.5, None]}).existing is keyed


def test_times(conn: Conn) -> None:
    job = scalar(conn, "select pgqueue.enqueue('t', delay => '1 hour', expires => '2 hours')")
    row = "select run_at - created_at = '1 h' and expires_at - created_at = '2 h' from pgqueue.job_live where id = %s"
    assert scalar(conn, row, job)
    job = scalar(conn, "select pgqueue.enqueue('t', run_at => '2031-01-01Z', expires_at => '2031-01-02Z')")
    row = "select run_at = '2031-01-01Z' and expires_at = '2031-01-02Z' from pgqueue.job_live where id = %s"
    assert scalar(conn, row, job)


@pytest.mark.parametrize(
    ("call", "jobs"),
    [
        ("idempotency_key => 'k'", 1),
        ("unique_key => 'k'", 1),
        ("unique_key => 'k', on_conflict => 'replace'", 1),
        ("unique_key => 'k', unique_window => '1 hour'", 1),
        ("queue => 'default'", 2),
    ],
)
def test_repeats(conn: Conn, call: str, jobs: int) -> None:
    ids = [scalar(conn, f"select pgqueue.enqueue('t', '{{}}', {call})") for _ in range(2)]
    assert len(set(ids)) == scalar(conn, JOBS) == jobs


def test_replace_changes_the_waiting_job_and_tells_of_it(conn: Conn) -> None:
    call = "select pgqueue.enqueue('t', %s, unique_key => 'k', on_conflict => 'replace', delay => %s)"
    first, second = scalar(conn, call, '{"n": 1}', "1 h"), scalar(conn, call, '{"n": 2}', "2 h")
    assert first == second
    assert scalar(conn, "select args->>'n' from pgqueue.job_live where run_at > now() + interval '100 min'") == "2"
    reasons = "select array_agg(reason order by at) from pgqueue.transition"
    assert scalar(conn, reasons) == [None, "replaced"]


def test_a_window_that_was_not_needed_is_given_back(conn: Conn) -> None:
    call = "select pgqueue.enqueue('t', unique_key => 'k', unique_window => '1 h')"
    first = scalar(conn, call)
    conn.execute("delete from pgqueue.idempotency_key")
    assert scalar(conn, call) == first
    assert scalar(conn, "select count(*) from pgqueue.idempotency_key") == 0


def test_an_expired_key_is_free(conn: Conn) -> None:
    call = "select pgqueue.enqueue('t', %s, idempotency_key => 'k')"
    scalar(conn, call, "{}")
    conn.execute("update pgqueue.idempotency_key set created_at = now() - interval '2 h', expires_at = now()")
    second = scalar(conn, call, '{"n": 2}')
    assert second == scalar(conn, call, '{"n": 2}')
    assert scalar(conn, JOBS) == 2


@pytest.mark.parametrize("key", ["idempotency_key", "unique_key"])
@pytest.mark.parametrize(("end", "same"), [("commit", True), ("rollback", False)])
def test_the_second_waits_for_the_first(conn: Conn, pair: tuple[Conn, Conn], key: str, end: str, same: bool) -> None:
    a, b = pair
    call = f"select pgqueue.enqueue('t', {key} => 'k')"
    first = scalar(a, call)
    waiting = InThread(lambda: scalar(b, call))
    wait_blocked(conn, b, a)
    getattr(a, end)()
    assert (waiting.result() == first) is same
    b.commit()
    assert scalar(conn, JOBS) == 1


@pytest.mark.parametrize("first", ["sql", "python"])
@pytest.mark.parametrize("key", ["idempotency_key", "unique_key"])
def test_it_waits_for_python_and_python_for_it(
    conn: Conn, app: App, pair: tuple[Conn, Conn], key: str, first: str
) -> None:
    def in_sql(borrowed: Conn) -> int:
        return int(scalar(borrowed, f"select pgqueue.enqueue('t', {key} => 'k')"))

    def in_python(borrowed: Conn) -> int:
        return app.using(borrowed, **{key: "k"}).enqueue("t").id  # type: ignore[arg-type]

    one, other = (in_sql, in_python) if first == "sql" else (in_python, in_sql)
    a, b = pair
    winner = one(a)
    waiting = InThread(lambda: other(b))
    wait_blocked(conn, b, a)
    a.commit()
    assert waiting.result() == winner


@pytest.mark.parametrize(
    ("calls", "state", "said"),
    [
        (["'t', '{}', idempotency_key => 'k'", "'t', '{\"n\": 1}', idempotency_key => 'k'"], "23505",
         "idempotency key 'k' of task t was used with other arguments, by job 1"),
        (["'t', unique_key => 'k'", "'t', unique_key => 'k', on_conflict => 'raise'"], "23505",
         "unique key 'k' of task t is held by job 1"),
        (["''"], "22023", "task name '' cannot be used"),
        (["null"], "22023", "task name NULL cannot be used"),
        (["E'a\\nb'"], "22023", "printable"),
        (["'t', '[1]'"], "22023", "args '[1]' cannot be used: give an object"),
        (["'t', null"], "22023", "args NULL"),
        (["'t', headers => '1'"], "22023", "headers"),
        (["'t', queue => 'a b'"], "22023", "queue name 'a b'"),
        (["'t', queue => null"], "22023", "queue name NULL"),
        (["'t', priority => 101"], "22023", "priority '101'"),
        (["'t', max_attempts => 0"], "22023", "max_attempts '0'"),
        (["'t', tags => '{a,null}'"], "22023", "tags"),
        (["'t', delay => '-1 s'"], "22023", "delay of 0 or more"),
        (["'t', delay => '1 s', run_at => now()"], "22023", "exclude each other"),
        (["'t', run_at => 'infinity'"], "22023", "year from 1900"),
        (["'t', expires => '0'"], "22023", "expires"),
        (["'t', expires => '1 h', delay => '2 h'"], "22023", "before it may run"),
        (["'t', expires => '1 h', expires_at => now()"], "22023", "exclude each other"),
        (["'t', idempotency_key => ''"], "22023", "empty key"),
        (["'t', idempotency_key => 'a', unique_key => 'b'"], "22023", "exclude each other"),
        (["'t', idempotency_key => 'a', idempotency_window => '0'"], "22023", "window"),
        (["'t', unique_key => 'a', unique_while => 'ever'"], "22023", "unique_while 'ever'"),
        (["'t', unique_key => 'a', on_conflict => 'ignore'"], "22023", "on_conflict 'ignore'"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_a_reason(conn: Conn, calls: list[str], state: str, said: str) -> None:
    *before, last = calls
    for call in before:
        conn.execute(f"select pgqueue.enqueue({call})")
    with pytest.raises(psycopg.Error, match=re.escape(said)) as caught:
        conn.execute(f"select pgqueue.enqueue({last})")
    assert caught.value.sqlstate == state
    assert scalar(conn, JOBS) == len(before)


def test_a_sleeping_worker_is_notified_and_a_busy_one_is_not(dsn: str, conn: Conn) -> None:
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen pgqueue")
        add_worker(conn)
        conn.execute("update pgqueue.worker set waiting = true, queues = '{email}'")
        for call in ("'t'", "'t', queue => 'email', delay => '1 h'", "'t', queue => 'email'"):
            conn.execute(f"select pgqueue.enqueue({call})")
        heard = list(listener.notifies(timeout=30, stop_after=1))
        assert [notice.payload for notice in heard] == ["email"]
        assert list(listener.notifies(timeout=0)) == []


@pytest.mark.parametrize("path", ["", "decoy, public", "decoy, pg_catalog"])
def test_it_works_under_any_search_path_and_schema_name(dsn: str, conn: Conn, path: str) -> None:
    migrate.upgrade(dsn, "select")
    conn.execute("create schema decoy create table job_live () create table transition () create table worker ()")
    conn.execute("create function decoy.nextval(text) returns bigint language sql as 'select -1::bigint'")
    with psycopg.connect(dsn, options=f"-c search_path={path.replace(' ', '')}") as caller:
        for schema in ("pgqueue", '"select"'):
            assert scalar(caller, f"select {schema}.enqueue('t', idempotency_key => 'k')") == 1
            assert scalar(caller, f"select {schema}.enqueue('t', unique_key => 'k', on_conflict => 'replace')") == 2
        assert scalar(caller, 'select count(*) from "select".job') == 2


def granted() -> list[str]:
    """The grants of docs/enqueue.md, line by line."""
    (block,) = [b for b in blocks("") if "grant execute" in b]
    return block.strip().splitlines()


@pytest.fixture
def producer(conn: Conn) -> Iterator[str]:
    """The role `app` of docs/enqueue.md, without what each feature adds."""
    grants = "\n".join(granted()[:4])
    role = scalar(conn, "select 'app_' || substr(md5(random()::text), 1, 8)")
    conn.execute(f"create role {role}".encode())
    try:
        conn.execute(grants.replace("to app;", f"to {role};").encode())
        yield role
    finally:
        conn.execute(f"drop owned by {role}; drop role {role}".encode())


def test_a_producer_needs_what_the_docs_grant_and_no_more(dsn: str, conn: Conn, app: App, producer: str) -> None:
    execute, keys, read, update = [line.replace("to app;", f"to {producer};") for line in granted()[4:]]
    with psycopg.connect(dsn, autocommit=True) as borrowed:
        borrowed.execute(f"set role {producer}".encode())

        def call(arguments: str) -> int:
            return int(scalar(borrowed, f"select pgqueue.enqueue('t', {arguments})"))

        def refused(arguments: str) -> None:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                call(arguments)

        refused("queue => 'q'")
        conn.execute(execute.encode())
        assert call("queue => 'q', expires => '1 h'") > 0
        assert not app.using(borrowed, expires=60).enqueue("t").existing
        refused("idempotency_key => 'k'")
        conn.execute(keys.encode())
        assert call("idempotency_key => 'k'") == call("idempotency_key => 'k'")
        known = app.using(borrowed, idempotency_key="k").enqueue("t")
        assert (known.existing, known.phase) == (True, "unknown")
        bulk = app.task(name="t")(lambda n=0: None).using(borrowed, idempotency_key=["k", "l"], expires=60)
        assert bulk.enqueue_many([{}, {}])[0] == known.id
        conn.execute("update pgqueue.idempotency_key set expires_at = now() where job_id = %s", (known.id,))
        assert bulk.enqueue_many([{}, {}])[0] > known.id
        conn.execute(read.encode())
        first = call("unique_key => 'k'")
        assert first == call("unique_key => 'k'") == app.using(borrowed, unique_key="k").enqueue("t").id
        refused("unique_key => 'k', on_conflict => 'replace'")
        conn.execute(update.encode())
        replacing = app.using(borrowed, unique_key="k", on_conflict="replace").enqueue("t", {"n": 1})
        assert replacing.id == call("unique_key => 'k', on_conflict => 'replace', args => '{\"n\": 2}'")
        bounded = App(dsn, max_depth={"default": 100})
        assert bounded.using(borrowed).enqueue("t").id > 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            borrowed.execute("select args from pgqueue.job_live")


def test_a_transaction_that_cannot_see_the_winner_fails_as_unserializable(conn: Conn, pair: tuple[Conn, Conn]) -> None:
    a, _ = pair
    a.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    a.execute("select 1 from pgqueue.job")
    conn.execute("select pgqueue.enqueue('t', idempotency_key => 'k')")
    with pytest.raises(psycopg.errors.SerializationFailure):
        a.execute("select pgqueue.enqueue('t', idempotency_key => 'k')")


def test_what_was_enqueued_in_sql_runs(conn: Conn, app: App) -> None:
    app.task(name="add")(lambda a, b: a + b)
    job = scalar(conn, "select pgqueue.enqueue('add', '{\"a\": 1, \"b\": 2}')")
    drain(app, conn)
    assert app.get(job).result == 3
