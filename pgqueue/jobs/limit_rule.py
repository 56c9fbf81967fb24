"""Rules of flow control as they are declared: a limit with the name under which it is a row, and counted."""

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from pgqueue.jobs.limits import Breaker, Limit, OnDead, OnFull, Ordered, Rate, Scope, as_rate

_OF_QUEUE = "queue:"
RuleKind: TypeAlias = Literal["limit", "order", "fair"]


@dataclass(frozen=True, slots=True)
class LimitRule:
    """A rule as a row of `limit_rule` has it. `keyed_by`: what its keys are made of; None: it has none."""

    name: str
    kind: RuleKind = "limit"
    keyed_by: str | None = None
    max_running: int | None = None
    rate_count: int | None = None
    rate_seconds: float | None = None
    rate_burst: int | None = None
    rate_strict: bool = True
    scope: Scope = "fleet"
    on_full: OnFull = "wait"
    on_dead: OnDead = "next"
    breaker_failures: int | None = None
    breaker_seconds: float | None = None
    breaker_cooldown: float | None = None

    @classmethod
    def of_limit(cls, name: str, limit: Limit) -> "LimitRule":
        """Return the rule that a limit is."""
        return cls(
            name,
            keyed_by=described(limit.by),
            max_running=limit.max_running,
            on_full=limit.on_full,
            **rate_columns(as_rate(limit.rate)),
            **breaker_columns(limit.breaker),
        )

    @classmethod
    def of_order(cls, name: str, order: Ordered) -> "LimitRule":
        """Return the rule that an order is: one job of each key runs at a time."""
        return cls(name, "order", described(order.by), max_running=1, on_dead=order.on_dead)

    @classmethod
    def of_share(cls, name: str, by: object) -> "LimitRule":
        """Return the rule that fair turns are."""
        return cls(name, "fair", described(by))

    def declared(self) -> dict[str, Any]:
        """Return the rule as its row keeps what code declares: whatever differs from a rule without settings."""
        plain = LimitRule(self.name)
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in named.items() if name != "name" and value != getattr(plain, name)}


def is_queue_rule(bucket: str) -> bool:
    """Whether a bucket is the rule of a queue: of all its jobs, whatever their tasks."""
    return bucket.startswith(_OF_QUEUE)


def rate_columns(rate: Rate | None) -> dict[str, Any]:
    """Return what a rate is in the columns of a rule. Without a burst the default of its kind applies."""
    if rate is None:
        return {"rate_count": None, "rate_seconds": None, "rate_burst": None, "rate_strict": True, "scope": "fleet"}
    return {
        "rate_count": rate.count,
        "rate_seconds": rate.per,
        "rate_burst": rate.burst,
        "rate_strict": rate.strict,
        "scope": rate.scope,
    }


def breaker_columns(breaker: Breaker | None) -> dict[str, Any]:
    """Return what a breaker is in the columns of a rule."""
    if breaker is None:
        return {"breaker_failures": None, "breaker_seconds": None, "breaker_cooldown": None}
    return {
        "breaker_failures": breaker.failures,
        "breaker_seconds": breaker.within,
        "breaker_cooldown": breaker.cooldown,
    }


def described(by: object) -> str | None:
    """Return what a key is made of, in a word: a parameter, or the name of a function."""
    return by if by is None or isinstance(by, str) else getattr(by, "__name__", type(by).__name__)


def rule_name(name: str) -> str:
    """Return the name of a rule of a task or queue: theirs, but with no / in it, which begins the key of a bucket."""
    return name.replace("%", "%25").replace("/", "%2F")


def queue_rule_name(queue: str) -> str:
    """Return the name of the rule of a queue."""
    return f"{_OF_QUEUE}{rule_name(queue)}"
