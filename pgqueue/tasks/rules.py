"""The rules of a task and of a call: keys, uniqueness and expiry, made from the arguments."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from pgqueue.errors import InvalidOption
from pgqueue.jobs.keys import (
    _UNIQUE,
    WINDOW,
    Conditions,
    OnConflict,
    Unique,
    _canonical,
    _sha256,
    check_on_conflict,
    digest,
    key_hashes,
)
from pgqueue.timing import LIMIT, Seconds, check_duration, check_optional_duration, seconds

MakeKey: TypeAlias = Callable[..., str | None]
Keys: TypeAlias = str | MakeKey | Sequence[str | None]


Whole: TypeAlias = Callable[[], Mapping[str, Any]]


class CallOptions(TypedDict, total=False):
    """The options of `using(…)` that make terms.

    `idempotency_key` and `unique_key`: a text, a function of the job's arguments by name that returns one (or None for
    no key), or for `enqueue_many` a list with one for each call. `expires`: seconds or a timedelta from the enqueueing
    on, or an aware datetime.
    """

    idempotency_key: Keys | None
    idempotency_window: Seconds | None
    unique_key: Keys | None
    unique: Unique | None
    on_conflict: OnConflict | None
    expires: Seconds | datetime | None


class TaskOptions(TypedDict, total=False):
    """The options of `@app.task(…)` that make terms: as those of a call, but for `idempotent`: True makes a key of all
    arguments, a function returns one."""

    idempotent: bool | MakeKey
    idempotency_window: Seconds | None
    unique: Unique | None
    expires: Seconds | None


@dataclass(frozen=True, slots=True)
class KeyOf:
    """A key that is a function of the arguments. `names` are those it takes; None: all."""

    function: MakeKey
    names: tuple[str, ...] | None

    @classmethod
    def of(cls, function: MakeKey) -> "KeyOf":
        """Look at which arguments the function takes."""
        parameters = inspect.signature(function).parameters.values()
        if any(p.kind == p.VAR_KEYWORD for p in parameters):
            return cls(function, None)
        return cls(function, tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)))

    def __call__(self, arguments: Mapping[str, Any]) -> str | None:
        if self.names is None:
            return self.function(**arguments)
        if len(self.names) == 1 and self.names[0] in arguments:
            return self.function(**{self.names[0]: arguments[self.names[0]]})
        return self.function(**{name: arguments[name] for name in self.names if name in arguments})


@dataclass(frozen=True, slots=True)
class Rules:
    """What a task says about the terms of its jobs, or a call about those it makes; None: nothing."""

    key: str | KeyOf | tuple[str | None, ...] | Literal[True] | None = None
    window: float | None = None
    unique_key: str | KeyOf | tuple[str | None, ...] | None = None
    unique: Unique | None = None
    on_conflict: OnConflict | None = None
    expires: datetime | float | None = None

    def __post_init__(self) -> None:
        if self.key is not None and (self.unique_key is not None or self.unique is not None):
            raise InvalidOption(
                "idempotency_key (or idempotent) and unique_key (or unique) exclude each other: give one of them"
            )

    def over(self, other: "Rules | None") -> "Rules":
        """Return these rules of a call, and a task's where they say nothing. Raises InvalidOption for what says
        something about a key where there is none: it would be passed over in silence."""
        pairs = {name: (getattr(self, name), getattr(other, name, None)) for name in self.__slots__}
        rules = Rules(**{name: theirs if own is None else own for name, (own, theirs) in pairs.items()})
        if self.on_conflict is not None and rules.unique is None and rules.unique_key is None:
            raise InvalidOption("on_conflict goes with unique_key or unique: give one of them")
        if self.window is not None and rules.key is None:
            raise InvalidOption("idempotency_window goes with idempotency_key or idempotent: give one of them")
        return rules

    def check_alone(self, task: str, args: Mapping[str, Any]) -> None:
        """Refuse rules for a task that is not registered here, if they mean nothing, or a call lacks what they name."""
        self.over(None)
        missing = sorted({*((self.unique and self.unique.by) or ())} - set(args))
        if missing:
            raise InvalidOption(f"Unique(by=…) names {', '.join(missing)}: no argument of this call of {task}")

    def check_count(self, count: int) -> None:
        """Refuse a list of keys that has not one for each of the calls."""
        for option, keys in (("idempotency_key", self.key), ("unique_key", self.unique_key)):
            if isinstance(keys, tuple) and len(keys) != count:
                raise InvalidOption(f"{option}: {len(keys)} keys for {count} calls: give one for each, or None")

    def conditions(self, task: str, whole: Whole, values: Mapping[str, Any], at: int | None) -> Conditions:
        """Return the terms of a job of a task: `whole` gives its arguments as JSON has them, `values` are the same as
        Python has them, `at` is its position in `enqueue_many`."""
        if self.unique is None and self.unique_key is None:
            if self.key is None:
                return Conditions(expires=self.expires)
            by_args = self.key is True
            key = digest(whole(), task) if self.key is True else _key("idempotency_key", self.key, values, at)
            hashed = None if key is None else key_hashes(task, [key])[0]
            return Conditions(key, None, hashed, self.window or WINDOW, None, False, "skip", self.expires, by_args)
        if self.unique_key is None and self.unique is not None:
            return self._unique_terms(task, _unique_key(whole(), self.unique.by))
        return self._unique_terms(task, _key("unique_key", self.unique_key, values, at))

    def admits_by_key(self) -> bool:
        """Whether idempotency keys are what decides about its jobs."""
        return self.key is not None and self.unique is None and self.unique_key is None

    def keys(self, count: int, values: Sequence[Mapping[str, Any]]) -> Sequence[str | None]:
        """Return the idempotency keys of so many calls: one for each as given, or a function of its arguments."""
        if isinstance(self.key, tuple):
            return self.key
        if isinstance(self.key, str):
            return (self.key,) * count
        return [_key("idempotency_key", self.key, value, None) for value in values]  # type: ignore[arg-type]  # not True

    def _unique_terms(self, task: str, key: str | None) -> Conditions:
        if key is None:
            return Conditions(expires=self.expires)
        rule = self.unique or _UNIQUE
        window = None if rule.window is None else seconds(rule.window)
        # No text has a NUL in it, so this is nobody's idempotency key; and no name of a task has a line break in it.
        hashed = None if window is None else _sha256(f"\x00{task}\n{key}".encode())[:32]
        alone, on_conflict = _sha256(f"{task}\n{key}".encode()), self.on_conflict or rule.on_conflict
        return Conditions(None, key, hashed, window, alone, rule.while_ == "live", on_conflict, self.expires)


def call_rules(options: CallOptions) -> Rules | None:
    """Return what the options of a call say; None where they say nothing. Raises InvalidOption, and TypeError for what
    is no option."""
    given = _given(options, CallOptions)
    if not given:
        return None
    check_on_conflict(given.get("on_conflict", "skip"))
    return Rules(
        key=_keys("idempotency_key", given.get("idempotency_key")),
        window=_window(given),
        unique_key=_keys("unique_key", given.get("unique_key")),
        unique=_unique(given),
        on_conflict=given.get("on_conflict"),
        expires=check_expires(given.get("expires")),
    )


def task_rules(options: TaskOptions) -> Rules | None:
    """Return what the options of a task say; None where they say nothing. Raises as `call_rules`."""
    given = _given(options, TaskOptions)
    idempotent = given.pop("idempotent", False)
    if not isinstance(idempotent, bool) and not callable(idempotent):
        raise InvalidOption(f"idempotent={idempotent!r} cannot be used: give True, or a function that returns a key")
    if not given and not idempotent:
        return None
    if isinstance(given.get("expires"), datetime):
        raise InvalidOption(f"expires={given['expires']!r} cannot be used for a task: give seconds or a timedelta")
    key = KeyOf.of(idempotent) if not isinstance(idempotent, bool) else idempotent or None
    return Rules(key, _window(given), None, _unique(given), None, check_expires(given.get("expires")))


def named(rules: Rules) -> Collection[str]:
    """Return the arguments that the rules of a task name."""
    of_key = rules.key.names or () if isinstance(rules.key, KeyOf) else ()
    return (*of_key, *((rules.unique and rules.unique.by) or ()))


def check_expires(expires: object) -> datetime | float | None:
    """Return an expiry as a time or in seconds; refuse one that is neither, or out of bounds."""
    if expires is None:
        return None
    if not isinstance(expires, datetime):
        return check_duration("expires", expires, LIMIT)
    if expires.utcoffset() is None:
        raise InvalidOption(f"expires={expires!r} has no timezone: give an aware datetime, or seconds")
    if not 1900 <= expires.year < 9000:
        raise InvalidOption(f"expires={expires!r} cannot be used: give a year from 1900 to 8999")
    return expires


def check_starts_in_time(run_at: datetime | None, delay: float | None, expires: datetime | float | None) -> None:
    """Refuse a job that would expire before it may run, as far as that can be told without the database's clock."""
    due = run_at if isinstance(expires, datetime) else delay
    if expires is not None and due is not None and expires <= due:  # type: ignore[operator]  # of one kind
        raise InvalidOption(f"expires={expires!r} is not later than run_at or delay ({due!r}): it would never run")


