"""Calls in Celery's words: how arguments are stored, what options mean, in which transaction the job is."""

import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from pgqueue import testing
from pgqueue.celery import AsyncResult, Celery, Task, exceptions, group, shared_task
from pgqueue.errors import InvalidArguments, InvalidOption, InvalidTask
from tests.conftest import drain, scalar
from tests.harness import Conn, InThread

Run = Callable[..., None]
RICH = {
    "moment": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "day": date(2026, 1, 2),
    "clock": time(3, 4, 5),
    "price": Decimal("12.50"),
    "key": uuid.UUID(int=7),
    "raw": b"\x00\xff",
    "nested": [{"when": date(2026, 1, 2)}, None, True, 1.5, "x"],
}


def test_a_call_is_a_job_whose_arguments_stand_by_name(celery: Celery, conn: Conn, run: Run) -> None:
    seen: list[Any] = []

    @celery.task(name="mail")
    def mail(to: str, subject: str, *, body: str = "") -> str:
        seen.append((to, subject, body))
        return f"sent to {to}"

    result = mail.delay("ann", "hello", body="b")
    assert isinstance(result, AsyncResult)
    assert result.state == "PENDING"
    args = scalar(conn, "select args from pgqueue.job where id = %s", int(result.id))
    assert args == {"to": "ann", "subject": "hello", "body": "b"}
    run(celery)
    assert seen == [("ann", "hello", "b")]
    assert result.get(timeout=10) == "sent to ann"
    assert (result.state, result.ready(), result.successful(), result.result) == ("SUCCESS", True, True, "sent to ann")


def test_a_result_that_is_forgotten_is_gone_and_its_state_stays(celery: Celery, run: Run) -> None:
    @celery.task
    def double(n: int) -> int:
        return 2 * n

    @celery.task
    def fail() -> None:
        raise ValueError("no")

    waits = double.delay(1)
    waits.forget()  # nothing to forget yet, and what comes is kept, as in Celery
    last = (double.s(2) | double.s()).delay()
    failed, gone = fail.delay(), AsyncResult("99999", app=celery)
    members = group(double.s(n) for n in range(2)).delay()
    run(celery)
    assert (waits.get(timeout=10), last.get(timeout=10)) == (2, 8)
    for each in (waits, last, failed, gone, members):
        each.forget()
    for each in (waits, last, last.parent, *members):
        assert (each.state, each.result) == ("SUCCESS", None)
    assert (failed.state, str(failed.result)) == ("FAILURE", "no")


def test_a_function_of_any_signature_gets_its_arguments_as_they_were_given(
    celery: Celery, conn: Conn, run: Run
) -> None:
    seen: list[Any] = []

    @celery.task
    def anything(first: int, /, *rest: Any, **named: Any) -> None:
        seen.append((first, rest, named))

    result = anything.delay(1, 2, "three", to="ann", args="mine")
    args = scalar(conn, "select args from pgqueue.job where id = %s", int(result.id))
    assert args == {"args": [1, 2, "three"], "kwargs": {"to": "ann", "args": "mine"}}
    run(celery)
    assert seen == [(1, (2, "three"), {"to": "ann", "args": "mine"})]


def test_values_that_json_does_not_have_come_back_as_they_were(celery: Celery, run: Run) -> None:
    seen: list[Any] = []

    @celery.task
    def echo(value: Any, *more: Any) -> Any:
        seen.append((value, more))
        return value

    result = echo.delay(RICH, *RICH.values())
    run(celery)
    assert seen == [(RICH, tuple(RICH.values()))]
    assert result.get(timeout=10) == RICH


