"""Spans of enqueueing, firing and running, and the context that travels with a job from one to the other."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from time import perf_counter
from typing import Literal, TypeAlias

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from psycopg.conninfo import conninfo_to_dict

from pgqueue.app import App
from pgqueue.client.enqueue_hooks import EnqueueCall, OnEnqueueEnd
from pgqueue.client.operation_hooks import OnOperationEnd
from pgqueue.errors import ConfigError
from pgqueue.otel import names
from pgqueue.otel.meters import Meters
from pgqueue.queries.operations import Operation
from pgqueue.tasks.context import Context
from pgqueue.tasks.hooks import AttemptEnd, OnAttemptEnd

Relation: TypeAlias = Literal["auto", "parent", "link"]
Known: TypeAlias = dict[str, str | int]
ROOT = TraceContext()
# The context of a trace alone. Baggage, which may hold personal data, is not stored.
PROPAGATOR = TraceContextTextMapPropagator()
CARRIED = ("traceparent", "tracestate")
FAILURES = ("retried", "failed")


class RunAttributes(Mapping[str, str | int | float]):
    """The attributes of a run, made when a sampler or a span reads them: most samplers that drop a run read none."""

    __slots__ = ("_job", "_known", "_made")

    def __init__(self, job: Context, known: Known) -> None:
        self._job = job
        self._known = known
        self._made: dict[str, str | int | float] | None = None

    def __getitem__(self, name: str) -> str | int | float:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, str | int | float]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> dict[str, str | int | float]:
        job = self._job
        made: dict[str, str | int | float] = {
            **self._known,
            names.OPERATION_TYPE: names.PROCESS,
            names.MESSAGE_ID: str(job.job_id),
            names.CLIENT_ID: str(job.worker_id),
            names.TASK: job.task,
            names.ATTEMPT: job.attempt,
            names.MAX_ATTEMPTS: job.max_attempts,
            names.WAIT_SECONDS: job.waited,
        }
        if (schedule := job.header("schedule")) is not None:
            made[names.SCHEDULE] = str(schedule)
        return made


class Tracing:
    """The hooks of an app that make spans."""

    def __init__(self, app: App, tracer: Tracer, meters: Meters, relation: Relation, parent_within: float) -> None:
        self._app = app
        self._tracer = tracer
        self._meters = meters
        self._relation = relation
        self._parent_within = parent_within
        self._server: Known | None = None
        self._of_queue: dict[str, Known] = {}
        self.record_errors = True

    def around_enqueue(self, call: EnqueueCall) -> OnEnqueueEnd:
        """Begin the span of a call that enqueues, and measure how long the call takes."""
        began, operation = perf_counter(), "enqueue" if call.schedule is None else "fire"
        known = self._sending(call.queue, operation)
        end_span = self._trace_enqueue(call, operation, known)

        def end(error: BaseException | None) -> None:
            seconds = perf_counter() - began
            if end_span is not None:
                end_span(error)
            self._meters.note_enqueue(seconds, known, None if error is None else _type_of(error))

        return end

    def _trace_enqueue(self, call: EnqueueCall, operation: str, known: Known) -> OnEnqueueEnd | None:
        """Begin the span of a call that enqueues, and give its context to the jobs."""
        attributes = known | {names.TASK: call.task}
        if call.count != 1:
            attributes[names.MESSAGE_COUNT] = call.count
        if call.schedule is not None:
            attributes[names.SCHEDULE] = call.schedule
        inside = ROOT if call.schedule is not None else contexts.get_current()
        name = f"{operation} {call.schedule or call.task}"
        span = self._tracer.start_span(name, inside, SpanKind.PRODUCER, attributes)
        if not span.get_span_context().is_valid:
            return None  # no tracer is set up
        inside = trace.set_span_in_context(span, inside)
        if CARRIED[0] not in call.given:
            PROPAGATOR.inject(call.headers, inside)
        token = contexts.attach(inside) if call.schedule is None else None

        def end(error: BaseException | None) -> None:
            if token is not None:
                contexts.detach(token)
            if not span.is_recording():
                return  # it is sampled out
            if len(call.job_ids) == 1:
                span.set_attribute(names.MESSAGE_ID, str(call.job_ids[0]))
            if error is not None:
                self._fail(span, error)
            span.end()

        return end

    def around_redrive(self) -> OnOperationEnd:
        """Begin the span of a verb that brings many jobs back. The jobs keep the context of their enqueueing."""
        about = self._everywhere() | {names.OPERATION_NAME: names.REDRIVE, names.OPERATION_TYPE: names.SEND}
        span = self._tracer.start_span(names.REDRIVE, kind=SpanKind.PRODUCER, attributes=about)

        def end(done: Operation | None, error: BaseException | None) -> None:
            if done is not None:
                span.set_attributes({names.MESSAGE_COUNT: done.done, names.OPERATION: done.id})
            if error is not None:
                self._fail(span, error)
            span.end()

        return end

    def around_attempt(self, job: Context) -> OnAttemptEnd:
        """Begin the span of a run, which is active while the task runs."""
        enqueued, inside, links = _enqueued(job), ROOT, None
        if enqueued is not ROOT:
            if self._is_child(job):
                inside = enqueued
            else:
                links = [Link(trace.get_current_span(enqueued).get_span_context())]
        known = self._processing(job.queue)
        span = self._tracer.start_span(
            f"process {job.task}", inside, SpanKind.CONSUMER, RunAttributes(job, known), links
        )
        # Also where nothing is recorded: the task's own calls belong into this trace, and into this decision.
        active = trace.set_span_in_context(span, inside)
        token, recording, began = contexts.attach(active), span.is_recording(), perf_counter()

        def end(end: AttemptEnd) -> None:
            seconds = perf_counter() - began
            if contexts.get_current() is active:  # else this is another one: of a coroutine that a `def` returned
                contexts.detach(token)
            failed = end.error if end.outcome in FAILURES else None
            if recording:  # else it is sampled out
                span.set_attribute(names.OUTCOME, end.outcome)
                if failed is not None:
                    self._fail(span, failed)
                span.end()
            self._meters.note_run(seconds, known, None if failed is None else _type_of(failed))

        return end

    def _is_child(self, job: Context) -> bool:
        """Whether a run belongs into the trace of the span that enqueued its job."""
        if self._relation != "auto":
            return self._relation == "parent"
        if job.attempt > 1:
            return False
        return (job.run_at - job.created_at).total_seconds() + job.waited <= self._parent_within

    def _sending(self, queue: str, operation: str) -> Known:
        return self._shared(queue) | {names.OPERATION_TYPE: names.SEND, names.OPERATION_NAME: operation}

    def _processing(self, queue: str) -> Known:
        known = self._of_queue.get(queue)
        if known is None:
            known = self._of_queue[queue] = self._shared(queue) | {names.OPERATION_NAME: names.PROCESS}
        return known

    def _shared(self, queue: str) -> Known:
        return self._everywhere() | {names.DESTINATION: queue}

    def _everywhere(self) -> Known:
        if self._server is None:
            self._server = _server_of(self._app)
        return {names.SYSTEM: names.PGQUEUE, **self._server}

    def _fail(self, span: Span, error: BaseException) -> None:
        span.set_attribute(names.ERROR_TYPE, _type_of(error))
        span.set_status(Status(StatusCode.ERROR))
        if self.record_errors:
            span.record_exception(error)


def _enqueued(job: Context) -> TraceContext:
    """Return the context that the job carries; ROOT if it carries none that can be read."""
    parent = job.header(CARRIED[0])
    if not isinstance(parent, str):
        return ROOT
    state = job.header(CARRIED[1])
    return _read(parent, state if isinstance(state, str) else None)


@lru_cache(512)
def _read(parent: str, state: str | None) -> TraceContext:
    """Read a context from the texts of its headers: once for all jobs of one `enqueue_many`, which share it."""
    carrier = {CARRIED[0]: parent} if state is None else {CARRIED[0]: parent, CARRIED[1]: state}
    return PROPAGATOR.extract(carrier, ROOT)  # ROOT itself if they are malformed


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _server_of(app: App) -> Known:
    """Return where the app's database is, as far as its DSN says so. A borrowed connection may lead elsewhere."""
    try:
        parts = conninfo_to_dict(app.backend.told_dsn or "")
    except ConfigError:
        return {}
    host, port = str(parts.get("host") or ""), str(parts.get("port") or "")
    server: Known = {names.SERVER_ADDRESS: host} if host and "," not in host else {}
    return server | ({names.SERVER_PORT: int(port)} if server and port.isdigit() else {})
