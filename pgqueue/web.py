"""Jobs over HTTP: status, events and cancelling, for Starlette, FastAPI and whatever else can mount an ASGI app.

`api.mount("/jobs", pgqueue.web.router(app, authorize=may_see))`. Needs the extra `web`.
"""

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID

from pgqueue.errors import MissingExtra

try:
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import NoMatchFound, Route, Router
    from starlette.types import Receive, Scope, Send
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"pgqueue.web needs starlette ({error}): pip install 'pgqueue-jobs[web]'", name=error.name
    ) from None

from pgqueue.app import App
from pgqueue.client.waiting import MAX_ID, Follower
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import ConfigError, InvalidOption, PgqueueError, UnknownJob, UnknownWorkflow
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.why import Why
from pgqueue.queries.workflows.read import WorkflowStatus
from pgqueue.timing import PAUSE, check_duration

__all__ = ["accepted", "router", "status_of", "why_of", "workflow_router", "workflow_status_of"]

log = logging.getLogger("pgqueue.web")
Thing = TypeVar("Thing")
Authorize = Callable[[Request, Job], bool | Awaitable[bool]]
AuthorizeWorkflow = Callable[[Request, WorkflowStatus], bool | Awaitable[bool]]
Errors = Literal["none", "type", "message", "traceback"]
STATUS = "pgqueue-job"  # the name of the route of one job
RETRY_SECONDS = 1
NO_STORE = {"Cache-Control": "no-store"}
END = "end"  # the id of a stream's last event: a client that reconnects with it has seen everything


def router(
    app: App,
    *,
    authorize: Authorize,
    errors: Errors = "message",
    heartbeat: float = 15.0,
    max_streams: int = 1000,
    why: bool = False,
) -> Router:
    """Return routes for the jobs of an app, to be mounted under any path.

    `GET /{id}` answers with the status, `GET /{id}/events` with a stream of its changes (server-sent events);
    `POST /{id}/cancel` and `DELETE /{id}` cancel.

    `authorize(request, job)`, `def` (called in a thread) or `async def`, decides for each request whether this client
    may make it for this job. Only `True` lets the request through: an object that happens to be true, such as a
    response with 403 or `(False, "why")`, does not, and is logged. Otherwise the answer is 404, as for a job that does
    not exist. An error that it raises, such as an HTTPException with 403, is left to your framework. `errors` says how
    much of a failure is shown: nothing, its type, type and message, or the traceback as well. `heartbeat` is the time
    in seconds between comments on a stream without changes. `max_streams` streams may be open at a time in this
    process; the next client gets 503 and may come back. Arguments are never shown. With `why`, `GET /{id}/why` says why
    a job does not run: that names hosts, keys of limits and other jobs, so it is for staff.
    """
    _check_function(authorize, "(request, job)")
    if errors not in get_args(Errors):
        raise InvalidOption(f"errors={errors!r} cannot be used: give one of {', '.join(get_args(Errors))}")
    check_duration("heartbeat", heartbeat, PAUSE)
    if type(max_streams) is not int or max_streams < 1:
        raise InvalidOption(f"max_streams={max_streams!r} cannot be used: give a whole number from 1 on")
    endpoints = JobEndpoints(app, authorize, errors, heartbeat, OpenStreams(max_streams))
    return Router(
        [
            Route("/{job_id}", endpoints.status, methods=["GET"], name=STATUS),
            Route("/{job_id}", endpoints.cancel, methods=["DELETE"], name="pgqueue-job-delete"),
            Route("/{job_id}/cancel", endpoints.cancel, methods=["POST"], name="pgqueue-job-cancel"),
            Route("/{job_id}/events", endpoints.events, methods=["GET"], name="pgqueue-job-events"),
            *([Route("/{job_id}/why", endpoints.why, methods=["GET"], name="pgqueue-job-why")] if why else []),
        ]
    )


