"""Settings: the options that users typed, each checked, with the defaults of the app."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from pgqueue.codecs import Codec
from pgqueue.config import check_queue
from pgqueue.errors import InvalidOption
from pgqueue.jobs.retry import Delays, RetryPolicy, as_policy
from pgqueue.jobs.topics import Pattern, check_patterns
from pgqueue.tasks.dead_letter_task import check_dead_letter_task
from pgqueue.tasks.headers import headers_text
from pgqueue.tasks.metering import GivenKeys, task_limits
from pgqueue.tasks.options import (
    CallConditions,
    CallKeys,
    CallOptions,
    ErrorTypes,
    NamedCallOptions,
    TaskConditions,
    TaskOptions,
    TaskTurns,
    check_names,
    without_none,
)
from pgqueue.tasks.rules import Rules, call_rules, check_starts_in_time, task_rules
from pgqueue.tasks.spec import TaskSettings, TaskSpec
from pgqueue.tasks.versions import MAX_VERSION
from pgqueue.timing import DELAY, LIMIT, check_duration, check_optional_duration, seconds

_CONDITIONS = frozenset(CallConditions.__annotations__)
_KEYS = frozenset(CallKeys.__annotations__)
_OF_CALL, _OF_NAMED_CALL = frozenset(CallOptions.__annotations__), frozenset(NamedCallOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class CallSettings:
    """The options of one call, checked; None means that the task's setting, or the app's, applies."""

    queue: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay: float | timedelta | None = None
    max_attempts: int | None = None
    tags: Sequence[str] | None = None
    rules: Rules | None = None
    version: int | None = None
    headers: str | None = None  # as JSON
    keys: GivenKeys | None = None

    def __post_init__(self) -> None:
        if self.queue is not None:
            check_queue(self.queue)
        if self.priority is not None:
            check_priority(self.priority)
        if self.max_attempts is not None:
            check_max_attempts(self.max_attempts)
        if self.tags is not None:
            check_tags(self.tags)
        if self.run_at is not None:
            check_run_at(self.run_at)
        if self.delay is not None:
            check_duration("delay", self.delay, DELAY)
        if self.version is not None:
            check_count("version", self.version, MAX_VERSION)
        if self.run_at is not None and self.delay is not None:
            raise InvalidOption("run_at and delay exclude each other: give one of them")
        if self.rules is not None:
            delay = None if self.delay is None else seconds(self.delay)
            check_starts_in_time(self.run_at, delay, self.rules.expires)


def call_settings(options: Mapping[str, Any], spec: TaskSpec | None = None) -> CallSettings:
    """Return the settings of `task.using(…)`, or without a spec those of `app.using(…)`.

    Raises InvalidOption, and TypeError for an unknown option.
    """
    known = _OF_NAMED_CALL if spec is None else _OF_CALL
    if not options.keys() <= known:
        check_names(options, known, "using()")
    if _CONDITIONS.isdisjoint(options):
        rules, others = None, options
    else:
        rules = call_rules({name: value for name, value in options.items() if name in _CONDITIONS})
        others = {name: value for name, value in options.items() if name not in _CONDITIONS}
    if "headers" in others:
        others = {**others, "headers": headers_text(others["headers"])}
    keys = None
    if not _KEYS.isdisjoint(others):
        keys = _given_keys(others)
        others = {name: value for name, value in others.items() if name not in _KEYS}
    settings = CallSettings(**others, rules=rules if spec is None else spec.rules_of(rules), keys=keys)
    if spec is not None:
        spec.check_priority(settings.priority)
    return settings


def with_options(base: CallSettings, options: Mapping[str, Any], spec: TaskSpec) -> CallSettings:
    """Return the settings of `signature.using(…)`: those that the signature has, and where the options say something,
    what they say. Raises as `call_settings` does."""
    given = call_settings(options, spec)
    own = {each.name: getattr(given, each.name) for each in fields(given) if each.name not in ("rules", "keys")}
    rules, keys = base.rules, base.keys
    if not _CONDITIONS.isdisjoint(without_none(options)):
        said = call_rules({name: value for name, value in options.items() if name in _CONDITIONS})
        rules = rules if said is None else said.with_defaults(rules)
    if given.keys is not None:
        said_keys = {name: value for name, value in asdict(given.keys).items() if value is not None}
        keys = replace(keys or GivenKeys(), **said_keys)
    return replace(base, **without_none(own), rules=rules, keys=keys)


def _given_keys(options: Mapping[str, Any]) -> GivenKeys | None:
    """Return the keys that a call gives; None where it gives none."""
    keys = GivenKeys(options.get("limit_key"), options.get("ordering_key"), options.get("fair_key"))
    return None if keys == GivenKeys() else keys


class TaskDefaults(Protocol):
    """The defaults that an app has for its tasks."""

    queue: str
    max_attempts: int
    retry_policy: RetryPolicy
    timeout: float | None
    soft_timeout: float | None
    max_crashes: int
    dead_letter_task: str | None
    result_ttl: float | None
    max_result_bytes: int
    max_args_bytes: int
    codec: Codec | None


def task_settings(options: Mapping[str, Any], app: TaskDefaults) -> TaskSettings:
    """Return the settings of a task. Raises InvalidOption, and TypeError for an unknown option."""
    check_names(options, TaskOptions.__annotations__, "@app.task")
    given = without_none(options)
    rules = task_rules({name: given[name] for name in TaskConditions.__annotations__ if name in given})
    policy = as_policy(given["retry"]) if "retry" in given else app.retry_policy
    # A list of three delays means three retries.
    attempts = len(policy.seconds) + 1 if isinstance(policy, Delays) else app.max_attempts
    timeout = check_optional_duration("timeout", given.get("timeout", app.timeout), LIMIT)
    return TaskSettings(
        given=frozenset(given),
        queue=check_queue(given.get("queue", app.queue)),
        priority=check_priority(given.get("priority", 0)),
        max_attempts=check_max_attempts(given.get("max_attempts", attempts)),
        retry=policy,
        retry_on=check_error_types("retry_on", given.get("retry_on", ())),
        no_retry_on=check_error_types("no_retry_on", given.get("no_retry_on", ())),
        tags=check_tags(given.get("tags", ())),
        timeout=timeout,
        soft_timeout=_soft_timeout(given, app, timeout),
        isolation=given.get("isolation", "thread"),
        max_crashes=check_count("max_crashes", given.get("max_crashes", app.max_crashes)),
        dead_letter_task=check_dead_letter_task(given.get("dead_letter_task", app.dead_letter_task)),
        retention=check_retention(given.get("retention")),
        rules=rules,
        on=_patterns(given.get("on"), rules),
        turns=task_limits({name: given[name] for name in TaskTurns.__annotations__ if name in given}),
        version=given.get("version", 1),
        upcasters=given.get("upcasters", {}),
        aliases=given.get("aliases", ()),
        max_args_bytes=check_args_bytes(given.get("max_args_bytes", app.max_args_bytes)),
        codec=app.codec,
        store_result=check_store_result(given.get("store_result", True), given.get("result_ttl")),
        result_ttl=check_optional_duration("result_ttl", given.get("result_ttl", app.result_ttl), LIMIT),
        max_result_bytes=app.max_result_bytes,
    )


def _patterns(given: object, rules: Rules | None) -> tuple[Pattern, ...]:
    """Return the patterns of the events that a task gets. Raises InvalidOption, also for conditions beside them."""
    if given is None:
        return ()
    if rules is not None and (rules.key is not None or rules.unique is not None):
        raise InvalidOption(
            "on=… cannot be used with idempotent or unique: an event makes one job of a task in any case; to let a "
            "newer one replace those that wait, give limit=Limit(1, by=…, on_full='replace_waiting')"
        )
    return check_patterns(given)


def _soft_timeout(given: Mapping[str, Any], app: TaskDefaults, timeout: float | None) -> float | None:
    """Return the soft limit of a task. The app's counts unless it lies beyond the timeout of the task."""
    if "soft_timeout" in given or app.soft_timeout is None:
        return check_optional_duration("soft_timeout", given.get("soft_timeout"), LIMIT)
    return None if timeout is not None and app.soft_timeout > timeout else app.soft_timeout


