"""Headers that callers give: every way of enqueueing carries them, and those that are ours are refused."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from pgqueue import App, Context, DeadFilter, InvalidOption, JobFilter, Unique
from pgqueue.tasks.headers import MAX_BYTES
from tests.conftest import drain, scalar
from tests.harness import Conn
from tests.scheduler.ticking import fire

GIVEN = {"tenant": "7", "traceparent": "00-1-2-01", "note": 'a "b"\nÄ'}


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def seen(app: App) -> list[dict[str, Any]]:
    """The headers that each run of the task `look` has seen."""
    seen: list[dict[str, Any]] = []

    @app.task(name="look", version=2, upcasters={1: lambda args: args}, max_crashes=9)
    def look(ctx: Context, n: int = 0) -> None:
        seen.append(ctx.headers)

    return seen


CALLS: list[Any] = [
    lambda task, conn: task.using(conn, headers=GIVEN).enqueue(n=1),
    lambda task, conn: task.using(conn, headers=GIVEN).enqueue_many([{"n": 1}, {"n": 2}]),
    lambda task, conn: task.using(conn, headers=GIVEN, unique=Unique()).enqueue(n=1),
    lambda task, conn: task.using(conn, headers=GIVEN, unique=Unique()).enqueue_many([{"n": 1}, {"n": 2}]),
    lambda task, conn: task.using(conn, headers=GIVEN, expires=60).enqueue(n=1),
    lambda task, conn: asyncio.run(task.using(headers=GIVEN).aenqueue(n=1)),
]


@pytest.mark.parametrize("call", CALLS)
def test_the_task_sees_the_headers_of_the_call(app: App, conn: Conn, seen: list[dict[str, Any]], call: Any) -> None:
    call(_task(app), conn)
    drain(app, conn)
    assert seen
    assert all(headers == GIVEN for headers in seen)


def test_a_job_by_name_carries_headers_too(app: App, conn: Conn, seen: list[dict[str, Any]]) -> None:
    app.using(conn, headers=GIVEN).enqueue("look")
    drain(app, conn)
    assert seen == [GIVEN]


def test_headers_and_an_idempotency_key_stand_beside_each_other(
    app: App, conn: Conn, seen: list[dict[str, Any]]
) -> None:
    task = _task(app)
    task.using(conn, headers=GIVEN, idempotency_key="k1").enqueue(n=1)
    task.using(conn, headers=GIVEN, idempotency_key=["k2", "k3"]).enqueue_many([{"n": 1}, {"n": 2}])
    task.using(conn, headers=GIVEN, idempotency_key=["k4", None]).enqueue_many([{"n": 1}, {"n": 2}])
    drain(app, conn)
    keys = [headers.pop("idempotency_key", None) for headers in seen]
    assert sorted(filter(None, keys)) == ["k1", "k2", "k3", "k4"]
    assert seen == [GIVEN] * 5


def test_a_job_that_takes_the_place_of_a_waiting_one_brings_its_headers(
    app: App, conn: Conn, seen: list[dict[str, Any]]
) -> None:
    task = _task(app)
    unique = {"unique": Unique(on_conflict="replace")}
    task.using(conn, headers={"old": "1"}, **unique).enqueue(n=1)
    task.using(conn, headers=GIVEN, **unique).enqueue(n=1)
    drain(app, conn)
    assert seen == [GIVEN]


def test_a_schedule_gives_its_headers_to_the_job_of_each_tick(
    app: App, conn: Conn, dsn: str, seen: list[dict[str, Any]]
) -> None:
    app.schedules.create("s", "look", timedelta(hours=1), headers={"tenant": "1"})
    app.schedules.edit("s", headers=GIVEN)
    assert app.schedules.definition("s").job.headers is not None
    app.schedules.run("s")
    conn.execute("update pgqueue.schedule set next_tick = now()")
    assert fire(app, dsn) == 1
    drain(app, conn)
    assert [headers.pop("schedule") for headers in seen] == ["s", "s"]
    assert all(headers.pop("tick") for headers in seen)
    assert seen == [GIVEN, GIVEN]


def test_a_job_shows_the_headers_that_its_task_reads(app: App, conn: Conn, seen: list[dict[str, Any]]) -> None:
    task = _task(app)
    given = task.using(conn, headers=GIVEN).enqueue(n=1)
    keyed = task.using(conn, headers=GIVEN, idempotency_key="k").enqueue(n=2)
    bare = app.using(conn).enqueue("elsewhere")
    assert (given.headers, keyed.headers, bare.headers) == (GIVEN, GIVEN | {"idempotency_key": "k"}, {})
    assert scalar(conn, "select headers ? '$version' from pgqueue.job where id = %s", given.id)
    for job in (given, keyed, bare):
        assert app.get(job.id).headers == job.headers
    assert [job.headers for job in app.jobs.list(JobFilter(task="twin"))] == [keyed.headers, given.headers]
    drain(app, conn)
    assert seen == [given.headers, keyed.headers]
    assert app.get(given.id).headers == GIVEN


def test_a_dead_letter_shows_its_headers(app: App, conn: Conn) -> None:
    @app.task(name="fails", max_attempts=1)
    def fails() -> None:
        raise ValueError

    job = fails.using(conn, headers=GIVEN).enqueue()
    drain(app, conn)
    assert app.get(job.id).headers == GIVEN
    assert [dead.headers for dead in app.dead.list(DeadFilter(task="fails"))] == [GIVEN]


@pytest.mark.parametrize(
    ("stored", "shown"),
    [('{"n": 1, "$version": 2}', {"n": 1}), ('{"n": ' + "9" * 5000 + "}", {})],
)
def test_headers_that_sql_has_written_are_shown_where_python_can_read_them(
    app: App, conn: Conn, stored: str, shown: dict[str, Any]
) -> None:
    job = app.using(conn).enqueue("t")
    conn.execute("update pgqueue.job_live set headers = %s::jsonb", [stored])
    assert app.get(job.id).headers == shown


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"$version": "1"}, r"header '\$version' is pgqueue's own"),
        ({"tick": "x"}, r"header 'tick' is pgqueue's own"),
        ({"idempotency_key": "x"}, "is pgqueue's own"),
        ({"": "x"}, "1 to 100 printable characters"),
        ({"a" * 101: "x"}, "1 to 100 printable characters"),
        ({"a\n": "x"}, "1 to 100 printable characters"),
        ({1: "x"}, "1 to 100 printable characters"),
        ({"a": 1}, "header 'a' cannot be used: give a text"),
        ({"a": "\0"}, "give a text without NUL"),
        ({"a": "\ud800"}, "give a text without NUL"),
        ({str(n): "" for n in range(51)}, "at most 50 texts"),
        ({"a": "x" * MAX_BYTES}, r"headers of \d+ bytes cannot be used: give at most 8192"),
        ([("a", "b")], "give a dict"),
    ],
)
def test_headers_that_cannot_be_used_are_refused_before_anything_is_written(
    app: App, conn: Conn, seen: list[dict[str, Any]], headers: Any, message: str
) -> None:
    task: Any = _task(app)
    for using in (task.using, app.using):
        with pytest.raises(InvalidOption, match=message):
            using(conn, headers=headers)
    with pytest.raises(InvalidOption, match=message):
        app.schedules.create("s", "look", 60, headers=headers)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0


def _task(app: App) -> Any:
    """The task, with its verbs, as the module of an app has it."""
    return app.task(name="twin", version=2, upcasters={1: lambda args: args})(app.tasks["look"].function)
