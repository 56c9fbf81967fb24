"""Logging: each line names the job that wrote it, and may be JSON. A record is one line, whatever stands in it."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias

from pgqueue.db.failures import brief
from pgqueue.printable import one_line, printable, printable_json
from pgqueue.tasks.context import current_context

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

LOGGERS = ("pgqueue", "pgqueue.worker", "pgqueue.scheduler", "pgqueue.supervisor", "pgqueue.events", "pgqueue.waits",
           "pgqueue.web", "pgqueue.dashboard", "pgqueue.locks", "pgqueue.celery")  # fmt: skip
_FACTS = ("job_id", "task", "queue", "attempt")
_OF_EACH_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "job"}
schema_here: ContextVar[str | None] = ContextVar("pgqueue_schema", default=None)  # in a process that serves several
_more_facts: list[Callable[[], Mapping[str, str]]] = []
TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s%(job)s"


class OwnLogger(logging.Logger):
    """A logger of pgqueue: names forge no lines, database errors show no rows, a handler that raises ends nothing."""

    def handle(self, record: logging.LogRecord) -> None:
        """Give a record to the handlers, the app's own too."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(_safe, record.args))
        try:
            super().handle(record)
        except Exception as error:  # noqa: BLE001 - a handler of the app may raise anything
            self._complain(record, error)

    def _complain(self, record: logging.LogRecord, error: Exception) -> None:
        if logging.raiseExceptions and sys.stderr is not None:
            line = f"a log handler raised {type(error).__name__}; the record: {one_line(record.getMessage())}\n"
            sys.stderr.write(line)


def _safe(value: object) -> object:
    if isinstance(value, Exception):
        return one_line(brief(value))
    return one_line(value) if isinstance(value, str) else value


def facts() -> dict[str, object]:
    """Return the facts of the job that runs here: `job_id`, `task`, `queue`, `attempt`; and more, such as its trace.

    Outside of a job there are none of the job.
    """
    context = current_context.get()
    found: dict[str, object] = {} if context is None else {fact: getattr(context, fact) for fact in _FACTS}
    for more in _more_facts:
        found.update(more())
    return found


class JobFilter(logging.Filter):
    """Adds to each record the job that runs: `job_id`, `task`, `queue`, `attempt`, and `job`, the same as a text; and
    more facts, such as the trace that is active.

    It never adds arguments, which may be secrets.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        context = current_context.get()
        for fact in _FACTS:
            if context is not None or not hasattr(record, fact):
                setattr(record, fact, getattr(context, fact, None))
        for facts in _more_facts:
            vars(record).update(facts())
        schema = schema_here.get()
        if schema is not None:
            record.schema = schema
        place = "" if schema is None else f" [schema {schema}]"
        record.job = f"{place} [job {context.job_id} {context.task}, attempt {context.attempt}]" if context else place
        return True


class TextFormatter(logging.Formatter):
    """Formats each record as one line. A traceback follows it indented, so none of its lines looks like a record."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Format the time of a record: local, with its zone."""
        return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(" ", "milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format a record without its traceback."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802
        """Format a traceback."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """Format the stack that `stack_info=True` adds."""
        return _indented(super().formatStack(stack_info))


class JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON, with the job it belongs to and what `extra=` gave."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat()
        line: dict[str, Any] = {name: value for name, value in vars(record).items() if name not in _OF_EACH_RECORD}
        line = {name: value for name, value in line.items() if name not in _FACTS or value is not None}
        line |= {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            text = json.dumps(line, ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError):  # keys that are no strings, circles
            text = json.dumps({name: str(value) for name, value in line.items()}, ensure_ascii=False)
        return printable_json(text)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in printable(text).split("\n"))


def set_up(level: str, *, as_json: bool) -> None:
    """Send the log to stderr, with the job on each line that a task writes, unless the app has set up logging itself.

    Call it when the app is loaded. What it has set up stays; but `dictConfig` switches off loggers that it does not
    name, and those of pgqueue are switched on again.
    """
    handler = logging.StreamHandler()
    handler.addFilter(JobFilter())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in LOGGERS:
        logging.getLogger(name).disabled = False


def add_facts(facts: Callable[[], Mapping[str, str]]) -> None:
    """Add to each record of this process what a function returns; adding it again does nothing."""
    if facts not in _more_facts:
        _more_facts.append(facts)


def adopt_loggers() -> None:
    """Make the loggers of pgqueue `OwnLogger`s, also those that the app's configuration made before."""
    for logger in map(logging.getLogger, LOGGERS):
        if type(logger) is logging.Logger:
            logger.__class__ = OwnLogger


adopt_loggers()
