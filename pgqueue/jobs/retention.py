"""Retention: how long is kept what has ended, by state, queue and task, as an app's code says it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias, TypedDict

from pgqueue.config import check_name, check_queue, check_served_queue
from pgqueue.errors import InvalidOption
from pgqueue.timing import Seconds, check_age

Age: TypeAlias = Seconds | str | None
Nothing: TypeAlias = dict[str, int | None]  # queues of whose jobs nothing is kept when they succeed


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep about the newest `most` jobs that have ended so, and none beyond an age: `Keep(1000, "7d")`.

    For succeeded and cancelled jobs. Workers count in the rows of `activity` how far back so many have ended, and let
    the older ones go: at least `most` stay, up to the age, and up to a quarter of the time more.
    """

    most: int
    age: Seconds | str

    def __post_init__(self) -> None:
        if type(self.most) is not int or not 1 <= self.most <= 10**9:
            raise InvalidOption(f"Keep(most={self.most!r:.100}) cannot be used: give 1 to 1000000000 jobs")
        if check_age("Keep(age)", self.age) is None:
            raise InvalidOption("Keep(age=…) cannot be for ever: a day of jobs goes as a whole, by its age; give '90d'")


class JobAges(TypedDict, total=False):
    """How long jobs are kept after their end, by state. An age is a text such as "7d", "12h" or "30m", a number of
    seconds or a timedelta; None, or "forever", keeps for ever. Keep bounds the number of jobs, too."""

    succeeded: Age | Keep
    cancelled: Age | Keep
    failed: Age


class Retention(JobAges, total=False):
    """How long is kept what has ended: the argument of `App(retention=…)`.

    `queues` and `tasks` have rules for single ones, also for patterns such as "audit.*": an age for succeeded and
    cancelled jobs, or an age for each state. A rule for a queue or task replaces the general one; where several fit a
    job, the longest counts. `history`: how long at most the transitions of dead letters and unfinished jobs are kept.
    `events`: how long published events are kept, for replays.
    """

    history: Age
    ticks: Age
    operations: Age
    activity: Age
    events: Age
    queues: Mapping[str, Age | Keep | JobAges]
    tasks: Mapping[str, Age | Keep | JobAges]


_NAMES = tuple(Retention.__annotations__)
_STATES = tuple(JobAges.__annotations__)
COUNTED = {"succeeded": ("succeeded",), "cancelled": ("cancelled", "expired", "skipped")}  # with outcomes of attempts
_RULES = tuple(name for name in _NAMES if name not in ("queues", "tasks"))
GivenRetention: TypeAlias = Retention | Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """How many seconds what `name` says is kept; None is for ever. `queue` and `task` are names or patterns. `most`: at
    about how many jobs that becomes shorter."""

    name: str
    queue: str
    task: str
    seconds: float | None
    most: int | None = None


def check_rule(name: str, age: Age, queue: str = "*", task: str = "*") -> RetentionRule:
    """Return a rule. Raises InvalidOption for an unknown name, one that has no rules by queue and task, or no age."""
    if name not in _RULES:
        raise InvalidOption(f"retention has no {name!r:.100}: it takes {', '.join(_RULES)}")
    if queue != "*":
        check_served_queue(queue)
    if task != "*":
        check_name("task", task)
    if (queue, task) != ("*", "*") and name not in _STATES:
        raise InvalidOption(f"retention {name} has no rules by queue or task: those have {', '.join(_STATES)}")
    return RetentionRule(name, queue, task, check_age(f"retention {name}", age))


def read_retention(given: GivenRetention) -> tuple[Nothing, list[RetentionRule]]:
    """Return the queues of which nothing is kept, and the rules. Raises InvalidOption."""
    if not isinstance(given, Mapping):
        raise InvalidOption(f"retention={given!r:.100} cannot be used: give a mapping such as {{'succeeded': '7d'}}")
    nothing: Nothing = {}
    rules: list[RetentionRule] = []
    for name, value in given.items():
        if name == "queues" or name == "tasks":
            rules += _single(name, value, nothing)
        elif name in _NAMES:
            rules.append(_rule(f"retention {name}", name, ("*", "*"), value))
        else:
            nothing[check_queue(name)] = _check_nothing(name, value)
    return nothing, rules


def _single(kind: str, given: object, nothing: Nothing) -> Iterator[RetentionRule]:
    if not isinstance(given, Mapping):
        raise InvalidOption(f"retention {kind}={given!r:.100} cannot be used: give a mapping of names to ages")
    for name, ages in given.items():
        check_served_queue(name) if kind == "queues" else check_name("task", name)
        if name == "*":
            raise InvalidOption(f"retention {kind}='*' cannot be used: give the ages of all jobs by state")
        if kind == "queues" and type(ages) is int and ages == 0 and "*" not in name:
            nothing[name] = 0
            continue
        by_state = ages if isinstance(ages, Mapping) else dict.fromkeys(("succeeded", "cancelled"), ages)
        for state, age in by_state.items():
            if state not in _STATES:
                raise InvalidOption(f"retention of {name} has no {state!r}: it takes {', '.join(_STATES)}")
            yield _rule(f"retention of {name}", state, (name, "*") if kind == "queues" else ("*", name), age)


def _rule(where: str, name: str, of: tuple[str, str], given: object) -> RetentionRule:
    if not isinstance(given, Keep):
        return RetentionRule(name, *of, check_age(where, given))
    if name not in COUNTED:
        raise InvalidOption(f"{where}: Keep counts {' and '.join(COUNTED)} jobs alone: give an age for {name}")
    return RetentionRule(name, *of, check_age(where, given.age), given.most)


def _check_nothing(name: str, value: object) -> int | None:
    """Return 0 or None, which a queue by its bare name takes."""
    if value is not None and (type(value) is not int or value != 0):
        close = get_close_matches(name, _NAMES, 1)
        hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(_NAMES)}; queues stand in 'queues'"
        raise InvalidOption(f"retention has no {name!r}: {hint}")
    return value


Keep.__module__ = "pgqueue"  # where users import it from
