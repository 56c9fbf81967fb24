"""Jobs over HTTP in Django: `path("jobs/", include(pgqueue.django.job_urls(app, authorize=may_see)))`.

The routes, the status and the rights are those of `pgqueue.web`; under WSGI and ASGI alike.
"""

from collections.abc import Callable
from typing import Any, Unpack

from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed, JsonResponse
from django.http import StreamingHttpResponse as Streaming
from django.urls import NoReverseMatch, path, reverse

from pgqueue.answers import (
    END,
    NO_STORE,
    STREAM_HEADERS,
    Answer,
    AnswerOptions,
    AsyncEventStream,
    Checked,
    EventStream,
    SignedIds,
    accepting,
    allowed,
    checked,
    missing,
)
from pgqueue.app import App
from pgqueue.django.named import named_app
from pgqueue.errors import ConfigError
from pgqueue.jobs.job import Job

Authorize = Callable[[HttpRequest, Job], bool]
NAME = "pgqueue-job"
MAX_STREAMS = 20  # under WSGI each holds a thread of the server


def job_urls(
    app: App | str,
    *,
    authorize: Authorize | None = None,
    ids: SignedIds | None = None,
    **options: Unpack[AnswerOptions],
) -> list[Any]:
    """Return the paths for the jobs of an app, given as such or as `module:name`, for `include(…)`.

    The options are those of `pgqueue.web.router`; `authorize(request, job)` is a plain function. Cancelling is a POST
    or DELETE, and Django's own check of forms protects it. A stream of events looks at its job every half second; under
    WSGI it holds a thread of the server, so `max_streams` is small. Raises InvalidOption.
    """
    known = named_app(app, "job_urls(app)")
    views = _Views(checked(known, authorize, ids, options, MAX_STREAMS), authorize)
    return [
        path("<str:job_id>", views.job, name=NAME),
        path("<str:job_id>/cancel", views.cancel, name=f"{NAME}-cancel"),
        path("<str:job_id>/events", views.events, name=f"{NAME}-events"),
    ]


def accepted(job: Job, *, location: str | None = None, ids: SignedIds | None = None) -> HttpResponse:
    """Return a 202 for a request that enqueued a job, with the path of its status as `Location` and `poll_url`.

    `ids` are those of `job_urls`. Raises ConfigError where these are not included, without a namespace.
    """
    shown = job.id if ids is None else ids.sign(job.id)
    if location is None:
        try:
            location = reverse(NAME, kwargs={"job_id": str(shown)})
        except NoReverseMatch:
            raise ConfigError(
                'the paths of jobs are not included: path("jobs/", include(pgqueue.django.job_urls(…))), or give '
                "location=…"
            ) from None
    return _response(accepting(shown, job.state, location))


class _Views:
    """The views of the paths."""

    def __init__(self, given: Checked, authorize: Authorize | None) -> None:
        self._answers, self._streams, self._heartbeat = given
        self._authorize = authorize

    def job(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        """Answer with the status of a job, or cancel it."""
        if request.method not in ("GET", "HEAD", "DELETE"):
            return HttpResponseNotAllowed(["GET", "DELETE"])
        job = self._find(request, job_id)
        if job is None:
            return _response(missing())
        return _response(self._answers.cancel(job) if request.method == "DELETE" else self._answers.answer(job))

    def cancel(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        """Cancel a job."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        job = self._find(request, job_id)
        return _response(missing() if job is None else self._answers.cancel(job))

    def events(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        """Answer with a stream of the changes of a job."""
        if request.method != "GET":
            return HttpResponseNotAllowed(["GET"])
        job = self._find(request, job_id)
        if job is None:
            return _response(missing())
        if request.headers.get("Last-Event-ID") == END:
            return HttpResponse(status=204, headers=NO_STORE)  # so that an EventSource does not reconnect
        if not self._streams.take():
            return _response(self._streams.refusal())
        kind = AsyncEventStream if hasattr(request, "scope") else EventStream
        stream = kind(self._answers.pinned(), job, self._heartbeat, self._streams)
        return Streaming(stream, content_type="text/event-stream", headers=STREAM_HEADERS)

    def _find(self, request: HttpRequest, text: str) -> Job | None:
        """Return the job of a request; None if there is no such job or the client may not see it."""
        job = self._answers.find(text)
        if job is None or self._authorize is None:
            return job
        return job if allowed(self._authorize(request, job)) else None


def _response(answer: Answer) -> HttpResponse:
    return JsonResponse(answer.body, status=answer.code, headers=dict(answer.headers))
