"""A fleet: one process that serves many schemas, fairly, over few connections."""

from pgqueue.worker.fleet.fleet import Fleet

__all__ = ["Fleet"]
