"""The backend for Django's tasks: what it stores, runs and gives back."""

import asyncio
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, transaction
from django.test import override_settings

from pgqueue import App
from tests.conftest import scalar, work
from tests.django_site import django_on
from tests.harness import Conn

BACKEND = "pgqueue.django.PgqueueBackend"
ENDED = "select count(*) = 0 from pgqueue.job_live where id = any(%s)"
JOBS = "select count(*) from pgqueue.job"


@pytest.fixture
def samples(dsn: str) -> Iterator[ModuleType]:
    """The tasks of the project, whose database is that of the test."""
    with django_on(dsn), override_settings(TASKS={"default": {"BACKEND": BACKEND, "QUEUES": []}}):
        from tests.edges.django import samples

        samples.RAN.clear()
        yield samples
        app_of().close()


def app_of() -> App:
    from pgqueue.django.interface import task_backends

    app: App = task_backends["default"].app
    return app


def run(*results: Any) -> None:
    """Let a worker run until these have ended; read them anew."""
    ids = [int(result.id) for result in results]

    async def ended() -> None:
        app = app_of()
        with psycopg.connect(app.dsn, autocommit=True) as conn:
            await work(app, lambda: scalar(conn, ENDED, ids), queues=("default", "other"))

    asyncio.run(ended())
    for result in results:
        result.refresh()


def test_a_job_belongs_to_the_atomic_block(samples: ModuleType, conn: Conn) -> None:
    with transaction.atomic():
        samples.add.enqueue(1)
        assert scalar(conn, JOBS) == 0
        with transaction.atomic():
            samples.add.enqueue(2)
            transaction.set_rollback(True)
    with transaction.atomic():
        samples.add.enqueue(3)
        transaction.set_rollback(True)
    samples.add.enqueue(4)
    assert scalar(conn, "select json_agg(args -> 'first' order by id)::text from pgqueue.job") == "[1, 4]"


def test_a_result_of_a_job_that_waits(samples: ModuleType) -> None:
    result = samples.add.enqueue(1, third=4)
    assert (result.status, result.is_finished, result.attempts) == ("READY", False, 0)
    assert (result.args, result.kwargs, result.backend) == ([1], {"third": 4}, "default")
    assert (result.started_at, result.last_attempted_at, result.finished_at) == (None, None, None)
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    again = samples.add.get_result(result.id)
    assert again == result
    assert dataclasses.asdict(again) == dataclasses.asdict(result)


def test_a_result_of_a_job_that_ran(samples: ModuleType) -> None:
    result = samples.add.enqueue(1, second=5)
    run(result)
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", [1, 5, 3], 1)
    assert result.enqueued_at < result.started_at == result.last_attempted_at < result.finished_at
    assert (result.errors, len(result.worker_ids)) == ([], 1)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "stored"),
    [
        ("add", [1], {}, {"first": 1}),
        ("add", [1, 4], {"third": 9}, {"first": 1, "second": 4, "third": 9}),
        ("add", [], {"second": 4, "first": "x"}, {"first": "x", "second": 4}),
        ("anything", [1, [2]], {"x": {"y": None}}, {"args": [1, [2]], "kwargs": {"x": {"y": None}}}),
        ("anything", [], {}, {"args": [], "kwargs": {}}),
        ("by_position", ["a"], {}, {"args": ["a"], "kwargs": {}}),
    ],
)
def test_calls_are_stored_by_name_or_as_they_are_given(
    samples: ModuleType, conn: Conn, name: str, args: list[Any], kwargs: dict[str, Any], stored: dict[str, Any]
) -> None:
    result = getattr(samples, name).enqueue(*args, **kwargs)
    by_position = str(len(args)) if args and name == "add" else None
    row = conn.execute("select args, headers ->> 'positional' from pgqueue.job").fetchone()
    assert row == (stored, by_position)
    assert (result.args, result.kwargs) == (args, kwargs)
    read = getattr(samples, name).get_result(result.id)
    assert (read.args, read.kwargs) == (args, kwargs)
    run(result)
    assert result.status == "SUCCESSFUL"
    assert (result.args, result.kwargs) == (args, kwargs)
    if name == "anything":
        assert result.return_value == {"args": args, "kwargs": kwargs}


def test_annotations_change_no_argument(samples: ModuleType) -> None:
    run(samples.add.enqueue("1"))
    assert samples.RAN == ["1"]


