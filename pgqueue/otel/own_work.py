"""What concerns a worker's own work: its statements are no spans, and its log names the trace that is active."""

from collections.abc import Mapping

from opentelemetry import context, trace

# Instrumentations, of psycopg for example, make no spans where this is set.
SUPPRESS = "suppress_instrumentation"


def suppress() -> None:
    """Let instrumented libraries make no spans of what is called from here on, in this context and those made of it."""
    context.attach(context.set_value(SUPPRESS, True))


def active_trace() -> Mapping[str, str]:
    """Return the ids of the active trace and span, as lines of a log have them."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}
