"""What concerns the jobs of a task: its rules, and the flow of each job, made of its arguments and of given keys."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pgqueue.errors import InvalidArguments, InvalidOption
from pgqueue.jobs.bucket_key import NoKey, key_text
from pgqueue.jobs.event import Event
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.limit_rule import LimitRule, rule_name
from pgqueue.jobs.limits import (
    By,
    GivenLimit,
    GivenRate,
    Limit,
    Ordered,
    Rate,
    Scope,
    SharedLimit,
    as_limit,
    as_ordered,
    as_rate,
    check_breaker,
    check_by,
)

MOST_LIMITS = 10  # of one task
EVENT_KEY = ".key"  # `event.key`: the key of the event that the parameter gets
Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """The keys that a call gives, instead of those that its arguments make.

    `limit`: of the one limit of the task that has keys, or of several by the names of their rules.
    """

    limit: object = None
    ordering: object = None
    fair: object = None


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """The options of a task that limit, share or order its jobs, checked."""

    limits: tuple[Limit | SharedLimit, ...] = ()
    fair: By | None = None
    ordered: Ordered | None = None

    def of_task(self, task: str, signature: inspect.Signature) -> "Metering":
        """Return what they are for a task with this signature. Raises InvalidOption for a parameter it has not."""
        name, own, found = rule_name(task), 0, list[_Rule]()
        for given in self.limits:
            if isinstance(given, SharedLimit):
                found.append(_Rule.of(task, LimitRule.of_limit(given.name, given.limit), given.limit.by, signature))
                continue
            own += 1
            rule = LimitRule.of_limit(name if own == 1 else f"{name}#{own}", given)
            found.append(_Rule.of(task, rule, given.by, signature))
        order = share = None
        if self.ordered is not None:
            order = _Rule.of(task, LimitRule.of_order(f"{name}#order", self.ordered), self.ordered.by, signature)
        if self.fair is not None:
            share = _Rule.of(task, LimitRule.of_share(f"{name}#fair", self.fair), self.fair, signature)
        return Metering(task, tuple(found), order, share, self.ordered is None or self.ordered.on_retry == "wait")


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule of a task, and how its key is made; None: it has no keys. `names`: the arguments that the key is made of,
    None for all."""

    rule: LimitRule
    by: By | None
    names: tuple[str, ...] | None = ()

    @classmethod
    def of(cls, task: str, rule: LimitRule, by: By | None, signature: inspect.Signature) -> "_Rule":
        names = _names(by, signature)
        unknown = sorted(set(names or ()) - set(signature.parameters))
        if isinstance(by, str) and by.endswith(EVENT_KEY) and not unknown:
            _check_event(task, by, signature)
        if unknown:
            raise InvalidOption(
                f"task {task} has no parameter {', '.join(unknown)} (it takes {signature}), of which a key of its rule "
                f"{rule.name} would be made"
            )
        return cls(rule, by, names)

    def bucket(self, task: str, values: Values) -> str:
        """Return the bucket of a call: the rule, and the key that its arguments make. Raises InvalidArguments."""
        by = self.by
        if by is None:
            return self.rule.name
        try:
            if isinstance(by, str):
                key = key_text(values[by] if by in values else getattr(values[_parameter(by)], "key", None))
            else:
                given = values if self.names is None else {name: values[name] for name in self.names}
                key = key_text(by(**given))
        except NoKey as error:
            what = by if isinstance(by, str) else self.rule.keyed_by
            raise InvalidArguments(
                task, [f"{what}: the key of rule {self.rule.name} cannot be made: {error}"]
            ) from None
        return f"{self.rule.name}/{key}"


