"""Logging: each line names the job that wrote it, and may be JSON."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

from pgqueue.tasks.context import Context

current_context: ContextVar[Context | None] = ContextVar("pgqueue_job", default=None)
_FACTS = ("job_id", "task", "queue", "attempt")
TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s%(job)s"


class JobFilter(logging.Filter):
    """Adds to each record the job that runs: `job_id`, `task`, `queue`, `attempt`, and `job`, the same as a text.

    It never adds arguments, which may be secrets.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        context = current_context.get()
        for fact in _FACTS:
            setattr(record, fact, getattr(context, fact, None))
        record.job = f" [job {context.job_id} {context.task}, attempt {context.attempt}]" if context else ""
        return True


class JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON, with the job it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat()
        line = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= {fact: value for fact in _FACTS if (value := getattr(record, fact, None)) is not None}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: str, *, as_json: bool) -> None:
    """Send the log to stderr, with the job on each line that a task writes."""
    handler = logging.StreamHandler()
    handler.addFilter(JobFilter())
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
