"""The settings of Celery: which of them are used, which mean nothing here, and the remedy for each of the others."""

import importlib
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pgqueue.celery.exceptions import CeleryWarning
from pgqueue.errors import ConfigError

USED: dict[str, Any] = {  # with the value that each has without being set
    "accept_content": ("json",),
    "beat_schedule": {},
    "broker_url": None,
    "enable_utc": True,
    "imports": (),
    "include": (),
    "result_expires": None,
    "result_serializer": "json",
    "task_always_eager": False,
    "task_annotations": None,
    "task_default_priority": None,
    "task_default_queue": "default",
    "task_default_rate_limit": None,
    "task_default_retry_delay": 180,
    "task_eager_propagates": False,
    "task_ignore_result": False,
    "task_max_retries": 3,
    "task_queues": None,
    "task_routes": None,
    "task_serializer": "json",
    "task_soft_time_limit": None,
    "task_time_limit": None,
    "timezone": "UTC",
    "priority_order": None,
}
# What these decide in Celery does not exist here, or is always so. Any value of them is right.
NO_EFFECT = frozenset(
    {
        "beat_max_loop_interval", "broker_channel_error_retry", "broker_connection_max_retries",
        "broker_connection_retry", "broker_connection_retry_on_startup", "broker_connection_timeout",
        "broker_heartbeat", "broker_login_method", "broker_pool_limit", "broker_transport_options", "broker_use_ssl",
        "event_queue_expires", "event_queue_ttl", "redis_backend_health_check_interval", "redis_backend_use_ssl",
        "redis_max_connections", "redis_retry_on_timeout", "redis_socket_connect_timeout", "redis_socket_keepalive",
        "redis_socket_timeout", "result_accept_content", "result_backend_always_retry", "result_backend_max_retries",
        "result_backend_transport_options", "result_cache_max", "result_chord_join_timeout",
        "result_chord_retry_interval", "result_compression", "result_extended", "result_persistent",
        "task_acks_on_failure_or_timeout", "task_compression", "task_create_missing_queues", "task_publish_retry",
        "task_publish_retry_policy", "task_send_sent_event", "task_store_eager_result",
        "task_store_errors_even_if_ignored", "task_track_started", "worker_cancel_long_running_tasks",
        "worker_cancel_long_running_tasks_on_connection_loss", "worker_enable_remote_control", "worker_log_color",
        "worker_lost_wait", "worker_prefetch_multiplier", "worker_proc_alive_timeout", "worker_redirect_stdouts",
        "worker_redirect_stdouts_level", "worker_send_task_events", "worker_timer_precision",
    }
)  # fmt: skip
ALWAYS = {  # so it is here, whatever the setting says
    "task_acks_late": (True, "a job ends with its outcome, so it is always acknowledged late"),
    "task_reject_on_worker_lost": (
        True,
        "the jobs of a worker that has died always run again; max_crashes bounds that",
    ),
}
ELSEWHERE = {  # the place that the same decision has here
    "broker_read_url": "a DSN of Postgres: broker_url='postgresql://…'",
    "broker_write_url": "a DSN of Postgres: broker_url='postgresql://…'",
    "beat_scheduler": "schedules, which are rows of Postgres: app.schedules of the pgqueue app",
    "beat_schedule_filename": "nothing: schedules are rows of Postgres",
    "task_default_exchange": "task_default_queue: queues have names, and no exchanges",
    "task_default_exchange_type": "task_default_queue: queues have names, and no exchanges",
    "task_default_routing_key": "task_default_queue: queues have names, and no routing keys",
    "task_inherit_parent_priority": "priority= in the call",
    "task_queue_max_priority": "priority=, from -100 to 100 in every queue",
    "worker_autoscaler": "pgqueue work --processes",
    "worker_concurrency": "pgqueue work -c",
    "worker_direct": "a queue for each host: pgqueue work -Q",
    "worker_disable_rate_limits": "tasks without rate_limit",
    "worker_hijack_root_logger": "pgqueue work --log-format",
    "worker_log_format": "pgqueue work --log-format",
    "worker_max_memory_per_child": "pgqueue work --max-memory-per-child",
    "worker_max_tasks_per_child": "pgqueue work --max-jobs-per-child",
    "worker_pool": "nothing: def tasks run in threads, those with a time limit in child processes",
    "worker_task_log_format": "pgqueue work --log-format",
}
_OLD = {  # names of Celery 3 that are not just the new name in capitals
    "celerybeat_schedule": "beat_schedule", "celery_always_eager": "task_always_eager", "celery_imports": "imports",
    "celery_eager_propagates_exceptions": "task_eager_propagates", "celery_routes": "task_routes",
    "celery_ignore_result": "task_ignore_result", "celery_default_queue": "task_default_queue",
    "celery_task_result_expires": "result_expires", "celery_timezone": "timezone", "celery_enable_utc": "enable_utc",
    "celeryd_task_time_limit": "task_time_limit", "celeryd_task_soft_time_limit": "task_soft_time_limit",
    "celery_result_backend": "result_backend", "celery_acks_late": "task_acks_late", "celery_queues": "task_queues",
    "celeryd_concurrency": "worker_concurrency", "celery_annotations": "task_annotations",
    "celeryd_prefetch_multiplier": "worker_prefetch_multiplier", "celery_accept_content": "accept_content",
    "celery_task_serializer": "task_serializer", "celery_result_serializer": "result_serializer",
}  # fmt: skip
_ANY_TIME = frozenset({"task_always_eager", "task_eager_propagates"})  # read at each call, so tests may set them


