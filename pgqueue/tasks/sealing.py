"""Sealing: the parts of a job that a codec encrypts, and their form: JSON as `{"$codec": "…"}`, texts as `$codec:…`.

Sealed are arguments, results, messages and tracebacks of errors, and the reasons and notes that a task writes. Each is
bound to its kind and to the job's task. Names, tags, headers and the classes of errors stay in the clear: queries need
them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pgqueue.codecs import Codec
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import CannotOpen, ConfigError, PgqueueError, UnknownKey
from pgqueue.jobs.job import Attempt, Job
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution

MARK = "$codec"
SEALED = '{"$codec"'  # the beginning of sealed JSON text
# What a job carries instead of arguments where the data of its event is sealed: the event, the fields of it that are
# arguments (`takes`), and the parameter that gets all of it (`whole_as`).
EVENT = "$event"
SEALED_EVENT = '{"$event"'
_TEXT = "$codec:"
_PRINTABLE = re.compile(r"[!-~]+")
_KEY = re.compile(r"([A-Za-z0-9_.-]{1,64}):")
STAND_IN_CANCELLED = "what ran in its place was cancelled"
_OURS = frozenset(
    {"cancelled by request", "snoozed", "sealed", "asleep", STAND_IN_CANCELLED}
)  # reasons that pgqueue writes


def sealed_by(value: object) -> str | None:
    """Return a text to show instead of a sealed value, with the name of its key; None if the value is not sealed."""
    if isinstance(value, dict) and list(value) == [EVENT]:
        value = value[EVENT].get("data") if isinstance(value[EVENT], dict) else None
    if isinstance(value, dict) and list(value) == [MARK]:
        value = value[MARK]
    elif isinstance(value, str) and value.startswith(_TEXT):
        value = value.removeprefix(_TEXT)
    else:
        return None
    key = _KEY.match(str(value))
    return f"sealed (key {key[1]})" if key else "sealed"


def seal_args(codec: Codec, task: str, text: str) -> str:
    """Seal a job's arguments, unless they are sealed already, as in a schedule's row."""
    return text if text.startswith(SEALED) else _seal_json(codec, "args", task, text)


def seal_event(codec: Codec, topic: str, text: str) -> str:
    """Seal the data of an event, a JSON object."""
    return _seal_json(codec, "event", topic, text)


def open_event(codec: Codec | None, topic: str, text: str) -> Any:
    """Return the data of an event; as it is stored, where it is sealed and cannot be opened here."""
    data = json.loads(text)
    return data if codec is None else _read_json(codec, "event", topic, data)


def open_args(codec: Codec | None, task: str, text: str) -> str:
    """Open the arguments of a job of that task, if they are sealed; or take them out of a sealed event.

    Raises UnknownKey without the right key, CannotOpen if the key does not open them.
    """
    if text.startswith(SEALED_EVENT):
        return json.dumps(_args_of_event(codec, json.loads(text)[EVENT]))
    if not text.startswith(SEALED):
        return text
    if codec is None:
        raise UnknownKey("the arguments are sealed, and this app has no codec: give it the codec that sealed them")
    return _open(codec, "args", task, json.loads(text)[MARK]).decode()


def open_result(codec: Codec | None, task: str, value: Any) -> Any:
    """Open the result of a job of that task, if it is sealed. Raises as `open_args` does."""
    if sealed_by(value) is None or not isinstance(value, Mapping):
        return value
    if codec is None:
        raise UnknownKey("a result is sealed, and this app has no codec: give it the codec that sealed it")
    return json.loads(_open(codec, "result", task, value[MARK]))


def seal_resolution(codec: Codec, task: str, resolution: Resolution) -> Resolution:
    """Seal the result, error and reason of an attempt. Never raises: a part that cannot be sealed is dropped."""
    if resolution is PLAIN_SUCCESS:
        return resolution
    try:
        return _seal_resolution(codec, task, resolution)
    except Exception as error:  # noqa: BLE001 - a user's codec may raise anything, and the outcome must be written all the same
        lost = f"the codec raised {type(error).__name__}: the result or error is not kept"
        reason = resolution.verb if _is_reason_of_task(resolution) else resolution.reason
        return replace(resolution, reason=reason, result=None, error=ErrorInfo("pgqueue.CannotSeal", lost))


def seal_value(codec: Codec, kind: str, name: str, text: str) -> str:
    """Seal the value of a step, bound to its task, or the data of a signal or event, bound to its name: JSON text."""
    return _seal_json(codec, kind, name, text)


def open_value(codec: Codec | None, kind: str, name: str, text: str) -> str:
    """Open the value of a step, signal or event, if it is sealed. Raises UnknownKey and CannotOpen."""
    if not text.startswith(SEALED):
        return text
    if codec is None:
        raise UnknownKey(f"the {kind} is sealed, and this app has no codec: give it the codec that sealed it")
    return _open(codec, kind, name, json.loads(text)[MARK]).decode()


def seal_progress(codec: Codec, task: str, text: str) -> str:
    """Seal the note in the progress of a job, a JSON object."""
    progress = json.loads(text)
    if "note" in progress:
        progress["note"] = _TEXT + _seal(codec, "note", task, progress["note"].encode())
    return json.dumps(progress)


def open_job(codec: Codec, job: Job) -> Job:
    """Open the sealed parts of a job; those that cannot be opened stay sealed."""
    task = job.task
    return replace(
        job,
        args=_read_json(codec, "args", task, job.args),
        result=_read_json(codec, "result", task, job.result),
        error=read_error(codec, task, job.error),
        reason=read_text(codec, "reason", task, job.reason),
        progress=_read_progress(codec, task, job.progress),
        attempts=tuple(_read_attempt(codec, task, attempt) for attempt in job.attempts),
    )


def _args_of_event(codec: Codec | None, carried: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a job that carries a sealed event."""
    event = dict(carried)
    takes, whole_as = event.pop("takes"), event.pop("whole_as")
    if codec is None:
        raise UnknownKey("the event is sealed, and this app has no codec: give it the codec that sealed it")
    data = json.loads(_open(codec, "event", event["topic"], event["data"][MARK]))
    arguments = {name: data[name] for name in takes if name in data}
    return arguments if whole_as is None else arguments | {whole_as: event | {"data": data}}


