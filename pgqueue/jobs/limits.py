"""What holds jobs back, as values: limits, rates, breakers and order. Each is checked when it is made."""

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from pgqueue.config import check_name
from pgqueue.errors import InvalidOption
from pgqueue.timing import DAY, Bounds, Seconds, check_duration

By: TypeAlias = str | Callable[..., object]
OnFull: TypeAlias = Literal["wait", "skip", "cancel_running", "replace_waiting"]
Scope: TypeAlias = Literal["fleet", "worker"]
OnRetry: TypeAlias = Literal["wait", "pass"]
OnDead: TypeAlias = Literal["next", "stop"]

MOST = 1_000_000_000  # jobs that run at a time, or start in a period
PERIOD = Bounds(0.001, 365 * DAY)
BREAKER_ELSEWHERE = "give breaker to the task, or to another limit, which counts what runs alone"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(?:/([smh]))?")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` starts in `per` seconds, for the whole fleet; or for each value of `by`.

    `by` is a parameter of the task, or a function that takes some of its parameters and returns a key. `burst` may
    start at once, by default a tenth of `count`, at least one. With `strict` no period of that length has more than
    `count` starts, whenever it begins; what is sustained is then `count - burst + 1`. `strict=False` is the usual token
    bucket: `count` a period are sustained, and `burst` more may start after a pause (by default `count`).
    `scope="worker"`: each worker process counts for itself, as Celery's do.
    """

    count: int
    per: Seconds = 60
    _: KW_ONLY
    burst: int | None = None
    strict: bool = True
    by: By | None = None
    scope: Scope = "fleet"

    def __post_init__(self) -> None:
        _check_number("Rate", "count", self.count)
        object.__setattr__(self, "per", check_duration("per", self.per, PERIOD))
        if self.burst is not None:
            _check_number("Rate", "burst", self.burst, most=self.count)
        if type(self.strict) is not bool:
            raise InvalidOption(f"Rate(strict={self.strict!r:.100}) cannot be used: give True or False")
        check_by("Rate", self.by)
        _check_choice("Rate", "scope", self.scope, Scope)


@dataclass(frozen=True, slots=True)
class Breaker:
    """After `failures` failed runs `within` so many seconds no job starts for `cooldown` seconds; then one tries."""

    failures: int
    within: Seconds = 60
    cooldown: Seconds = 30

    def __post_init__(self) -> None:
        _check_number("Breaker", "failures", self.failures)
        object.__setattr__(self, "within", check_duration("within", self.within, PERIOD))
        object.__setattr__(self, "cooldown", check_duration("cooldown", self.cooldown, PERIOD))


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `max_running` jobs run at a time, in the whole fleet; or for each value of `by`, as of Rate.

    None: any number, where only `rate` or `breaker` limits. `on_full` says what becomes of jobs while as many run as
    may: they "wait"; "skip" ends them as cancelled; "replace_waiting" so ends all that wait but the newest;
    "cancel_running" asks those that run to stop. With `while_waiting` a job that sleeps, or waits for a signal, an
    event or a call, counts as one that runs; such a limit has no breaker.
    """

    max_running: int | None
    _: KW_ONLY
    by: By | None = None
    on_full: OnFull = "wait"
    rate: Rate | str | float | None = None
    breaker: Breaker | None = None
    while_waiting: bool = False

    def __post_init__(self) -> None:
        if self.max_running is not None:
            _check_number("Limit", "max_running", self.max_running)
        _check_choice("Limit", "on_full", self.on_full, OnFull)
        check_by("Limit", self.by)
        rate = as_rate(self.rate)
        if rate is not None and rate.by is not None:
            raise InvalidOption("Limit(rate=Rate(by=…)) cannot be used: give by to the Limit, which has one key")
        object.__setattr__(self, "rate", rate)
        check_breaker(self.breaker)
        if type(self.while_waiting) is not bool:
            raise InvalidOption(f"Limit(while_waiting={self.while_waiting!r:.100}) cannot be used: give True or False")
        if self.while_waiting and self.breaker is not None:
            raise InvalidOption(f"Limit(while_waiting=True) cannot have a breaker: {BREAKER_ELSEWHERE}")
        if self.max_running is None:
            if rate is None and self.breaker is None:
                raise InvalidOption("Limit(None) limits nothing: give max_running, rate or breaker")
            if self.on_full != "wait":
                raise InvalidOption(f"Limit(on_full={self.on_full!r}) goes with max_running: give both")
            if self.while_waiting:
                raise InvalidOption("Limit(while_waiting=True) goes with max_running: give both")


