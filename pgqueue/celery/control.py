"""`app.control`: what Celery's remote control does to jobs and workers, as far as it has a place here."""

from collections.abc import Iterable
from typing import Any

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
    "inspect": "pgqueue status, pgqueue workers list, pgqueue jobs list; in Python app.pgqueue.workers and jobs",
    "ping": "pgqueue workers list, or the health port of a worker",
    "pool_grow": "pgqueue work -c",
    "pool_shrink": "pgqueue work -c",
    "purge": "pgqueue jobs cancel --queue …, which keeps the rows and says who has done it",
    "rate_limit": "pgqueue limits set",
    "shutdown": "pgqueue workers stop",
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

    def revoke(self, task_id: str | Iterable[str], terminate: bool = False, **other: Any) -> None:
        """Cancel jobs that wait; with `terminate`, also ask the workers of those that run to stop them."""
        for each in [task_id] if isinstance(task_id, str) else task_id:
            AsyncResult[Any](each, app=self._app).revoke(terminate)
