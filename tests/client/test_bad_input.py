"""Bad input through the public API: the message names the thing and the remedy, and nothing is written."""

import asyncio
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import NullPool, create_engine

from pgqueue import (
    App,
    ConfigError,
    DatabaseUnreachable,
    InvalidArguments,
    InvalidOption,
    InvalidTask,
    NotMigrated,
    PgqueueError,
    Task,
    UnsupportedConnection,
)
from pgqueue.errors import InvalidInput
from tests.conftest import scalar, shown

NOW = datetime(2026, 5, 1, tzinfo=UTC)
SECRET = "hunter2secret"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def send(app: App) -> Task[..., Any]:
    """A task with typed parameters and one that takes anything."""

    @app.task(name="send")
    def send(order_id: int, weight: float = 1.0, extra: Any = None) -> None: ...

    return send


@contextmanager
def refused(dsn: str, error: type[BaseException], *said: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection in a transaction to borrow; expect the error, no row, and a transaction that can go on."""
    with psycopg.connect(dsn) as borrowed:
        with pytest.raises(error) as caught:
            yield borrowed
        message = str(caught.value)
        assert [part for part in said if part not in message] == [], message
        assert borrowed.execute("select 1").fetchone() == (1,)
        borrowed.commit()
        assert nothing_written(borrowed)


def test_none_for_a_connection_is_refused_and_does_not_mean_one_of_our_own(app: App, send: Task[..., Any]) -> None:
    for using in (send.using, app.using):
        with pytest.raises(UnsupportedConnection, match="Leave it out"):
            using(None)


def nothing_written(conn: psycopg.Connection[Any]) -> bool:
    """Return whether there is neither a job nor a transition."""
    counts = "select (select count(*) from pgqueue.job) + (select count(*) from pgqueue.transition)"
    return bool(scalar(conn, counts) == 0)


BAD_CALLS: list[tuple[dict[str, Any], str, str]] = [
    ({"order": 1}, "missing a required argument: 'order_id'", "(order_id: int, weight"),
    ({"order_id": 1, "cc": 2}, "unexpected keyword argument 'cc'", "(order_id: int, weight"),
    ({}, "missing a required argument: 'order_id'", "(order_id: int, weight"),
    ({"order_id": "x"}, "order_id", "valid integer"),
    ({"order_id": None}, "order_id", "valid integer"),
    ({"order_id": 1, "weight": math.nan}, "weight", "finite"),
    ({"order_id": 1, "weight": math.inf}, "weight", "finite"),
    ({"order_id": 1, "extra": math.nan}, "extra", "finite"),
    ({"order_id": 1, "extra": [[1, -math.inf]]}, "extra.0.1", "finite"),
    ({"order_id": 1, "extra": "a\x00b"}, "extra", "NUL character cannot be stored by Postgres (remove it"),
    ({"order_id": 1, "extra": {"a\x00": 1}}, "extra.a\\x00", "NUL character cannot be stored by Postgres (remove it"),
    ({"order_id": 1, "extra": "\ud800"}, "extra", "surrogate"),
    ({"order_id": 1, "extra": {"\udfff": 1}}, "extra", "surrogate"),
    ({"order_id": 1, "extra": object()}, "extra", "pass plain data, such as the id of a row"),
    ({"order_id": 1, "extra": [{"a": print}]}, "extra", "pass plain data, such as the id of a row"),
]
CALL_IDS = ["name", "unknown", "missing", "type", "none", "nan", "inf", "any nan", "nested inf", "NUL", "NUL key",
            "surrogate", "surrogate key", "object", "nested object"]  # fmt: skip


@pytest.mark.parametrize(("call", "thing", "remedy"), BAD_CALLS, ids=CALL_IDS)
def test_bad_arguments_are_refused_before_anything_is_written(
    dsn: str, send: Task[..., Any], call: dict[str, Any], thing: str, remedy: str
) -> None:
    with refused(dsn, InvalidArguments, "cannot call send: ", thing, remedy) as borrowed:
        send.using(borrowed).enqueue(**call)


@pytest.mark.parametrize(("call", "thing", "remedy"), BAD_CALLS, ids=CALL_IDS)
def test_one_bad_call_of_many_is_named_and_none_is_written(
    dsn: str, send: Task[..., Any], call: dict[str, Any], thing: str, remedy: str
) -> None:
    good = {"order_id": 1}
    with refused(dsn, InvalidArguments, "cannot call send: call 2: ", thing, remedy) as borrowed:
        send.using(borrowed).enqueue_many([good, good, call, good])


def test_bad_arguments_are_refused_on_own_connection_too(
    conn: psycopg.Connection[Any], app: App, send: Task[..., Any]
) -> None:
    for call in (lambda: send.enqueue("x"), lambda: app.enqueue("send", {"order_id": "x"})):
        with pytest.raises(InvalidArguments, match="order_id"):
            call()
    assert nothing_written(conn)


@pytest.mark.parametrize("args", [[1], "x", {1: 2}, [("a", 1)], 5], ids=shown)
@pytest.mark.parametrize("task", ["send", "unknown.here"])
def test_arguments_that_are_no_object_are_refused(
    dsn: str, app: App, send: Task[..., Any], task: str, args: Any
) -> None:
    with refused(dsn, InvalidArguments, f"cannot call {task}") as borrowed:
        app.using(borrowed).enqueue(task, args)


@pytest.mark.parametrize("value", [math.nan, [math.inf], "\x00", {"\x00": 1}, "\ud800", object()], ids=shown)
def test_arguments_of_an_unknown_task_must_be_json_too(dsn: str, app: App, value: Any) -> None:
    with refused(dsn, InvalidArguments, "cannot call elsewhere: ") as borrowed:
        app.using(borrowed).enqueue("elsewhere", {"v": value})


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00", "a\nb", "\ud800", 5, None], ids=ascii)
def test_a_task_name_that_cannot_be_one_is_refused(dsn: str, app: App, name: Any) -> None:
    with refused(dsn, InvalidOption, "task name", "give 1 to 200 printable characters") as borrowed:
        app.using(borrowed).enqueue(name)


def test_a_registered_name_that_is_too_long_never_reaches_the_callers_transaction(dsn: str, app: App) -> None:
    with refused(dsn, PgqueueError, "200") as borrowed:
        app.task(name="x" * 201)(lambda: None).using(borrowed).enqueue()


BAD_OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"run_at": datetime(2026, 1, 1)}, "run_at=", "give an aware datetime, or delay="),
    ({"run_at": "2026-01-01"}, "run_at=", "give an aware datetime, or delay="),
    ({"run_at": date(2026, 1, 1)}, "run_at=", "give an aware datetime, or delay="),
    ({"run_at": NOW, "delay": 5}, "run_at and delay", "give one of them"),
    ({"run_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))}, "run_at=", "give"),
    ({"run_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))}, "run_at=", "give"),
    ({"delay": -1}, "delay=-1", "give 0 to"),
    ({"delay": timedelta(seconds=-1)}, "delay=", "give 0 to"),
    ({"delay": math.nan}, "delay=nan", "give 0 to"),
    ({"delay": math.inf}, "delay=inf", "give 0 to"),
    ({"delay": 10**400}, "delay=1000", "give 0 to"),
    ({"delay": "soon"}, "delay='soon'", "give 0 to"),
    ({"delay": []}, "delay=[]", "give 0 to"),
    ({"queue": ""}, "queue name ''", "1 to 100 letters"),
    ({"queue": "a b"}, "queue name 'a b'", "1 to 100 letters"),
    ({"queue": "a\n"}, "queue name 'a\\n'", "1 to 100 letters"),
    ({"queue": "x" * 101}, "queue name", "1 to 100 letters"),
    ({"queue": 5}, "queue name 5", "1 to 100 letters"),
    ({"priority": 101}, "priority=101", "give -100 to 100"),
    ({"priority": 1.5}, "priority=1.5", "give -100 to 100"),
    ({"priority": True}, "priority=True", "give -100 to 100"),
    ({"max_attempts": 0}, "max_attempts=0", "give 1 (no retries)"),
    ({"max_attempts": 2**31}, "max_attempts=", "give 1 (no retries)"),
    ({"max_attempts": "3"}, "max_attempts='3'", "give 1 (no retries)"),
    ({"tags": "vip"}, "tags='vip'", "give a list"),
    ({"tags": [""]}, "tag ''", "give 1 to 200 printable"),
    ({"tags": ["a\x00"]}, "tag 'a\\x00'", "give 1 to 200 printable"),
    ({"tags": ["\ud800"]}, "tag ", "give 1 to 200 printable"),
    ({"tags": [5]}, "tag 5", "give 1 to 200 printable"),
    ({"tags": ["x"] * 101}, "tags=", "at most 100"),
    ({"tags": 5}, "tags=5", "give a list"),
    ({"tags": iter(["a"])}, "tags=", "give a list"),
]


@pytest.mark.parametrize(("options", "thing", "remedy"), BAD_OPTIONS, ids=shown)
def test_bad_options_are_refused_before_anything_is_written(
    dsn: str, app: App, send: Task[..., Any], options: dict[str, Any], thing: str, remedy: str
) -> None:
    for verb in (
        lambda borrowed: send.using(borrowed, **options).enqueue(1),
        lambda borrowed: app.using(borrowed, **options).enqueue("elsewhere"),
    ):
        with refused(dsn, InvalidOption, thing, remedy) as borrowed:
            verb(borrowed)


@pytest.mark.parametrize("option", ["queue", "priority", "max_attempts", "tags", "retry"])
def test_a_tasks_own_bad_settings_are_refused_where_they_are_written(option: str) -> None:
    with pytest.raises(InvalidOption, match=option):
        App("unused").task(**{option: object()})  # type: ignore[call-overload]


@pytest.mark.parametrize("schema", ["", "Jobs", "a b", 'a"; drop', "x" * 49, "1a", "a\n", "pg_jobs", 5, None], ids=str)
def test_a_schema_name_that_needs_quotes_is_refused(schema: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        App("unused", schema=schema)
    assert f"schema name {schema!r} cannot be used" in str(caught.value)


def test_no_dsn_at_all_says_where_to_put_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQUEUE_DSN", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigError, match=r"pass App\(dsn=…\) or --dsn, or set PGQUEUE_DSN"):
        App().enqueue("t")


BAD_DSNS = [
    f"postgresql://u:{SECRET}@no.such.host.invalid/db",
    f"postgresql://u:{SECRET}@no.such.host.invalid:1/db?connect_timeout=2",
    f"postgresql+psycopg://u:{SECRET}@no.such.host.invalid/db",
    f"host=no.such.host.invalid password={SECRET}",
    f"host=no.such.host.invalid password = '{SECRET} with spaces'",
    f"host=no.such.host.invalid password='{SECRET}\\'{SECRET}'",
    f"postgresql://no.such.host.invalid/db?user=u&password={SECRET}",
]


@pytest.mark.parametrize("dsn", BAD_DSNS)
def test_a_database_that_cannot_be_reached_is_named_without_its_password(dsn: str) -> None:
    async def on_a_loop() -> None:
        app = App(dsn)
        try:
            await app.aenqueue("t")
        finally:
            await app.aclose()

    for attempt in (lambda: App(dsn).enqueue("t"), lambda: asyncio.run(on_a_loop())):
        with pytest.raises(DatabaseUnreachable) as caught:
            attempt()
        assert "no.such.host.invalid" in str(caught.value)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{SECRET}%zz@localhost/db",
        f"postgresql://u:{SECRET}/x@localhost/db",
        f"postgresql://u:x@{SECRET}@localhost/db",
        f"postgresql://u:{SECRET}@[localhost/db",
        f"postgresql://u:p?{SECRET}@[localhost/db",
        f"host=localhost password=x {SECRET}",
        f"host=localhost password='{SECRET}",
        f"postgresql://u:{SECRET}@localhost:notaport/db",
        f"host=localhost password={SECRET} nonsense=1",
        SECRET,
    ],
)
def test_a_dsn_that_cannot_be_read_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(PgqueueError) as caught:
        App(dsn).enqueue("t")
    assert SECRET not in str(caught.value)


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with pytest.raises(DatabaseUnreachable, match=r"cannot connect to .*127\.0\.0\.1.*refused"):
        App("postgresql://u@127.0.0.1:1/db").enqueue("t")


def test_a_database_that_does_not_exist_is_named(dsn: str) -> None:
    with pytest.raises(DatabaseUnreachable, match="no_such_database"):
        App(make_conninfo(dsn, dbname="no_such_database")).enqueue("t")


def test_a_database_without_pgqueue_says_what_to_run(empty_dsn: str) -> None:
    app = App(empty_dsn)
    try:
        for verb in (lambda: app.enqueue("t"), lambda: app.get(1)):
            with pytest.raises(NotMigrated, match="run `pgqueue migrate`"):
                verb()
    finally:
        app.close()


def test_a_borrowed_connection_to_a_database_without_pgqueue_says_what_to_run(empty_dsn: str) -> None:
    name = conninfo_to_dict(empty_dsn)["dbname"]
    with psycopg.connect(empty_dsn) as borrowed:
        with pytest.raises(NotMigrated, match=f"database '{name}' .*run `pgqueue migrate`"):
            App("unused").using(borrowed).enqueue("t")
        borrowed.rollback()
        assert borrowed.execute("select 1").fetchone() == (1,)


def test_another_schema_that_was_never_migrated_says_what_to_run(dsn: str) -> None:
    with psycopg.connect(dsn) as borrowed, pytest.raises(NotMigrated, match="run `pgqueue migrate`"):
        App("unused", schema="other").using(borrowed).enqueue("t")


def test_an_aborted_transaction_is_not_mistaken_for_anything_else(dsn: str, conn: psycopg.Connection[Any]) -> None:
    with psycopg.connect(dsn) as borrowed:
        with pytest.raises(psycopg.errors.DivisionByZero):
            borrowed.execute("select 1 / 0")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            App("unused").using(borrowed).enqueue("t")
    assert nothing_written(conn)


@pytest.mark.parametrize("job_id", ["x", "1", 1.5, None, True, [1]], ids=shown)
def test_what_is_no_job_id_is_refused_and_the_transaction_goes_on(dsn: str, app: App, job_id: Any) -> None:
    verbs: list[Callable[[Any], Any]] = [lambda c: c.get(job_id), lambda c: c.cancel(job_id)]
    for verb in verbs:
        with refused(dsn, InvalidOption, "job id", "cannot be used") as borrowed:
            verb(app.using(borrowed))


@pytest.mark.parametrize("reason", [5, None, "", "a\0", "x" * 1001], ids=shown)
def test_a_reason_that_cannot_be_stored_is_refused(dsn: str, app: App, reason: Any) -> None:
    with refused(dsn, InvalidOption, "reason=") as borrowed:
        app.using(borrowed).cancel(1, reason)


BAD_CALLS: dict[str, Callable[[Any], Any]] = {
    "get": lambda s: s.get(5),
    "definition": lambda s: s.definition(None),
    "preview": lambda s: s.preview(b"s"),
    "delete": lambda s: s.delete(5),
    "pause": lambda s: s.pause(5),
    "resume": lambda s: s.resume("a\0"),
    "run": lambda s: s.run(5),
    "revert": lambda s: s.revert(5),
    "edit": lambda s: s.edit(5, queue="q"),
    "list, limit": lambda s: s.list(limit=-1),
    "list, limit as text": lambda s: s.list(limit="x"),
    "list, after": lambda s: s.list(after=5),
    "ticks, limit": lambda s: s.ticks("s", limit=-1),
    "ticks, too many": lambda s: s.ticks("s", limit=2**31),
    "ticks, before": lambda s: s.ticks("s", before="yesterday"),
    "ticks, naive": lambda s: s.ticks("s", before=datetime(2026, 1, 1)),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_argument_of_a_schedule_verb_is_refused_and_the_transaction_goes_on(
    dsn: str, app: App, name: str
) -> None:
    with refused(dsn, InvalidInput, "cannot be used") as borrowed:
        BAD_CALLS[name](app.schedules.using(borrowed))


@pytest.mark.parametrize("thing", ["postgresql://localhost/db", 5, False, object(), []], ids=shown)
def test_what_is_no_connection_is_refused_with_what_is_one(conn: psycopg.Connection[Any], app: App, thing: Any) -> None:
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    for verb in (
        lambda: app.using(thing).enqueue("t"),
        lambda: asyncio.run(app.using(thing).aenqueue("t")),  # type: ignore[arg-type]
    ):
        with pytest.raises(UnsupportedConnection, match=f"cannot enqueue on a {kind}: give a psycopg"):
            verb()
    assert nothing_written(conn)


def test_sqlite_is_refused_plain_and_inside_sqlalchemy(app: App) -> None:
    lite = sqlite3.connect(":memory:")
    try:
        with pytest.raises(UnsupportedConnection, match=r"sqlite3\.Connection: give a psycopg Connection"):
            app.using(lite).enqueue("t")
    finally:
        lite.close()
    engine = create_engine("sqlite://", poolclass=NullPool)
    with engine.connect() as borrowed, pytest.raises(UnsupportedConnection, match=r"sqlite3\.Connection"):
        app.using(borrowed).enqueue("t")


def test_a_sync_connection_on_an_async_verb_says_which_verb_to_use(dsn: str, app: App) -> None:
    verbs: list[Callable[[Any], Any]] = [lambda c: app.using(c).aenqueue("t"), lambda c: app.using(c).aget(1)]
    for verb in verbs:
        with refused(dsn, UnsupportedConnection, "A sync connection goes with enqueue(), get()") as borrowed:
            asyncio.run(verb(borrowed))


def test_an_async_connection_on_a_sync_verb_says_which_verb_to_use(dsn: str, app: App) -> None:
    async def check() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as borrowed:
            with pytest.raises(UnsupportedConnection, match=r"An async connection goes with aenqueue\(\), aget\(\)"):
                app.using(borrowed).enqueue("t")
            assert await (await borrowed.execute("select count(*) from pgqueue.job")).fetchone() == (0,)

    asyncio.run(check())


def test_a_schedule_refuses_arguments_that_do_not_fit_its_task(app: App, send: Task[..., Any]) -> None:
    with pytest.raises(InvalidArguments, match="order_id"):
        app.schedule("@daily")(send)
    with pytest.raises(InvalidTask, match=r"put @app\.schedule\(…\) above @app\.task"):
        app.schedule("@daily")(lambda: None)  # type: ignore[type-var]