def test_annotations_are_not_checked_as_in_celery_unless_pydantic_is_asked_for(celery: Celery, run: Run) -> None:
    seen: list[Any] = []

    @celery.task
    def loose(order_id: str, owner: "Unknown" = None) -> None:  # type: ignore[name-defined]  # noqa: F821
        seen.append(order_id)

    @celery.task(pydantic=True)
    def strict(when: datetime) -> None:
        seen.append(when)

    loose.delay(42)  # type: ignore[arg-type]
    strict.delay(datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(InvalidArguments, match="when"):
        strict.delay("never")  # type: ignore[arg-type]
    run(celery)
    assert sorted(seen, key=str) == [datetime(2026, 1, 1, tzinfo=UTC), 42]


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((), {}, "missing a required argument: 'n'"),
        ((1, 2), {}, "too many positional arguments"),
        ((), {"m": 1}, "missing a required argument"),
        (({1, 2},), {}, "n: set is no JSON"),
        (([{"a": object()}],), {}, "n.0.a: object is no JSON"),
        (({(1, 2): 3},), {}, "a key of type tuple"),
    ],
)
def test_a_call_that_cannot_be_stored_is_refused_before_anything_is_written(
    celery: Celery, conn: Conn, args: Any, kwargs: Any, what: str
) -> None:
    @celery.task
    def one(n: int) -> None: ...

    with pytest.raises(InvalidArguments, match=what):
        one.apply_async(args, kwargs)
    assert scalar(conn, "select count(*) from pgqueue.job") == 0


def test_options_of_a_call_are_those_of_its_job(celery: Celery, conn: Conn) -> None:
    celery.conf.priority_order = "low"

    @celery.task(queue="mail", priority=3)
    def one() -> None: ...

    plain = one.delay().job()
    assert plain is not None
    assert (plain.queue, plain.priority) == ("mail", -3)
    moment = datetime(2100, 1, 1, 12, tzinfo=UTC)
    job = one.apply_async(
        eta=moment, queue="other", priority=0, headers={"trace": 7}, expires=moment.replace(hour=13)
    ).job()
    assert job is not None
    assert (job.run_at, job.queue, job.priority) == (moment, "other", 0)
    assert job.headers == {"trace": "7", "expires": "2100-01-01T13:00:00+00:00"}
    later = one.apply_async(countdown=3600).job()
    assert later is not None
    assert later.run_at - later.created_at == timedelta(hours=1)
    naive = one.apply_async(eta=datetime(2100, 1, 1, 12)).job()
    assert naive is not None
    assert naive.run_at == moment


@pytest.mark.parametrize(
    ("broker", "given", "stored"), [("amqp://x", 9, 9), ("redis://x", 9, -9), ("sentinel://a;redis://b", 0, 0)]
)
def test_the_broker_says_which_priority_is_the_highest(dsn: str, broker: str, given: int, stored: int) -> None:
    from pgqueue import App
    from pgqueue.celery.exceptions import CeleryWarning

    with pytest.warns(CeleryWarning, match="is not used"):
        app = Celery("tests", broker=broker, pgqueue=App(dsn))

    @app.task(name="one")
    def one() -> None: ...

    job = one.apply_async(priority=given).job()
    assert job is not None
    assert job.priority == stored
    app.close()


def test_a_priority_whose_direction_is_not_known_is_asked_for(celery: Celery) -> None:
    @celery.task
    def one() -> None: ...

    with pytest.raises(InvalidOption, match="priority_order = 'high' or 'low'"):
        one.apply_async(priority=5)


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ({"exchange": "x"}, "queue="),
        ({"routing_key": "x"}, "queue="),
        ({"time_limit": 5}, "time_limit= in @app.task"),
        ({"serializer": "pickle"}, "JSON"),
        ({"ignore_result": True}, "belongs to the task"),
        ({"count_down": 5}, "did you mean countdown"),
        ({"task_id": "17"}, "not digits alone"),
        ({"connection": object()}, "using="),
    ],
)
def test_an_option_without_a_place_names_the_remedy(celery: Celery, conn: Conn, option: Any, remedy: str) -> None:
    @celery.task
    def one() -> None: ...

    with pytest.raises(InvalidOption, match=remedy):
        one.apply_async((), {}, **option)
    assert scalar(conn, "select count(*) from pgqueue.job") == 0


def test_options_of_tasks_without_a_place_name_the_remedy_too(celery: Celery) -> None:
    for option, remedy in (
        ({"routing_key": "a"}, "queue="),
        ({"serializer": "yaml"}, "JSON"),
        ({"retry_backof": 1}, "retry_backoff"),
    ):
        with pytest.raises(InvalidOption, match=remedy):
            celery.task(**option)(lambda: None)  # type: ignore[call-overload]
    with pytest.raises(InvalidTask, match="base="):
        celery.task(base=int)(lambda: None)


