"""The rules by which a task, or a call, gives its jobs conditions: keys made from their arguments, and expiry."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from pgqueue.errors import InvalidOption
from pgqueue.jobs.keys import (
    WINDOW,
    Conditions,
    OnConflict,
    Unique,
    canonical,
    check_on_conflict,
    hash_arguments,
    key_hashes,
    unique_hash,
    window_hash,
)
from pgqueue.tasks.options import MakeKey, without_none
from pgqueue.timing import LIMIT, check_duration, check_optional_duration, seconds

GetArguments: TypeAlias = Callable[[], Mapping[str, Any]]

_UNIQUE = Unique()  # the settings of a unique key that a call gives as text


@dataclass(frozen=True, slots=True)
class KeyFunction:
    """A function that makes a key from arguments. `names` are the arguments that it takes; None: all."""

    function: MakeKey
    names: tuple[str, ...] | None

    @classmethod
    def of(cls, function: MakeKey) -> "KeyFunction":
        """Return the function with the names of the arguments that it takes."""
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


Key: TypeAlias = str | KeyFunction | tuple[str | None, ...]  # for one call, for any, for each of many


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a task, or of a call; None where it has none.

    `key` is a key as text, a function that makes one, a key for each of many calls, or True: made of all arguments.
    """

    key: Key | Literal[True] | None = None
    window: float | None = None
    unique_key: Key | None = None
    unique: Unique | None = None
    on_conflict: OnConflict | None = None
    expires: datetime | float | None = None

    def __post_init__(self) -> None:
        if self.key is not None and (self.unique_key is not None or self.unique is not None):
            raise InvalidOption(
                "idempotency_key (or idempotent) and unique_key (or unique) exclude each other: give one of them"
            )

    def with_defaults(self, defaults: "Rules | None") -> "Rules":
        """Return these rules of a call, and a task's where the call has none.

        Raises InvalidOption for an option about a key where there is no key: it would have no effect.
        """
        pairs = {name: (getattr(self, name), getattr(defaults, name, None)) for name in self.__slots__}
        rules = Rules(**{name: default if own is None else own for name, (own, default) in pairs.items()})
        if self.on_conflict is not None and rules.unique is None and rules.unique_key is None:
            raise InvalidOption("on_conflict goes with unique_key or unique: give one of them")
        if self.window is not None and rules.key is None:
            raise InvalidOption("idempotency_window goes with idempotency_key or idempotent: give one of them")
        return rules

    def argument_names(self) -> Collection[str]:
        """Return the arguments that the rules name."""
        of_key = self.key.names or () if isinstance(self.key, KeyFunction) else ()
        return (*of_key, *((self.unique and self.unique.by) or ()))

    def made_of(self, parameters: Collection[str]) -> Collection[str]:
        """Return those of a task's parameters of whose arguments the rules make a key."""
        if self.key is True or (self.unique is not None and self.unique_key is None and self.unique.by is None):
            return parameters
        for key in (self.key, self.unique_key):
            if isinstance(key, KeyFunction):
                return parameters if key.names is None else key.names
        return () if self.unique is None or self.unique_key is not None else self.unique.by or ()

    def check_unregistered(self, task: str, args: Mapping[str, Any]) -> None:
        """Refuse rules for a call of a task that is not registered here, if they have no effect, or name arguments that
        the call lacks."""
        self.with_defaults(None)
        missing = sorted({*((self.unique and self.unique.by) or ())} - set(args))
        if missing:
            raise InvalidOption(f"Unique(by=…) names {', '.join(missing)}: no argument of this call of {task}")

    def check_key_count(self, calls: int) -> None:
        """Refuse a list of keys that has not one for each of the calls."""
        for option, keys in (("idempotency_key", self.key), ("unique_key", self.unique_key)):
            if isinstance(keys, tuple) and len(keys) != calls:
                raise InvalidOption(f"{option}: {len(keys)} keys for {calls} calls: give one for each, or None")

    def conditions(
        self, task: str, all_arguments: GetArguments, values: Mapping[str, Any], at: int | None
    ) -> Conditions:
        """Return the conditions of a job: `all_arguments` gives its arguments as JSON has them, defaults among them;
        `values` are the same as Python has them; `at` is its position in `enqueue_many`."""
        if self.unique is None and self.unique_key is None:
            if self.key is None:
                return Conditions(expires=self.expires)
            by_args = self.key is True
            if self.key is True:
                key: str | None = hash_arguments(all_arguments(), task)
            else:
                key = _key("idempotency_key", self.key, values, at)
            hashed = None if key is None else key_hashes(task, [key])[0]
            return Conditions(key, None, hashed, self.window or WINDOW, None, False, "skip", self.expires, by_args)
        if self.unique_key is None and self.unique is not None:
            return self._unique_conditions(task, _unique_key(all_arguments(), self.unique.by))
        return self._unique_conditions(task, _key("unique_key", self.unique_key, values, at))

    def keys(self, calls: int, values: Sequence[Mapping[str, Any]]) -> Sequence[str | None]:
        """Return the idempotency keys of so many calls: as given, or made from the arguments of each."""
        if isinstance(self.key, tuple):
            return self.key
        if isinstance(self.key, str):
            return (self.key,) * calls
        return [_key("idempotency_key", self.key, value, None) for value in values]  # type: ignore[arg-type]  # not True

    def _unique_conditions(self, task: str, key: str | None) -> Conditions:
        if key is None:
            return Conditions(expires=self.expires)
        rule = self.unique or _UNIQUE
        window = None if rule.window is None else seconds(rule.window)
        hashed = None if window is None else window_hash(task, key)
        on_conflict = self.on_conflict or rule.on_conflict
        return Conditions(
            None, key, hashed, window, unique_hash(task, key), rule.while_ == "live", on_conflict, self.expires
        )


