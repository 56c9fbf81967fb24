"""Options of tasks, calls and schedules: unknown names, and None for the default."""

from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, Constant
from pgqueue.tasks.options import CallOptions, JobOptions, TaskOptions

APP = App("postgresql://127.0.0.1:1/nowhere", queue="mine", max_attempts=7, max_crashes=3, result_ttl=60)


@APP.task
def ship(order_id: int) -> None: ...


UNKNOWN: list[tuple[Callable[[Any], object], dict[str, Any], str]] = [
    (APP.task, {"max_retries": 3}, r"@app\.task has no option 'max_retries': did you mean max_attempts\?"),
    (APP.task, {"timout": 3}, r"did you mean timeout\?"),
    (APP.task, {"idempotency_key": "k"}, r"did you mean idempotent\?"),
    (APP.task, {"countdown": 3}, r"it takes aliases, breaker, dead_letter_task, expires, "),
    (APP.using, {"max_retries": 3}, r"using\(\) has no option 'max_retries': did you mean max_attempts\?"),
    (APP.using, {"rules": None}, r"it takes delay, expires, "),
    (ship.using, {"countdown": 3}, r"did you mean delay\?"),
    (ship.using, {"eta": 3}, r"did you mean run_at\?"),
    (ship.using, {"version": 2}, r"using\(\) has no option 'version'"),
    (lambda **o: APP.schedules.declare("s", "t", 60, **o), {"jiter": 1}, r"a schedule has no option 'jiter': did you"),
    (lambda **o: APP.schedule(60, **o)(ship), {"run_at": None}, r"a schedule has no option 'run_at'"),
]


@pytest.mark.parametrize(("verb", "options", "message"), UNKNOWN)
def test_an_unknown_option_is_refused_with_the_name_that_may_be_meant(
    verb: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        verb(**options)


def test_none_is_the_default_of_every_option_of_a_task() -> None:
    def f() -> None: ...

    absent, none = APP.task()(f).spec, APP.task(**dict.fromkeys(TaskOptions.__annotations__))(f).spec  # type: ignore[call-overload]
    settings = [name for name in absent.__dataclass_fields__ if name != "coder"]
    assert {name: getattr(none, name) for name in settings} == {name: getattr(absent, name) for name in settings}
    assert (absent.queue, absent.max_attempts, absent.max_crashes, absent.result_ttl) == ("mine", 7, 3, 60)


def test_none_is_the_default_of_every_option_of_a_call() -> None:
    using: Any = ship.using
    assert using(**dict.fromkeys(CallOptions.__annotations__))._settings == ship._settings


def test_a_retry_of_zero_seconds_is_no_default() -> None:
    def f() -> None: ...

    assert APP.task(retry=0)(f).spec.retry == Constant(0)


def test_tasks_calls_and_schedules_share_the_options_of_jobs() -> None:
    assert JobOptions.__annotations__.keys() <= TaskOptions.__annotations__.keys() & CallOptions.__annotations__.keys()
