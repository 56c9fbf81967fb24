"""What a running task may know about its own job."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgqueue.job import ClaimedJob


@dataclass(frozen=True, slots=True)
class Context:
    """The job a task runs for. A task gets one by declaring a first parameter annotated `pgqueue.Context`.

    `attempt` counts from 1. `headers` is what travels with the job beside its arguments; a job that a schedule
    fired has `schedule` and `tick` there.
    """

    job_id: int
    task: str
    queue: str
    attempt: int
    max_attempts: int
    tags: tuple[str, ...]
    headers: dict[str, Any]
    run_at: datetime
    created_at: datetime

    @classmethod
    def of(cls, job: ClaimedJob) -> "Context":
        """Make the context of a claimed job."""
        return cls(
            job.id, job.task, job.queue, job.attempt, job.max_attempts, tuple(job.tags),
            json.loads(job.headers), job.run_at, job.created_at,
        )  # fmt: skip

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure now makes the job a dead letter."""
        return self.attempt >= self.max_attempts