def call_rules(options: Mapping[str, Any]) -> Rules | None:
    """Return the rules that CallConditions of a call make; None if they make none. Raises InvalidOption."""
    given = without_none(options)
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


def task_rules(options: Mapping[str, Any]) -> Rules | None:
    """Return the rules that TaskConditions of a task make; None if they make none. Raises as `call_rules` does."""
    given = without_none(options)
    idempotent = given.pop("idempotent", False)
    if not isinstance(idempotent, bool) and not callable(idempotent):
        raise InvalidOption(f"idempotent={idempotent!r} cannot be used: give True, or a function that returns a key")
    if not given and not idempotent:
        return None
    if isinstance(given.get("expires"), datetime):
        raise InvalidOption(f"expires={given['expires']!r} cannot be used for a task: give seconds or a timedelta")
    key = KeyFunction.of(idempotent) if not isinstance(idempotent, bool) else idempotent or None
    return Rules(key, _window(given), None, _unique(given), None, check_expires(given.get("expires")))


def check_expires(expires: object) -> datetime | float | None:
    """Return an expiry as a time or in seconds. Raises InvalidOption unless it is one within the bounds."""
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
    """Refuse a job that would expire before it may run, where that shows without the database's clock."""
    due = run_at if isinstance(expires, datetime) else delay
    if expires is not None and due is not None and expires <= due:  # type: ignore[operator]  # of one kind
        raise InvalidOption(f"expires={expires!r} is not later than run_at or delay ({due!r}): it would never run")


def _window(given: Mapping[str, Any]) -> float | None:
    return check_optional_duration("idempotency_window", given.get("idempotency_window"), LIMIT)


def _unique(given: Mapping[str, Any]) -> Unique | None:
    unique = given.get("unique")
    if unique is not None and not isinstance(unique, Unique):
        raise InvalidOption(f"unique={unique!r:.100} cannot be used: give pgqueue.Unique(…)")
    return unique


def _keys(option: str, keys: object) -> Key | None:
    if callable(keys):
        return KeyFunction.of(keys)
    if isinstance(keys, (list, tuple)):
        return _check_keys(option, keys)
    return None if keys is None else _check_key(option, keys)


def _key(option: str, given: Key | None, values: Mapping[str, Any], at: int | None) -> str | None:
    if isinstance(given, KeyFunction):
        key = given(values)
        return None if key is None else _check_key(option, key)
    if not isinstance(given, tuple):
        return given  # texts were checked when the call's options were read
    if at is None:
        raise InvalidOption(f"{option}: a list of keys goes with enqueue_many(); give one text")
    return given[at] if at < len(given) else None


def _check_keys(option: str, keys: Sequence[object]) -> tuple[str | None, ...]:
    """Check many keys at once; and one after the other only if one is None or wrong."""
    try:
        joined = "".join(keys)  # type: ignore[arg-type]  # raises TypeError for what is no text
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
    return canonical(args if by is None else {name: args[name] for name in by if name in args})
