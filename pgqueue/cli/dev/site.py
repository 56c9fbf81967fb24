"""Where the dashboard of `pgqueue dev` listens: the parent keeps the socket, so that a reload refuses no browser."""

import secrets
from contextlib import ExitStack
from dataclasses import dataclass

from pgqueue.cli.output import say
from pgqueue.cli.web import LOOPBACK, listen_here


@dataclass(frozen=True, slots=True)
class Site:
    """A socket that listens, its URL, and the token that lets browsers in for as long as the command runs."""

    fileno: int
    url: str
    token: str

    @property
    def link(self) -> str:
        """The address that one opens."""
        return f"{self.url}?token={self.token}"


def open_site(kept: ExitStack, port: int | None) -> Site | None:
    """Listen until `kept` ends, as `listen_here` does. Raises ConfigError.

    None, with a word on what to install, where the dashboard's packages are missing.
    """
    try:
        listening = kept.enter_context(listen_here(port))
    except ModuleNotFoundError:
        say("without a dashboard, whose packages are missing: pip install 'pgqueue-jobs[dashboard]'")
        return None
    from pgqueue.dashboard.standalone import where  # jinja2 and uvicorn, an extra

    return Site(listening.fileno(), where(LOOPBACK, listening), secrets.token_urlsafe(24))
