"""The dashboard as an ASGI app: for Starlette, FastAPI, Litestar, Quart, Django, and for uvicorn alone."""

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, Unpack

from pgqueue.app import App
from pgqueue.dashboard import guard
from pgqueue.dashboard.access import Access, Decide
from pgqueue.dashboard.dashboard import EVENTS, Dashboard, plain
from pgqueue.dashboard.pulse import FRESH_SECONDS
from pgqueue.dashboard.request import MOST_BODY, Request, Response, read_query
from pgqueue.dashboard.settings import DashboardOptions, DashboardSettings
from pgqueue.db.failures import DATABASE_ERRORS
from pgqueue.errors import InvalidOption

log = logging.getLogger("pgqueue.dashboard")
Asgi: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
MOST_STREAMS = 200


def asgi(app: App, *, access: Decide, **options: Unpack[DashboardOptions]) -> Asgi:
    """Return the dashboard of an app as an ASGI app, to be mounted under any path: it asks nobody for a password.

    `access(request)`, `def` (called in a thread) or `async def`, says for each request who looks and what they may do:
    an `Access`, or None, which is answered with 404. The options are those of DashboardOptions. Raises InvalidOption.
    """
    if not callable(access):
        raise InvalidOption(f"access={access!r:.100} cannot be used: give a function of a request")
    server = _Server(Dashboard(app, DashboardSettings.of(options), streams=True), access)

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await server.serve(scope, receive, send)

    return serve


class _Server:
    """Turns what ASGI says into requests, and answers into what ASGI says. The pages run in threads."""

    def __init__(self, dashboard: Dashboard, decide: Decide) -> None:
        self._dashboard = dashboard
        self._decide = decide
        self._streams = 0

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one connection of the server."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        body = await _body(receive)
        if body is None:
            await _send(send, plain(413, "the form is too big"), scope["method"])
            return
        request = _request(scope, body)
        access = await self._access(request)
        if access is not None and request.path == EVENTS and request.method == "GET":
            await self._stream(receive, send)
            return
        answer = await asyncio.to_thread(self._dashboard.answer, request, access)
        await _send(send, answer, request.method)

    async def _access(self, request: Request) -> Access | None:
        """Ask the app who looks. Whatever is no Access lets nobody through."""
        decide: Callable[[Request], Any] = self._decide
        given = decide(request) if inspect.iscoroutinefunction(decide) else await asyncio.to_thread(decide, request)
        if inspect.isawaitable(given):
            given = await given
        return checked(given)

    async def _stream(self, receive: Any, send: Any) -> None:
        """Tell by which topics pages are out of date, until the client leaves."""
        if self._streams >= MOST_STREAMS:
            await _send(send, plain(503, "too many streams are open", ("Retry-After", "5")), "GET")
            return
        self._streams += 1
        headers = (*guard.HEADERS, ("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no"))
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
        telling = asyncio.create_task(self._tell(send))
        left = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait([telling, left], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams -= 1
            for task in (telling, left):
                task.cancel()
            await asyncio.gather(telling, left, return_exceptions=True)

    async def _tell(self, send: Any) -> None:
        """Send the versions of all topics, again and again. All streams of a process share the readings."""
        await _chunk(send, "retry: 2000\n\n")
        while True:
            try:
                pulse = await asyncio.to_thread(self._dashboard.pulse.now)
                said = f"event: versions\ndata: {json.dumps(pulse.versions)}\n\n"
            except DATABASE_ERRORS:
                said = "event: down\ndata: {}\n\n"
            await _chunk(send, said)
            await asyncio.sleep(FRESH_SECONDS)


def checked(given: object) -> Access | None:
    """Return an access; None for whatever is none, which is logged unless it is None."""
    if given is None or isinstance(given, Access):
        return given
    log.error("access returned a %s, which lets nobody through: return an Access or None", type(given).__name__)
    return None


def _request(scope: Mapping[str, Any], body: bytes) -> Request:
    root, path = str(scope.get("root_path", "")).rstrip("/"), str(scope["path"])
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    elif not root:
        path = _as_asked(scope, path if path.startswith("/") else f"/{path}")
        root = _mounted_at(scope, path)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = read_query(scope.get("query_string", b"").decode("latin-1"))
    secure = scope.get("scheme") == "https"
    return Request(scope["method"], path, query, headers, body, scope, root, secure)


def _mounted_at(scope: Mapping[str, Any], path: str) -> str:
    """Return where a framework has mounted the dashboard that does not say so in `root_path`, as Litestar does not."""
    raw = _raw_path(scope)
    return raw.removesuffix(path).rstrip("/") if raw.endswith(path) else ""


def _as_asked(scope: Mapping[str, Any], path: str) -> str:
    """Return a path without a slash that the framework has put behind it: links are relative to what was asked."""
    raw = _raw_path(scope)
    return path[:-1] if path.endswith("/") and raw and not raw.endswith("/") else path


def _raw_path(scope: Mapping[str, Any]) -> str:
    return bytes(scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")


async def _body(receive: Any) -> bytes | None:
    """Read the body of a request; None if it is too big."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BODY:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


async def _send(send: Any, answer: Response, method: str) -> None:
    headers = (*answer.headers, ("Content-Length", str(len(answer.body))))
    await send({"type": "http.response.start", "status": answer.status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})


async def _chunk(send: Any, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def _encoded(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Any, send: Any) -> None:
    """Follow a server that starts and stops: nothing is to be done for it."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
