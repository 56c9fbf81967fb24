"""Options that tasks share: which layer gives a task what it does not say itself."""

from typing import Any

import pytest

from pgqueue import App, Constant, Delays, InvalidOption
from tests.conftest import drain
from tests.harness import Conn


def test_the_call_goes_before_the_task_the_group_the_route_the_queue_and_the_app(dsn: str, conn: Conn) -> None:
    app = App(
        dsn,
        max_attempts=7,
        timeout=70,
        routes={"shop.*": {"queue": "mail", "max_attempts": 4, "priority": 4}},
        queue_defaults={"mail": {"priority": 5, "max_attempts": 5, "retry": 5, "result_ttl": 5, "tags": ["of mail"]}},
    )
    group = app.with_defaults(max_attempts=3, retry_on=ConnectionError).with_defaults(result_ttl=3)

    @group.task(name="shop.own", max_attempts=2)
    def own() -> None: ...

    @group.task(name="shop.shared")
    def shared() -> None: ...

    @app.task(name="shop.routed")
    def routed() -> None: ...

    @app.task(name="queued", queue="mail")
    def queued() -> None: ...

    @app.task(name="alone")
    def alone() -> None: ...

    seen = {
        task.name: (
            task.spec.queue,
            task.spec.max_attempts,
            task.spec.priority,
            task.spec.result_ttl,
            task.spec.timeout,
        )
        for task in (own, shared, routed, queued, alone)
    }
    assert seen == {
        "shop.own": ("mail", 2, 4, 3, 70),
        "shop.shared": ("mail", 3, 4, 3, 70),
        "shop.routed": ("mail", 4, 4, 5, 70),
        "queued": ("mail", 5, 5, 5, 70),
        "alone": ("default", 7, 0, None, 70),
    }
    assert own.spec.retry_on == (ConnectionError,)
    assert routed.spec.retry == Constant(5)
    called = own.using(max_attempts=1).enqueue()
    assert (called.max_attempts, called.queue, called.tags) == (1, "mail", ("of mail",))
    app.close()


def test_a_list_of_delays_says_how_many_attempts_there_are_whatever_lies_beneath(app: App) -> None:
    app = App(queue_defaults={"default": {"max_attempts": 9}}, routes={"*": {"max_attempts": 8}})
    app.with_defaults(retry=[1, 2]).task(name="t")(lambda: None)
    assert (app.tasks["t"].retry, app.tasks["t"].max_attempts) == (Delays((1.0, 2.0)), 3)


def test_what_tasks_share_is_what_their_jobs_have(dsn: str, conn: Conn) -> None:
    app = App(dsn)
    runs: list[int] = []

    @app.with_defaults(retry=[0], no_retry_on=KeyError).task
    def flaky(n: int) -> None:
        runs.append(n)
        raise [ConnectionError, KeyError][n]

    for n in (0, 1):
        flaky.enqueue(n)
    drain(app, conn)
    assert sorted(runs) == [0, 0, 1]
    app.close()


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: App(queue_defaults={"mail": {"queue": "other"}}), InvalidOption, "of mail cannot have queue"),
        (lambda: App(queue_defaults={"mail": {"max_attempts": 0}}), InvalidOption, "max_attempts=0 cannot be used"),
        (lambda: App(queue_defaults={"mail": {"retries": 3}}), TypeError, "did you mean max_attempts"),
        (lambda: App(queue_defaults=["mail"]), InvalidOption, "queue_defaults=.* cannot be used: give"),
        (lambda: App(queue_defaults={"a b\n": {}}), InvalidOption, "queue"),
        (lambda: App().with_defaults(name="t"), InvalidOption, r"with_defaults\(\) cannot have name"),
        (lambda: App().with_defaults(timeout=-1), InvalidOption, "timeout=-1 cannot be used"),
        (lambda: App().with_defaults(retry_onn=OSError), TypeError, "did you mean retry_on"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused_where_it_is_written(make: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        make()