def check_run_at(run_at: object) -> datetime:
    """Return a run time. Raises InvalidOption unless it is an aware datetime that Postgres and Python can represent."""
    if not isinstance(run_at, datetime) or run_at.utcoffset() is None:
        raise InvalidOption(f"run_at={run_at!r:.100} has no timezone: give an aware datetime, or delay=…")
    if not 1900 <= run_at.year <= 9000:
        raise InvalidOption(f"run_at={run_at!r:.100} cannot be used: give a year from 1900 to 9000")
    return run_at


def check_priority(priority: object) -> int:
    """Return a priority. Raises InvalidOption unless it is a whole number from -100 to 100."""
    if type(priority) is not int or not -100 <= priority <= 100:
        raise InvalidOption(f"priority={priority!r:.100} cannot be used: give -100 to 100 (higher runs sooner)")
    return priority


def check_max_attempts(max_attempts: object) -> int:
    """Return a number of attempts. Raises InvalidOption unless it is a whole number from 1 to a million."""
    if type(max_attempts) is not int or not 1 <= max_attempts <= 1_000_000:
        raise InvalidOption(f"max_attempts={max_attempts!r:.100} cannot be used: give 1 (no retries) to 1000000")
    return max_attempts


def check_count(option: str, count: object, most: int = 1_000_000) -> int:
    """Return a whole number. Raises InvalidOption unless it is from 1 to `most`."""
    if type(count) is not int or not 1 <= count <= most:
        raise InvalidOption(f"{option}={count!r:.100} cannot be used: give 1 to {most}")
    return count


