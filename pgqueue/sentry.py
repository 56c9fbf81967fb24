"""Error reports and traces by Sentry: `pgqueue.sentry.instrument(app)`. Needs sentry-sdk 2, which you set up yourself.

A failure is reported where the task runs, with the exception itself: in the thread, on the event loop and in a child
process alike. Arguments and results are not sent; but Sentry adds the local variables of your own functions to a
traceback, and among them are their parameters, unless it is set up with `include_local_variables=False`.
"""

from pgqueue.errors import MissingExtra

try:
    import sentry_sdk
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"pgqueue.sentry needs sentry-sdk ({error}): pip install 'pgqueue-jobs[sentry]'", name=error.name
    ) from None

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal, TypeAlias, get_args

from sentry_sdk.integrations.logging import ignore_logger

from pgqueue.app import App
from pgqueue.client.enqueue_hooks import EnqueueCall, OnEnqueueEnd
from pgqueue.error_info import frames_of_task
from pgqueue.errors import InvalidOption
from pgqueue.events import JobDeadLettered
from pgqueue.jobs.verdicts import Retry, Verdict
from pgqueue.tasks.context import Context
from pgqueue.tasks.hooks import AttemptEnd, OnAttemptEnd

__all__ = ["Report", "instrument"]

Report: TypeAlias = Literal["dead", "each"]
ORIGIN = "auto.queue.pgqueue"
TRACE, BAGGAGE = "sentry-trace", "baggage"  # headers of a job, with Sentry's names
FLUSH_SECONDS = 2.0
# A job may die without an exception that a hook could see: in a child that was killed, with its worker, or because
# nothing can read it. Reasons of such dead letters, and classes of their errors.
UNSEEN_REASONS = ("crashed", "invalid arguments", "invalid version", "cannot be opened", "stand-in failed")
UNSEEN_ERRORS = ("pgqueue.ChildDied", "pgqueue.WorkerLost")
STATUS = {"succeeded": "ok", "cancelled": "cancelled", "released": "cancelled", "snoozed": "ok"}


def instrument(app: App, *, report: Report = "dead") -> None:
    """Report the failures of an app's tasks to Sentry, and trace its jobs where Sentry traces.

    With "dead" a job is reported once, when it becomes a dead letter, however often it was retried; with "each" every
    failed attempt is. A verdict (Retry, Snooze, Cancel) that a task raises by itself is no failure; of Fail and of the
    last Retry the cause is reported, if it has one. Events have the tags `pgqueue.task`, `pgqueue.queue` and
    `pgqueue.job_id`, are grouped by error and task, and their transaction is the name of the task.

    Call it once, where the app is made, after or before `sentry_sdk.init`. Raises InvalidOption.
    """
    if report not in get_args(Report):
        raise InvalidOption(f"report={report!r} cannot be used: give one of {', '.join(get_args(Report))}")
    reports = _Reports(report)
    app.around_attempt(reports.around_attempt)
    app.around_enqueue(_around_enqueue)
    app.on(JobDeadLettered)(reports.on_dead)
    app.on_child_stop(_flush)
    app.on_worker_stop(_flush_apart)
    for logger in ("pgqueue.worker", "pgqueue.events"):  # their lines about a failure would be reported beside it
        ignore_logger(logger)


