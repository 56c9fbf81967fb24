"""Requests and responses as values, so that every server speaks to the same code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, unquote

MOST_BODY = 1_500_000  # bytes of a form: arguments may have a megabyte
MOST_FIELDS = 500


@dataclass(frozen=True)
class Request:
    """A request as `access` sees it.

    `path` is the one below the place where the dashboard is mounted, and begins with a slash. The names of `headers`
    are in lower case. `raw` is what the server gave: an ASGI scope (`request.raw["user"]`, `request.raw["session"]`),
    or a WSGI environ.
    """

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    root: str = ""
    secure: bool = False

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies of the client; none where they cannot be read."""
        try:
            return {name: one.value for name, one in SimpleCookie(self.headers.get("cookie", "")).items()}
        except CookieError:
            return {}

    @cached_property
    def form(self) -> Mapping[str, str]:
        """The fields of the form that was sent; of several of one name, the last."""
        if not self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return {}
        try:
            found = parse_qs(self.body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError:
            return {}
        return {name: values[-1].replace("\r\n", "\n") for name, values in found.items()}

    def asked(self, name: str) -> str | None:
        """Return a parameter of the query, None without one or with an empty one."""
        values = self.query.get(name)
        return values[-1].strip() or None if values else None

    @property
    def base(self) -> str:
        """The way from this page to the first: links are relative, so that they hold under every prefix."""
        return "../" * (self.path.count("/") - 1) or "./"


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: its status, its headers and its body."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def read_query(text: str) -> dict[str, list[str]]:
    """Return the parameters of a query. More than are read of a form are none at all."""
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}


def slug(name: str) -> str:
    """Return a name as one part of a path, whatever characters it has; `unslug` gives the name back.

    Percent signs stand as tildes, for servers decode these before the path is taken apart. Dots are written so where
    browsers would climb with them.
    """
    text = quote(name, safe="", errors="surrogatepass").replace("~", "%7E").replace("%", "~")
    return text.replace(".", "~2E") if name in (".", "..") else text


def unslug(part: str) -> str:
    """Return the name that `slug` has made a part of a path of."""
    return unquote(part.replace("~", "%"), errors="replace")