@dataclass(frozen=True, slots=True)
class Metering:
    """The rules of a task, in the order in which they were given.

    `keeps_place`: a job in order keeps its place until it has ended.
    """

    task: str
    limits: tuple[_Rule, ...] = ()
    order: _Rule | None = None
    share: _Rule | None = None
    keeps_place: bool = True

    @property
    def rules(self) -> tuple[LimitRule, ...]:
        """The rules as rows have them."""
        more = [rule for rule in (self.order, self.share) if rule is not None]
        return tuple(each.rule for each in (*self.limits, *more))

    @property
    def is_keyed(self) -> bool:
        """Whether some rule has keys, which differ from job to job."""
        return self.order is not None or self.share is not None or any(rule.by is not None for rule in self.limits)

    def made_of(self, parameters: Collection[str], keys: GivenKeys | None) -> Collection[str]:
        """Return those of a task's parameters of whose arguments keys are made, where the call gives no key."""
        given = {} if keys is None else self._given(keys)
        rules = [rule for rule in (*self.limits, self.order, self.share) if rule is not None]
        names = [rule.names for rule in rules if rule.rule.name not in given]
        return parameters if None in names else {name for each in names for name in each or ()}

    @property
    def last_limit(self) -> str | None:
        """The limit that was given last: the one that RateLimited means, unless it names another."""
        return self.limits[-1].rule.name if self.limits else None

    def flow(self, queue_rule: str | None, values: Values, keys: GivenKeys | None) -> Flow:
        """Return the flow of a job with these arguments. `queue_rule`: the rule of its queue.

        Raises InvalidArguments where no key can be made of the arguments, and InvalidOption for given keys.
        """
        given = {} if keys is None else self._given(keys)

        def bucket(rule: _Rule) -> str:
            return given.get(rule.rule.name) or rule.bucket(self.task, values)

        buckets = [bucket(rule) for rule in self.limits]
        order = None if self.order is None else bucket(self.order)
        return _flow(
            [*buckets, *([] if order is None else [order]), *([] if queue_rule is None else [queue_rule])],
            order if self.keeps_place else None,
            None if self.share is None else bucket(self.share),
        )

    def flow_without_keys(self, queue_rule: str | None) -> Flow:
        """Return the flow of a job of whose arguments no key can be made: it takes the bucket of the rule alone."""
        return replace(self, limits=tuple(_keyless(rule) for rule in self.limits),
                       order=_keyless(self.order), share=_keyless(self.share)).flow(queue_rule, {}, None)  # fmt: skip

    def _given(self, keys: GivenKeys) -> dict[str, str]:
        """Return the buckets that given keys make, by rule."""
        found = dict[str, str]()
        for option, given, rule in (
            ("ordering_key", keys.ordering, self.order),
            ("fair_key", keys.fair, self.share),
        ):
            if given is not None:
                if rule is None:
                    needed = "ordered" if option == "ordering_key" else "fair"
                    raise InvalidOption(f"{option} cannot be used: task {self.task} has no option {needed}=…")
                found[rule.rule.name] = f"{rule.rule.name}/{given_key(option, given)}"
        if keys.limit is not None:
            for name, key in self._of_limits(keys.limit).items():
                found[name] = f"{name}/{given_key('limit_key', key)}"
        return found

    def _of_limits(self, given: object) -> Mapping[str, object]:
        keyed = [rule.rule.name for rule in self.limits if rule.by is not None]
        if isinstance(given, Mapping):
            unknown = sorted(str(name) for name in given if name not in keyed)
            if unknown:
                raise InvalidOption(
                    f"limit_key names {', '.join(unknown)}: no limit of task {self.task} with keys "
                    f"({', '.join(keyed) or 'it has none'})"
                )
            return given
        if len(keyed) != 1:
            remedy = f"give a dict of keys by rule: {', '.join(keyed)}" if keyed else "give it limit=Limit(…, by=…)"
            raise InvalidOption(f"limit_key: task {self.task} has {len(keyed)} limits with keys: {remedy}")
        return {keyed[0]: given}


def unregistered_flow(task: str, queue_rule: str | None, keys: GivenKeys) -> Flow:
    """Return the flow of a job of a task that is registered elsewhere: as the SQL function `enqueue` makes it, with the
    rules that the task has if its options have no names of their own. Raises InvalidOption."""
    if isinstance(keys.limit, Mapping):
        raise InvalidOption(f"limit_key as a dict cannot be used: the rules of task {task} are not known here")
    name, buckets, order = rule_name(task), list[str](), None
    if keys.limit is not None:
        buckets.append(f"{name}/{given_key('limit_key', keys.limit)}")
    if keys.ordering is not None:
        order = f"{name}#order/{given_key('ordering_key', keys.ordering)}"
        buckets.append(order)
    share = None if keys.fair is None else f"{name}#fair/{given_key('fair_key', keys.fair)}"
    return _flow([*buckets, *([] if queue_rule is None else [queue_rule])], order, share)