def test_a_job_that_sql_has_inserted_runs_by_the_names(samples: ModuleType, conn: Conn) -> None:
    samples.add.enqueue(0)
    job = scalar(conn, "select pgqueue.enqueue(%s, '{\"first\": 7}')", samples.add.module_path)
    result = samples.add.get_result(str(job))
    assert (result.args, result.kwargs) == ([], {"first": 7})
    run(result)
    assert result.return_value == [7, 2, 3]


def test_without_django_tenants_a_header_called_tenant_is_the_callers(samples: ModuleType, conn: Conn) -> None:
    samples.add.enqueue(0)
    job = app_of().using(headers={"tenant": "eu"}).enqueue(samples.add.module_path, {"first": 7})
    result = samples.add.get_result(str(job.id))
    run(result)
    assert result.return_value == [7, 2, 3]


@pytest.mark.parametrize("call", [([], {}), ([1, 2, 3, 4], {}), ([1], {"fourth": 4}), ([datetime.now(UTC)], {})])
def test_a_call_that_does_not_fit_or_is_no_json_is_refused(samples: ModuleType, conn: Conn, call: Any) -> None:
    with pytest.raises(TypeError):
        samples.add.enqueue(*call[0], **call[1])
    assert scalar(conn, JOBS) == 0


def test_async_verbs(samples: ModuleType) -> None:
    async def go() -> Any:
        result = await samples.anything.aenqueue(1)
        found = await samples.anything.aget_result(result.id)
        assert found == result
        await result.arefresh()
        await sync_to_async(connections.close_all)()
        return result

    result = asyncio.run(go())
    run(result)
    assert result.return_value == {"args": [1], "kwargs": {}}


def test_an_async_verb_inside_a_block_belongs_to_it(samples: ModuleType, conn: Conn) -> None:
    def block() -> None:
        with transaction.atomic():
            async_to_sync(samples.add.aenqueue)(1)
            transaction.set_rollback(True)

    block()
    assert scalar(conn, JOBS) == 0


def test_errors_and_attempts_of_a_job_that_is_tried_again(samples: ModuleType, conn: Conn) -> None:
    result = samples.shaky.enqueue(2)
    assert conn.execute("select max_attempts, tags from pgqueue.job").fetchone() == (3, ["shaky"])
    run(result)
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", "at last", 3)
    assert [error.exception_class for error in result.errors] == [ValueError, ValueError]
    assert result.errors[1].traceback.endswith("ValueError: failure 2\n")
    assert "pgqueue/django" not in result.errors[0].traceback
    assert result.started_at < result.last_attempted_at


def test_a_job_between_two_attempts_is_ready(samples: ModuleType, conn: Conn) -> None:
    slow = samples.task(max_attempts=2, retry=[3600])(samples.shaky.func)
    result = slow.enqueue(9)
    asyncio.run(work(app_of(), lambda: scalar(conn, "select count(*) from pgqueue.attempt where error is not null")))
    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == ("READY", 1, 1)


@pytest.mark.parametrize(("name", "error"), [("retry", "pgqueue.Retry"), ("exit", "builtins.SystemExit")])
def test_a_job_without_attempts_left_has_failed(samples: ModuleType, name: str, error: str) -> None:
    result = samples.verdict.enqueue(name)
    run(result)
    assert (result.status, result.attempts) == ("FAILED", 3)
    assert {each.exception_class_path for each in result.errors} == {error}
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


def test_a_cancelled_job_has_failed_and_says_so(samples: ModuleType) -> None:
    result, waiting = samples.verdict.enqueue("cancel"), samples.add.using(run_after=datetime(2100, 1, 1, tzinfo=UTC))
    later = waiting.enqueue(1)
    app_of().cancel(int(later.id))
    run(result, later)
    for each in (result, later):
        assert each.status == "FAILED"
        assert each.errors[-1].exception_class_path == "pgqueue.JobWasCancelled"
        assert each.errors[-1].exception_class.__name__ == "JobWasCancelled"


def test_what_is_no_json_fails_as_django_says_and_is_not_done_again(samples: ModuleType) -> None:
    result = samples.no_json.enqueue()
    run(result)
    assert (result.status, result.attempts, samples.RAN) == ("FAILED", 1, ["worked"])
    assert result.errors[0].exception_class is TypeError
    assert "Unsupported type" in result.errors[0].traceback