class _Reports:
    """Which failures are reported, and how."""

    def __init__(self, report: Report) -> None:
        self._each = report == "each"

    def around_attempt(self, context: Context) -> OnAttemptEnd:
        """Give a run a scope and a transaction of its own."""
        stack = ExitStack()
        scope = stack.enter_context(sentry_sdk.isolation_scope())
        _describe(scope, context.task, context.queue, context.job_id, _facts(context))
        transaction = sentry_sdk.continue_trace(
            _trace_of(context), op="queue.process", name=context.task, source="task", origin=ORIGIN
        )
        span = stack.enter_context(sentry_sdk.start_transaction(transaction))
        for name, value in _messaging(context).items():
            span.set_data(name, value)

        def end(ended: AttemptEnd) -> None:
            with stack:
                span.set_status(STATUS.get(ended.outcome, "internal_error"))
                if (found := self._to_report(ended)) is not None:
                    sentry_sdk.capture_exception((type(found), found, frames_of_task(found)))

        return end

    def _to_report(self, ended: AttemptEnd) -> BaseException | None:
        if ended.error is None or ended.outcome not in (("failed", "retried") if self._each else ("failed",)):
            return None
        if not isinstance(ended.error, Verdict):
            return ended.error
        if ended.outcome == "retried" and isinstance(ended.error, Retry):
            return ended.error.__cause__
        return ended.error.__cause__ or ended.error

    def on_dead(self, event: JobDeadLettered) -> None:
        """Report a dead letter of which no hook has seen an exception."""
        if event.reason not in UNSEEN_REASONS and event.error_class not in UNSEEN_ERRORS:
            return
        with sentry_sdk.isolation_scope() as scope:
            kind = f" ({event.error_class})" if event.error_class else ""
            facts = {"attempt": event.attempt, "reason": event.reason, "group": event.fingerprint}
            _describe(scope, event.task, event.queue, event.job_id, facts)
            scope.fingerprint = ["pgqueue", event.task, event.reason or "", event.error_class or ""]
            sentry_sdk.capture_message(f"{event.task} is a dead letter: {event.reason}{kind}", level="error")


def _describe(scope: sentry_sdk.Scope, task: str, queue: str, job_id: int, facts: Mapping[str, Any]) -> None:
    scope.set_transaction_name(task, source="task")
    for name, value in (("task", task), ("queue", queue), ("job_id", str(job_id))):
        scope.set_tag(f"pgqueue.{name}", value)
    scope.set_context("pgqueue", {"job_id": job_id, **facts})
    scope.fingerprint = ["{{ default }}", task]
    scope.add_breadcrumb(category="pgqueue", message=f"job {job_id} of {task} in {queue}", data=dict(facts))


def _facts(context: Context) -> dict[str, Any]:
    return {
        "attempt": context.attempt,
        "max_attempts": context.max_attempts,
        "waited_seconds": round(context.waited, 3),
        "tags": list(context.tags),
    }


def _messaging(context: Context) -> dict[str, Any]:
    """Return what Sentry's page of queues shows of a run."""
    return {
        "messaging.system": "pgqueue",
        "messaging.message.id": str(context.job_id),
        "messaging.destination.name": context.queue,
        "messaging.message.retry.count": context.attempt - 1,
        "messaging.message.receive.latency": round(context.waited * 1000, 3),
    }


def _trace_of(context: Context) -> dict[str, str]:
    return {name: str(value) for name in (TRACE, BAGGAGE) if (value := context.header(name)) is not None}


def _around_enqueue(call: EnqueueCall) -> OnEnqueueEnd | None:
    """Make a span of an enqueueing inside a traced request, and let its jobs carry on the trace."""
    if sentry_sdk.get_current_span() is None:
        return None
    span = sentry_sdk.start_span(op="queue.publish", name=call.task, origin=ORIGIN)
    span.set_data("messaging.system", "pgqueue")
    span.set_data("messaging.destination.name", call.queue)
    call.headers[TRACE] = span.to_traceparent()
    if baggage := span.to_baggage():
        call.headers[BAGGAGE] = baggage.serialize()

    def end(error: BaseException | None) -> None:
        if len(call.job_ids) == 1:
            span.set_data("messaging.message.id", str(call.job_ids[0]))
        span.set_status("ok" if error is None else "internal_error")
        span.finish()

    return end


def _flush() -> None:
    sentry_sdk.flush(FLUSH_SECONDS)


async def _flush_apart() -> None:
    await asyncio.to_thread(_flush)
