"""Rules of flow control as operators use them: seen, and changed while jobs run."""

import builtins
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, TypedDict, Unpack

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.pausing import known_limit
from pgqueue.client.steps import CURRENT_CONNECTION, StepRunner, Steps, verb
from pgqueue.errors import InvalidOption, UnknownLimit
from pgqueue.jobs.limit_rule import breaker_columns, rate_columns, rule_name
from pgqueue.jobs.limits import (
    BREAKER_ELSEWHERE,
    Breaker,
    GivenRate,
    Limit,
    OnFull,
    SharedLimit,
    as_rate,
    check_breaker,
)
from pgqueue.queries.limits import LimitStatus
from pgqueue.tasks.declared_rules import DeclaredRules
from pgqueue.tasks.metering import given_key
from pgqueue.tasks.options import check_names

MOST_WEIGHT = 1_000_000
_OF_KEYS = ("max_running", "weight")
_TOGETHER = ("max_running", "breaker_failures", "while_waiting")  # settings that each allow not all of the others


class LimitChanges(TypedDict, total=False):
    """What `app.limits.set` can change. None takes a setting away.

    `max_running` may be 0: nothing starts. `rate`, `breaker` and `while_waiting` are as in Limit. `weight` is how often
    a key of fair turns has its turn, where others have 1. A key has `max_running` and `weight` alone.
    """

    max_running: int | None
    rate: GivenRate | None
    breaker: Breaker | None
    on_full: OnFull
    while_waiting: bool
    weight: float | None


class HasRules(AppParts, Protocol):
    """An app, with the rules that its code declares."""

    name: str
    rules: DeclaredRules


class Limits:
    """The verbs on rules of flow control: `app.limits`. Each has an async twin with an `a`.

    A rule is named like the task, the shared limit, or `queue:NAME`. A change counts from the next claim on; a lower
    number lets those that run end. It stands until code declares something else.
    """

    def __init__(self, app: HasRules, conn: object = CURRENT_CONNECTION) -> None:
        self._app = app
        self._runner = StepRunner(app, conn)

    def using(self, conn: object) -> "Limits":
        """Bind a connection to borrow: changes take effect if and only if its transaction commits."""
        return Limits(self._app, conn)

    @verb
    def list(self, limit: str | SharedLimit | None = None) -> Steps[builtins.list[LimitStatus]]:
        """Return the rules, each followed by those of its keys that matter; or one rule and its keys."""
        found: builtins.list[LimitStatus] = yield self._app.queries.limits.list(
            None if limit is None else _named(limit)
        )
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def get(self, limit: str | SharedLimit, key: object = None) -> Steps[LimitStatus]:
        """Return a rule, or one key of it; an unknown key has the settings of the rule. Raises UnknownLimit."""
        return (yield from self._status(_named(limit), key))

    aget = get.twin

    @verb
    def set(
        self,
        limit: str | SharedLimit,
        *,
        key: object = None,
        by: str | None = None,
        **changes: Unpack[LimitChanges],
    ) -> Steps[LimitStatus]:
        """Change a rule, or make one key of it an exception: `app.limits.set("sync", key="acme", max_running=1)`.

        Raises UnknownLimit, and InvalidOption for a setting that it cannot have.
        """
        name, actor, columns = _named(limit), who(by), _columns(changes, key)
        queries = self._app.queries.limits
        if key is None and columns.keys() & _TOGETHER:
            yield from self._check_together(name, columns)
        found = False
        for _ in range(2):
            if key is not None and (yield self._app.queries.pauses.find_limit(name)):
                yield from known_limit(self._app, name, given_key("key", key))
            if key is None:
                found = yield queries.set_rule(name, columns, actor)
            else:
                found = yield queries.set_key(name, given_key("key", key), columns, actor)
            if found or name not in self._app.rules:
                break
            yield queries.declare(self._app.name, self._app.rules)  # no worker has started yet
        if not found:
            yield from self._unknown(name)
        if "while_waiting" in columns and not self._runner.borrows:  # else a worker does so, after the commit
            yield queries.keep_places()
        return (yield from self._status(name, key))

    aset = set.twin  # noqa: A003  # the verb above

    @verb
    def reset(self, limit: str | SharedLimit, *, key: object = None, by: str | None = None) -> Steps[LimitStatus]:
        """Let a rule be again what code declares; or take away the exception of a key. A pause stays.

        Raises UnknownLimit, and InvalidOption for a rule that no code has declared.
        """
        name, actor, queries = _named(limit), who(by), self._app.queries.limits
        if key is not None:
            yield queries.reset_key(name, given_key("key", key), actor)
        elif not (yield queries.reset_rule(name)):
            status = yield from self._status(name, None)
            raise InvalidOption(f"limit {status.rule} was declared by no code: set it to what it should be")
        return (yield from self._status(name, key))

    areset = reset.twin

    def _check_together(self, name: str, columns: Mapping[str, Any]) -> Steps[None]:
        """Refuse what a limit that counts jobs which wait cannot be, with what it is already: as Limit does. An order
        counts none, for a job in order keeps its place anyway."""
        found: builtins.list[LimitStatus] = yield self._app.queries.limits.list(name)
        kind: str | None
        if not found or found[0].kind is None:
            declared = next((rule for rule in self._app.rules if rule.name == name), None)
            if declared is None:
                return  # nobody knows it, and to change it will say so
            kind, now = declared.kind, {each: getattr(declared, each) for each in _TOGETHER}
        else:
            kind, now = found[0].kind, {each: getattr(found[0], each) for each in _TOGETHER}
        new = now | {each: columns[each] for each in _TOGETHER if each in columns}
        if not new["while_waiting"]:
            return
        if kind != "limit":
            raise InvalidOption(f"while_waiting cannot be set for {name}, for its kind is {kind}")
        if new["breaker_failures"] is not None:
            raise InvalidOption(f"{name} cannot have both while_waiting and a breaker: {BREAKER_ELSEWHERE}")
        if new["max_running"] is None:
            raise InvalidOption(f"while_waiting of {name} goes with max_running: give both, or while_waiting=False")

    def _status(self, name: str, key: object) -> Steps[LimitStatus]:
        found: builtins.list[LimitStatus] = yield self._app.queries.limits.list(name)
        wanted = None if key is None else given_key("key", key)
        for status in found:
            if status.key == wanted:
                return status
        rule = next((status for status in found if status.key is None), None)
        if rule is None:
            yield from self._unknown(name)
            raise AssertionError(name)  # it raises
        return _with_key(rule, str(wanted))

    def _unknown(self, name: str) -> Steps[None]:
        known: builtins.list[str] = yield self._app.queries.limits.names()
        raise UnknownLimit(f"no limit is named {name!r} (known: {', '.join(known) or 'none'})")