def test_queue_priority_and_time(samples: ModuleType, conn: Conn) -> None:
    moment = datetime.now(UTC) + timedelta(hours=1)
    bound = samples.add.using(queue_name="other", priority=-100, run_after=moment)
    result = bound.enqueue(1)
    row = conn.execute("select queue, priority, run_at, phase from pgqueue.job").fetchone()
    assert row == ("other", -100, moment, "scheduled")
    assert result.task == bound
    assert samples.add.get_result(result.id) == result
    conn.execute("update pgqueue.job_live set run_at = now()")
    assert samples.add.get_result(result.id).task.run_after == moment
    run(result)
    assert result.status == "SUCCESSFUL"


def test_a_higher_priority_runs_sooner(samples: ModuleType) -> None:
    for number in (-100, 0, 100):
        samples.add.using(priority=number).enqueue(number)
    asyncio.run(_work_one_by_one())
    assert samples.RAN == [100, 0, -100]


async def _work_one_by_one() -> None:
    with psycopg.connect(app_of().dsn, autocommit=True) as own:
        await work(app_of(), lambda: scalar(own, "select count(*) = 0 from pgqueue.job_live"), concurrency=1)


def test_options_of_a_call(samples: ModuleType, conn: Conn) -> None:
    bound = samples.add.using(tags=["a"], idempotency_key="k").using(priority=3)
    first, again = bound.enqueue(1), bound.enqueue(1)
    assert first.id == again.id
    assert conn.execute("select tags, priority from pgqueue.job").fetchone() == (["a"], 3)
    with pytest.raises(TypeError, match="has no option 'countdown': did you mean delay"):
        samples.add.using(countdown=3)
    with pytest.raises(TypeError, match="has no option 'max_retries': did you mean max_attempts"):
        samples.task(max_retries=3)


def test_jobs_in_order_take_no_priority_of_their_own(samples: ModuleType, conn: Conn) -> None:
    samples.in_order.enqueue("a")
    assert scalar(conn, "select count(*) from pgqueue.job where waits_for = 'turn'") == 1


def test_a_context(samples: ModuleType) -> None:
    result, second = samples.attempt_of.enqueue("x"), samples.second_attempt.enqueue()
    run(result, second)
    assert result.return_value == ["x", 1, result.id, "RUNNING", int(result.id)]
    assert second.return_value == [2, ["builtins.ValueError"]]


@pytest.mark.parametrize("fail", [False, True], ids=["good", "bad"])
def test_exactly_once_in_django_s_transaction(samples: ModuleType, conn: Conn, fail: bool) -> None:
    conn.execute("create table public.effect (note text)")
    result = samples.once.enqueue("paid", fail)
    run(result)
    assert result.status == ("FAILED" if fail else "SUCCESSFUL")
    assert fail or result.return_value == "paid"
    assert scalar(conn, "select count(*) from public.effect") == int(not fail)
    assert scalar(conn, "select count(*) from pgqueue.job where task like '%%.add'") == int(not fail)


@pytest.mark.parametrize("name", ["add", "anything"])
def test_signals_are_sent_where_it_happens(samples: ModuleType, name: str) -> None:
    from pgqueue.django import PgqueueBackend
    from pgqueue.django.interface import task_enqueued, task_finished, task_started

    sent: list[Any] = []

    def hear(sender: Any, task_result: Any, signal: Any, **_: Any) -> None:
        with connection.cursor() as cursor:  # receivers may use the ORM
            cursor.execute("select 1")
        sent.append((signal, sender, task_result.id, str(task_result.status)))

    for signal in (task_enqueued, task_started, task_finished):
        signal.connect(hear)
    try:
        result = getattr(samples, name).enqueue(1)
        run(result)
    finally:
        for signal in (task_enqueued, task_started, task_finished):
            signal.disconnect(hear)
    assert sent == [
        (task_enqueued, PgqueueBackend, result.id, "READY"),
        (task_started, PgqueueBackend, result.id, "RUNNING"),
        (task_finished, PgqueueBackend, result.id, "SUCCESSFUL"),
    ]


