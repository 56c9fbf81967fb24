"""OpenTelemetry: spans read back from an OTLP receiver, contexts that travel with jobs, nothing without a tracer."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as contexts
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import format_span_id, format_trace_id

from pgqueue import App, DeadFilter, DuplicateJob, InvalidOption, JobFilter, Unique
from pgqueue.codecs import AESGCM
from pgqueue.otel import instrument, names
from pgqueue.otel.tracing import RunAttributes
from pgqueue.process import logs
from tests.conftest import drain, scalar
from tests.edges.receiver import Receiver, Span, receiving
from tests.harness import Conn
from tests.scheduler.ticking import run_scheduler

PRODUCER, CONSUMER = 4, 5  # as OTLP numbers the kinds of spans


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def provider(receiver: Receiver) -> Iterator[TracerProvider]:
    """A provider that exports to the receiver."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.url)))
    yield provider
    provider.shutdown()


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def local(memory: InMemorySpanExporter) -> TracerProvider:
    """A provider that keeps its spans in this process."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return provider


def _failing_once(kind: str) -> Any:
    def body(n: int) -> dict[str, Any]:
        from pgqueue.tasks.context import current_context  # in a child process, too

        context = current_context.get()
        assert context is not None
        if context.attempt == 1:
            raise KeyError("first")
        return {"pid": os.getpid(), "active": format_span_id(trace.get_current_span().get_span_context().span_id)}

    async def on_loop(n: int) -> dict[str, Any]:
        await asyncio.sleep(0)
        return body(n)

    def coroutine_of_a_thread(n: int) -> Any:
        return on_loop(n)

    functions: dict[str, Any] = {"loop": on_loop, "child loop": on_loop, "coroutine": coroutine_of_a_thread}
    return functions.get(kind, body)


@pytest.mark.parametrize("kind", ["thread", "loop", "coroutine", "child", "child loop"])
def test_the_first_run_is_a_child_of_the_enqueueing_and_a_retry_is_a_root_with_a_link(
    app: App, conn: Conn, dsn: str, provider: TracerProvider, receiver: Receiver, kind: str
) -> None:
    instrument(app, tracer_provider=provider)
    isolation = "process" if kind.startswith("child") else "thread"
    task = app.task(name="t", queue="q", retry=0, max_attempts=5, isolation=isolation)(_failing_once(kind))
    job = task.using(conn).enqueue(1)
    drain(app, conn, queues=["q"])
    provider.force_flush()
    enqueued, first, second = _by_time(receiver.wait(3))
    assert (enqueued.name, enqueued.kind, enqueued.parent, enqueued.links) == ("enqueue t", PRODUCER, "", [])
    assert (first.name, first.kind, first.trace, first.parent) == ("process t", CONSUMER, enqueued.trace, enqueued.id)
    assert first.links == []
    assert (second.name, second.kind, second.parent) == ("process t", CONSUMER, "")
    assert second.trace != enqueued.trace
    assert second.links == [(enqueued.trace, enqueued.id)]
    result = app.get(job.id).result
    assert result["active"] == second.id
    assert (result["pid"] != os.getpid()) == kind.startswith("child")
    assert (first.failed, second.failed, first.events, second.events) == (True, False, ["exception"], [])
    _check_attributes(enqueued, first, second, job.id, dsn)


def _by_time(spans: list[Span]) -> list[Span]:
    """The spans in the order enqueue, first run, second run."""
    return sorted(spans, key=lambda span: span.attributes.get(names.ATTEMPT, 0))


def _check_attributes(enqueued: Span, first: Span, second: Span, job_id: int, dsn: str) -> None:
    server = {"server.address": psycopg.conninfo.conninfo_to_dict(dsn)["host"]}
    port = {name: value for name, value in enqueued.attributes.items() if name == "server.port"}
    for span in (enqueued, first, second):
        assert (span.schema, span.scope) == ("https://opentelemetry.io/schemas/1.44.0", "pgqueue")
    shared = {
        "messaging.system": "pgqueue",
        "messaging.destination.name": "q",
        "messaging.message.id": str(job_id),
        "pgqueue.task": "t",
        **server,
        **port,
    }
    assert enqueued.attributes == shared | {
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
    }


def test_what_sampling_needs_is_given_at_the_start_and_the_outcome_at_the_end(
    app: App, conn: Conn, local: TracerProvider, memory: InMemorySpanExporter
) -> None:
    instrument(app, tracer_provider=local)

    @app.task(name="t", max_attempts=2, retry=0)
    def t() -> None:
        raise ValueError("secret 42")

    job = t.using(conn, queue="q").enqueue()
    drain(app, conn, queues=["q"])
    _, first, second = memory.get_finished_spans()
    known = dict(first.attributes or {})
    worker = known.pop("messaging.client.id")
    waited = known.pop("pgqueue.wait_seconds")
    server = {name: value for name, value in known.items() if name.startswith("server.")}
    assert {name: value for name, value in known.items() if name not in server} == {
        "messaging.system": "pgqueue",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "q",
        "messaging.message.id": str(job.id),
        "pgqueue.task": "t",
        "pgqueue.attempt": 1,
        "pgqueue.max_attempts": 2,
        "pgqueue.outcome": "retried",
        "error.type": "ValueError",
    }
    assert len(str(worker)) == 36
    assert isinstance(waited, float)
    assert 0 < waited < 60
    assert set(server) <= {"server.address", "server.port"}
    assert (second.attributes or {})["pgqueue.outcome"] == "failed"
    assert [event.name for event in second.events] == ["exception"]


def test_a_span_of_a_sealed_app_quotes_no_error(
    dsn: str, conn: Conn, local: TracerProvider, memory: InMemorySpanExporter
) -> None:
    app = App(dsn, codec=AESGCM({"k": bytes(32)}, current="k"))
    instrument(app, tracer_provider=local)

    @app.task(name="t", max_attempts=1)
    def t() -> None:
        raise ValueError("secret 42")

    t.enqueue()
    drain(app, conn)
    assert "secret" not in "".join(span.to_json() for span in memory.get_finished_spans())
    assert (memory.get_finished_spans()[-1].attributes or {})["error.type"] == "ValueError"
    app.close()


def test_enqueue_many_is_one_span_whose_context_all_jobs_carry(
    app: App, conn: Conn, local: TracerProvider, memory: InMemorySpanExporter
) -> None:
    instrument(app, tracer_provider=local)

    @app.task(name="t")
    def t(n: int) -> None: ...

    t.using(conn).enqueue_many({"n": n} for n in range(3))
    t.using(conn, idempotency_key=["a", "b"]).enqueue_many([{"n": 1}, {"n": 2}])
    many, keyed = memory.get_finished_spans()
    assert (many.name, (many.attributes or {})[names.MESSAGE_COUNT]) == ("enqueue t", 3)
    carried = [row[0]["traceparent"] for row in conn.execute("select headers from pgqueue.job_live order by id")]
    assert carried == [_traceparent(many)] * 3 + [_traceparent(keyed)] * 2


def _traceparent(span: Any) -> str:
    return f"00-{format_trace_id(span.context.trace_id)}-{format_span_id(span.context.span_id)}-03"


def test_enqueueing_belongs_into_the_callers_trace_and_carries_its_state_but_no_baggage(
    app: App, conn: Conn, local: TracerProvider, memory: InMemorySpanExporter
) -> None:
    instrument(app, tracer_provider=local)
    app.task(name="t")(lambda: None)
    context = trace.SpanContext(1 << 100, 5, True, trace.TraceFlags(1), trace.TraceState([("vendor", "x")]))
    token = contexts.attach(trace.set_span_in_context(trace.NonRecordingSpan(context)))
    token_of_baggage = contexts.attach(baggage.set_baggage("who", "a@example.com"))
    try:
        app.using(conn).enqueue("t")
        asyncio.run(app.aenqueue("t"))
    finally:
        contexts.detach(token_of_baggage)
        contexts.detach(token)
    for span, (headers,) in zip(
        memory.get_finished_spans(), conn.execute("select headers from pgqueue.job_live order by id"), strict=True
    ):
        assert span.context.trace_id == 1 << 100
        assert headers == {"traceparent": _traceparent(span)[:-2] + "01", "tracestate": "vendor=x"}


def test_a_traceparent_of_the_caller_counts(app: App, conn: Conn, local: TracerProvider) -> None:
    instrument(app, tracer_provider=local)
    given = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-00"}
    app.using(conn, headers=given).enqueue("t")
    assert scalar(conn, "select headers from pgqueue.job_live") == given


def test_without_a_tracer_a_job_carries_nothing_and_runs_as_ever(app: App, conn: Conn) -> None:
    instrument(app, tracer_provider=trace.NoOpTracerProvider())

    @app.task(name="t")
    def t() -> int:
        return 42

    job = t.enqueue()
    assert scalar(conn, "select headers from pgqueue.job_live") == {}
    drain(app, conn)
    assert app.get(job.id).result == 42


def test_a_trace_that_is_sampled_out_is_carried_so_that_the_run_is_sampled_out_too(app: App, conn: Conn) -> None:
    instrument(app, tracer_provider=TracerProvider(ALWAYS_OFF, shutdown_on_exit=False))
    app.using(conn).enqueue("t")
    assert scalar(conn, "select headers ->> 'traceparent' from pgqueue.job_live").endswith(("-00", "-02"))


class _Sees(Sampler):
    """Drops all, and keeps what it was given; reads the attributes if it is asked to."""

    def __init__(self, *, reads: bool) -> None:
        self.given: list[Any] = []
        self._reads = reads

    def should_sample(self, *args: Any, **named: Any) -> SamplingResult:
        attributes = named.get("attributes", args[4] if len(args) > 4 else None)
        self.given.append(dict(attributes) if self._reads else attributes)
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return "sees"


def test_a_sampler_that_drops_by_attributes_sees_all_of_a_run(app: App, conn: Conn) -> None:
    sampler = _Sees(reads=True)
    instrument(app, tracer_provider=TracerProvider(sampler, shutdown_on_exit=False))
    app.task(name="t")(lambda: None)
    job = app.using(conn, queue="q").enqueue("t")
    drain(app, conn, queues=["q"])
    run = sampler.given[-1]
    assert (run[names.TASK], run[names.ATTEMPT], run[names.MESSAGE_ID]) == ("t", 1, str(job.id))
    assert (run[names.DESTINATION], run[names.OPERATION_TYPE]) == ("q", "process")


def test_no_attributes_of_a_run_are_made_for_a_sampler_that_reads_none(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, made = _Sees(reads=False), []
    instrument(app, tracer_provider=TracerProvider(sampler, shutdown_on_exit=False))
    app.task(name="t")(lambda: None)
    app.using(conn).enqueue("t")
    monkeypatch.setattr(RunAttributes, "_make", lambda self: made.append(self) or {})
    drain(app, conn)
    assert len(sampler.given) == 2
    assert isinstance(sampler.given[1], RunAttributes)
    assert made == []


def test_a_run_that_is_sampled_out_is_in_the_trace_that_its_job_carries(app: App, conn: Conn) -> None:
    instrument(app, tracer_provider=TracerProvider(DEFAULT_ON, shutdown_on_exit=False))

    @app.task(name="t")
    def t() -> list[Any]:
        span = trace.get_current_span()
        context = span.get_span_context()
        return [format_trace_id(context.trace_id), span.is_recording(), context.trace_flags.sampled]

    carried = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-00", "tracestate": "vendor=x"}
    job = t.using(conn, headers=carried).enqueue()
    drain(app, conn)
    assert app.get(job.id).result == ["1" * 32, False, False]


@pytest.mark.parametrize(
    ("relation", "late", "child"),
    [("auto", False, True), ("auto", True, False), ("parent", True, True), ("link", False, False)],
)
def test_a_late_first_run_has_a_trace_of_its_own_unless_the_app_says_otherwise(
    app: App, conn: Conn, local: TracerProvider, memory: InMemorySpanExporter, relation: Any, late: bool, child: bool
) -> None:
    instrument(app, tracer_provider=local, relation=relation, parent_within=timedelta(minutes=5))
    app.task(name="t")(lambda: None)
    app.using(conn).enqueue("t")
    if late:
        conn.execute(
            "update pgqueue.job_live set run_at = run_at - interval '301 s', created_at = created_at - interval '301 s'"
        )
    drain(app, conn)
    enqueued, run = memory.get_finished_spans()
    assert (run.parent is not None) == child
    assert [link.context.span_id for link in run.links] == ([] if child else [enqueued.context.span_id])


def test_a_tick_that_fires_is_a_root_span_and_its_job_is_the_child(
    app: App, conn: Conn, local: TracerProvider, memory: InMemorySpanExporter
) -> None:
    instrument(app, tracer_provider=local)
    app.task(name="t")(lambda: None)
    app.schedules.create("nightly", "t", 3600)
    app.schedules.run("nightly")
    conn.execute("update pgqueue.schedule set next_tick = now()")
    run_scheduler(app, lambda: scalar(conn, "select count(*) = 2 from pgqueue.job_live"))
    drain(app, conn)
    fires = [span for span in memory.get_finished_spans() if span.name == "fire nightly"]
    runs = [span for span in memory.get_finished_spans() if span.name == "process t"]
    assert [(span.kind, span.parent, (span.attributes or {})[names.SCHEDULE]) for span in fires] == [
        (trace.SpanKind.PRODUCER, None, "nightly")
    ] * 2
    assert sorted(run.parent.span_id for run in runs if run.parent) == sorted(f.context.span_id for f in fires)


@pytest.mark.parametrize("verb", ["redrive", "retry"])
def test_a_redrive_is_one_span_and_a_later_run_is_a_root_with_a_link_to_the_enqueueing(
    app: App, conn: Conn, local: TracerProvider, memory: InMemorySpanExporter, verb: str
) -> None:
    instrument(app, tracer_provider=local)
    failing = True

    @app.task(name="t", max_attempts=1)
    def t() -> None:
        if failing:
            raise ValueError

    t.using(conn).enqueue_many([{}, {}])
    drain(app, conn)
    conn.execute("update pgqueue.dead_letter set created_at = created_at - interval '301 s'")
    failing = False
    if verb == "redrive":
        done = app.dead.redrive(DeadFilter(task="t"))
    else:
        done = asyncio.run(app.jobs.aretry(JobFilter(task="t")))
    drain(app, conn)
    enqueued, _, _, redriven, *runs = memory.get_finished_spans()
    assert (redriven.name, redriven.kind, redriven.parent) == ("redrive", trace.SpanKind.PRODUCER, None)
    known = {name: value for name, value in (redriven.attributes or {}).items() if not name.startswith("server.")}
    assert known == {
        "messaging.system": "pgqueue",
        "messaging.operation.name": "redrive",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 2,
        "pgqueue.operation": done.id,
    }
    assert [(run.name, run.parent) for run in runs] == [("process t", None)] * 2
    assert [[link.context.span_id for link in run.links] for run in runs] == [[enqueued.context.span_id]] * 2


def test_a_redrive_that_is_refused_is_a_span_that_failed(
    app: App, local: TracerProvider, memory: InMemorySpanExporter
) -> None:
    instrument(app, tracer_provider=local)
    with pytest.raises(InvalidOption, match="without a filter"):
        app.dead.redrive(DeadFilter())
    (span,) = memory.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "pgqueue.errors.InvalidOption"


# In a process of its own, for an instrumented psycopg does not become quite as before.
_INSTRUMENTED = """
import asyncio, json, sys
import psycopg
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pgqueue import App
from pgqueue.otel import instrument
from pgqueue.worker import Worker, WorkerSettings

