"""The worker: one process that claims jobs, runs them, and writes how they ended."""

from pgqueue.worker.worker import Worker, WorkerSettings

__all__ = ["Worker", "WorkerSettings"]