def workflow_router(app: App, *, authorize: AuthorizeWorkflow) -> Router:
    """Return routes for the workflows of an app, to be mounted under any path.

    `GET /{id}` answers with the status, `POST /{id}/cancel` or `DELETE /{id}` cancels. `authorize(request, workflow)`
    decides as that of `router` does. A workflow carries no arguments: its name, or a table of yours, says whose it is.
    """
    _check_function(authorize, "(request, workflow)")
    endpoints = WorkflowEndpoints(app, authorize)
    return Router(
        [
            Route("/{workflow_id}", endpoints.status, methods=["GET"], name="pgqueue-workflow"),
            Route("/{workflow_id}", endpoints.cancel, methods=["DELETE"], name="pgqueue-workflow-delete"),
            Route("/{workflow_id}/cancel", endpoints.cancel, methods=["POST"], name="pgqueue-workflow-cancel"),
        ]
    )


def accepted(request: Request, job: Job | int, *, location: str | None = None) -> JSONResponse:
    """Return a 202 for a request that enqueued a job, with the path of its status as `Location` and `poll_url`.

    The path is found if the application that handles `request` has mounted the router; else give `location`.
    """
    job_id, status = (job.id, job.state) if isinstance(job, Job) else (job, JobState.PENDING)
    if location is None:
        try:
            location = request.url_for(STATUS, job_id=job_id).path
        except NoMatchFound:
            raise ConfigError(
                "no router of pgqueue.web is mounted, without a name, in the application that handles this request: "
                'mount it as api.mount("/jobs", pgqueue.web.router(…)), or give location=…'
            ) from None
    headers = NO_STORE | {"Location": location, "Retry-After": str(RETRY_SECONDS)}
    return JSONResponse({"job_id": job_id, "status": status, "poll_url": location}, 202, headers)


def status_of(job: Job, errors: Errors = "message") -> dict[str, Any]:
    """Return what a client may know of a job, as plain data for JSON: no arguments, a result only after success."""
    return {
        "job_id": job.id,
        "status": job.state,
        "phase": job.phase,
        "created_at": _time(job.created_at),
        "started_at": _time(job.claimed_at),
        "completed_at": _time(job.finished_at),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "progress": job.progress,
        "cancel_requested": job.cancel_requested_at is not None,
        "result": job.result if job.state is JobState.SUCCEEDED else None,
        "error": _error(job.error, errors) if job.state is JobState.FAILED else None,
        "is_terminal": job.state.is_terminal,
    }


def workflow_status_of(workflow: WorkflowStatus) -> dict[str, Any]:
    """Return what a client may know of a workflow, as plain data for JSON: how many of its jobs are how far."""
    return {
        "workflow_id": workflow.id,
        "name": workflow.name,
        "status": workflow.state,
        "created_at": _time(workflow.created_at),
        "completed_at": _time(workflow.ended_at),
        "jobs": {
            "all": workflow.jobs, "waiting": workflow.waiting, "running": workflow.running, "ended": workflow.ended,
            "failed": workflow.failed,
        },
        "is_open": not workflow.sealed,
        "is_stopping": workflow.stop_reason is not None and workflow.ended_at is None,
        "is_terminal": workflow.ended_at is not None,
    }  # fmt: skip


def why_of(why: Why, errors: Errors = "message") -> dict[str, Any]:
    """Return why a job does not run, as plain data for JSON. Of its last error as much as `errors` says."""
    shown = [reason for reason in why.reasons if reason.code != "last_error" or errors in ("message", "traceback")]
    reasons = [
        {"code": one.code, "text": one.text, "facts": {name: _plain(fact) for name, fact in one.facts.items()}}
        for one in shown
    ]
    return {"job_id": why.job.id, "status": why.job.state, "phase": why.job.phase, "reasons": reasons}


@dataclass(slots=True)
class OpenStreams:
    """The event streams of a router: how many are open, and how many may be."""

    most: int
    count: int = 0