def test_a_task_that_is_tried_again_has_not_finished(samples: ModuleType) -> None:
    from pgqueue.django.interface import task_finished, task_started

    sent: list[str] = []

    def hear(signal: Any, task_result: Any, **_: Any) -> None:
        sent.append(str(task_result.status))
        raise RuntimeError("a receiver that fails changes nothing")

    for signal in (task_started, task_finished):
        signal.connect(hear)
    try:
        result, good = samples.shaky.enqueue(9), samples.add.enqueue(1)
        run(result, good)
    finally:
        for signal in (task_started, task_finished):
            signal.disconnect(hear)
    assert sorted(sent) == ["FAILED", "RUNNING", "RUNNING", "RUNNING", "RUNNING", "SUCCESSFUL"]
    assert (result.status, good.status) == ("FAILED", "SUCCESSFUL")


def test_ids_that_are_none_of_the_backend(samples: ModuleType) -> None:
    from pgqueue.django.interface import TaskResultDoesNotExist, TaskResultMismatch

    other = app_of().enqueue("not.of.django")
    for each in ("123456", "x", "", "9" * 30, str(other.id)):
        with pytest.raises(TaskResultDoesNotExist):
            samples.add.get_result(each)
    with pytest.raises(TaskResultMismatch):
        samples.add.get_result(samples.anything.enqueue().id)


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({}, []),
        ({"OPTIONS": {"database": "elsewhere"}}, ["pgqueue.E001"]),
        ({"OPTIONS": {"max_attempts": 0}}, ["pgqueue.E003"]),
        ({"OPTIONS": {"max_retries": 3}}, ["pgqueue.E003"]),
        ({"OPTIONS": {"app": "no.such.module:app"}}, ["pgqueue.E003"]),
        ({"OPTIONS": {"app": "tests.edges.django.samples:RAN"}}, ["pgqueue.E003"]),
        ({"OPTIONS": {"app": App("dbname=x"), "queue": "q"}}, ["pgqueue.E003"]),
    ],
)
def test_checks(samples: ModuleType, params: dict[str, Any], found: list[str]) -> None:
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, **params}}):
        from pgqueue.django.interface import task_backends

        assert [problem.id for problem in task_backends["default"].check()] == found


def test_the_app_that_options_name_runs_the_tasks(samples: ModuleType, dsn: str, conn: Conn) -> None:
    app = App(dsn, max_attempts=7)
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": {"app": app}}}):
        samples.add.enqueue(1)
        assert scalar(conn, "select max_attempts from pgqueue.job") == 7
        assert samples.add.module_path in app.tasks.names()
    app.close()


def test_a_job_belongs_to_the_transaction_of_the_alias_that_options_name(samples: ModuleType, conn: Conn) -> None:
    connections.settings["second"] = dict(connections.settings["default"])
    try:
        with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": {"database": "second"}}}):
            with transaction.atomic(using="second"):
                samples.add.enqueue(1)
                assert scalar(conn, JOBS) == 0
                transaction.set_rollback(True, using="second")
            with transaction.atomic():
                result = samples.add.enqueue(2)
                assert scalar(conn, JOBS) == 1
                transaction.set_rollback(True)
            run(result)
            assert result.return_value == [2, 2, 3]
    finally:
        connections["second"].close()
        del connections["second"], connections.settings["second"]


def test_the_dashboard_shows_the_app_of_tasks_where_no_other_is_named(samples: ModuleType) -> None:
    from pgqueue.django.mounted import mounted

    mounted.cache_clear()
    assert mounted().dashboard.app is app_of()
    with override_settings(TASKS={}), pytest.raises(ImproperlyConfigured, match="does not name the app"):
        mounted()


def test_tasks_leave_no_connection_of_django_behind(samples: ModuleType, conn: Conn) -> None:
    opened = "select count(*) from pg_stat_activity where datname = current_database() and application_name = ''"
    connections.close_all()
    before = scalar(conn, opened)
    for _ in range(20):
        samples.shaky.enqueue(0)
    connections.close_all()
    done = "select count(*) = 20 from pgqueue.job_finished"
    asyncio.run(work(app_of(), lambda: scalar(conn, done) and scalar(conn, opened) == before, concurrency=4))
    assert scalar(conn, "select count(*) from pgqueue.job where state = 'succeeded'") == 20


def test_the_app_follows_the_database_that_a_test_run_puts_in_its_place(samples: ModuleType, dsn: str) -> None:
    app, settings = app_of(), connections["default"].settings_dict
    name = settings["NAME"]
    try:
        settings["NAME"] = "test_of_it"
        assert "dbname=test_of_it" in app_of().dsn
    finally:
        settings["NAME"] = name
    assert app_of() is app
    assert "test_of_it" not in app.dsn