app, memory, provider = App(sys.argv[1]), InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
PsycopgInstrumentor().instrument(tracer_provider=provider)
instrument(app, tracer_provider=provider)

@app.task(name="t")
def t():
    with psycopg.connect(sys.argv[1]) as own:
        own.execute("select 'of the task'")
    worker.stop()

t.enqueue()
worker = Worker(app, WorkerSettings(lease_seconds=0.4))
asyncio.run(worker.run())
print(json.dumps([span.attributes.get("db.statement") for span in memory.get_finished_spans()]))
"""


def test_the_statements_of_the_worker_itself_are_no_spans_and_those_of_tasks_are(app: App) -> None:
    command = [sys.executable, "-c", _INSTRUMENTED, app.dsn]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert [statement for statement in json.loads(done.stdout) if statement] == ["select 'of the task'"]


def test_runs_are_measured_by_the_metrics_of_the_convention(app: App, conn: Conn) -> None:
    reader = InMemoryMetricReader()
    instrument(app, tracer_provider=trace.NoOpTracerProvider(), meter_provider=MeterProvider([reader]))

    @app.task(name="t", max_attempts=1)
    def t(n: int) -> None:
        if n:
            raise ValueError

    t.using(conn).enqueue_many([{"n": 0}, {"n": 1}, {"n": 0}])
    drain(app, conn)
    data: Any = reader.get_metrics_data()
    (scope,) = data.resource_metrics[0].scope_metrics
    found = {metric.name: metric for metric in scope.metrics}
    assert set(found) == {
        "messaging.client.consumed.messages",
        "messaging.client.operation.duration",
        "messaging.process.duration",
    }
    points = found["messaging.client.consumed.messages"].data.data_points
    assert sorted((point.attributes.get("error.type", ""), point.value) for point in points) == [
        ("", 2),
        ("ValueError", 1),
    ]
    assert found["messaging.process.duration"].unit == "s"
    assert {point.count for point in found["messaging.process.duration"].data.data_points} == {1, 2}


@pytest.mark.parametrize("traced", [True, False])
def test_calls_that_enqueue_are_measured_with_and_without_a_tracer(
    app: App, conn: Conn, local: TracerProvider, traced: bool
) -> None:
    reader = InMemoryMetricReader()
    tracer = local if traced else trace.NoOpTracerProvider()
    instrument(app, tracer_provider=tracer, meter_provider=MeterProvider([reader]))
    task = app.task(name="t", queue="q")(lambda: None)
    once = task.using(conn, unique=Unique(on_conflict="raise"))
    once.enqueue()
    task.using(conn).enqueue_many([{}, {}, {}])
    asyncio.run(app.aenqueue("t"))
    with pytest.raises(DuplicateJob):
        once.enqueue()
    app.schedules.create("nightly", "t", 3600)
    app.schedules.run("nightly")
    data: Any = reader.get_metrics_data()
    (scope,) = data.resource_metrics[0].scope_metrics
    (metric,) = scope.metrics
    assert (metric.name, metric.unit) == ("messaging.client.operation.duration", "s")
    found = {}
    for point in metric.data.data_points:
        known = {name: value for name, value in point.attributes.items() if not name.startswith("server.")}
        found[known.pop("messaging.operation.name"), known.pop("error.type", "")] = point.count
        assert known == {
            "messaging.system": "pgqueue",
            "messaging.operation.type": "send",
            "messaging.destination.name": "q",
        }
        assert 0 < point.min <= point.max < 60
        assert tuple(point.explicit_bounds) == names.DURATION_BOUNDARIES
    assert found == {("enqueue", ""): 3, ("enqueue", "pgqueue.errors.DuplicateJob"): 1, ("fire", ""): 1}


def test_a_line_of_the_log_names_the_trace_that_is_active(
    app: App, conn: Conn, local: TracerProvider, memory: InMemorySpanExporter
) -> None:
    instrument(app, tracer_provider=local)
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    keep = Keep()
    keep.addFilter(logs.JobFilter())
    keep.setFormatter(logs.JsonFormatter())
    own = logging.getLogger("shop")
    own.addHandler(keep)

    @app.task(name="t")
    def t() -> None:
        own.warning("in the task", extra={"order": 7})

    job = t.enqueue()
    try:
        drain(app, conn)
        own.warning("outside")
    finally:
        own.removeHandler(keep)
    inside, outside = map(json.loads, lines)
    run = memory.get_finished_spans()[-1]
    assert {name: inside[name] for name in ("job_id", "task", "attempt", "order", "trace_id", "span_id")} == {
        "job_id": job.id,
        "task": "t",
        "attempt": 1,
        "order": 7,
        "trace_id": format_trace_id(run.context.trace_id),
        "span_id": format_span_id(run.context.span_id),
    }
    assert "trace_id" not in outside


def test_an_app_is_instrumented_once_and_with_a_relation_that_exists(app: App, local: TracerProvider) -> None:
    wrong: Any = "child"
    with pytest.raises(InvalidOption, match="relation='child' cannot be used: give one of auto, parent, link"):
        instrument(app, relation=wrong)
    with pytest.raises(InvalidOption, match="parent_within=-1 cannot be used"):
        instrument(app, parent_within=-1)
    instrument(app, tracer_provider=local)
    with pytest.raises(InvalidOption, match="instrumented already"):
        instrument(app, tracer_provider=local)
