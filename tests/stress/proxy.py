"""A TCP proxy before Postgres: one gate for each process, each of which can lose, hold up or cut what passes."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

READY = b"Z\x00\x00\x00\x05"


@dataclass(eq=False)
class Line:
    """One connection of a client, and the one to Postgres behind it."""

    client: asyncio.StreamWriter
    app: str = ""
    upstream: asyncio.StreamWriter | None = None
    losing: bool = False
    poisoned: bool = False  # bytes of it were thrown away: it can only be cut

    def reset(self) -> None:
        """Cut it, so that both sides see a reset."""
        for writer in (self.client, self.upstream):
            if writer is not None and not writer.transport.is_closing():
                with contextlib.suppress(OSError):
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()


@dataclass
class Trap:
    """What to lose once, on a connection of this application_name.

    `request`: the answer to the first request that contains it; with `deliver` false the request itself. `answer`: the
    first answer that contains it. Prepared statements carry no SQL, so a claim is known by the rows it brings.
    """

    app: str
    request: bytes | None = None
    answer: bytes | None = None
    deliver: bool = True
    sprung: asyncio.Event = field(default_factory=asyncio.Event)

    def fits(self, line: Line, data: bytes, marker: bytes | None) -> bool:
        return marker is not None and line.app.startswith(self.app) and marker in data


class Gate:
    """The connections of one process to the database."""

    def __init__(self, target: dict[str, Any]) -> None:
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._swallowing = ""
        self._black = False
        self._delay = 0.0
        self._trap: Trap | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.lines: set[Line] = set()
        self.port = 0

    async def listen(self) -> None:
        """Open the gate on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        """F11: cut all connections."""
        for line in list(self.lines):
            line.reset()

    def black_hole(self) -> None:
        """F12: swallow everything; nothing is closed, new connections are accepted and never answered."""
        self._black = True

    def hold(self) -> None:
        """F12, the kind that heals: let nothing through, lose nothing; it all arrives late."""
        self._open.clear()

    def slow(self, seconds: float) -> None:
        """F14: delay all bytes."""
        self._delay = seconds

    def deafen(self, app: str) -> None:
        """F19: swallow what Postgres sends to the connections of this application_name."""
        self._swallowing = app

    def lose(self, trap: Trap) -> asyncio.Event:
        """F13: lose one message, and cut the line. Returns an object that knows whether it happened."""
        self._trap = trap
        return trap.sprung

    def heal(self) -> None:
        """Let everything pass again. Lines that lost bytes are cut, as a router does that knows nothing of them."""
        self._open.set()
        self._black, self._delay, self._trap, self._swallowing = False, 0.0, None, ""
        for line in list(self.lines):
            if line.poisoned:
                line.reset()

    async def close(self) -> None:
        """Cut all connections and stop listening."""
        if self._server is not None:
            self._server.close()
        self.heal()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = Line(writer)
        self.lines.add(line)
        try:
            await self._serve(line, reader)
        except (OSError, asyncio.CancelledError):
            pass  # clients and servers go away all the time here
        finally:
            line.reset()
            self.lines.discard(line)
            self._tasks.discard(task)

    async def _serve(self, line: Line, reader: asyncio.StreamReader) -> None:
        async for data in self._passing(line, reader):
            line.app = _application(data)
            up_reader, line.upstream = await asyncio.open_connection(**self._target)
            line.upstream.write(data)
            break
        if line.upstream is None:
            return
        ends = [asyncio.create_task(self._requests(line, reader)), asyncio.create_task(self._answers(line, up_reader))]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if ends[0].done() and line.upstream.can_write_eof() and not line.upstream.is_closing():
                line.upstream.write_eof()  # what was sent last may still be read, as when a peer dies after sending
                await asyncio.wait(ends[1:], timeout=1.0)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _passing(self, line: Line, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Yield the bytes that may pass, when they may."""
        while data := await reader.read(65536):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._open.wait()
            if self._black:
                line.poisoned = True
            if not line.poisoned:
                yield data

    async def _requests(self, line: Line, reader: asyncio.StreamReader) -> None:
        async for data in self._passing(line, reader):
            assert line.upstream is not None
            trap = self._trap
            if trap is not None and trap.fits(line, data, trap.request):
                self._trap, line.losing = None, True
                trap.sprung.set()
                if not trap.deliver:
                    line.reset()
                    return
            line.upstream.write(data)
            await line.upstream.drain()

    async def _answers(self, line: Line, reader: asyncio.StreamReader) -> None:
        last = b""
        async for data in self._passing(line, reader):
            trap = self._trap
            if trap is not None and trap.fits(line, data, trap.answer):
                self._trap, line.losing = None, True
                trap.sprung.set()
            if line.losing:
                if READY in last + data:  # it is done, committed if it was a COMMIT
                    line.reset()
                    return
                last = data[-5:]
            elif self._swallowing and line.app == self._swallowing:
                line.poisoned = True
            else:
                line.client.write(data)
                await line.client.drain()


def _application(startup: bytes) -> str:
    """Return the application_name in a startup packet."""
    fields = startup[8:].split(b"\x00")
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    return found.get(b"application_name", b"").decode(errors="replace")
