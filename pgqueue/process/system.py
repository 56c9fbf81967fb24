"""What the operating system has to have, and what is done where it has not."""

import asyncio
import os
import sys

from pgqueue.errors import ConfigError


def needs_fork(what: str, instead: str) -> None:
    """Raise ConfigError where processes cannot be forked, as on Windows: it names `what` needs that, and what to do."""
    if not hasattr(os, "fork"):
        raise ConfigError(f"{what} cannot run on this system ({sys.platform}), which has no os.fork: {instead}")


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop in which connections work: psycopg cannot use the default one of Windows."""
    return asyncio.SelectorEventLoop() if sys.platform == "win32" else asyncio.new_event_loop()
