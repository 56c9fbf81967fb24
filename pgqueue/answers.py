"""Answers about jobs over HTTP, without a framework: what a client may know, ids that are signed, streams of events.

`pgqueue.web`, `pgqueue.flask` and `pgqueue.django.job_urls` are three frameworks over it.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, get_args

from pgqueue.app import App
from pgqueue.client.waiting import MAX_ID
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import InvalidOption, UnknownJob
from pgqueue.jobs.job import Job, JobState
from pgqueue.tasks.options import check_names
from pgqueue.timing import PAUSE, check_duration

log = logging.getLogger("pgqueue.web")
Errors: TypeAlias = Literal["none", "type", "message", "traceback"]
RETRY_SECONDS = 1
NO_STORE = {"Cache-Control": "no-store"}
END = "end"  # the id of a stream's last event: a client that reconnects with it has seen everything
LAST_FRAME = f"id: {END}\nevent: {END}\ndata: {{}}\n\n"
STREAM_HEADERS = NO_STORE | {"X-Accel-Buffering": "no"}
LOOK_SECONDS = 0.5  # between two looks of a stream that no event loop serves
_SHORTEST = 16  # bytes of a secret


class SignedIds:
    """Ids of jobs that nobody can guess: `17.` and a signature of it by a secret of yours.

    `ids = SignedIds(secret)` goes to the router, and to what answers the request that enqueues. Whoever has such an id
    was given it. `older` are secrets that signed before, for as long as their ids are to be accepted. `scope` says of
    which schema the jobs are, where there are several: each has a job 17. It is a text, or a function that is called
    for each id, such as `lambda: app.schema`. Raises InvalidOption for a secret of fewer than 16 bytes.
    """

    def __init__(self, secret: str | bytes, *older: str | bytes, scope: str | Callable[[], str] | None = None) -> None:
        self._secrets = [_secret(each) for each in (secret, *older)]
        self._scope = scope

    def __repr__(self) -> str:
        return f"SignedIds({len(self._secrets)} secrets)"

    @property
    def is_scoped(self) -> bool:
        """Whether it says of which schema the jobs are."""
        return self._scope is not None

    def sign(self, job_id: int) -> str:
        """Return the id under which a job is asked for."""
        return f"{job_id}.{self._signature(self._secrets[0], job_id)}"

    def read(self, text: str) -> int | None:
        """Return the id that was signed; None where the signature is none of ours."""
        number, _, given = text.partition(".")
        job_id = plain_id(number)
        if job_id is None or not given.isascii():
            return None
        known = [hmac.compare_digest(given, self._signature(secret, job_id)) for secret in self._secrets]
        return job_id if any(known) else None

    def _signature(self, secret: bytes, job_id: int) -> str:
        scope = self._scope() if callable(self._scope) else self._scope
        signed = f"pgqueue job {job_id}" if scope is None else f"pgqueue job {job_id} of {scope}"
        return urlsafe_b64encode(hmac.digest(secret, signed.encode(), hashlib.sha256)[:18]).decode()


class Answer(NamedTuple):
    """An answer: its code, what it says as data for JSON, and its headers."""

    code: int
    body: dict[str, Any]
    headers: Mapping[str, str] = NO_STORE


@dataclass(slots=True)
class OpenStreams:
    """The event streams of a process: how many are open, and how many may be."""

    most: int
    count: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def take(self) -> bool:
        """Open one; False if there are as many as may be."""
        with self._lock:
            free = self.count < self.most
            self.count += free
            return free

    def give_back(self) -> None:
        """Close one."""
        with self._lock:
            self.count -= 1

    def refusal(self) -> Answer:
        """Answer where there is no room for another one."""
        headers = NO_STORE | {"Retry-After": str(RETRY_SECONDS)}
        return Answer(503, {"detail": f"{self.most} streams are open already"}, headers)


@dataclass(frozen=True, slots=True)
class JobAnswers:
    """Answers about the jobs of an app. `ids`: None where ids are plain numbers."""

    app: App
    errors: Errors = "type"
    ids: SignedIds | None = None

    def pinned(self) -> "JobAnswers":
        """Return the answers of the schema that the app stands for here, also where it stands for none any more: a
        server reads a stream after the request's `with app.shard(…).current()` has ended."""
        return replace(self, app=self.app.stands_for())

    def id_of(self, text: str) -> int | None:
        """Return the id that stands in a path; None for what can be none, or was not signed."""
        return plain_id(text) if self.ids is None else self.ids.read(text)

    def shown_id(self, job_id: int) -> int | str:
        """Return the id that a client sees."""
        return job_id if self.ids is None else self.ids.sign(job_id)

    def find(self, text: str) -> Job | None:
        """Return the job whose id stands in a path, or None."""
        job_id = self.id_of(text)
        with suppress(UnknownJob):
            return None if job_id is None else self.app.get(job_id)
        return None

    def status(self, job: Job) -> dict[str, Any]:
        """Return what a client may know of a job."""
        return status_of(job, self.errors) | {"job_id": self.shown_id(job.id)}

    def answer(self, job: Job, code: int = 200) -> Answer:
        """Answer with the status of a job."""
        ended = job.state.is_terminal
        return Answer(code, self.status(job), NO_STORE if ended else NO_STORE | {"Retry-After": str(RETRY_SECONDS)})

    def cancelled(self, job: Job) -> Answer:
        """Answer after a cancellation: 200 if the job is cancelled, 202 if it runs and is asked to stop, 409 if it has
        ended otherwise."""
        if job.state is JobState.CANCELLED:
            return self.answer(job)
        if job.state.is_terminal:
            return Answer(409, {"detail": f"job {self.shown_id(job.id)} has already {job.state}"})
        return self.answer(job, 202)

    def cancel(self, job: Job) -> Answer:
        """Cancel a job, and answer."""
        try:
            if not job.state.is_terminal:
                with suppress(UnknownJob):  # the job has ended meanwhile
                    self.app.cancel(job.id)
                job = self.app.get(job.id)
        except UnknownJob:
            return missing()
        return self.cancelled(job)

    def again(self, job: Job) -> Job:
        """Return a job as it is now. Where no row is left it has succeeded: only such jobs leave none."""
        try:
            return self.app.get(job.id)
        except UnknownJob:
            return gone(job)

    def frame(self, job: Job) -> str:
        """Return the status of a job as an event of a stream."""
        return f"event: status\ndata: {json.dumps(self.status(job), allow_nan=False)}\n\n"


