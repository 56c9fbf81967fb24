"""Tasks in child processes: their results, errors, verdicts, contexts and prints."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pgqueue import App, Cancel, Context, Fail, Retry, Snooze
from pgqueue.jobs.outcome import (
    AskedCancel,
    AskedFail,
    AskedRetry,
    AskedSnooze,
    Outcome,
    Raised,
    Succeeded,
    UnknownHere,
)
from pgqueue.tasks.context import Signals
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.completion import Completion
from tests.worker.children.scenes import NOW, job, message, one, own_process, play, value


def test_a_sync_task_runs_in_another_process_and_its_result_comes_back(app: App) -> None:
    assert value(one(app, job("pid"))) != os.getpid()


def test_an_async_task_runs_on_an_event_loop_of_the_child(app: App) -> None:
    @app.task(name="task")
    async def task(n: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return {"n": n, "waited": await asyncio.sleep(0, True), "pid": os.getpid(), "loop": loop.is_running()}

    result = value(one(app, job("task", n=5)))
    assert (result["n"], result["waited"], result["loop"]) == (5, True, True)
    assert result["pid"] != os.getpid()


def test_a_sync_function_that_returns_a_coroutine_is_awaited(app: App) -> None:
    async def answer() -> int:
        return 42

    @app.task(name="task")
    def task() -> Any:
        return answer()

    assert value(one(app, job("task"))) == 42


def test_a_task_without_a_result_gives_none(app: App) -> None:
    @app.task(name="task")
    def task() -> None: ...

    assert one(app, job("task")) == Succeeded(None)


def test_a_result_that_cannot_be_stored_says_why(app: App) -> None:
    @app.task(name="task")
    def task() -> object:
        return float("nan")

    outcome = one(app, job("task"))
    assert isinstance(outcome, Succeeded)
    assert outcome.error is not None
    assert outcome.error.type == "pgqueue.ResultNotStorable"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_exception_comes_back_with_its_message_and_the_traceback_of_the_task_alone(app: App, is_async: bool) -> None:
    def fail() -> None:
        raise ValueError("no such order") from KeyError("the cause")

    async def afail() -> None:
        fail()

    app.task(name="task")(afail if is_async else fail)
    outcome = one(app, job("task"))
    assert message(outcome, "ValueError") == "no such order"
    assert isinstance(outcome, Raised)
    assert (outcome.permanent, outcome.reason) == (False, "error")
    traceback = outcome.error.traceback or ""
    assert "in fail" in traceback
    assert "KeyError: 'the cause'" in traceback
    assert "fork server.py" not in traceback


def test_an_error_that_is_not_retried_is_permanent(app: App) -> None:
    @app.task(name="task", retry_on=OSError)
    def task() -> None:
        raise ValueError

    outcome = one(app, job("task"))
    assert isinstance(outcome, Raised)
    assert (outcome.permanent, outcome.reason) == (True, "not retried")


@pytest.mark.parametrize(
    ("verdict", "kind", "seconds", "text"),
    [
        (Retry("busy", delay=2.5), AskedRetry, 2.5, "busy"),
        (Retry("busy"), AskedRetry, None, "busy"),
        (Snooze(60, "not yet"), AskedSnooze, 60.0, "not yet"),
        (Snooze(float("inf"), "never"), AskedSnooze, float("inf"), "never"),
        (Fail("no such order"), AskedFail, None, "no such order"),
        (Cancel("not wanted"), AskedCancel, None, "not wanted"),
    ],
    ids=["retry after", "retry", "snooze", "snooze for ever", "fail", "cancel"],
)
def test_a_verdict_comes_back_as_what_it_is(
    app: App, verdict: Exception, kind: type, seconds: float | None, text: str
) -> None:
    @app.task(name="task")
    def task() -> None:
        raise verdict

    outcome = one(app, job("task"))
    assert type(outcome) is kind
    assert getattr(outcome, "delay", None) == seconds
    assert text in str(outcome)


def test_invalid_arguments_are_permanent(app: App) -> None:
    outcome = one(app, job("pid", **{"no parameter": 1}))
    assert isinstance(outcome, Raised)
    assert (outcome.permanent, outcome.reason) == (True, "invalid arguments")


def test_a_parameter_that_a_newer_release_may_have_is_waited_for(app: App) -> None:
    assert one(app, job("pid", gift=1)) == UnknownHere("parameter not known here: gift", "1+gift")


def test_a_task_that_was_registered_after_the_start_is_unknown_in_the_children(app: App) -> None:
    async def scenario(children: Children) -> Outcome:
        app.task(name="late")(lambda: None)
        return await children.run(job("late"))

    assert play(app, scenario) == UnknownHere()


def test_the_context_is_that_of_the_job_with_the_deadline_of_the_worker(app: App) -> None:
    @app.task(name="task")
    def task(ctx: Context) -> list[Any]:
        left = ctx.remaining
        assert left is not None
        assert (ctx.run_at, ctx.created_at) == (NOW, NOW)
        numbers = [ctx.job_id, ctx.attempt, ctx.max_attempts, 0 < left <= 60]
        return [*numbers, ctx.task, ctx.queue, list(ctx.tags), ctx.headers]

    async def scenario(children: Children) -> Outcome:
        signals = Signals(deadline=time.monotonic() + 60)
        return await children.run(job("task", 2, '{"x": 1}'), signals=signals)

    assert value(play(app, scenario)) == [7, 2, 3, True, "task", "mail", ["a", "b"], {"x": 1}]


class Done(Completion):
    """A completion without a database."""

    @contextmanager
    def transaction(self, result: Any) -> Iterator[Any]:
        """Note that the block has ended."""
        yield None
        self._signals.completed = True


@pytest.mark.parametrize("completes", [True, False])
def test_whether_the_child_completed_the_job_itself_comes_back(app: App, completes: bool) -> None:
    @app.task(name="task")
    def task(ctx: Context) -> None:
        if completes:
            with ctx.transaction():
                pass

    async def scenario() -> Signals:
        signals = Signals()
        assert await children.run(job("task"), signals=signals) == Succeeded(None)
        await children.close()
        return signals

    children = Children(app.tasks, completer=partial(Done, app))
    children.start()
    assert asyncio.run(scenario()).completed is completes


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "\U0001f40d\u2028"], ids=["NUL", "surrogate", "wide"])
def test_any_text_in_an_error_arrives(app: App, text: str) -> None:
    @app.task(name="task")
    def task() -> None:
        raise ValueError(text)

    text_of_error = message(one(app, job("task")), "ValueError")
    assert text_of_error == text.replace("\x00", "\\x00").replace("\ud800", "\\ud800")


def test_arguments_and_results_of_five_megabytes_arrive(app: App) -> None:
    @app.task(name="task")
    def task(text: str) -> str:
        return text[::-1]

    text = "abcdefghij" * 500_000
    assert value(one(app, job("task", text=text))) == text[::-1]


def test_what_a_task_prints_disturbs_nothing_and_is_not_lost(app: App, capfd: pytest.CaptureFixture[str]) -> None:
    @app.task(name="task")
    def task() -> None:
        print("\x00" * 5 + "printed")
        os.write(1, b"written\n")

    assert one(app, job("task")) == Succeeded(None)
    out = capfd.readouterr().out
    assert out.count("printed") == 1
    assert "written" in out


def test_what_the_worker_has_not_yet_written_out_is_written_once() -> None:
    script = """
        @app.task(name="task")
        def task():
            print("from the child")
        print("from the worker")
        children.start()
        async def main():
            await children.run(job("task"))
            await children.close()
        asyncio.run(main())
    """
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(own_process(script), capture_output=True, text=True, timeout=60, env=buffered)
    assert done.stdout.split("\n") == ["from the worker", "from the child", ""], done.stderr