def given_key(option: str, key: object) -> str:
    """Return a key that a call gives, as text. Raises InvalidOption for what is no key."""
    try:
        return key_text(key)
    except NoKey as error:
        raise InvalidOption(f"{option} cannot be used: {error}") from None


def task_limits(given: Mapping[str, Any]) -> TaskLimits | None:
    """Return what TurnOptions of a task make of it; None without any. Raises InvalidOption."""
    limits = list(_limits(given.get("limit")))
    rate, breaker = _rate(given), check_breaker(given.get("breaker"))
    if rate is not None:
        _join(limits, Limit(None, by=rate.by, rate=replace(rate, by=None)), "rate")
    if breaker is not None:
        _join(limits, Limit(None, breaker=breaker), "breaker")
    if len(limits) > MOST_LIMITS:
        raise InvalidOption(f"limit: {len(limits)} limits cannot be used: give at most {MOST_LIMITS}")
    names = [each.name for each in limits if isinstance(each, SharedLimit)]
    if len(set(names)) < len(names):
        raise InvalidOption(f"limit: {', '.join(sorted(names))}: give each shared limit once")
    fair = given.get("fair")
    check_by("fair", fair)
    ordered = as_ordered(given.get("ordered"))
    return TaskLimits(tuple(limits), fair, ordered) if limits or fair is not None or ordered is not None else None


def _limits(given: GivenLimit | list[GivenLimit] | None) -> list[Limit | SharedLimit]:
    several = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
    return [each if isinstance(each, SharedLimit) else as_limit(each) for each in several]


def _rate(given: Mapping[str, Any]) -> Rate | None:
    written: GivenRate | None = given.get("rate_limit")
    scope: Scope | None = given.get("rate_scope")
    rate = as_rate(written)
    if scope is None:
        return rate
    if rate is None or isinstance(written, Rate):
        raise InvalidOption("rate_scope goes with a rate_limit such as '10/m'; a Rate has scope=…")
    return replace(rate, scope=scope)


def _join(limits: list[Limit | SharedLimit], more: Limit, part: str) -> None:
    """Add a rate or a breaker to the first limit of the task's own that has the same key and none yet: each rule is a
    bucket more that is counted. A limit that counts jobs which wait can have no breaker."""
    for at, limit in enumerate(limits):
        if part == "breaker" and isinstance(limit, Limit) and limit.while_waiting:
            continue
        if isinstance(limit, Limit) and limit.by == more.by and getattr(limit, part) is None:
            limits[at] = replace(limit, **{part: getattr(more, part)})
            return
    limits.append(more)


def _names(by: By | None, signature: inspect.Signature) -> tuple[str, ...] | None:
    """Return the arguments that a key is made of; None: all. What a function has a default for need not be one."""
    if by is None:
        return ()
    if isinstance(by, str):
        return (_parameter(by),)
    try:
        parameters = inspect.signature(by).parameters.values()
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"by={by!r:.100} cannot be used: its parameters cannot be read ({error})") from None
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    return tuple(
        each.name
        for each in parameters
        if each.kind is not each.VAR_POSITIONAL and (each.default is each.empty or each.name in signature.parameters)
    )


def _parameter(by: str) -> str:
    """Return the parameter that a key is made of."""
    return by.removesuffix(EVENT_KEY)


def _check_event(task: str, by: str, signature: inspect.Signature) -> None:
    name = _parameter(by)
    if signature.parameters[name].annotation is not Event:
        raise InvalidOption(f"task {task}: {by!r} is the key of an event: annotate {name} as pgqueue.Event")


def _keyless(rule: Any) -> Any:
    return None if rule is None else replace(rule, by=None, names=())


def _flow(buckets: list[str], order: str | None, share: str | None) -> Flow:
    return Flow(tuple(sorted(set(buckets))), order, share)