class _Looks:
    """The events of one stream that looks at its job every half second. Whoever made it closes it."""

    def __init__(self, answers: JobAnswers, job: Job, heartbeat: float, streams: OpenStreams) -> None:
        self._answers = answers
        self._job = job
        self._heartbeat = heartbeat
        self._streams: OpenStreams | None = streams
        self._shown: str | None = None
        self._silent = 0.0
        self._over = False

    def close(self) -> None:
        """End the stream."""
        streams, self._streams, self._over = self._streams, None, True
        if streams is not None:
            streams.give_back()

    def _told(self, job: Job) -> str:
        """Return what a look at the job is to send: nothing, a comment that keeps proxies from closing the stream, or
        its status, and behind the last one the end."""
        self._job, frame = job, self._answers.frame(job)
        self._silent += LOOK_SECONDS
        begun = "" if self._shown is not None else f"retry: {1000 * RETRY_SECONDS}\n"
        told = begun + frame if frame != self._shown else ":\n\n" if self._silent >= self._heartbeat else ""
        self._shown, self._over = frame, self._over or job.state.is_terminal
        self._silent = 0.0 if told else self._silent
        return told + LAST_FRAME if self._over else told


class EventStream(_Looks):
    """A stream for a server without an event loop. It holds a thread of that server."""

    def __iter__(self) -> "EventStream":
        return self

    def __next__(self) -> str:
        if self._over:
            raise StopIteration
        told = self._told(self._job) if self._shown is None else ""
        while not told:
            time.sleep(LOOK_SECONDS)
            told = self._told(self._answers.again(self._job))
        return told


class AsyncEventStream(_Looks):
    """A stream for a server with an event loop, in a framework that shares no wait with it."""

    def __aiter__(self) -> "AsyncEventStream":
        return self

    async def __anext__(self) -> str:
        if self._over:
            raise StopAsyncIteration
        told = self._told(self._job) if self._shown is None else ""
        while not told:
            await asyncio.sleep(LOOK_SECONDS)
            told = self._told(await asyncio.to_thread(self._answers.again, self._job))
        return told


class AnswerOptions(TypedDict, total=False):
    """The options that the routes of each framework take, beside who may use them.

    `errors` says how much of a failure is shown: nothing, its type (the default), type and message (which may quote
    what is confidential), or the traceback as well. `heartbeat` is the time in seconds between comments on a stream
    without changes, 15 by default. `max_streams` streams may be open at a time in this process; the next client gets
    503 and may come back.
    """

    errors: Errors
    heartbeat: float
    max_streams: int


