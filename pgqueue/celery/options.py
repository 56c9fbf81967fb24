"""The options of Celery's tasks and calls: what each means here, and the remedy for those that have no place."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, TypedDict
from zoneinfo import ZoneInfo

from pgqueue.celery.conf import Settings, warn
from pgqueue.celery.parts import Adapter, AdapterTask
from pgqueue.errors import InvalidOption

EXPIRES = "expires"  # the header with the moment at which a call expires, if it names one
TASK_ID = "task_id"  # the header, and the beginning of the tag, of a job whose caller has chosen an id


class TaskOptions(TypedDict, total=False):
    """The options of `@app.task` and `@shared_task`. `pgqueue`: options of pgqueue's own, such as `{"unique": …}`.

    `max_retries` counts retries, the first run not among them, and holds for `self.retry` and `autoretry_for`; any
    other error is final. `time_limit` runs a `def` in a child process, which is killed; `soft_time_limit` raises
    SoftTimeLimitExceeded there. `rate_limit` is that of the whole fleet."""

    name: str | None
    base: type[Any] | None
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: Sequence[type[BaseException]]
    dont_autoretry_for: Sequence[type[BaseException]]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    rate_limit: str | float | None
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool | None
    queue: str | None
    priority: int | None
    expires: float | timedelta | None
    acks_late: bool | None
    reject_on_worker_lost: bool | None
    throws: Sequence[type[BaseException]]
    pydantic: bool
    typing: bool
    serializer: str | None
    compression: str | None
    track_started: bool | None
    trail: bool
    send_events: bool
    store_errors_even_if_ignored: bool | None
    acks_on_failure_or_timeout: bool | None
    store_eager_result: bool | None
    pgqueue: Mapping[str, Any]


class CallOptions(TypedDict, total=False):
    """The options of `apply_async`, `send_task` and `signature.set`.

    `using`: the connection in whose transaction the job is, instead of the one that `app.bind` gives;
    `transactional=False`: neither, so that it is committed at once. `pgqueue`: options of pgqueue's own.
    """

    task_id: str | None
    countdown: float | None
    eta: datetime | None
    expires: float | timedelta | datetime | None
    queue: Any
    priority: int | None
    link: Any
    link_error: Any
    headers: Mapping[str, Any] | None
    ignore_result: bool | None
    retry: bool
    retry_policy: Mapping[str, Any] | None
    serializer: str | None
    compression: str | None
    shadow: str | None
    add_to_parent: bool
    using: object
    transactional: bool
    pgqueue: Mapping[str, Any]


NO_PLACE = {
    "exchange": "queue=: queues have names, and no exchanges",
    "routing_key": "queue=: queues have names, and no routing keys",
    "delivery_mode": "nothing: every job is durable",
    "backend": "nothing: a result is kept with its job",
    "connection": "using=, a connection to Postgres",
    "producer": "using=, a connection to Postgres",
    "publisher": "using=, a connection to Postgres",
    "time_limit": "time_limit= in @app.task: it belongs to the task",
    "soft_time_limit": "soft_time_limit= in @app.task: it belongs to the task",
    "pydantic_strict": "types of pydantic in the annotations, such as StrictInt",
    "pydantic_context": "pydantic models that read what they need themselves",
    "pydantic_dump_kwargs": "model_dump in the task",
    "filter": "a decorator below @app.task",
    "retries": "nothing: the attempts of a job are counted in its row",
    "group_id": "group(…), chord(…)",
    "chord": "chord(…)",
    "reply_to": "result.get(), or link=",
}


def check_names(given: Collection[str], known: Collection[str], where: str) -> None:
    """Refuse options that have no place, naming the remedy, and those that Celery has not."""
    for name in given:
        if name in known:
            continue
        if name in NO_PLACE:
            raise InvalidOption(f"{where} cannot take {name}=…: use {NO_PLACE[name]}")
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else "attributes of your own belong to a class, base="
        raise InvalidOption(f"{where} has no option {name!r}: {hint}")


def check_json(where: str, given: Mapping[str, Any]) -> None:
    """Refuse a serializer that is not JSON."""
    if given.get("serializer") not in (None, "json"):
        raise InvalidOption(
            f"{where} cannot take serializer={given['serializer']!r}: arguments are JSON; pass the id of a row"
        )


def priority_here(conf: Settings, priority: int | None) -> int | None:
    """Return a priority as pgqueue counts it: higher runs sooner.

    RabbitMQ's highest is the highest number, Redis's is 0. The broker's URL, or `conf.priority_order`, says which.
    """
    if priority is None:
        return None
    order = conf.priority_order or _order_of(conf.broker_url)
    if order is None:
        raise InvalidOption(
            f"priority={priority!r:.100} may mean two things: with RabbitMQ the highest number runs first, with Redis "
            "0 does. Set conf.priority_order = 'high' or 'low'"
        )
    if type(priority) is not int or not 0 <= priority <= 100:
        raise InvalidOption(f"priority={priority!r:.100} cannot be used: give 0 to 100, as your broker had it")
    return priority if order == "high" else -priority


def call_options(
    app: Adapter,
    task: AdapterTask | None,
    name: str,
    given: Mapping[str, Any],
    arguments: tuple[Any, Any] = ((), None),
) -> dict[str, Any]:
    """Return the options of pgqueue for a call: what the call says, else the task, else a route, which may look at the
    arguments. Raises InvalidOption."""
    where = f"a call of {name}"
    check_names(given, CallOptions.__annotations__, where)
    check_json(where, given)
    if given.get("ignore_result") not in (None, None if task is None else task.ignore_result):
        raise InvalidOption(
            f"{where} cannot take ignore_result=…: it belongs to the task, @app.task(ignore_result=True)"
        )
    route = app.route_of(name, *arguments)
    given = {
        **{option: route[option] for option in ("priority", "expires", "countdown") if option in route},
        **{option: value for option, value in given.items() if value is not None},
    }
    expires = given.get("expires")
    found: dict[str, Any] = {
        "queue": _queue_name(given.get("queue")) or route.get("queue"),
        "priority": priority_here(app.conf, given.get("priority")),
        "delay": given.get("countdown"),
        "run_at": _aware(app.conf, given.get("eta")),
        "expires": _aware(app.conf, expires) if isinstance(expires, datetime) else expires,
    }
    headers = {key: str(value) for key, value in (given.get("headers") or {}).items()}
    if isinstance(expires, datetime):
        headers[EXPIRES] = found["expires"].isoformat()
    if given.get("task_id"):
        chosen = check_task_id(given["task_id"])
        headers[TASK_ID] = chosen
        found["tags"] = [tag_of(chosen)]
    own = dict(given.get("pgqueue") or {})
    if "tags" in own:
        found["tags"] = [*found.get("tags", ()), *own.pop("tags")]
    headers |= own.pop("headers", {})
    return {key: value for key, value in found.items() if value is not None} | {"headers": headers} | own


def check_task_id(task_id: object) -> str:
    """Return the id that a caller has chosen for a job. Raises InvalidOption for one that a job may have by itself."""
    text = str(task_id)
    if text.isdecimal() or not 1 <= len(text) <= 180 or not text.isprintable():
        raise InvalidOption(
            f"task_id={task_id!r:.200} cannot be used: give up to 180 printable characters, not digits alone, for such "
            "ids are those of jobs; or leave it out, and keep result.id"
        )
    return text


def tag_of(task_id: str) -> str:
    """Return the tag by which a job with a chosen id is found."""
    return f"{TASK_ID}:{task_id}"


def tell_of_late_acks(where: str, acks_late: bool | None) -> None:
    """Warn of `acks_late=False`: a job is always acknowledged with its outcome."""
    if acks_late is False:
        warn(
            f"{where}: acks_late=False means nothing here: the jobs of a worker that dies run again, max_crashes times"
        )


def _queue_name(queue: Any) -> str | None:
    name = getattr(queue, "name", queue)  # a Queue of kombu has a name
    return None if name is None else str(name)


def _order_of(broker: object) -> str | None:
    scheme = str(broker or "").partition("://")[0].partition("+")[0]
    if scheme in ("amqp", "amqps", "pyamqp", "librabbitmq", "py-amqp"):
        return "high"
    return "low" if scheme in ("redis", "rediss", "sentinel", "valkey") else None


def _aware(conf: Settings, moment: datetime | None) -> datetime | None:
    """Return a moment with a timezone: one without has that of the settings, as in Celery."""
    if moment is None or moment.utcoffset() is not None:
        return moment
    return moment.replace(tzinfo=ZoneInfo(conf.timezone or "UTC"))
