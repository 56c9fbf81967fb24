"""The facts of the job that runs, for your own logging: structlog, loguru, handlers of the standard library.

`pgqueue work` adds them to its own lines. What is set up by the app itself takes them from here. They are the id, task,
queue and attempt of the job, and what traces add; never arguments.
"""

from collections.abc import MutableMapping
from typing import Any

from pgqueue.process.logs import JobFilter, facts

__all__ = ["JobFilter", "add_facts", "facts", "patch"]


def add_facts(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the facts to an event: a processor of structlog. What the event has under such a name stays."""
    for name, value in facts().items():
        event.setdefault(name, value)
    return event


def patch(record: Any) -> None:
    """Add the facts to the `extra` of a record: a patcher of loguru. What the record has under such a name stays."""
    record["extra"] = {**facts(), **record["extra"]}
