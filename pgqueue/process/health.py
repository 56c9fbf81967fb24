"""A health probe over HTTP: `/live` and `/ready`, for Kubernetes and the like."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from pgqueue.errors import ConfigError
from pgqueue.printable import one_line

TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """How a process is. `live`: whether it works at all, which does not depend on the database, because a restart mends
    no outage. `ready`: whether it does its work. `ages`: the seconds since each of its duties last worked; None if it
    has not worked yet."""

    live: bool
    ready: bool
    ages: dict[str, float | None] = field(default_factory=dict)


CANNOT_LISTEN = (OSError, OverflowError, UnicodeError)  # taken or refused; no port; no name of a host


def cannot_listen(what: str, host: str, port: int, error: Exception) -> ConfigError:
    """Return the error of a server that cannot listen on an address: one line."""
    why = "a port is 0 to 65535" if isinstance(error, OverflowError) else getattr(error, "strerror", None) or error
    return ConfigError(f"{what} cannot be served on {one_line(host)}:{port}: {why}")


class Probe:
    """An HTTP server that answers 200 or 503, with the ages of all duties as JSON. It sends no statement."""

    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which the system chooses for port 0. Raises ConfigError."""
        try:
            self._server = await asyncio.start_server(self._answer, host, port)
        except CANNOT_LISTEN as error:
            raise cannot_listen("/live and /ready", host, port, error) from None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                status, body = self._response(head.split()[1].decode("latin-1"))
                writer.write(
                    f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, TimeoutError, LookupError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # what is no HTTP request gets no answer, and is no reason to log
        finally:
            writer.close()

    def _response(self, path: str) -> tuple[HTTPStatus, bytes]:
        health = self._health()
        good = {"/live": health.live, "/ready": health.ready}.get(path.partition("?")[0])
        if good is None:
            return HTTPStatus.NOT_FOUND, b'{"error": "ask /live or /ready"}\n'
        ages = {name: None if age is None else round(age, 3) for name, age in health.ages.items()}
        body = {"ok": good, "seconds_since_success": ages}
        return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, json.dumps(body).encode() + b"\n"
