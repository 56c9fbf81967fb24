"""Traces and metrics by OpenTelemetry: `pgqueue.otel.instrument(app)`. Needs the extra `otel`.

Enqueueing makes a span and puts its context into the headers of the job. Each run of a task is a span, in the thread,
on the event loop and in a child process alike. docs/observability.md shows the names, and says when a run is a child of
the span that enqueued it, and when it has a trace of its own and a link.
"""

from pgqueue.errors import MissingExtra

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"pgqueue.otel needs opentelemetry-api ({error}): pip install 'pgqueue-jobs[otel]'", name=error.name
    ) from None

import asyncio
from datetime import timedelta
from typing import get_args

from pgqueue.app import App
from pgqueue.config import release
from pgqueue.errors import InvalidOption
from pgqueue.otel import names
from pgqueue.otel.meters import Meters
from pgqueue.otel.own_work import active_trace, suppress
from pgqueue.otel.tracing import Relation, Tracing
from pgqueue.process import logs
from pgqueue.timing import SPAN, check_duration

__all__ = ["Relation", "instrument"]


FLUSH_MILLISECONDS = 5000


def instrument(
    app: App,
    *,
    relation: Relation = "auto",
    parent_within: float | timedelta = 300.0,
    record_errors: bool | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> None:
    """Make spans and metrics of an app's enqueueing and runs, by the providers given, else the global ones.

    `relation`: with "auto" the first run of a job is a child of the span that enqueued it, if it begins at most
    `parent_within` seconds after that (seconds or a timedelta); any other run is the root of a trace, with a link, so
    that a retry hours later neither stretches the first trace nor inherits its sampling. "parent" and "link" do one of
    both always. `record_errors`: whether a span has the message and traceback of an error; by default, unless the app
    has a codec, for they may quote arguments.

    Call it once, where the app is made. While no provider is set up, nothing is traced, and jobs carry no headers.
    Where tasks run in child processes, set the provider up in `@app.on_worker_start` and `@app.on_child_start`: threads
    of a provider that exists before do not live on in processes that are forked.
    """
    if relation not in get_args(Relation):
        raise InvalidOption(f"relation={relation!r} cannot be used: give one of {', '.join(get_args(Relation))}")
    within = check_duration("parent_within", parent_within, SPAN)
    if app.is_instrumented:
        raise InvalidOption("this app is instrumented already: call pgqueue.otel.instrument(app) once")
    app.is_instrumented = True
    tracer = trace.get_tracer(names.SCOPE, release(), tracer_provider, names.SCHEMA_URL)
    meters = Meters(metrics.get_meter(names.SCOPE, release(), meter_provider, names.SCHEMA_URL))
    tracing = Tracing(app, tracer, meters, relation, within)
    tracing.record_errors = app.codec is None if record_errors is None else record_errors
    app.around_enqueue(tracing.around_enqueue)
    app.operation_hooks.append(tracing.around_redrive)
    app.around_attempt(tracing.around_attempt)
    app.own_work_starters.append(suppress)
    logs.add_facts(active_trace)

    def flush() -> None:
        """Export what waits, since a child process that ends runs no handler that would."""
        for provider in (
            tracer_provider or trace.get_tracer_provider(),
            meter_provider or metrics.get_meter_provider(),
        ):
            force = getattr(provider, "force_flush", None)
            if force is not None:
                force(FLUSH_MILLISECONDS)

    async def flush_apart() -> None:
        await asyncio.to_thread(flush)

    app.on_child_stop(flush)
    app.on_worker_stop(flush_apart)
