"""The dashboard as a WSGI app: for Flask, Django and others. Its pages ask every few seconds; a stream would hold a
thread."""

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias, Unpack

from pgqueue.app import App
from pgqueue.dashboard.access import Decide
from pgqueue.dashboard.asgi import checked
from pgqueue.dashboard.dashboard import EVENTS, Dashboard, plain
from pgqueue.dashboard.request import MOST_BODY, Request, Response, read_query
from pgqueue.dashboard.settings import DashboardOptions, DashboardSettings
from pgqueue.errors import InvalidOption

Wsgi: TypeAlias = Callable[[Any, Any], Iterable[bytes]]


def wsgi(app: App, *, access: Decide, **options: Unpack[DashboardOptions]) -> Wsgi:
    """Return the dashboard of an app as a WSGI app, as `asgi` does. `access` is a plain function."""
    if not callable(access):
        raise InvalidOption(f"access={access!r:.100} cannot be used: give a function of a request")
    dashboard = Dashboard(app, DashboardSettings.of(options), streams=False)

    def serve(environ: Any, start_response: Any) -> Iterable[bytes]:
        answer = _answer(dashboard, access, environ)
        status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
        start_response(status, [*answer.headers, ("Content-Length", str(len(answer.body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    return serve


def _answer(dashboard: Dashboard, access: Decide, environ: Mapping[str, Any]) -> Response:
    length = environ.get("CONTENT_LENGTH") or "0"
    size = int(length) if length.isdecimal() else 0
    if size > MOST_BODY:
        return plain(413, "the form is too big")
    request = _request(environ, environ["wsgi.input"].read(size) if size else b"")
    given = checked(access(request))
    if given is not None and request.path == EVENTS:
        return plain(404, "this server sends no events: ask again")
    return dashboard.answer(request, given)


def _request(environ: Mapping[str, Any], body: bytes) -> Request:
    headers = {
        name[5:].replace("_", "-").lower(): str(value) for name, value in environ.items() if name.startswith("HTTP_")
    }
    headers |= {"content-type": str(environ.get("CONTENT_TYPE", ""))}
    path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
    query = read_query(environ.get("QUERY_STRING", ""))
    root = str(environ.get("SCRIPT_NAME", "")).rstrip("/")
    secure = environ.get("wsgi.url_scheme") == "https"
    return Request(environ["REQUEST_METHOD"], path, query, headers, body, environ, root, secure)
