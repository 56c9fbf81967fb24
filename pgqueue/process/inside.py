"""What `app.worker()` and `app.scheduler()` take and give; `pgqueue.inside` does the work."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, TypedDict


class WorkerOptions(TypedDict, total=False):
    """What `app.worker()` takes: as the options of `pgqueue work`, and the fields of WorkerSettings."""

    queues: str | Sequence[str]
    concurrency: int
    limits: Mapping[str, int]
    shares: Mapping[str, int]
    max_wait: float
    lease_seconds: float
    poll_seconds: float
    shutdown_timeout: float
    max_jobs_per_child: int
    max_memory_per_child: int


class RunsInside(Protocol):
    """A worker, a scheduler or both that run while an `async with` or `with` block lasts."""

    async def __aenter__(self) -> None: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
