"""Tasks that may hang, repeats that are not safe, keys that nothing guards."""

import pytest

from pgqueue import App, Context, Unique
from pgqueue.doctor import Severity
from tests.doctor.looks import found, provoked
from tests.harness import Conn


def test_tasks_without_a_limit_are_listed_until_the_app_has_one(dsn: str) -> None:
    app = App(dsn)
    for n in range(7):
        app.task(name=f"t{n}")(lambda: None)
    app.task(name="limited", soft_timeout=60)(lambda: None)
    finding = provoked(app, "task-without-timeout")
    assert finding.what == "7 tasks: t0, t1, t2, t3, t4 and 2 more may run for ever"
    assert finding.severity is Severity.INFO


def test_a_task_that_runs_once_and_has_no_key_is_listed(app: App) -> None:
    app.task(name="safe", max_attempts=1, idempotent=True)(lambda: None)
    app.task(name="retried", max_attempts=2)(lambda: None)
    assert found(app, "task-runs-once") == []
    app.task(name="once", max_attempts=1)(lambda: None)
    assert provoked(app, "task-runs-once").what == "task once runs once, and has no idempotency key"


def test_a_task_that_is_retried_and_cannot_tell_a_repeat_is_good_to_know(app: App) -> None:
    @app.task(name="knows")
    def knows(ctx: Context) -> None: ...

    app.task(name="keyed", idempotent=lambda: "k")(lambda: None)
    app.task(name="once", max_attempts=1)(lambda: None)
    assert found(app, "task-repeats-effects") == []
    app.task(name="blind")(lambda: None)
    finding = provoked(app, "task-repeats-effects")
    assert "task blind" in finding.what
    assert finding.severity is Severity.INFO


@pytest.mark.parametrize(
    "drop",
    [
        "drop index pgqueue.job_live_unique",
        "alter table pgqueue.idempotency_key drop constraint idempotency_key_pkey",
    ],
)
def test_keys_that_nothing_guards_any_more_are_an_error(app: App, conn: Conn, drop: str) -> None:
    app.task(name="alone", unique=Unique())(lambda: None)
    app.task(name="keyed", idempotent=True)(lambda: None)
    assert found(app, "keys-without-index") == []
    conn.execute(drop.encode())
    assert "rely on index" in provoked(app, "keys-without-index").what


def test_an_app_without_tasks_is_not_asked_about_them(app: App) -> None:
    assert found(app, "task-without-timeout") == []
    assert app.doctor(only=["task-without-timeout"]).checks == 0