class Checked(NamedTuple):
    """The options of routes, checked: who answers, the streams that may be open, and seconds between two comments."""

    answers: JobAnswers
    streams: OpenStreams
    heartbeat: float


def checked(app: App, authorize: object, ids: SignedIds | None, options: AnswerOptions, max_streams: int) -> Checked:
    """Return who answers. `max_streams`: how many streams there may be unless the options say so. Raises InvalidOption
    for what cannot be used, TypeError for an unknown option."""
    check_names(options, AnswerOptions.__annotations__, "the routes of jobs")
    errors, most = options.get("errors", "type"), options.get("max_streams", max_streams)
    if authorize is None and ids is None:
        raise InvalidOption("ids of jobs count up and can be guessed: give authorize=…, ids=SignedIds(secret), or both")
    if authorize is not None and not callable(authorize):
        raise InvalidOption(f"authorize={authorize!r:.100} cannot be used: give a function of (request, job)")
    if errors not in get_args(Errors):
        raise InvalidOption(f"errors={errors!r:.100} cannot be used: give one of {', '.join(get_args(Errors))}")
    if ids is not None and not isinstance(ids, SignedIds):
        raise InvalidOption(f"ids={type(ids).__name__} cannot be used: give SignedIds(secret)")
    if ids is not None and app.is_one_of_several and not ids.is_scoped:
        raise InvalidOption("each schema has a job 1: say whose ids are signed, SignedIds(…, scope=lambda: app.schema)")
    heartbeat = check_duration("heartbeat", options.get("heartbeat", 15.0), PAUSE)
    if type(most) is not int or most < 1:
        raise InvalidOption(f"max_streams={most!r:.100} cannot be used: give a whole number from 1 on")
    return Checked(JobAnswers(app, errors, ids), OpenStreams(most), heartbeat)


def allowed(answer: object) -> bool:
    """Whether what `authorize` returned lets a request through: True alone does. Anything odd is logged."""
    if not (answer is True or answer is False or answer is None):
        log.error("authorize returned a %s, which lets nobody through: return True or False", type(answer).__name__)
    return answer is True


def accepting(shown_id: int | str, state: str, location: str) -> Answer:
    """Answer a request that has enqueued a job with the path of its status."""
    headers = NO_STORE | {"Location": location, "Retry-After": str(RETRY_SECONDS)}
    return Answer(202, {"job_id": shown_id, "status": state, "poll_url": location}, headers)


def gone(job: Job) -> Job:
    """Return a job that has left no row, as it has ended."""
    return replace(job, state=JobState.SUCCEEDED, phase="succeeded", progress=None)


def missing(what: str = "job") -> Answer:
    """Answer a request for what does not exist, or is not this client's."""
    return Answer(404, {"detail": f"no such {what}"})


def plain_id(text: str) -> int | None:
    """Return the id that a text is; None for what can be none."""
    possible = text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MAX_ID
    return int(text) if possible else None


def status_of(job: Job, errors: Errors = "type") -> dict[str, Any]:
    """Return what a client may know of a job, as plain data for JSON: no arguments, a result only after success, and
    of an error as much as `errors` says."""
    return {
        "job_id": job.id,
        "status": job.state,
        "phase": job.phase,
        "created_at": time_of(job.created_at),
        "started_at": time_of(job.claimed_at),
        "completed_at": time_of(job.finished_at),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "progress": job.progress,
        "cancel_requested": job.cancel_requested_at is not None,
        "result": job.result if job.state is JobState.SUCCEEDED else None,
        "error": _error(job.error, errors) if job.state is JobState.FAILED else None,
        "is_terminal": job.state.is_terminal,
    }


def time_of(at: datetime | None) -> str | None:
    """Return a time as JSON has it."""
    return None if at is None else at.isoformat()


def _error(error: ErrorInfo | None, shown: Errors) -> dict[str, str | None] | None:
    if error is None or shown == "none":
        return None
    parts: dict[str, str | None] = {"type": error.type}
    if shown != "type":
        parts["message"] = error.message
    if shown == "traceback":
        parts["traceback"] = error.traceback
    return parts


def _secret(given: str | bytes) -> bytes:
    secret = given.encode() if isinstance(given, str) else given
    if not isinstance(secret, bytes) or len(secret) < _SHORTEST:
        raise InvalidOption(f"a secret of SignedIds has {_SHORTEST} bytes or more: secrets.token_hex(32) makes one")
    return secret
