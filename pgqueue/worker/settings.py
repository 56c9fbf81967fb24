"""The settings of a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pgqueue.errors import InvalidOption
from pgqueue.timing import LEASE, PAUSE, SHUTDOWN, WAITED, check_duration


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker runs. Durations are seconds.

    The worker serves `queues` in order, or by their `shares` of its slots, and runs at most `limits[queue]` jobs of a
    queue at a time. One claim in sixteen takes first what is due for longer than `max_wait`, whatever its queue and
    priority. Others declare the worker lost when it has not beaten for `lease_seconds`, and run its jobs again. When it
    stops, its jobs have `shutdown_timeout` to end. A child process is replaced after `max_jobs_per_child` jobs, or when
    it has grown beyond `max_memory_per_child` MiB. With `burst` it stops once nothing is due that it could run.
    """

    queues: Sequence[str] = ("default",)
    concurrency: int = 8
    limits: Mapping[str, int] = field(default_factory=dict)
    lease_seconds: float = 30.0
    poll_seconds: float = 1.0
    shutdown_timeout: float = 30.0
    max_jobs_per_child: int | None = None
    max_memory_per_child: int | None = None
    shares: Mapping[str, int] = field(default_factory=dict)
    max_wait: float | None = None
    burst: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.queues, str) or not self.queues:
            raise InvalidOption(f"queues={self.queues!r} cannot be used: give a list of names")
        check_duration("lease_seconds", self.lease_seconds, LEASE)
        check_duration("poll_seconds", self.poll_seconds, PAUSE)
        check_duration("shutdown_timeout", self.shutdown_timeout, SHUTDOWN)
        if self.max_wait is not None:
            check_duration("max_wait", self.max_wait, WAITED)
