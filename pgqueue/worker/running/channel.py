"""Messages between a worker, its fork server and its children, over sockets."""

import json
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
CHUNK = 1 << 18  # bytes that one read takes at most
_LENGTH = struct.Struct("!I")


def pack(message: Message) -> bytes:
    """Return a message as bytes: its length, then JSON."""
    text = json.dumps(message, default=str).encode("ascii")
    return _LENGTH.pack(len(text)) + text


class Inbox:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add received bytes; yield the messages that are complete."""
        self._data += data
        while len(self._data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._data)[0]
            if len(self._data) < end:
                return
            message: Message = json.loads(self._data[_LENGTH.size : end])
            del self._data[:end]
            yield message


def flush() -> None:
    """Flush stdout and stderr: a process that ends by os._exit does not do it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # there may be none, or a closed one
            stream.flush()