def _given(options: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    for name in options:
        if name not in kind.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
    return {name: value for name, value in options.items() if value is not None}


def _window(given: Mapping[str, Any]) -> float | None:
    return check_optional_duration("idempotency_window", given.get("idempotency_window"), LIMIT)


def _unique(given: Mapping[str, Any]) -> Unique | None:
    unique = given.get("unique")
    if unique is not None and not isinstance(unique, Unique):
        raise InvalidOption(f"unique={unique!r:.100} cannot be used: give pgqueue.Unique(…)")
    return unique


def _keys(option: str, keys: object) -> str | KeyOf | tuple[str | None, ...] | None:
    if callable(keys):
        return KeyOf.of(keys)
    if isinstance(keys, (list, tuple)):
        return _check_keys(option, keys)
    return None if keys is None else _check_key(option, keys)


def _key(
    option: str, given: str | KeyOf | tuple[str | None, ...] | None, values: Mapping[str, Any], at: int | None
) -> str | None:
    if isinstance(given, KeyOf):
        key = given(values)
        return None if key is None else _check_key(option, key)
    if not isinstance(given, tuple):
        return given  # texts were checked when they were given
    if at is None:
        raise InvalidOption(f"{option}: a list of keys goes with enqueue_many(); give one text")
    return given[at] if at < len(given) else None


def _check_keys(option: str, keys: Sequence[object]) -> tuple[str | None, ...]:
    """Check many at once; if there is anything to be said, or None among them, one after the other."""
    try:
        joined = "".join(keys)  # type: ignore[arg-type]  # of what is no text it says so
        if all(keys) and "\x00" not in joined and joined.encode():
            return tuple(keys)  # type: ignore[arg-type]
    except (TypeError, UnicodeEncodeError):
        pass
    return tuple(None if key is None else _check_key(option, key) for key in keys)


def _check_key(option: str, key: object) -> str:
    try:
        if isinstance(key, str) and key and "\x00" not in key and key.encode():
            return key
    except UnicodeEncodeError:
        pass
    raise InvalidOption(f"{option}={key!r:.100} cannot be used: give a text that is not empty, without NUL")


def _unique_key(args: Mapping[str, Any], by: Sequence[str] | str | None) -> str:
    return _canonical(args if by is None else {name: args[name] for name in by if name in args})