def check_args_bytes(most: object) -> int:
    """Return how long the arguments of a job may be. Raises InvalidOption unless it is 1 byte to 100 MB."""
    return check_count("max_args_bytes", most, 100_000_000)


def check_depth(depth: object) -> int:
    """Return how many jobs may wait in a queue. Raises InvalidOption unless it is 1 to a thousand million."""
    if type(depth) is not int or not 1 <= depth <= 10**9:
        raise InvalidOption(f"max_depth={depth!r:.100} cannot be used: give 1 to 1000000000")
    return depth


def check_result_bytes(most: object) -> int:
    """Return how long a result may be. Raises InvalidOption unless it is 1 byte to 64 MiB."""
    if type(most) is not int or not 1 <= most <= 64 * 1024 * 1024:
        raise InvalidOption(f"max_result_bytes={most!r:.100} cannot be used: give 1 to {64 * 1024 * 1024}")
    return most


def check_store_result(stored: object, result_ttl: object) -> bool:
    """Return whether results are stored. Raises InvalidOption unless it is a bool, and for a time to live of results
    that are not stored."""
    if type(stored) is not bool:
        raise InvalidOption(f"store_result={stored!r:.100} cannot be used: give True or False")
    if not stored and result_ttl is not None:
        raise InvalidOption("store_result=False and result_ttl exclude each other: nothing is stored that could expire")
    return stored


def check_retention(kept: object) -> int | None:
    """Return what is kept of a job that has succeeded: all (None) or nothing (0)."""
    if kept is not None and (type(kept) is not int or kept != 0):
        raise InvalidOption(
            f"retention={kept!r:.100} cannot be used: give 0 (keep nothing of jobs that succeed) or None"
        )
    return kept


def check_error_types(option: str, given: ErrorTypes) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple. Raises InvalidOption for anything else."""
    types = given if isinstance(given, tuple) else (given,)
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidOption(f"{option}={kind!r:.100} cannot be used: give exception classes")
    return types


def check_tags(tags: object) -> tuple[str, ...]:
    """Return tags. Raises InvalidOption unless they are at most 100 short texts."""
    if not isinstance(tags, (list, tuple)) or len(tags) > 100:
        raise InvalidOption(f"tags={tags!r:.100} cannot be used: give a list of at most 100 texts")
    for tag in tags:
        if not isinstance(tag, str) or not 1 <= len(tag) <= 200 or not tag.isprintable():
            raise InvalidOption(f"tag {tag!r:.100} cannot be used: give 1 to 200 printable characters")
    return tuple(tags)


def check_limit(limit: object) -> int:
    """Return how many rows a list may have. Raises InvalidOption unless it is a whole number from 0 on."""
    if type(limit) is not int or not 0 <= limit < 2**31:
        raise InvalidOption(f"limit={limit!r:.100} cannot be used: give a whole number from 0 on")
    return limit


def check_before(before: object) -> int | None:
    """Return the id below which a list begins, or None. Raises InvalidOption unless it is a whole number."""
    if before is not None and (type(before) is not int or not 0 <= before < 2**63):
        raise InvalidOption(f"before={before!r:.100} cannot be used: give an id, the last one of the page before")
    return before


def check_optional_count(name: str, given: object) -> int | None:
    """Return a count, or None. Raises InvalidOption unless it is one from 1 on."""
    if given is None:
        return None
    if type(given) is not int or not 1 <= given < 2**31:
        raise InvalidOption(f"{name}={given!r:.100} cannot be used: give 1 or more")
    return given
