"""The tasks that each alias of TASKS has, in all threads, and the app that runs them."""

import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS

from pgqueue.app import App
from pgqueue.client.task import Task as Registered
from pgqueue.django.database import dsn_of
from pgqueue.django.named import SETTING, named_app
from pgqueue.django.running import NotJson, as_function
from pgqueue.django.task_class import options_of
from pgqueue.errors import ConfigError

_lock = threading.RLock()
_known: dict[str, "KnownTasks"] = {}
_registered: WeakKeyDictionary[App, dict[str, tuple[Any, Registered[..., Any]]]] = WeakKeyDictionary()


def known_tasks(alias: str, options: Mapping[str, Any]) -> "KnownTasks":
    """Return the tasks of an alias: Django makes a backend for each thread, and they share these."""
    with _lock:
        return _known.setdefault(alias, KnownTasks(alias, options))


class KnownTasks:
    """The tasks of one alias of TASKS, by their module paths, and the app that runs them.

    Tasks are added as their modules are imported, so nothing here imports the app, reads models or connects until a
    task is enqueued or a worker starts.
    """

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        self.alias = alias
        self.database = str(options.get("database", DEFAULT_DB_ALIAS))
        self._options = {name: value for name, value in options.items() if name != "database"}
        self._tasks: dict[str, Any] = {}
        self._app: App | None = None
        self._dsn: str | None = None  # that the app was given here

    def add(self, task: Any) -> None:
        """Learn of a task. Of one that was bound to another queue or time, what it was made of stays known."""
        with _lock:
            known = self._tasks.get(task.module_path)
            if known is None or known.func is not task.func:
                self._tasks[task.module_path] = task
                if self._app is not None:
                    self._register(self._app, task)

    def get(self, path: str) -> Any:
        """Return the task of a module path, or None."""
        return self._tasks.get(path)

    @property
    def app(self) -> App:
        """The app: OPTIONS["app"], else that of PGQUEUE, else one of this alias alone, with the rest of OPTIONS.

        Raises ImproperlyConfigured, and InvalidTask or InvalidOption for a task that cannot be one.
        """
        if self._app is None:
            app, dsn = self._find_app()  # outside of the lock: it may import modules, which add tasks
            with _lock:
                if self._app is None:
                    for task in self._tasks.values():
                        self._register(app, task)
                    self._app, self._dsn = app, dsn
        if self._dsn is not None and self._dsn != (there := dsn_of(self.database)):
            self._app.dsn = self._dsn = there  # tests have a database of their own
        return self._app

    def registered(self, task: Any) -> Registered[..., Any]:
        """Return the task as pgqueue has it."""
        return _registered[self.app][task.module_path][1]

    def _find_app(self) -> tuple[App, str | None]:
        """Return the app, and the connection string that it has been given here, if it has."""
        named = self._options.get("app") or getattr(settings, SETTING, {}).get("app")
        if named is None:
            dsn = dsn_of(self.database)
            return App(dsn, **self._options), dsn
        if others := sorted(set(self._options) - {"app"}):
            raise ImproperlyConfigured(
                f'TASKS["{self.alias}"]["OPTIONS"] names an app, so {", ".join(others)} would change nothing: '
                "give them to the app itself"
            )
        app = named_app(named, f'TASKS["{self.alias}"]["OPTIONS"]["app"]')
        try:
            app.backend.told_dsn  # noqa: B018 - raises where the app names no database
        except ConfigError:
            app.dsn = dsn = dsn_of(self.database)
            return app, dsn
        return app, None

    def _register(self, app: App, task: Any) -> None:
        tasks = _registered.setdefault(app, {})
        if task.module_path not in tasks or tasks[task.module_path][0] is not task.func:
            options: Any = {"name": task.module_path, "queue": task.queue_name, "priority": task.priority}
            options |= options_of(task)
            given = options.get("no_retry_on", ())
            options["no_retry_on"] = (*(given if isinstance(given, tuple) else (given,)), NotJson)
            registered = app.task(**options)(as_function(self.alias, app, task))
            tasks[task.module_path] = task.func, registered


def _forget(*, setting: str, **_: object) -> None:
    if setting in ("TASKS", SETTING):
        with _lock:
            _known.clear()


setting_changed.connect(_forget)
