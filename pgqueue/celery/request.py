"""`self.request`: the facts of the run of a task, in Celery's words."""

import socket
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pgqueue.celery.options import EXPIRES, TASK_ID
from pgqueue.tasks.call_shape import POSITIONAL
from pgqueue.tasks.context import Context

PARENT_ID, ROOT_ID, ERRBACK = "parent_id", "root_id", "errback"
_OURS = frozenset({TASK_ID, POSITIONAL, PARENT_ID, ROOT_ID, ERRBACK, EXPIRES, "idempotency_key"})


@dataclass(eq=False)
class Request:
    """One run of a task. `id` is the job's, unless the caller has chosen one; `retries` counts earlier attempts, those
    that ended with the death of their worker among them; `delivery_info` has the queue and the priority;
    `expires` is there where the call has named a moment.

    `context` is the Context of pgqueue, None for a task that is called directly or eagerly.
    """

    task: str | None = None
    id: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    eta: str | None = None
    expires: str | None = None
    headers: dict[str, Any] | None = None
    root_id: str | None = None
    parent_id: str | None = None
    delivery_info: dict[str, Any] = field(default_factory=dict)
    timelimit: tuple[float | None, float | None] = (None, None)
    ignore_result: bool = False
    is_eager: bool = False
    called_directly: bool = True
    hostname: str = field(default_factory=socket.gethostname)
    context: Context | None = None
    asked_retry: BaseException | None = None
    calls_body: bool = False

    group: None = None
    chord: None = None
    chain: None = None
    callbacks: None = None
    errbacks: None = None
    utc: bool = True

    @property
    def correlation_id(self) -> str | None:
        """The id."""
        return self.id

    def get(self, name: str, default: Any = None) -> Any:
        """Return a fact by its name."""
        return getattr(self, name, default)

    @classmethod
    def of_job(cls, context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Request":
        """Return the request of a job that runs."""
        headers = context.headers
        job_id = headers.get(TASK_ID) or str(context.job_id)
        return cls(
            task=context.task,
            id=job_id,
            args=args,
            kwargs=kwargs,
            retries=context.attempt - 1,
            eta=context.run_at.isoformat(),
            expires=headers.get(EXPIRES),
            headers={name: value for name, value in headers.items() if name not in _OURS} or None,
            root_id=headers.get(ROOT_ID, job_id),
            parent_id=headers.get(PARENT_ID),
            delivery_info={
                "exchange": "",
                "routing_key": context.queue,
                "priority": context.priority,
                "redelivered": context.attempt > 1,
            },
            called_directly=False,
            context=context,
            calls_body=True,
        )


current_request: ContextVar[Request | None] = ContextVar("pgqueue_celery_request", default=None)


def family() -> dict[str, str]:
    """Return the headers that tell a new job which task has enqueued it; none outside of tasks."""
    request = current_request.get()
    if request is None or request.id is None or request.is_eager:
        return {}
    return {PARENT_ID: request.id, ROOT_ID: request.root_id or request.id}
