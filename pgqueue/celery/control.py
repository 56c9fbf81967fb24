"""`app.control`: what Celery's remote control does to jobs and workers, as far as it has a place here."""

from collections.abc import Iterable
from typing import Any

from pgqueue.celery.inspecting import Inspect
from pgqueue.celery.parts import Adapter
from pgqueue.celery.result import AsyncResult
from pgqueue.errors import UnknownVerb

ELSEWHERE = {
    "add_consumer": "pgqueue work -Q",
    "autoscale": "pgqueue work --processes",
    "broadcast": "the verbs of the pgqueue app: pause, cancel, workers",
    "cancel_consumer": "pgqueue pause --queue",
    "enable_events": "nothing: every transition is a row",
    "election": "a lock: app.pgqueue.lock(name)",
    "pool_grow": "pgqueue work -c",
    "pool_shrink": "pgqueue work -c",
    "purge": "pgqueue jobs cancel --queue …, which keeps the rows and says who has done it",
    "terminate": "revoke(task_id, terminate=True)",
    "time_limit": "time_limit in @app.task",
}


class Control:
    """The remote control of an app. A verb that has another place here raises UnknownVerb, which names it."""

    def __init__(self, app: Adapter) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        if name in ELSEWHERE:
            raise UnknownVerb("app.control", name, ELSEWHERE[name])
        raise AttributeError(name)

    def inspect(self, destination: Iterable[str] | None = None, timeout: float = 1.0, **_: Any) -> Inspect:
        """Ask what workers do."""
        return Inspect(self._app, destination, timeout)

    def ping(
        self, destination: Iterable[str] | None = None, timeout: float = 1.0, **_: Any
    ) -> list[dict[str, dict[str, str]]]:
        """Return who answers within `timeout` seconds: `[{"host:1": {"ok": "pong"}}]`."""
        found = self.inspect(destination, timeout).ping() or {}
        return [{name: answer} for name, answer in found.items()]

    def shutdown(self, destination: Iterable[str] | None = None, **_: Any) -> None:
        """Ask workers to stop, as SIGTERM does; without `destination` all of them."""
        workers = self._app.pgqueue.workers
        if destination is None:
            workers.stop(everyone=True)
            return
        for name in [destination] if isinstance(destination, str) else destination:
            workers.stop(name)

    def rate_limit(self, task_name: str, rate_limit: str | float | None, **_: Any) -> None:
        """Change the rate of a task, in the whole fleet; 0 or None takes it away, as in Celery.

        Raises UnknownLimit where the task has no limit in code: give it one, `@app.task(rate_limit="100/m")`.
        """
        task = self._app.tasks.get(task_name)
        rule = None if task is None else task.core.spec.limit_meant(None)
        self._app.pgqueue.limits.set(rule or task_name, rate=rate_limit or None)

    def revoke(self, task_id: str | Iterable[str], terminate: bool = False, **other: Any) -> None:
        """Cancel jobs that wait; with `terminate`, also ask the workers of those that run to stop them."""
        for each in [task_id] if isinstance(task_id, str) else task_id:
            AsyncResult[Any](each, app=self._app).revoke(terminate)
