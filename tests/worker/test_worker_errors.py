"""Whatever a task raises or returns, its attempt is recorded, its slot comes free and the worker goes on."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
from pydantic import AfterValidator

from pgqueue import App, Cancel, ErrorInfo, Job, Retry, Snooze
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import DEADLINE, scalar, work
from tests.harness import Process, insert_job

Conn = psycopg.Connection[Any]


def run_beside_another(app: App, conn: Conn, job_id: int) -> Job:
    """Run the job in a worker of one slot, then another: it has to end, and to leave the worker able to work."""

    @app.task(name="another")
    async def another() -> None: ...

    after = app.using(priority=-100).enqueue("another")
    ended = "select count(*) = 2 from pgqueue.job where id in (%s, %s) and state in ('succeeded','failed','cancelled')"
    asyncio.run(work(app, lambda: scalar(conn, ended, job_id, after.id), concurrency=1, shutdown_timeout=1.0))
    assert app.get(after.id).state == "succeeded"
    return app.get(job_id)


class BrokenStr(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class BrokenStrAndRepr(BrokenStr):
    def __repr__(self) -> str:
        raise RuntimeError("nor this")


class ExitingStr(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class EndlessStr(Exception):
    def __str__(self) -> str:
        return str(self)


class BrokenSnooze(Snooze):
    def __init__(self) -> None: ...


class BrokenCancel(Cancel):
    def __str__(self) -> str:
        raise RuntimeError("no reason")


HOSTILE: list[Callable[[], BaseException]] = [
    SystemExit,
    KeyboardInterrupt,
    asyncio.CancelledError,
    GeneratorExit,
    BrokenStr,
    BrokenStrAndRepr,
    EndlessStr,
    BrokenSnooze,
    MemoryError,
    lambda: ExceptionGroup("group", [ValueError("a"), KeyError("b")]),
    lambda: ValueError("NUL \x00 in it"),
    lambda: ValueError("lone surrogate \ud800 in it"),
    lambda: ValueError(b"\xff", ["a", {"b": object()}]),
]
NAMES = ["SystemExit", "KeyboardInterrupt", "CancelledError", "GeneratorExit", "broken str", "broken str and repr",
         "endless str", "broken snooze", "MemoryError", "group", "NUL", "surrogate", "objects"]  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=NAMES)
def test_whatever_a_sync_task_raises_its_attempt_is_recorded(
    app: App, conn: Conn, make: Callable[[], BaseException]
) -> None:
    @app.task(max_attempts=1)
    def task() -> None:
        raise make()

    job = run_beside_another(app, conn, task.enqueue().id)
    assert (job.state, len(job.errors)) == ("failed", 1)


@pytest.mark.parametrize("make", HOSTILE, ids=NAMES)
def test_whatever_an_async_task_raises_its_attempt_is_recorded(
    app: App, conn: Conn, make: Callable[[], BaseException]
) -> None:
    @app.task(max_attempts=1)
    async def task() -> None:
        raise make()

    job = run_beside_another(app, conn, task.enqueue().id)
    assert (job.state, len(job.errors)) == ("failed", 1)


@pytest.mark.parametrize("make", [ExitingStr, EndlessStr, BrokenStrAndRepr])
def test_describing_an_error_never_raises_whatever_its_str_raises(make: type[BaseException]) -> None:
    # Not in a worker: a SystemExit that escaped here would end the event loop, and with it the test run.
    try:
        described = ErrorInfo.of(make())
    except SystemExit:
        pytest.fail("str() of the exception ended the process")
    assert make.__name__ in described.type


def test_stop_iteration_in_a_sync_task_is_recorded_as_what_it_is(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def task() -> int:
        return next(iter([]))

    job = run_beside_another(app, conn, task.enqueue().id)
    assert job.state == "failed"
    assert job.errors[0].type == "StopIteration"


def test_a_cancel_without_a_readable_reason_still_cancels(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def task() -> None:
        raise BrokenCancel("x")

    assert run_beside_another(app, conn, task.enqueue().id).state == "cancelled"


def test_what_postgres_cannot_store_in_a_message_is_written_out(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def task() -> None:
        raise ValueError("a\x00b\ud800c")

    job = run_beside_another(app, conn, task.enqueue().id)
    assert job.errors[0].message == r"a\x00b\ud800c"


def test_a_message_of_a_megabyte_is_cut_in_the_middle(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def task() -> None:
        raise ValueError("a" * 500_000 + "z" * 500_000)

    job = run_beside_another(app, conn, task.enqueue().id)
    message, traceback = job.errors[0].message, job.errors[0].traceback
    assert message.startswith("aaa")
    assert message.endswith("zzz")
    assert "characters left out" in message
    assert len(message) < 11_000
    assert traceback is not None
    assert len(traceback) < 21_000


@pytest.mark.parametrize(
    "result",
    [object(), float("nan"), {"a": float("inf")}, "NUL \x00", "lone \ud800", {1: [object()]}, 10**5000],
    ids=["object", "nan", "inf", "NUL", "surrogate", "nested", "huge int"],
)
def test_a_job_whose_result_cannot_be_stored_has_succeeded_and_its_transition_says_why(
    app: App, conn: Conn, result: object
) -> None:
    @app.task
    def task() -> object:
        return result

    job = run_beside_another(app, conn, task.enqueue().id)
    assert (job.state, job.result) == ("succeeded", None)
    why = "select error->>'message' from pgqueue.transition where to_state = 'succeeded' and error is not null"
    assert scalar(conn, why)


def refuse(_: int) -> int:
    raise KeyError("a validator may raise only ValueError and AssertionError")


def test_a_validator_that_raises_anything_else_ends_the_attempt_and_not_the_slot(app: App, conn: Conn) -> None:
    @app.task(name="task", max_attempts=1)
    def task(n: Annotated[int, AfterValidator(refuse)]) -> None: ...

    job = run_beside_another(app, conn, insert_job(conn, task="task", args='{"n": 1}', max_attempts=1))
    assert (job.state, len(job.errors)) == ("failed", 1)


class BrokenPolicy:
    def delay(self, attempt: int) -> float:
        raise ZeroDivisionError


class NonePolicy:
    def delay(self, attempt: int) -> float:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize("policy", [BrokenPolicy(), NonePolicy()], ids=["raises", "returns None"])
def test_a_retry_policy_that_is_broken_does_not_lose_the_job(app: App, conn: Conn, policy: Any) -> None:
    @app.task(max_attempts=2, retry=policy)
    async def task() -> None:
        raise ValueError("the error of the task")

    job = task.enqueue()
    left = "select state <> 'running' from pgqueue.job where id = %s and lease > 0"
    asyncio.run(work(app, lambda: scalar(conn, left, job.id), shutdown_timeout=1.0))
    assert app.get(job.id).errors[0].message == "the error of the task"


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), 1e300, -5.0], ids=str)
def test_a_retry_with_a_delay_that_is_no_time_keeps_the_job(app: App, conn: Conn, delay: float) -> None:
    @app.task(max_attempts=2)
    async def task() -> None:
        raise Retry(delay=delay)

    job = task.enqueue()
    left = "select state <> 'running' from pgqueue.job where id = %s and lease > 0"
    asyncio.run(work(app, lambda: scalar(conn, left, job.id), shutdown_timeout=1.0))
    assert app.get(job.id).errors[0].message == "retry asked for"


@pytest.mark.parametrize("column", ["run_at", "created_at"])
@pytest.mark.parametrize("moment", ["-infinity", "infinity", "0044-03-15 BC"])
def test_a_time_that_no_client_can_read_is_refused_by_the_table(conn: Conn, column: str, moment: str) -> None:
    # A claim that commits and then cannot be read would strand the whole batch.
    job = insert_job(conn)
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute(f"update pgqueue.job_live set {column} = %s where id = %s", (moment, job))


@pytest.mark.parametrize(
    "columns",
    [{"args": '{"n": ' + "[" * 3000 + "]" * 3000 + "}"}, {"args": '{"n": 1e400}'}, {"headers": '{"a": 1e400}'}],
    ids=["deep", "huge number", "huge number in the headers"],
)
def test_a_row_with_strange_contents_does_not_stop_the_worker(app: App, conn: Conn, columns: dict[str, str]) -> None:
    @app.task(name="task", max_attempts=1)
    def task(n: Any = None) -> None: ...

    job = insert_job(conn, task="task", max_attempts=1, **columns)
    ended = "select count(*) = 1 from pgqueue.job where id = %s and state in ('succeeded', 'failed')"
    asyncio.run(work(app, lambda: scalar(conn, ended, job)))


def test_a_job_with_deeply_nested_arguments_can_be_read(app: App, conn: Conn) -> None:
    job = insert_job(conn, args='{"n": ' + "[" * 3000 + "]" * 3000 + "}")
    try:
        app.get(job)
    except RecursionError:
        pytest.fail("reading the job raised RecursionError")


async def cancel_own_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def cancel_by_a_timer() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.Event().wait()


async def cancel_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.Event().wait())
        await cancel_own_task()


@pytest.mark.parametrize("cancel", [cancel_own_task, cancel_by_a_timer, cancel_in_a_group])
@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "middleware"])
def test_an_attempt_that_cancels_itself_is_charged(
    app: App, conn: Conn, cancel: Callable[[], Any], timeout: float | None, wrapped: bool
) -> None:
    if wrapped:

        @app.middleware
        async def around(_: object, inner: Callable[[], Any]) -> None:
            await inner()

    @app.task(max_attempts=2, retry=[0.0], timeout=timeout)
    async def task() -> None:
        await cancel()

    job = run_beside_another(app, conn, task.enqueue().id)
    assert (job.state, job.attempt, job.reason) == ("failed", 2, "exhausted")
    assert [error.type for error in job.errors] == ["asyncio.exceptions.CancelledError"] * 2


def test_a_task_that_has_ended_counts_though_its_middleware_is_cancelled(app: App, conn: Conn) -> None:
    @app.middleware
    async def around(_: object, inner: Callable[[], Any]) -> None:
        await inner()
        await cancel_own_task()

    @app.task(max_attempts=1)
    async def task() -> int:
        return 7

    job = run_beside_another(app, conn, task.enqueue().id)
    assert (job.state, job.result) == ("succeeded", 7)


SHOP = """
import asyncio, os, pgqueue
app = pgqueue.App()