def test_a_task_id_of_the_callers_own_finds_the_job(celery: Celery, run: Run) -> None:
    seen: list[str] = []

    @celery.task(bind=True)
    def one(self: Task) -> int:
        seen.append(self.request.id or "")
        return 7

    assert celery.AsyncResult("export-1").state == "PENDING"
    result = one.apply_async(task_id="export-1")
    assert (result.id, result.state) == ("export-1", "PENDING")
    run(celery)
    assert seen == ["export-1"]
    assert celery.AsyncResult("export-1").get(timeout=10) == 7


def test_a_call_is_in_the_callers_transaction_where_the_app_is_bound(
    celery: Celery, conn: Conn, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    mine = connect()
    celery.bind(lambda: mine)

    @celery.task
    def one() -> None: ...

    one.delay()
    assert scalar(mine, "select count(*) from pgqueue.job") == 1
    assert scalar(conn, "select count(*) from pgqueue.job") == 0
    one.apply_async(transactional=False)
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
    (one.s() | one.si()).apply_async()
    mine.rollback()
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
    one.apply_async(using=mine)
    mine.commit()
    assert scalar(conn, "select count(*) from pgqueue.job") == 2


def test_send_task_takes_a_task_by_its_name(celery: Celery, conn: Conn, run: Run) -> None:
    seen: list[Any] = []

    @celery.task(name="known")
    def known(a: int, b: int = 0) -> None:
        seen.append((a, b))

    celery.send_task("known", args=[1], kwargs={"b": 2})
    stranger = celery.send_task("elsewhere.unknown", kwargs={"day": date(2026, 1, 2)}, queue="other")
    with pytest.raises(InvalidArguments, match="give kwargs"):
        celery.send_task("elsewhere.unknown", args=[1])
    job = stranger.job()
    assert job is not None
    assert (job.task, job.queue, job.args["day"]["__value__"]) == ("elsewhere.unknown", "other", "2026-01-02")
    stranger.revoke()
    run(celery)
    assert seen == [(1, 2)]
    assert stranger.state == "REVOKED"


def test_shared_tasks_belong_to_the_current_app(celery: Celery, run: Run) -> None:
    @shared_task(name="shared", bind=True, max_retries=1)
    def shared(self: Task, n: int) -> int:
        return n + self.request.retries

    late = shared.delay(1)

    @shared_task(name="later")
    def later(n: int) -> int:
        return n

    after = later.delay(2)  # its module was imported after the app was used
    run(celery)
    assert (late.get(timeout=10), after.get(timeout=10)) == (1, 2)
    assert set(celery.tasks) >= {"shared", "later"}


def test_a_direct_call_runs_the_function(celery: Celery, conn: Conn) -> None:
    @celery.task(bind=True)
    def double(self: Task, n: int) -> int:
        assert self.request.called_directly
        return 2 * n

    assert double(4) == 8
    assert double.s(4)() == 8
    assert scalar(conn, "select count(*) from pgqueue.job") == 0


def test_two_functions_of_one_name_are_refused(celery: Celery) -> None:
    @celery.task(name="one")
    def one() -> None: ...

    with pytest.raises(InvalidTask, match="two functions"):

        @celery.task(name="one")
        def other() -> None: ...


def test_a_wait_for_an_id_of_the_callers_own_begins_before_its_job_exists(celery: Celery, conn: Conn) -> None:
    @celery.task
    def one() -> int:
        return 7

    celery.complete()
    waiting = InThread(lambda: celery.AsyncResult("export-2").get(timeout=60))
    with pytest.raises(exceptions.TimeoutError, match="export-3"):
        celery.AsyncResult("export-3").get(timeout=0.01)
    assert not waiting.done
    one.apply_async(task_id="export-2")
    drain(celery.pgqueue, conn)
    assert waiting.result() == 7


def test_jobs_of_it_run_in_tests_without_a_worker(celery: Celery) -> None:
    @celery.task(bind=True, max_retries=1)
    def again(self: Task, n: int) -> int:
        if self.request.retries == 0:
            raise self.retry(countdown=600)
        return n

    @celery.task
    def limited(n: int) -> int:
        return n

    with testing.connections.rolled_back(celery.pgqueue.database) as mine, testing.using(celery.pgqueue, mine) as jobs:
        again.delay(3)
        (limited.s(1) | again.s()).apply_async()
        jobs.assert_enqueued(again.name, {"n": 3})
        drained = jobs.drain(with_scheduled=True)
        assert (drained.succeeded, drained.retried) == (3, 2)
