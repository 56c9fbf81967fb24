"""Jobs over HTTP in Flask: `site.register_blueprint(pgqueue.flask.blueprint(app, authorize=…), url_prefix="/jobs")`.

The routes, the status and the rights are those of `pgqueue.web`.
"""

from collections.abc import Callable
from typing import Unpack

from pgqueue.errors import MissingExtra

try:
    from flask import Blueprint, Request, Response, jsonify, request, url_for
    from werkzeug.routing import BuildError
except ModuleNotFoundError as error:
    raise MissingExtra(f"pgqueue.flask needs Flask ({error}): pip install flask", name=error.name) from None

from pgqueue.answers import (
    END,
    NO_STORE,
    STREAM_HEADERS,
    Answer,
    AnswerOptions,
    Checked,
    EventStream,
    SignedIds,
    accepting,
    allowed,
    checked,
    missing,
)
from pgqueue.app import App
from pgqueue.errors import ConfigError
from pgqueue.jobs.job import Job

__all__ = ["SignedIds", "accepted", "blueprint"]

Authorize = Callable[[Request, Job], bool]
NAME = "pgqueue_jobs"
MAX_STREAMS = 20  # each holds a thread of the server


def blueprint(
    app: App,
    *,
    authorize: Authorize | None = None,
    ids: SignedIds | None = None,
    name: str = NAME,
    **options: Unpack[AnswerOptions],
) -> Blueprint:
    """Return routes for the jobs of an app: `GET /<id>`, `GET /<id>/events`, `POST /<id>/cancel`, `DELETE /<id>`.

    The options are those of `pgqueue.web.router`; `authorize(request, job)` is a plain function. A stream of events
    looks at its job every half second and holds a thread of the server, so `max_streams` is small; the next client gets
    503. `name` is that of the blueprint, for a site that has two. Raises InvalidOption.
    """
    views = _Views(checked(app, authorize, ids, options, MAX_STREAMS), authorize)
    made = Blueprint(name, __name__)
    made.add_url_rule("/<job_id>", "status", views.status, methods=["GET"])
    made.add_url_rule("/<job_id>", "delete", views.cancel, methods=["DELETE"])
    made.add_url_rule("/<job_id>/cancel", "cancel", views.cancel, methods=["POST"])
    made.add_url_rule("/<job_id>/events", "events", views.events, methods=["GET"])
    return made


def accepted(job: Job, *, location: str | None = None, ids: SignedIds | None = None, name: str = NAME) -> Response:
    """Return a 202 for a request that enqueued a job, with the path of its status as `Location` and `poll_url`.

    `ids` and `name` are those of the blueprint. Raises ConfigError where none of that name is registered.
    """
    shown = job.id if ids is None else ids.sign(job.id)
    if location is None:
        try:
            location = url_for(f"{name}.status", job_id=shown)
        except BuildError:
            raise ConfigError(
                f"no blueprint {name!r} is registered: site.register_blueprint(pgqueue.flask.blueprint(…), "
                'url_prefix="/jobs"), or give location=…'
            ) from None
    return _response(accepting(shown, job.state, location))


class _Views:
    """The views of a blueprint."""

    def __init__(self, given: Checked, authorize: Authorize | None) -> None:
        self._answers, self._streams, self._heartbeat = given
        self._authorize = authorize

    def status(self, job_id: str) -> Response:
        """Answer with the status of a job."""
        job = self._find(job_id)
        return _response(missing() if job is None else self._answers.answer(job))

    def cancel(self, job_id: str) -> Response:
        """Cancel a job."""
        job = self._find(job_id)
        return _response(missing() if job is None else self._answers.cancel(job))

    def events(self, job_id: str) -> Response:
        """Answer with a stream of the changes of a job."""
        job = self._find(job_id)
        if job is None:
            return _response(missing())
        if request.headers.get("Last-Event-ID") == END:
            return Response(status=204, headers=NO_STORE)  # so that an EventSource does not reconnect
        if not self._streams.take():
            return _response(self._streams.refusal())
        stream = EventStream(self._answers.pinned(), job, self._heartbeat, self._streams)
        return Response(stream, mimetype="text/event-stream", headers=STREAM_HEADERS)

    def _find(self, text: str) -> Job | None:
        """Return the job of a request; None if there is no such job or the client may not see it."""
        job = self._answers.find(text)
        if job is None or self._authorize is None:
            return job
        return job if allowed(self._authorize(request, job)) else None


def _response(answer: Answer) -> Response:
    response = jsonify(answer.body)
    response.status_code = answer.code
    response.headers.update(answer.headers)
    return response