@dataclass(frozen=True, slots=True)
class SharedLimit:
    """A limit with a name, for many tasks: `app.limit(…)` makes one."""

    name: str
    limit: Limit


@dataclass(frozen=True, slots=True)
class Ordered:
    """One job at a time for each value of `by`, in the order of their ids.

    `on_retry="wait"`: a job keeps its place until it has ended; "pass" lets the others go while it waits for another
    attempt. `on_dead="next"`: after a dead letter the next job goes; "stop" pauses the key.
    """

    by: By
    _: KW_ONLY
    on_retry: OnRetry = "wait"
    on_dead: OnDead = "next"

    def __post_init__(self) -> None:
        check_by("Ordered", self.by)
        _check_choice("Ordered", "on_retry", self.on_retry, OnRetry)
        _check_choice("Ordered", "on_dead", self.on_dead, OnDead)


GivenRate: TypeAlias = Rate | str | float
GivenLimit: TypeAlias = Limit | Rate | SharedLimit


def as_rate(given: object) -> Rate | None:
    """Return a rate: a Rate, or as Celery writes one, "10/m", "0.5/s", or a number of starts a second; None and 0 are
    none. Raises InvalidOption for anything else."""
    if given is None or isinstance(given, Rate):
        return given
    written = _RATE.fullmatch(given) if isinstance(given, str) else None
    if written is not None:
        number, unit = float(written[1]), _UNITS[written[2] or ""]
    elif isinstance(given, (int, float)) and not isinstance(given, bool) and 0 <= given <= MOST:
        number, unit = float(given), 1
    else:
        raise InvalidOption(
            f"rate {given!r:.100} cannot be used: give Rate(…), a number of starts a second, or a text such as '10/s', "
            "'10/m' or '10/h'"
        )
    if number == 0:
        return None
    return Rate(int(number), unit) if number.is_integer() else Rate(1, unit / number)


def as_limit(given: object) -> Limit:
    """Return a limit; a Rate becomes one of any number. Raises InvalidOption for anything else."""
    if isinstance(given, Rate):
        return Limit(None, by=given.by, rate=replace(given, by=None))
    if not isinstance(given, Limit):
        raise InvalidOption(f"limit {given!r:.100} cannot be used: give Limit(…), Rate(…) or app.limit(…)")
    return given


def shared_limit(name: object, limit: Limit) -> SharedLimit:
    """Return a limit with a name. Raises InvalidOption for a name that cannot be used."""
    checked = check_name("limit", name)
    if set(checked) & set("/#") or checked.startswith("queue:"):
        raise InvalidOption(f"limit name {checked!r} cannot be used: leave out / and #, and begin with no queue:")
    return SharedLimit(checked, limit)


def check_breaker(given: object) -> Breaker | None:
    """Return a breaker, or None. Raises InvalidOption for anything else."""
    if given is not None and not isinstance(given, Breaker):
        raise InvalidOption(f"breaker={given!r:.100} cannot be used: give Breaker(…)")
    return given


def as_ordered(given: object) -> Ordered | None:
    """Return an order; the name of a parameter, or a function, becomes one. Raises InvalidOption for anything else."""
    if given is None or isinstance(given, Ordered):
        return given
    check_by("ordered", given)
    return Ordered(given)  # type: ignore[arg-type]  # it has just been checked


def check_by(option: str, by: object) -> None:
    """Refuse anything that gives no key."""
    if by is not None and not callable(by) and not (isinstance(by, str) and by.removesuffix(".key").isidentifier()):
        raise InvalidOption(
            f"{option}: by={by!r:.100} cannot be used: name a parameter of the task, or give a function of some"
        )


def _check_number(where: str, option: str, given: object, most: int = MOST) -> None:
    if type(given) is not int or not 1 <= given <= most:
        raise InvalidOption(f"{where}({option}={given!r:.100}) cannot be used: give 1 to {most}")


def _check_choice(where: str, option: str, given: object, choices: Any) -> None:
    if given not in get_args(choices):
        raise InvalidOption(f"{where}({option}={given!r:.100}) cannot be used: give {', '.join(get_args(choices))}")
