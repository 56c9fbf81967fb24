"""The metrics of the conventions that enqueueing and runs make.

`messaging.client.sent.messages` is left out: what a caller's transaction enqueues may be rolled back, unseen.
"""

from collections.abc import Mapping

from opentelemetry.metrics import Meter

from pgqueue.otel import names


class Meters:
    """Counts runs, and measures how long they and calls that enqueue take."""

    def __init__(self, meter: Meter) -> None:
        self._consumed = meter.create_counter(
            names.CONSUMED, unit="{message}", description="Number of messages that were delivered to the application."
        )
        self._duration = meter.create_histogram(
            names.PROCESS_DURATION,
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDARIES,
        )

        self._enqueueing = meter.create_histogram(
            names.OPERATION_DURATION,
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDARIES,
        )

    def note_enqueue(self, seconds: float, about: Mapping[str, str | int], error_type: str | None) -> None:
        """Note one call that enqueued, or failed to."""
        self._enqueueing.record(seconds, about if error_type is None else {**about, names.ERROR_TYPE: error_type})

    def note_run(self, seconds: float, about: Mapping[str, str | int], error_type: str | None) -> None:
        """Note one run of a task."""
        known = about if error_type is None else {**about, names.ERROR_TYPE: error_type}
        self._consumed.add(1, known)
        self._duration.record(seconds, known)
