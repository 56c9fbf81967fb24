"""The options that users type for tasks, calls and schedules: each is listed once, here, with its type."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, TypeAlias, TypedDict

from pgqueue.jobs.keys import OnConflict, Unique
from pgqueue.jobs.limits import Breaker, By, GivenLimit, GivenRate, Ordered, Scope
from pgqueue.jobs.retry import RetryOption
from pgqueue.tasks.dead_letter_task import DeadLetterTaskOption
from pgqueue.tasks.versions import Upcaster
from pgqueue.timing import Seconds

ErrorTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
MakeKey: TypeAlias = Callable[..., str | None]
Keys: TypeAlias = str | MakeKey | Sequence[str | None]


class JobOptions(TypedDict, total=False):
    """The options that a task, a call and a schedule can give a job. None, as without the option: a call takes the
    task's, a task the app's.

    Workers take jobs of a higher `priority` (-100 to 100) first. `max_attempts` counts the first run.
    """

    queue: str | None
    priority: int | None
    max_attempts: int | None
    tags: Sequence[str] | None


class CallConditions(TypedDict, total=False):
    """The options of a call that make conditions.

    `idempotency_key` and `unique_key`: a text, a function of the job's arguments by name that returns one (or None for
    no key), or for `enqueue_many` a list with one for each call. `expires`: seconds or a timedelta after the
    enqueueing, or an aware datetime.
    """

    idempotency_key: Keys | None
    idempotency_window: Seconds | None
    unique_key: Keys | None
    unique: Unique | None
    on_conflict: OnConflict | None
    expires: Seconds | datetime | None


class CallKeys(TypedDict, total=False):
    """The keys that a call gives to its task's rules, instead of those that the arguments make.

    `limit_key` is the key of the limit that has keys, or a dict of keys by rule where several have; `ordering_key` the
    one of `ordered`, `fair_key` the one of `fair`.
    """

    limit_key: object
    ordering_key: object
    fair_key: object


class CallOptions(JobOptions, CallConditions, CallKeys, total=False):
    """The options of `task.using(…)`. `run_at` is an aware datetime, `delay` seconds or a timedelta.

    `headers`: up to 50 texts by name that the job carries beside its arguments, together up to 8 KiB; `ctx.headers` has
    them in the task. They are not encrypted.
    """

    run_at: datetime | None
    delay: Seconds | None
    headers: Mapping[str, str] | None


class NamedCallOptions(CallOptions, total=False):
    """The options of `app.using(…)`. `version`: of a task that is not registered here, the version whose arguments are
    given."""

    version: int | None


class TaskConditions(TypedDict, total=False):
    """The options of a task that make conditions: those of a call, and `idempotent`: True makes a key of all arguments,
    a function returns one."""

    idempotent: bool | MakeKey | None
    idempotency_window: Seconds | None
    unique: Unique | None
    expires: Seconds | None


class TaskTurns(TypedDict, total=False):
    """The options of a task that decide when its jobs may run.

    `limit`: Limit, Rate or what `app.limit(…)` returns, or a list of them, all of which hold. `rate_limit`: a Rate, or
    as Celery writes it ("10/m"), but of the whole fleet unless `rate_scope="worker"`. `breaker` stops all its jobs
    while they fail. `fair`: a parameter, or a function that makes a key: workers take turns among the keys. `ordered`:
    one job at a time for each key, in order; then all jobs have the task's priority.
    """

    limit: GivenLimit | Sequence[GivenLimit] | None
    rate_limit: GivenRate | None
    rate_scope: Scope | None
    breaker: Breaker | None
    fair: By | None
    ordered: By | Ordered | None


class TaskOptions(JobOptions, TaskConditions, TaskTurns, total=False):
    """The options of `@app.task(…)`. Durations are seconds or timedeltas.

    `on`: a pattern of topics, or a list of them: the task gets the events that are published under one that fits, as
    `app.publish` says. `*` stands for one word, `#` for any number.

    `retry` is a policy, a list of delays in seconds (then `max_attempts` is one more than its length, unless given) or
    one delay. `retry_on`: only these exceptions are retried. `no_retry_on`: these never are. An error that is not
    retried makes the job a dead letter at once.

    `isolation="process"` runs the task, `def` or `async def`, in a child process: a segfault, `os._exit` or the OOM
    killer ends that attempt alone. `timeout` cancels an `async def` and terminates a child process; that fails the
    attempt with reason *timeout*, and the policy tries again. A thread cannot be stopped: for it the timeout is a soft
    limit, and a ThreadTimeoutWarning says so. `soft_timeout` lets the task clean up: it sets `ctx.deadline`, cancels an
    `async def` once, raises SoftTimeout in a `def` in a child process wherever it is, and in a thread where that calls
    `ctx.check()`. Such attempts have the reason *soft timeout*.

    A job whose worker died while it ran is a dead letter with reason *crashed* after the `max_crashes`-th time.
    `dead_letter_task` names a task of which a job is enqueued with each dead letter of this one; False: none, though
    the app has one.
    `retention=0` keeps nothing of a job that succeeds, neither its row nor its transitions, for speed; failures are
    kept. `store_result=False` throws away what the task returns; `result_ttl` drops it so long after the end, and keeps
    the job.

    `version` counts changes of the signature; `upcasters[n]` takes the arguments of version n, a dict, and returns
    those of n + 1. `aliases` are former names of the task: their jobs run here, too. `max_args_bytes` limits the JSON
    of the arguments.
    """

    name: str | None
    on: str | Sequence[str] | None
    retry: RetryOption | None
    retry_on: ErrorTypes | None
    no_retry_on: ErrorTypes | None
    timeout: Seconds | None
    soft_timeout: Seconds | None
    isolation: str | None
    max_crashes: int | None
    dead_letter_task: DeadLetterTaskOption
    retention: int | None
    store_result: bool | None
    result_ttl: Seconds | None
    version: int | None
    upcasters: Mapping[int, Upcaster] | None
    aliases: Sequence[str] | None
    max_args_bytes: int | None


# Names that other queues, or another place of ours, have for an option.
_ELSEWHERE = {
    "concurrency": "limit",
    "concurrency_key": "limit_key",
    "concurrency_limit": "limit",
    "countdown": "delay",
    "eta": "run_at",
    "idempotency_key": "idempotent",
    "idempotent": "idempotency_key",
    "max_retries": "max_attempts",
    "ordering_key": "ordered",
    "partition_key": "ordering_key",
    "retries": "max_attempts",
    "schedule_at": "run_at",
    "schedule_in": "delay",
    "soft_time_limit": "soft_timeout",
    "subscribe": "on",
    "topic": "on",
    "time_limit": "timeout",
    "unique_key": "unique",
}


def check_names(given: Collection[str], known: Collection[str], where: str) -> None:
    """Raise TypeError for the first option whose name is not known, with the name that may be meant."""
    for name in given:
        if name not in known:
            close = [_ELSEWHERE[name]] if _ELSEWHERE.get(name) in known else get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(sorted(known))}"
            raise TypeError(f"{where} has no option {name!r}: {hint}")


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that have a value: None stands for the default."""
    return {name: value for name, value in options.items() if value is not None}
