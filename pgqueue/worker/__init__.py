"""The worker: one process that claims jobs, runs them, and writes how they ended."""

from pgqueue.worker.settings import WorkerSettings
from pgqueue.worker.worker import Worker

__all__ = ["Worker", "WorkerSettings"]