class Settings:
    """The settings of an adapter, `app.conf`. A name that Celery has not, and that pgqueue does not know, is refused.

    Set them before the first call, and before the worker starts: by then the queue is made of them.
    """

    def __init__(self) -> None:
        self.__dict__["_given"] = {}
        self.__dict__["_sealed"] = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        given: dict[str, Any] = self.__dict__["_given"]
        if name == "beat_schedule":
            return given.setdefault(name, {})  # users add to it
        return given.get(name, USED.get(name))

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    __getitem__ = __getattr__
    __setitem__ = __setattr__

    def __contains__(self, name: object) -> bool:
        return name in self._given

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting, or the default where it is not set."""
        return self._given.get(name, default)

    def update(self, *given: Mapping[str, Any], **settings: Any) -> None:
        """Set several settings. Raises ConfigError for one that cannot be used; then none of them is set."""
        checked: dict[str, Any] = {}
        for mapping in (*given, settings):
            for name, value in mapping.items():
                known = current_name(name)
                if self._sealed and known not in _ANY_TIME:
                    raise ConfigError(
                        f"conf.{known} cannot be set any more: the app was used already, and its queue is made of the "
                        "settings; set it where the app is made"
                    )
                if _is_used(known, value):
                    checked[known] = value
        self._given.update(checked)

    def setdefault(self, name: str, value: Any) -> Any:
        """Set a setting unless it is set; return it."""
        if current_name(name) not in self._given:
            self.update({name: value})
        return self[current_name(name)]

    def seal(self) -> None:
        """Refuse changes from now on, but of those that are read at each call."""
        self.__dict__["_sealed"] = True

    def take(self, source: Any, namespace: str | None) -> None:
        """Take settings from a module, a class, a mapping, or the name of one; with a namespace those that begin with
        it (`CELERY_TIMEZONE`), without one all whose names are settings."""
        found = _mapping_of(source)
        if namespace:
            start = f"{namespace}_"
            self.update({name.removeprefix(start): value for name, value in found.items() if name.startswith(start)})
        else:
            self.update({name: value for name, value in found.items() if is_known(current_name(name))})


def current_name(name: str) -> str:
    """Return the name that a setting has in Celery 5."""
    lower = name.lower()
    return _OLD.get(lower, lower)


def is_known(name: str) -> bool:
    """Whether a name is that of a setting of Celery, or one of ours."""
    return name in USED or name in NO_EFFECT or name in ALWAYS or name in ELSEWHERE or name == "result_backend"


def _is_used(name: str, value: Any) -> bool:
    """Whether a setting is kept. Raises ConfigError for one without a place here; warns of one that means nothing."""
    if name in ("task_serializer", "result_serializer", "accept_content"):
        _check_json(name, value)
    elif name == "broker_url" and value is not None and not is_dsn(value):
        scheme = str(value).partition("://")[0]
        warn(
            f"broker_url={scheme}:… is not used: the queue is in Postgres, at PGQUEUE_DSN, or broker_url='postgresql://…'"
        )
    elif name == "enable_utc" and value is False:
        warn("enable_utc=False: a time without a timezone is one of conf.timezone, which is UTC unless it is set")
    elif name == "result_backend":
        if value and not is_dsn(value):
            warn("result_backend is not used: results are kept with their jobs in Postgres")
        return False
    elif name in ALWAYS:
        if value is not ALWAYS[name][0] and value is not None:
            warn(f"{name}={value!r} means nothing here: {ALWAYS[name][1]}")
        return False
    elif name in NO_EFFECT:
        return False
    elif name in ELSEWHERE:
        raise ConfigError(f"conf.{name} has no place here: use {ELSEWHERE[name]}")
    elif name == "priority_order" and value not in (None, "high", "low"):
        raise ConfigError(f"conf.priority_order={value!r:.100} cannot be used: give 'high' (RabbitMQ) or 'low' (Redis)")
    elif name not in USED:
        close = get_close_matches(name, [*USED, *NO_EFFECT, *ELSEWHERE], 1)
        hint = f"did you mean {close[0]}?" if close else "take it out, or keep it outside of conf"
        raise ConfigError(f"conf.{name} is no setting of Celery: {hint}")
    return True


def _check_json(name: str, value: Any) -> None:
    names = {value} if isinstance(value, str) else set(value or ())
    if names - {"json", "application/json"}:
        raise ConfigError(
            f"conf.{name}={value!r:.100} cannot be used: arguments and results are JSON; dates, decimals, UUIDs and "
            "bytes come back as they were, for others pass the id of a row"
        )


def is_dsn(url: object) -> bool:
    """Whether a broker URL is a DSN of Postgres: a URL, or keywords as libpq takes them."""
    if not isinstance(url, str):
        return False
    return url.startswith(("postgresql://", "postgres://", "embedded:")) or ("://" not in url and "=" in url)


def warn(text: str) -> None:
    """Warn that something written for Celery means nothing, or something else, here."""
    warnings.warn(text, CeleryWarning, stacklevel=2)


def _mapping_of(source: Any) -> dict[str, Any]:
    if isinstance(source, str):
        module, _, attribute = source.partition(":")
        found = importlib.import_module(module)
        source = getattr(found, attribute) if attribute else found
        if hasattr(source, "_wrapped"):  # the settings of Django, which are lazy
            source = {name: getattr(source, name) for name in dir(source) if name.isupper()}
    if isinstance(source, Mapping):
        return dict(source)
    return {name: getattr(source, name) for name in dir(source) if not name.startswith("_")}
