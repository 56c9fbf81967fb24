"""The run of a task: retries, limits, handlers, signals, and what `self` knows."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import flask
import pytest

from pgqueue import App
from pgqueue.celery import Celery, Task, chain, exceptions, shared_task, signals
from pgqueue.celery.exceptions import Ignore, MaxRetriesExceededError, Reject, SoftTimeLimitExceeded, TaskError
from pgqueue.celery.running import backoff
from pgqueue.codecs import AESGCM
from pgqueue.errors import InvalidOption
from tests.conftest import scalar, work
from tests.harness import Conn

Run = Callable[..., None]


class Boom(Exception):
    """An error of the tests'."""


def attempts(conn: Conn, job_id: str) -> int:
    found: int = scalar(conn, "select attempt from pgqueue.job where id = %s", int(job_id))
    return found


def test_a_plain_error_is_final(celery: Celery, conn: Conn, run: Run) -> None:
    @celery.task
    def fail() -> None:
        raise ValueError("no")

    result = fail.delay()
    run(celery)
    assert (result.state, attempts(conn, result.id)) == ("FAILURE", 1)
    assert isinstance(result.result, ValueError)
    assert "ValueError: no" in (result.traceback or "")
    with pytest.raises(ValueError, match="no"):
        result.get(timeout=10)
    assert isinstance(result.get(timeout=10, propagate=False), ValueError)


def test_retry_runs_the_job_again_and_counts_the_retries(celery: Celery, conn: Conn, run: Run) -> None:
    seen: list[Any] = []

    @celery.task(bind=True, max_retries=2)
    def again(self: Task, n: int) -> int:
        seen.append((self.request.retries, self.max_retries))
        try:
            raise Boom("not yet")
        except Boom as error:
            if self.request.retries < 2:
                raise self.retry(exc=error, countdown=0) from error
        return n

    result = again.delay(3)
    run(celery, poll_seconds=0.05)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert result.get(timeout=10) == 3
    assert scalar(conn, "select max_attempts from pgqueue.job where id = %s", int(result.id)) == 3


def test_the_last_retry_raises_the_error_or_says_that_there_were_too_many(celery: Celery, run: Run) -> None:
    @celery.task(bind=True, max_retries=1)
    def with_cause(self: Task) -> None:
        raise self.retry(exc=KeyError("gone"), countdown=0)

    @celery.task(bind=True, max_retries=1)
    def without(self: Task) -> None:
        self.retry(countdown=0)

    one, other = with_cause.delay(), without.delay()
    run(celery, poll_seconds=0.05)
    assert (one.retries, other.retries) == (1, 1)
    with pytest.raises(KeyError, match="gone"):
        one.get(timeout=10)
    with pytest.raises(TaskError, match=r"MaxRetriesExceededError: .* was tried 2 times"):
        other.get(timeout=10)


def test_a_retry_may_ask_for_more_than_the_default_but_not_than_the_task_says(celery: Celery, run: Run) -> None:
    @celery.task(bind=True)
    def default(self: Task) -> int:
        if self.request.retries < 5:
            raise self.retry(countdown=0, max_retries=5)
        return self.request.retries

    @celery.task(bind=True, max_retries=1)
    def said(self: Task) -> None:
        raise self.retry(countdown=0, max_retries=5)

    one, other = default.delay(), said.delay()
    run(celery, poll_seconds=0.05)
    assert one.get(timeout=10) == 5
    with pytest.raises(TaskError, match=r"give @app.task\(max_retries=5\)"):
        other.get(timeout=10)


