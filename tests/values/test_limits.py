"""Limits, rates, breakers, order and keys as values: what can be used, and what is refused with a reason."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest

from pgqueue import App, Breaker, InvalidOption, InvalidTask, Limit, Ordered, Rate
from pgqueue.jobs.bucket_key import NoKey, key_text
from pgqueue.jobs.limits import as_rate


class Plan(Enum):
    FREE = "free"


class Level(IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("10/m", Rate(10, 60)), ("10/s", Rate(10, 1)), ("10/h", Rate(10, 3600)), ("10", Rate(10, 1)), (10, Rate(10, 1)),
        ("0.5/s", Rate(1, 2.0)), (2.5, Rate(1, 0.4)), ("1.5/m", Rate(1, 40.0)), (0, None), ("0/m", None), (None, None),
        (Rate(3), Rate(3, 60)),
    ],
)  # fmt: skip
def test_a_rate_is_written_as_celery_writes_one(written: Any, rate: Rate | None) -> None:
    assert as_rate(written) == rate


def test_durations_are_seconds_or_timedeltas() -> None:
    assert Rate(1, timedelta(minutes=1)) == Rate(1, 60.0)
    assert Breaker(3, within=timedelta(minutes=1), cooldown=timedelta(seconds=5)) == Breaker(3, 60.0, 5.0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Limit(0), r"Limit\(max_running=0\) cannot be used: give 1 to"),
        (lambda: Limit(True), "max_running=True"),
        (lambda: Limit(None), "limits nothing"),
        (lambda: Limit(1, by="two words"), "by='two words' cannot be used: name a parameter"),
        (lambda: Limit(1, by=3), "by=3 cannot be used"),
        (lambda: Limit(1, on_full="drop"), "on_full='drop'.*give wait, skip, cancel_running, replace_waiting"),
        (lambda: Limit(None, rate="1/s", on_full="skip"), "goes with max_running"),
        (lambda: Limit(1, rate=Rate(1, by="n")), "give by to the Limit"),
        (lambda: Limit(1, breaker=3), "breaker=3 cannot be used"),
        (lambda: Rate(0), r"Rate\(count=0\)"),
        (lambda: Rate(1.5), r"Rate\(count=1.5\)"),
        (lambda: Rate(10, 0), "per=0 cannot be used"),
        (lambda: Rate(10, burst=11), r"Rate\(burst=11\) cannot be used: give 1 to 10"),
        (lambda: Rate(10, strict=1), "strict=1"),
        (lambda: Rate(10, scope="host"), "scope='host'.*give fleet, worker"),
        (lambda: Breaker(0), r"Breaker\(failures=0\)"),
        (lambda: Breaker(1, cooldown=-1), "cooldown=-1"),
        (lambda: Ordered("n", on_retry="skip"), "on_retry='skip'.*give wait, pass"),
        (lambda: Ordered("n", on_dead="go"), "on_dead='go'.*give next, stop"),
        (lambda: as_rate("10/d"), "rate '10/d' cannot be used: .*'10/h'"),
        (lambda: as_rate("fast"), "rate 'fast'"),
        (lambda: as_rate(-1), "rate -1"),
        (lambda: as_rate(True), "rate True"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        make()


def test_a_key_is_the_same_text_wherever_it_is_made() -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    keys = {
        "acme": "acme", "7": 7, "true": True, "false": False, "free": Plan.FREE, "1": Level.LOW,
        "00000000-0000-0000-0000-000000000001": UUID(int=1), "2026-01-01": date(2026, 1, 1), "1.5": Decimal("1.50"),
        "2026-01-01T12:00:00+00:00": moment.astimezone(timezone(timedelta(hours=5))),
    }  # fmt: skip
    assert {text: key_text(value) for text, value in keys.items()} == {text: text for text in keys}


@pytest.mark.parametrize("long", ["x" * 201, "two\nlines", "\x00"])
def test_a_long_key_or_one_with_control_characters_is_hashed(long: str) -> None:
    assert key_text(long).startswith("sha256:")
    assert len(key_text(long)) == 39
    assert key_text(long) == key_text(long) != key_text(f"{long}x")


@pytest.mark.parametrize("value", [None, "", 1.5, b"x", [1], {"a": 1}, object(), "\ud800", Decimal("NaN")])
def test_what_has_no_text_of_its_own_is_no_key_and_is_not_quoted(value: Any) -> None:
    with pytest.raises(NoKey) as raised:
        key_text(value)
    assert "1.5" not in str(raised.value)


REFUSED_TASKS: list[tuple[dict[str, Any], str]] = [
    ({"limit": Limit(1, by="m")}, r"task t has no parameter m \(it takes .*n.*\), of which a key of its rule t"),
    ({"limit": Limit(1, by=lambda m: m)}, "has no parameter m"),
    ({"fair": "m"}, "has no parameter m.*t#fair"),
    ({"ordered": "m"}, "has no parameter m.*t#order"),
    ({"limit": "stripe"}, r"limit 'stripe' cannot be used: give Limit\(…\), Rate\(…\) or app.limit"),
    ({"limit": [Limit(1)] * 11}, "11 limits cannot be used: give at most 10"),
    ({"rate_limit": "often"}, "rate 'often'"),
    ({"rate_limit": Rate(1), "rate_scope": "worker"}, "rate_scope goes with"),
    ({"rate_scope": "worker"}, "rate_scope goes with"),
    ({"rate_limit": "1/s", "rate_scope": "host"}, "scope='host'"),
    ({"breaker": 5}, "breaker=5"),
    ({"fair": 5}, "fair: by=5"),
    ({"ordered": 5}, "ordered: by=5"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED_TASKS)
def test_a_task_refuses_rules_that_it_cannot_have(options: dict[str, Any], says: str) -> None:
    app = App("unused")
    with pytest.raises(InvalidOption, match=says):

        @app.task(name="t", **options)
        def t(n: int) -> None: ...


def test_an_unknown_option_says_which_one_may_be_meant() -> None:
    with pytest.raises(TypeError, match="no option 'concurrency_limit': did you mean limit"):
        App("unused").task(concurrency_limit=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no option 'ordering_key': did you mean ordered"):
        App("unused").task(ordering_key="n")  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["", "a/b", "a#2", "queue:q", "x\n", 5])
def test_a_shared_limit_has_a_name_of_its_own(name: Any) -> None:
    with pytest.raises(InvalidOption, match="limit name"):
        App("unused").limit(name, 3)


def test_two_rules_of_one_name_are_refused_unless_they_are_the_same() -> None:
    app = App("unused")
    assert app.limit("stripe", 20) == app.limit("stripe", 20)
    with pytest.raises(InvalidOption, match="two rules are named 'stripe'"):
        app.limit("stripe", 10)
    with pytest.raises(InvalidOption, match="two rules are named 'stripe'"):

        @app.task(name="stripe", limit=Limit(3))
        def charge() -> None: ...


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"email": Limit(1, by="n")}, "by cannot be used"),
        ({"email": 5}, r"limits\['email'\]=5 cannot be used"),
        ({"e mail": Limit(1)}, "queue name 'e mail'"),
        ([Limit(1)], "give a dict"),
    ],
)
def test_limits_of_queues_are_limits_without_keys(limits: Any, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        App("unused", limits=limits)


def rules(app: App) -> dict[str, dict[str, Any]]:
    return {rule.name: rule.declared() for rule in app.rules}


def test_rules_are_named_after_what_they_limit() -> None:
    app = App("unused", limits={"a/b": Limit(50), "bulk": Rate(1000, per=60)})
    stripe = app.limit("stripe", 20, rate="100/s", breaker=Breaker(5))

    @app.task(name="charge", limit=[stripe, Limit(2, by="customer"), Limit(9)], fair="customer", ordered="customer")
    def charge(customer: str) -> None: ...

    @app.task(name="50%/day", limit=Limit(3), rate_limit="10/m", rate_scope="worker", breaker=Breaker(2))
    def daily() -> None: ...

    breaker = {"breaker_failures": 5, "breaker_seconds": 60.0, "breaker_cooldown": 30.0}
    assert rules(app) == {
        "queue:a%2Fb": {"max_running": 50},
        "queue:bulk": {"rate_count": 1000, "rate_seconds": 60.0},
        "stripe": {"max_running": 20, "rate_count": 100, "rate_seconds": 1.0, **breaker},
        "charge": {"max_running": 2, "keyed_by": "customer"},
        "charge#2": {"max_running": 9},
        "charge#order": {"kind": "order", "keyed_by": "customer", "max_running": 1},
        "charge#fair": {"kind": "fair", "keyed_by": "customer"},
        "50%25%2Fday": {
            "max_running": 3, "rate_count": 10, "rate_seconds": 60.0, "scope": "worker",
            **breaker, "breaker_failures": 2,
        },
    }  # fmt: skip


def test_a_rate_and_a_breaker_become_part_of_the_limit_with_the_same_key() -> None:
    app = App("unused")

    @app.task(name="t", limit=Limit(3, by="n"), rate_limit=Rate(5, by="n"), breaker=Breaker(2))
    def t(n: int) -> None: ...

    assert [rule.name for rule in app.rules] == ["t", "t#2"]  # the breaker is for all keys together


def test_a_dead_letter_task_has_no_rules_with_keys() -> None:
    app = App("unused")

    @app.task(name="t", dead_letter_task="dead")
    def t() -> None: ...

    with pytest.raises(InvalidTask, match="is the dead_letter_task of t, and its rules have keys"):

        @app.task(name="dead", limit=Limit(1, by="queue"))
        def dead(job_id: int, task: str, queue: str, reason: str, error: str, fingerprint: str) -> None: ...
