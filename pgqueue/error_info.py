"""The record of an exception that a task raised: its class, message and traceback as text."""

import traceback
from dataclasses import dataclass
from types import TracebackType

MAX_MESSAGE = 10_000
MAX_TRACEBACK = 20_000
_OWN_FRAMES = (
    "pgqueue.worker.",
    "pgqueue.tasks",
    "pgqueue.django.running",
)  # the frames that call a task are the same for every error


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The record of an exception: the name of its class, its message and its traceback, as text that Postgres can
    store."""

    type: str
    message: str
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> "ErrorInfo":
        """Describe `error`. Never raises, whatever the exception's own methods do; keeps no local variables."""
        kind = type(error)
        module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
        return cls(
            storable_text(module + kind.__qualname__)[:200],
            _shorten(storable_text(_message(error)), MAX_MESSAGE),
            _shorten(storable_text(_traceback(error)), MAX_TRACEBACK) or None,
        )


def storable_text(text: str) -> str:
    """Return `text` with NUL and lone surrogates, which a Postgres text cannot hold, as escapes."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - a broken __str__ must not lose the attempt
        return f"<str() of the exception raised {type(broken).__name__}>"


def frames_of_task(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error from the code of its task on, without the frames that have called it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(_OWN_FRAMES):
        frames = frames.tb_next
    return frames


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, frames_of_task(error)))
    except BaseException as broken:  # noqa: BLE001 - as above: formatting calls the exception's own code
        return f"<no traceback: formatting it raised {type(broken).__name__}>"


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