def test_autoretry_tries_again_after_its_errors_alone(celery: Celery, run: Run) -> None:
    seen: list[str] = []

    @celery.task(
        bind=True,
        autoretry_for=(OSError,),
        dont_autoretry_for=(FileNotFoundError,),
        max_retries=2,
        default_retry_delay=0,
    )
    def work(self: Task, kind: str) -> str:
        seen.append(kind)
        if self.request.retries < 1:
            raise {"os": OSError, "gone": FileNotFoundError, "value": ValueError}[kind](kind)
        return kind

    results = {kind: work.delay(kind) for kind in ("os", "gone", "value")}
    run(celery, poll_seconds=0.05)
    assert {kind: result.state for kind, result in results.items()} == {
        "os": "SUCCESS",
        "gone": "FAILURE",
        "value": "FAILURE",
    }
    assert sorted(seen) == ["gone", "os", "os", "value"]


def test_backoff_doubles_up_to_its_bound_and_jitters_below_it(celery: Celery) -> None:
    @celery.task(retry_backoff=2, retry_backoff_max=60, retry_jitter=False)
    def exact() -> None: ...

    @celery.task(retry_backoff=True, retry_backoff_max=600)
    def jittered() -> None: ...

    assert [backoff(exact, retries) for retries in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    drawn = [backoff(jittered, 5) for _ in range(200)]
    assert min(drawn) >= 0
    assert max(drawn) <= 32
    assert len(set(drawn)) > 100
    assert backoff(jittered, 10_000) <= 600


def test_throw_false_lets_the_task_end_and_run_again(celery: Celery, run: Run) -> None:
    seen: list[int] = []

    @celery.task(bind=True)
    def again(self: Task) -> str:
        if self.request.retries == 0:
            self.retry(throw=False, countdown=0)
        seen.append(self.request.retries)
        return "done"

    result = again.delay()
    run(celery, poll_seconds=0.05)
    assert (seen, result.get(timeout=10)) == ([0, 1], "done")


def test_ignore_and_reject_end_the_job(celery: Celery, run: Run) -> None:
    @celery.task
    def ignored() -> None:
        raise Ignore

    @celery.task
    def rejected() -> None:
        raise Reject("broken", requeue=False)

    one, other = ignored.delay(), rejected.delay()
    run(celery)
    assert (one.state, other.state) == ("REVOKED", "FAILURE")
    with pytest.raises(exceptions.TaskRevokedError):
        one.get(timeout=10)
    with pytest.raises(TaskError, match="rejected: broken"):
        other.get(timeout=10)


def test_a_base_class_gives_options_and_handlers(celery: Celery, run: Run) -> None:
    told: list[Any] = []

    class Patient(Task):
        autoretry_for = (OSError,)
        max_retries = 1
        default_retry_delay = 0

        def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
            told.append(("start", args, kwargs))

        def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append(("retry", type(exc).__name__, "Traceback" in str(einfo)))

        def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append(("failure", type(exc).__name__, self.request.retries))

        def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
            told.append(("success", retval))

        def after_return(self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
            told.append(("return", status))
            raise Boom("handlers change nothing")

    @celery.task(base=Patient)
    def fail(n: int, *, m: int) -> None:
        raise OSError("no")

    @celery.task(base=Patient)
    def well() -> int:
        return 7

    fail.delay(1, m=2)
    run(celery, poll_seconds=0.05)
    assert told == [
        ("start", (1,), {"m": 2}), ("retry", "OSError", True), ("return", "RETRY"),
        ("start", (1,), {"m": 2}), ("failure", "OSError", 1), ("return", "FAILURE"),
    ]  # fmt: skip
    told.clear()
    result = well.delay()
    run(celery)
    assert told == [("start", (), {}), ("success", 7), ("return", "SUCCESS")]
    assert result.get(timeout=10) == 7


def test_the_request_has_the_facts_of_the_job(celery: Celery, run: Run) -> None:
    seen: dict[str, Any] = {}

    @celery.task(bind=True)
    def child(self: Task, a: int, b: int = 0) -> None:
        seen["child"] = self.request

    @celery.task(bind=True, queue="default")
    def parent(self: Task) -> None:
        seen["parent"] = self.request
        child.apply_async((1,), {"b": 2}, headers={"trace": "x"})

    parent.delay()
    run(celery, poll_seconds=0.05)
    one, other = seen["parent"], seen["child"]
    assert (other.parent_id, other.root_id, other.headers) == (one.id, one.id, {"trace": "x"})
    assert (other.args, other.kwargs, other.retries, other.called_directly) == ((1,), {"b": 2}, 0, False)
    assert (one.root_id, one.parent_id, one.headers) == (one.id, None, None)
    assert one.delivery_info == {"exchange": "", "routing_key": "default", "priority": 0, "redelivered": False}


def test_signals_tell_of_each_run(celery: Celery, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    for name in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "before_task_publish",
                 "after_task_publish", "worker_ready", "worker_shutdown"):  # fmt: skip
        signal = getattr(signals, name)
        monkeypatch.setattr(signal, "_receivers", [])
        signal.connect(lambda name=name, **named: told.append((name, named.get("state"))))

    @celery.task(bind=True, max_retries=1)
    def once_more(self: Task) -> None:
        if self.request.retries == 0:
            raise self.retry(countdown=0)

    @celery.task
    def fail() -> None:
        raise Boom("no")

    once_more.delay()
    fail.delay()
    assert [name for name, _ in told] == ["before_task_publish", "after_task_publish"] * 2
    told.clear()
    run(celery, poll_seconds=0.05)
    names = [name for name, _ in told]
    assert (names[0], names[-1]) == ("worker_ready", "worker_shutdown")
    assert {name: names.count(name) for name in names[1:-1]} == {
        "task_prerun": 3, "task_postrun": 3, "task_retry": 1, "task_success": 1, "task_failure": 1,
    }  # fmt: skip
    assert sorted(state for name, state in told if name == "task_postrun") == ["FAILURE", "RETRY", "SUCCESS"]


def test_a_receiver_may_ask_for_one_sender_and_its_errors_change_nothing(
    celery: Celery, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(signals.task_success, "_receivers", [])

    @celery.task(name="one")
    def one() -> int:
        return 1

    @celery.task(name="two")
    def two() -> int:
        return 2

    @signals.task_success.connect(sender=one)
    def of_one(sender: Any = None, result: Any = None, **_: Any) -> None:
        told.append((sender.name, result))
        raise Boom("no")

    one.delay()
    result = two.delay()
    run(celery)
    assert told == [("one", 1)]
    assert result.get(timeout=10) == 2
    assert signals.task_success.disconnect(of_one, sender=one)


def test_a_signal_that_is_never_sent_says_what_to_use(celery: Celery) -> None:
    with pytest.raises(InvalidOption, match="JobClaimed"):
        signals.task_received.connect(lambda **_: None)


def test_update_state_is_seen_while_the_task_runs(celery: Celery, conn: Conn) -> None:
    seen, go = threading.Event(), threading.Event()

    @celery.task(bind=True)
    def long(self: Task) -> None:
        self.update_state(state="PROGRESS", meta={"current": 3, "total": 7, "what": "rows"})
        seen.set()
        go.wait(30)

    result = long.delay()

    def told() -> bool:
        if result.state != "PROGRESS":
            return False
        assert result.info == {"current": 3, "total": 7, "what": "rows"}
        go.set()
        return True

    asyncio.run(work(celery.pgqueue, lambda: told() or result.state == "SUCCESS"))
    assert seen.is_set()
    assert result.state == "SUCCESS"


def test_a_soft_limit_raises_in_the_task_and_a_hard_one_kills_it_for_good(
    celery: Celery, conn: Conn, run: Run, tmp_path: Any
) -> None:
    failures: list[Any] = []

    @celery.task(soft_time_limit=0.3, time_limit=20)
    def soft() -> str:
        try:
            time.sleep(15)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "slept"

    @celery.task(time_limit=0.5, autoretry_for=(Exception,), default_retry_delay=0)
    def hard() -> None:
        time.sleep(30)

    def failed(sender: Any = None, exception: Any = None, **_: Any) -> None:
        failures.append((sender.name, type(exception).__name__))

    signals.task_failure.connect(failed)
    try:
        one, other = soft.delay(), hard.delay()
        run(celery)
    finally:
        signals.task_failure.disconnect(failed)
    assert one.get(timeout=10) == "cleaned up"
    assert (other.state, attempts(conn, other.id)) == ("FAILURE", 1)
    assert failures == [(hard.name, "TimeLimitExceeded")]


def test_get_inside_of_a_task_is_refused(celery: Celery, run: Run) -> None:
    @celery.task
    def inner() -> int:
        return 1

    @celery.task
    def outer() -> None:
        inner.delay().get(timeout=1)

    result = outer.delay()
    run(celery)
    with pytest.raises(RuntimeError, match="hold its slot"):
        result.get(timeout=10)


def test_a_result_that_is_no_json_fails_the_task(celery: Celery, run: Run) -> None:
    @celery.task
    def bad() -> Any:
        return {1, 2}

    result = bad.delay()
    run(celery)
    with pytest.raises(TypeError, match="result: set is no JSON"):
        result.get(timeout=10)


def test_an_async_def_runs_on_the_event_loop(celery: Celery, run: Run) -> None:
    @celery.task(bind=True, max_retries=1, default_retry_delay=0)
    async def on_the_loop(self: Task, n: int) -> int:
        await asyncio.sleep(0)
        if self.request.retries == 0:
            raise self.retry(exc=Boom("once"))
        return n + self.request.retries

    result: Any = on_the_loop.delay(3)
    run(celery, poll_seconds=0.05)
    assert result.get(timeout=10) == 4
    assert exceptions.Retry.__mro__
    assert issubclass(MaxRetriesExceededError, Exception)


def test_a_class_with_a_call_of_its_own_is_around_each_run_as_flask_has_it(celery: Celery, run: Run) -> None:
    site = flask.Flask("site")
    site.config["NAME"] = "the site"

    class FlaskTask(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with site.app_context():
                return self.run(*args, **kwargs)

    class Calling(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with site.app_context():
                return super().__call__(*args, **kwargs)

    @shared_task(bind=True, max_retries=1)
    def shared(self: Task, n: int) -> Any:
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return [flask.current_app.config["NAME"], n, self.request.retries]

    celery.Task = FlaskTask

    @celery.task(base=Calling, bind=True)
    def calling(self: Task, n: int) -> Any:
        return [flask.current_app.config["NAME"], n, self.request.called_directly]

    results: list[Any] = [shared.delay(1), calling.delay(2)]
    run(celery, poll_seconds=0.05)
    assert [each.get(timeout=10) for each in results] == [["the site", 1, 1], ["the site", 2, False]]
    assert calling(3) == ["the site", 3, True]
    assert shared.apply((4,)).get() == ["the site", 4, 1]


def test_sealed_jobs_are_read_as_others_are(dsn: str, conn: Conn) -> None:
    codec = AESGCM({"1": b"0" * 32}, "1")
    app = Celery("sealed", pgqueue=App(dsn, codec=codec))
    told: list[Any] = []

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    @app.task
    def fail(n: int) -> None:
        raise ValueError(f"no {n}")

    @app.task
    def errback(request: Any, exc: Any, traceback: Any) -> None:
        told.append((request.id, str(exc)))

    good = chain(add.s(1, 2), add.s(3)).apply_async()
    bad = fail.apply_async((7,), link_error=errback.s())
    asyncio.run(work(app.pgqueue, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live")))
    assert good.get(timeout=10) == 6
    with pytest.raises(ValueError, match="no 7"):
        bad.get(timeout=10)
    assert told == [(bad.id, "no 7")]
    assert "no 7" not in str(scalar(conn, "select error from pgqueue.dead_letter"))
    app.close()
