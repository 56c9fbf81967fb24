"""Jobs over HTTP: status, events and cancelling, for Starlette, FastAPI and whatever else can mount an ASGI app.

`api.mount("/jobs", pgqueue.web.router(app, authorize=may_see))`. Needs the extra `web`.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar, Unpack
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

from pgqueue.answers import (
    END,
    LAST_FRAME,
    NO_STORE,
    RETRY_SECONDS,
    STREAM_HEADERS,
    Answer,
    AnswerOptions,
    Errors,
    JobAnswers,
    OpenStreams,
    SignedIds,
    accepting,
    allowed,
    checked,
    gone,
    missing,
    plain_id,
    status_of,
    time_of,
)
from pgqueue.app import App
from pgqueue.client.waiting import Follower
from pgqueue.errors import ConfigError, InvalidOption, PgqueueError, UnknownJob, UnknownWorkflow
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.why import Why
from pgqueue.queries.workflows.read import WorkflowStatus

__all__ = ["SignedIds", "accepted", "router", "status_of", "why_of", "workflow_router", "workflow_status_of"]

log = logging.getLogger("pgqueue.web")
Thing = TypeVar("Thing")
Authorize = Callable[[Request, Job], bool | Awaitable[bool]]
AuthorizeWorkflow = Callable[[Request, WorkflowStatus], bool | Awaitable[bool]]
MAX_STREAMS = 1000
STATUS = "pgqueue-job"  # the name of the route of one job


def router(
    app: App,
    *,
    authorize: Authorize | None = None,
    ids: SignedIds | None = None,
    why: bool = False,
    **options: Unpack[AnswerOptions],
) -> Router:
    """Return routes for the jobs of an app, to be mounted under any path.

    `GET /{id}` answers with the status, `GET /{id}/events` with a stream of its changes (server-sent events);
    `POST /{id}/cancel` and `DELETE /{id}` cancel.

    `authorize(request, job)`, `def` (called in a thread) or `async def`, decides for each request whether this client
    may make it for this job. Only `True` lets the request through: an object that happens to be true, such as a
    response with 403 or `(False, "why")`, does not, and is logged. Otherwise the answer is 404, as for a job that does
    not exist. An error that it raises, such as an HTTPException with 403, is left to your framework. With `ids` the id
    in a path is signed, so that nobody can guess it, and `authorize` may be left out: who was given the path may use
    it. Arguments are never shown. The options are those of AnswerOptions; 1000 streams may be open at a time.
    With `why`, `GET /{id}/why` says why
    a job does not run: that names hosts, keys of limits and other jobs, so it is for staff.
    """
    answers, streams, heartbeat = checked(app, authorize, ids, options, MAX_STREAMS)
    endpoints = JobEndpoints(answers, authorize, heartbeat, streams)
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


def accepted(
    request: Request, job: Job | int, *, location: str | None = None, ids: SignedIds | None = None
) -> JSONResponse:
    """Return a 202 for a request that enqueued a job, with the path of its status as `Location` and `poll_url`.

    The path is found if the application that handles `request` has mounted the router; else give `location`. `ids`:
    those of the router, if it has some.
    """
    job_id, status = (job.id, job.state) if isinstance(job, Job) else (job, JobState.PENDING)
    shown = job_id if ids is None else ids.sign(job_id)
    if location is None:
        try:
            location = request.url_for(STATUS, job_id=shown).path
        except NoMatchFound:
            raise ConfigError(
                "no router of pgqueue.web is mounted, without a name, in the application that handles this request: "
                'mount it as api.mount("/jobs", pgqueue.web.router(…)), or give location=…'
            ) from None
    return _response(accepting(shown, status, location))


def workflow_status_of(workflow: WorkflowStatus) -> dict[str, Any]:
    """Return what a client may know of a workflow, as plain data for JSON: how many of its jobs are how far."""
    return {
        "workflow_id": workflow.id,
        "name": workflow.name,
        "status": workflow.state,
        "created_at": time_of(workflow.created_at),
        "completed_at": time_of(workflow.ended_at),
        "jobs": {
            "all": workflow.jobs, "waiting": workflow.waiting, "running": workflow.running, "ended": workflow.ended,
            "failed": workflow.failed,
        },
        "is_open": not workflow.sealed,
        "is_stopping": workflow.stop_reason is not None and workflow.ended_at is None,
        "is_terminal": workflow.ended_at is not None,
    }  # fmt: skip


def why_of(why: Why, errors: Errors = "type") -> dict[str, Any]:
    """Return why a job does not run, as plain data for JSON. Of its last error as much as `errors` says."""
    shown = [reason for reason in why.reasons if reason.code != "last_error" or errors in ("message", "traceback")]
    reasons = [
        {"code": one.code, "text": one.text, "facts": {name: _plain(fact) for name, fact in one.facts.items()}}
        for one in shown
    ]
    return {"job_id": why.job.id, "status": why.job.state, "phase": why.job.phase, "reasons": reasons}


@dataclass(frozen=True, slots=True)
class JobEndpoints:
    """The endpoints for the jobs of one app."""

    answers: JobAnswers
    authorize: Authorize | None
    heartbeat: float
    streams: OpenStreams

    @property
    def app(self) -> App:
        """The app whose jobs they are."""
        return self.answers.app

    async def status(self, request: Request) -> Response:
        """Answer with the status of a job."""
        job = await self._find(request)
        return _missing() if job is None else _response(self.answers.answer(job))

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
        return _response(self.answers.cancelled(job))

    async def why(self, request: Request) -> Response:
        """Answer with every reason why a job does not run, or what became of it."""
        job = await self._find(request)
        if job is None:
            return _missing()
        try:
            told = why_of(await self.app.awhy(job.id), self.answers.errors)
            return JSONResponse(told | {"job_id": self.answers.shown_id(job.id)}, 200, NO_STORE)
        except UnknownJob:
            return _missing()

    async def events(self, request: Request) -> Response:
        """Answer with a stream of the changes of a job."""
        job = await self._find(request)
        if job is None:
            return _missing()
        if request.headers.get("last-event-id") == END:
            return Response(status_code=204, headers=NO_STORE)  # so that an EventSource does not reconnect
        pinned = replace(self, answers=self.answers.pinned())
        return _EventStream(pinned._frames(job), self.streams)

    async def _find(self, request: Request) -> Job | None:
        """Return the job of a request; None if there is no such job or the client may not see it."""
        job_id = self.answers.id_of(request.path_params["job_id"])
        if job_id is None:
            return None
        try:
            job = await self.app.aget(job_id)
        except UnknownJob:
            return None
        return job if self.authorize is None or await _allows(self.authorize, request, job) else None

    async def _frames(self, job: Job) -> AsyncGenerator[str, None]:
        """Yield the status of a job, each change, and the end. Comments in between keep proxies from closing it."""
        shown = self.answers.frame(job)
        yield f"retry: {1000 * RETRY_SECONDS}\n{shown}"
        if not job.state.is_terminal:
            async with aclosing(self._changes(job)) as changes:
                async for change in changes:
                    frame = ":\n\n" if change is None else self.answers.frame(change)
                    if frame != shown:
                        yield frame
                    shown = shown if change is None else frame
        yield LAST_FRAME

    async def _changes(self, job: Job) -> AsyncGenerator[Job | None, None]:
        """Yield each change of a job until it has ended, and None for each heartbeat without a change."""
        async with Follower(self.app.waits, job.id) as follower:
            done = False
            while not done:
                news = await follower.next(self.heartbeat)
                done = follower.done
                if done and news is None:  # no row is left: only jobs that succeeded leave none
                    news = gone(job)
                yield news
                job = news or job


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
        workflow_id = plain_id(request.path_params["workflow_id"])
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


async def _allows(authorize: Callable[[Request, Thing], Any], request: Request, thing: Thing) -> bool:
    if inspect.iscoroutinefunction(authorize):
        answer = authorize(request, thing)
    else:
        answer = await run_in_threadpool(authorize, request, thing)
    if inspect.isawaitable(answer):
        answer = await answer
    return allowed(answer)


def _response(answer: Answer) -> JSONResponse:
    return JSONResponse(answer.body, answer.code, dict(answer.headers))


def _workflow_answer(workflow: WorkflowStatus, code: int = 200) -> JSONResponse:
    headers = NO_STORE if workflow.ended_at is not None else NO_STORE | {"Retry-After": str(RETRY_SECONDS)}
    return JSONResponse(workflow_status_of(workflow), code, headers)


class _EventStream(Response):
    """Sends frames until they end or the client disconnects; leaves no task behind.

    If too many streams are open already, it answers with 503.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[str, None], streams: OpenStreams) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._frames = frames
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._streams.take():
            await _response(self._streams.refusal())(scope, receive, send)
            return
        try:
            await self._stream(scope, receive, send)
        finally:
            self._streams.give_back()

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
    return _response(missing(what))


def _plain(fact: Any) -> Any:
    """Return a fact as JSON has it."""
    if isinstance(fact, datetime):
        return fact.isoformat()
    return str(fact) if isinstance(fact, UUID) else fact