@dataclass(frozen=True, slots=True)
class JobEndpoints:
    """The endpoints for the jobs of one app."""

    app: App
    authorize: Authorize
    errors: Errors
    heartbeat: float
    streams: OpenStreams

    async def status(self, request: Request) -> Response:
        """Answer with the status of a job."""
        job = await self._find(request)
        return _missing() if job is None else self._answer(job)

    async def cancel(self, request: Request) -> Response:
        """Cancel a job: 200 if it is cancelled, 202 if it runs and is asked to stop, 409 if it ended otherwise."""
        job = await self._find(request)
        if job is None:
            return _missing()
        try:
            if not job.state.is_terminal:
                with suppress(UnknownJob):  # the job has ended meanwhile
                    await self.app.acancel(job.id)
                job = await self.app.aget(job.id)
        except UnknownJob:
            return _missing()
        if job.state is JobState.CANCELLED:
            return self._answer(job)
        if job.state.is_terminal:
            return JSONResponse({"detail": f"job {job.id} has already {job.state}"}, 409, NO_STORE)
        return self._answer(job, 202)

    async def why(self, request: Request) -> Response:
        """Answer with every reason why a job does not run, or what became of it."""
        job = await self._find(request)
        if job is None:
            return _missing()
        try:
            return JSONResponse(why_of(await self.app.awhy(job.id), self.errors), 200, NO_STORE)
        except UnknownJob:
            return _missing()

    async def events(self, request: Request) -> Response:
        """Answer with a stream of the changes of a job."""
        job = await self._find(request)
        if job is None:
            return _missing()
        if request.headers.get("last-event-id") == END:
            return Response(status_code=204, headers=NO_STORE)  # so that an EventSource does not reconnect
        return _EventStream(self._frames(job), self.streams)

    async def _find(self, request: Request) -> Job | None:
        """Return the job of a request; None if there is no such job or the client may not see it."""
        job_id = _id_of(request.path_params["job_id"])
        if job_id is None:
            return None
        try:
            job = await self.app.aget(job_id)
        except UnknownJob:
            return None
        return job if await _allows(self.authorize, request, job) else None

    def _answer(self, job: Job, code: int = 200) -> JSONResponse:
        headers = NO_STORE if job.state.is_terminal else NO_STORE | {"Retry-After": str(RETRY_SECONDS)}
        return JSONResponse(status_of(job, self.errors), code, headers)

    async def _frames(self, job: Job) -> AsyncGenerator[str, None]:
        """Yield the status of a job, each change, and the end. Comments in between keep proxies from closing it."""
        shown = self._frame(job)
        yield f"retry: {1000 * RETRY_SECONDS}\n{shown}"
        if not job.state.is_terminal:
            async with aclosing(self._changes(job)) as changes:
                async for change in changes:
                    frame = ":\n\n" if change is None else self._frame(change)
                    if frame != shown:
                        yield frame
                    shown = shown if change is None else frame
        yield f"id: {END}\nevent: {END}\ndata: {{}}\n\n"

    async def _changes(self, job: Job) -> AsyncGenerator[Job | None, None]:
        """Yield each change of a job until it has ended, and None for each heartbeat without a change."""
        async with Follower(self.app.waits, job.id) as follower:
            done = False
            while not done:
                news = await follower.next(self.heartbeat)
                done = follower.done
                if done and news is None:  # no row is left: only jobs that succeeded leave none
                    news = replace(job, state=JobState.SUCCEEDED, phase="succeeded", progress=None)
                yield news
                job = news or job

    def _frame(self, job: Job) -> str:
        return f"event: status\ndata: {json.dumps(status_of(job, self.errors), allow_nan=False)}\n\n"


