"""The app of `tests.bench.tasks` with tracing, of which the sampler takes nothing."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from pgqueue.otel import instrument

from .tasks import app

__all__ = ["app"]

instrument(app, tracer_provider=TracerProvider(ALWAYS_OFF))