def _is_reason_of_task(resolution: Resolution) -> bool:
    """Whether the task wrote the reason."""
    return resolution.verb in ("snooze", "withdraw") and resolution.reason not in _OURS


def _seal_resolution(codec: Codec, task: str, resolution: Resolution) -> Resolution:
    result, error, reason = resolution.result, resolution.error, resolution.reason
    if result is not None:
        result = _seal_json(codec, "result", task, result)
    if error is not None and reason not in (
        "sealed",
        "cannot be opened",
    ):  # those errors are ours, and name the key or codec that is missing
        words = json.dumps([error.message, error.traceback])
        error = ErrorInfo(error.type, _TEXT + _seal(codec, "error", task, words.encode()))
    if reason is not None and _is_reason_of_task(resolution):
        reason = _TEXT + _seal(codec, "reason", task, reason.encode())
    return replace(resolution, result=result, error=error, reason=reason)


def _about(kind: str, task: str) -> bytes:
    return f"pgqueue {kind} {task}".encode()


def _seal(codec: Codec, kind: str, task: str, plain: bytes) -> str:
    sealed = codec.seal(plain, _about(kind, task))
    if not isinstance(sealed, str) or not _PRINTABLE.fullmatch(sealed):
        raise ConfigError(f"{type(codec).__name__}.seal() gave no text of printable ASCII without spaces")
    return sealed


def _open(codec: Codec, kind: str, task: str, sealed: str) -> bytes:
    try:
        return codec.open(sealed, _about(kind, task))
    except PgqueueError:
        raise
    except Exception as error:  # noqa: BLE001 - the message of a user's codec may quote the data
        raise CannotOpen(f"{type(codec).__name__}.open() raised {type(error).__name__}") from None


def _seal_json(codec: Codec, kind: str, task: str, text: str) -> str:
    return json.dumps({MARK: _seal(codec, kind, task, text.encode())})


def _read_json(codec: Codec, kind: str, task: str, value: Any) -> Any:
    if sealed_by(value) is None or not isinstance(value, Mapping):
        return value
    try:
        if EVENT in value:
            return _args_of_event(codec, value[EVENT])
        return json.loads(_open(codec, kind, task, value[MARK]))
    except (PgqueueError, ValueError, RecursionError):
        return value


def read_text(codec: Codec, kind: str, task: str, text: str | None) -> str | None:
    """Open a sealed text; one that cannot be opened stays sealed."""
    if text is None or not text.startswith(_TEXT):
        return text
    try:
        return _open(codec, kind, task, text.removeprefix(_TEXT)).decode()
    except (PgqueueError, ValueError):
        return text


def read_error(codec: Codec, task: str, error: ErrorInfo | None) -> ErrorInfo | None:
    """Open the words of an error; those that cannot be opened stay sealed."""
    words = None if error is None else read_text(codec, "error", task, error.message)
    if error is None or words is None or words == error.message:
        return error
    try:
        message, trace = json.loads(words)
    except (ValueError, TypeError):  # a user's codec may return other data than was sealed
        return error
    return ErrorInfo(error.type, message, trace)


def _read_progress(codec: Codec, task: str, progress: dict[str, Any] | None) -> dict[str, Any] | None:
    if progress is None or "note" not in progress:
        return progress
    return progress | {"note": read_text(codec, "note", task, progress["note"])}


def _read_attempt(codec: Codec, task: str, attempt: Attempt) -> Attempt:
    reason = read_text(codec, "reason", task, attempt.reason)
    return replace(attempt, error=read_error(codec, task, attempt.error), reason=reason)