@dataclass(frozen=True, slots=True)
class WorkflowEndpoints:
    """The endpoints for the workflows of one app."""

    app: App
    authorize: AuthorizeWorkflow

    async def status(self, request: Request) -> Response:
        """Answer with the status of a workflow."""
        workflow = await self._find(request)
        return _missing("workflow") if workflow is None else _workflow_answer(workflow)

    async def cancel(self, request: Request) -> Response:
        """Cancel a workflow: 200 if it is cancelled, 202 if some of its jobs still run, 409 if it had ended
        otherwise."""
        workflow = await self._find(request)
        if workflow is None:
            return _missing("workflow")
        try:
            cancelled = await self.app.workflows.acancel(workflow.id)
            workflow = await self.app.workflows.aget(workflow.id)
        except UnknownWorkflow:
            return _missing("workflow")
        if not cancelled and workflow.state != "cancelled":
            return JSONResponse({"detail": f"workflow {workflow.id} has already {workflow.state}"}, 409, NO_STORE)
        return _workflow_answer(workflow, 202 if workflow.ended_at is None else 200)

    async def _find(self, request: Request) -> WorkflowStatus | None:
        """Return the workflow of a request; None if there is no such workflow or the client may not see it."""
        workflow_id = _id_of(request.path_params["workflow_id"])
        if workflow_id is None:
            return None
        try:
            workflow = await self.app.workflows.aget(workflow_id)
        except UnknownWorkflow:
            return None
        return workflow if await _allows(self.authorize, request, workflow) else None


def _check_function(authorize: object, takes: str) -> None:
    if not callable(authorize):
        raise InvalidOption(f"authorize={authorize!r} cannot be used: give a function of {takes}")


def _id_of(text: str) -> int | None:
    """Return the id that stands in a path; None for what can be none."""
    possible = text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MAX_ID
    return int(text) if possible else None


async def _allows(authorize: Callable[[Request, Thing], Any], request: Request, thing: Thing) -> bool:
    if inspect.iscoroutinefunction(authorize):
        answer = authorize(request, thing)
    else:
        answer = await run_in_threadpool(authorize, request, thing)
    if inspect.isawaitable(answer):
        answer = await answer
    if not (answer is True or answer is False or answer is None):
        log.error("authorize returned a %s, which lets nobody through: return True or False", type(answer).__name__)
    return answer is True


def _workflow_answer(workflow: WorkflowStatus, code: int = 200) -> JSONResponse:
    headers = NO_STORE if workflow.ended_at is not None else NO_STORE | {"Retry-After": str(RETRY_SECONDS)}
    return JSONResponse(workflow_status_of(workflow), code, headers)


class _EventStream(Response):
    """Sends frames until they end or the client disconnects; leaves no task behind.

    If too many streams are open already, it answers with 503.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[str, None], streams: OpenStreams) -> None:
        super().__init__(headers=NO_STORE | {"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._streams.count >= self._streams.most:
            headers = NO_STORE | {"Retry-After": str(RETRY_SECONDS)}
            refusal = JSONResponse({"detail": f"{self._streams.most} streams are open already"}, 503, headers)
            await refusal(scope, receive, send)
            return
        self._streams.count += 1
        try:
            await self._stream(scope, receive, send)
        finally:
            self._streams.count -= 1

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(scope, send))
        disconnected = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait([sending, disconnected], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, disconnected):
                task.cancel()
            await asyncio.gather(sending, disconnected, return_exceptions=True)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            raise error

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with aclosing(self._frames) as frames:
                async for frame in frames:
                    if scope["method"] == "HEAD":
                        break  # HEAD has no body to go on with
                    await send({"type": "http.response.body", "body": frame.encode(), "more_body": True})
        except PgqueueError as error:  # before OSError: some of them are OSErrors too
            log.warning("a stream of events ends early: %s: %s", type(error).__name__, error)
        except OSError:
            return  # the client has disconnected
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _missing(what: str = "job") -> JSONResponse:
    return JSONResponse({"detail": f"no such {what}"}, 404, NO_STORE)


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _plain(fact: Any) -> Any:
    """Return a fact as JSON has it."""
    if isinstance(fact, datetime):
        return fact.isoformat()
    return str(fact) if isinstance(fact, UUID) else fact


def _error(error: ErrorInfo | None, shown: Errors) -> dict[str, str | None] | None:
    if error is None or shown == "none":
        return None
    parts: dict[str, str | None] = {"type": error.type}
    if shown != "type":
        parts["message"] = error.message
    if shown == "traceback":
        parts["traceback"] = error.traceback
    return parts
