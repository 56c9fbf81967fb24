"""The dashboard without an app around it: `pgqueue web`. It decides itself who may look."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgqueue.errors import MissingExtra

try:
    import uvicorn
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"pgqueue web needs uvicorn ({error}): pip install 'pgqueue-jobs[dashboard]'", name=error.name
    ) from None

from pgqueue.app import App
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.asgi import Asgi, asgi
from pgqueue.dashboard.request import Request
from pgqueue.dashboard.settings import DashboardOptions
from pgqueue.errors import ConfigError

COOKIE = "pgqueue-ticket"
Say = Callable[[str], object]
NOT_HERE = b"This dashboard asks for the link that `pgqueue web` or `pgqueue dev` has printed, or for its password.\n"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the dashboard listens. Nobody but this machine reaches a loopback address directly."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self, password: str | None) -> None:
        """Raise ConfigError for an address that others reach, where no password is set."""
        if not self.is_loopback and not password:
            raise ConfigError(
                f"--host {self.host} can be reached by others: set PGQUEUE_WEB_PASSWORD, or mount the dashboard into "
                "your own app, behind its login"
            )


class Door:
    """Lets in whoever has a one-time link, or the password. The ticket is a cookie; it ends with this process.

    With a password, any browser may come (HTTP Basic). Without one, `link` is printed; once it has been used it is
    worth nothing, and the next one is printed. From where a request comes proves nothing: a proxy may stand in between.
    A `token` that is given, by `pgqueue dev`, opens for every browser, and its tickets hold in the next process, too.
    """

    def __init__(self, password: str | None, user: str, say: Say, token: str | None = None) -> None:
        self._password = password
        self._user = user
        self._say = say
        self._lasts = token is not None
        self._ticket = secrets.token_urlsafe(32) if token is None else hashlib.sha256(token.encode()).hexdigest()
        self._token = token or secrets.token_urlsafe(24)
        self._lock = threading.Lock()
        self.where = ""

    def link(self) -> str:
        """Return the link that opens the door once."""
        return f"{self.where}?token={self._token}"

    def tell(self) -> None:
        """Say where the dashboard is, and how to get in."""
        how = f"{self.where} as user {self._user}" if self.asks_for_password else self.link()
        self._say(f"the dashboard is on {how}")

    def access(self, request: Request, may: Access) -> Access | None:
        """Return the access of a request."""
        given = request.cookies.get(COOKIE, "")
        if hmac.compare_digest(given.encode(), self._ticket.encode()) or self._knows_password(request):
            return may
        return None

    def open_with(self, token: str) -> str | None:
        """Return the ticket for a link's token, and let the link be worth nothing; None for a wrong one."""
        with self._lock:
            if not hmac.compare_digest(token.encode(), self._token.encode()):
                return None
            if self._lasts:
                return self._ticket
            self._token = secrets.token_urlsafe(24)
        self._say(f"the link was used; for another browser: {self.link()}")
        return self._ticket

    @property
    def asks_for_password(self) -> bool:
        """Whether a browser is asked for a user and a password."""
        return self._password is not None

    def _knows_password(self, request: Request) -> bool:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if self._password is None or scheme.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        right_user = hmac.compare_digest(user.encode(), self._user.encode())
        return hmac.compare_digest(password.encode(), self._password.encode()) and right_user


def standalone(app: App, door: Door, may: Access, options: DashboardOptions) -> Asgi:
    """Return the dashboard with a door before it."""
    dashboard = asgi(app, access=lambda request: door.access(request, may), **options)

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            token = _token_in(scope)
            if token and (ticket := door.open_with(token)) is not None:
                cookie = f"{COOKIE}={ticket}; Path=/; HttpOnly; SameSite=Strict"
                await _answer(send, 303, [(b"location", b"./"), (b"set-cookie", cookie.encode())])
                return
            if not _lets_in(scope, door, may):
                asks = [(b"www-authenticate", b'Basic realm="pgqueue", charset="UTF-8"')]
                await _answer(send, 401 if door.asks_for_password else 404, asks if door.asks_for_password else [])
                return
        await dashboard(scope, receive, send)

    return serve


def serve(app: App, address: Address, door: Door, may: Access, options: DashboardOptions) -> None:
    """Serve the dashboard until the process is stopped. Raises ConfigError and InvalidOption, before it says where."""
    dashboard = standalone(app, door, may, options)
    with listen(address) as listening:
        door.where = where(address.host, listening)
        door.tell()
        server_of(dashboard).run([listening])


def listen(address: Address) -> socket.socket:
    """Return a socket that listens there. Raises ConfigError."""
    try:
        return socket.create_server((address.host, address.port), reuse_port=False)
    except OSError as error:
        raise ConfigError(f"the dashboard cannot listen on {address.host}:{address.port}: {error}") from None


def where(host: str, listening: socket.socket) -> str:
    """Return the URL of what listens on a socket of a host."""
    return f"http://{host}:{listening.getsockname()[1]}/"


def server_of(dashboard: Asgi) -> uvicorn.Server:
    """Return a server of the dashboard. A stop ends the streams of open pages within a second."""
    config = uvicorn.Config(dashboard, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    logging.getLogger("uvicorn.error").addFilter(_is_no_farewell)
    return uvicorn.Server(config)


def _is_no_farewell(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn is worth reading: pages that are open while it stops are no error."""
    return "graceful shutdown exceeded" not in str(record.msg)


def _token_in(scope: Any) -> str:
    name, _, token = bytes(scope.get("query_string", b"")).decode("latin-1").partition("=")
    return token if name == "token" and scope["method"] == "GET" else ""


def _lets_in(scope: Any, door: Door, may: Access) -> bool:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    return door.access(Request(scope["method"], scope["path"], {}, headers), may) is not None


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    body = b"" if status == 303 else NOT_HERE
    common = [(b"content-type", b"text/plain"), (b"cache-control", b"no-store"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*common, *headers]})
    await send({"type": "http.response.body", "body": body})