@app.task(retry=[0.0])
async def cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0)

@app.task
async def another() -> int:
    return os.getpid()
"""


def test_a_job_that_cancels_every_task_of_the_loop_does_not_end_its_worker(
    app: App, conn: Conn, dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    poison = app.using(max_attempts=2).enqueue("shop.cancel_all")
    another = app.using(priority=-100).enqueue("shop.another")
    with Process(tmp_path, dsn, "work", "-A", "shop:app", "-c", "1", "--poll", "0.1") as worker:
        assert another.wait(DEADLINE) == worker.pid
        assert app.get(poison.id).state == "failed"
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_job_that_cancels_every_task_of_the_loop_is_charged(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    async def cancel_all() -> None:
        for task in asyncio.all_tasks():  # among them the test's, which runs the worker
            task.cancel()
        await asyncio.sleep(0)

    job = cancel_all.enqueue()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Worker(app, WorkerSettings(shutdown_timeout=1.0)).run())
    assert app.get(job.id).state == "failed"


def test_each_line_about_the_end_of_an_attempt_names_its_job(
    app: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(max_attempts=2, retry=[0.0])
    def fails() -> None:
        raise ValueError

    job = run_beside_another(app, conn, fails.enqueue().id)
    about = [vars(record) for record in caplog.records if record.getMessage().startswith(f"job {job.id} ")]
    assert [(line["job_id"], line["task"], line["attempt"]) for line in about] == [
        (job.id, job.task, n) for n in (1, 2)
    ]