def _named(limit: object) -> str:
    """Return the name of a rule: a / in the name of a task or queue is written otherwise there."""
    if isinstance(limit, SharedLimit):
        return limit.name
    if not isinstance(limit, str) or not limit or "\0" in limit:
        raise InvalidOption(f"limit {limit!r:.200} cannot be used: give the name of a task or limit, or queue:NAME")
    return rule_name(limit) if "/" in limit else limit


def _columns(changes: Mapping[str, Any], key: object) -> dict[str, Any]:
    """Return changes as columns have them. Raises InvalidOption, and TypeError for an unknown one."""
    check_names(changes, LimitChanges.__annotations__, "limits.set()")
    if not changes:
        raise InvalidOption(f"give what is to change: {', '.join(LimitChanges.__annotations__)}")
    wrong = [name for name in changes if (name not in _OF_KEYS if key is not None else name == "weight")]
    if wrong:
        what = "one key" if key is not None else "a whole limit: give key=…"
        raise InvalidOption(f"{wrong[0]} cannot be set for {what}")
    columns: dict[str, Any] = {}
    for name, value in changes.items():
        match name:
            case "max_running":
                columns[name] = value if value == 0 and type(value) is int else _max_running(value)
            case "rate":
                columns |= rate_columns(as_rate(value))
            case "breaker":
                columns |= breaker_columns(check_breaker(value))
            case "on_full":
                columns[name] = Limit(1, on_full=value).on_full
            case "while_waiting":
                columns[name] = Limit(1, while_waiting=value).while_waiting
            case _:
                columns[name] = _weight(value)
    return columns


def _max_running(value: Any) -> int | None:
    return None if value is None else Limit(value).max_running


def _weight(value: object) -> float | None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_WEIGHT
    ):
        raise InvalidOption(f"weight={value!r:.100} cannot be used: give more than 0, at most {MOST_WEIGHT}")
    return None if value is None else float(value)


def _with_key(rule: LimitStatus, key: str) -> LimitStatus:
    """Return the status of a key of which nothing is known."""
    return replace(rule, key=key, running=None if rule.running is None else 0, waiting=0, waiting_capped=False, held=0)
