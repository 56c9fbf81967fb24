"""A request as a job has it: checked where it is enqueued, and made into bytes and headers where it is sent."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urljoin, urlsplit

from pydantic import HttpUrl, ValidationError

from pgqueue.errors import InvalidOption
from pgqueue.http.addresses import Addresses
from pgqueue.http.signing import ID, SIGNATURE, TIMESTAMP, SigningSecret, key_of

GivenSecrets: TypeAlias = Mapping[str, Any] | Callable[[str], Any]
IDEMPOTENCY = "idempotency-key"
METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET", "HEAD")
# The request has them from pgqueue, or from the connection.
OURS = frozenset({
    ID, TIMESTAMP, SIGNATURE, IDEMPOTENCY, "host", "content-length", "transfer-encoding", "connection", "te",
    "trailer", "upgrade", "expect", "accept-encoding",
})  # fmt: skip
CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_HOST = re.compile(r"(?:[^.]{1,63}\.)*[^.]{1,63}\.?")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]{0,7998}[\x21-\x7e])?|")


@dataclass(frozen=True, slots=True)
class Secret:
    """Stands for a header's value: the target's secret of that name. The job has the name alone."""

    secret: str


Headers: TypeAlias = dict[str, str | Secret]


class Secrets:
    """The secrets of a target, by name. Never shown, and never written."""

    def __init__(self, given: GivenSecrets) -> None:
        self._given = given

    def check(self, name: str) -> None:
        """Raise ValueError for a name that is known to be missing. What a function knows is asked when it is needed."""
        if isinstance(self._given, Mapping) and name not in self._given:
            raise ValueError(f"no secret is named {name!r} (give it to http.target, secrets=…)")

    def keys(self, name: str) -> list[bytes]:
        """Return the keys that sign: of one secret, or of several while they are rotated."""
        found = self._look_up(name)
        secrets: list[SigningSecret] = [found] if isinstance(found, (str, bytes)) else list(found)
        if not secrets:
            raise InvalidOption(f"secret {name!r} is empty: nothing can be signed")
        return [key_of(secret) for secret in secrets]

    def text(self, name: str) -> str:
        """Return the value of a header. Raises InvalidOption, which does not repeat it."""
        found = self._look_up(name)
        if not isinstance(found, str) or not _VALUE.fullmatch(found):
            raise InvalidOption(f"secret {name!r} cannot be the value of a header: give printable ASCII in one line")
        return found

    def _look_up(self, name: str) -> Any:
        try:
            return self._given[name] if isinstance(self._given, Mapping) else self._given(name)
        except LookupError:
            raise InvalidOption(f"no secret is named {name!r}: give it to http.target, secrets=…") from None


@dataclass(frozen=True, slots=True)
class Checks:
    """What a request must be for its target. Each check returns the value, and raises ValueError."""

    secrets: Secrets
    addresses: Addresses
    plain_http: bool

    def url(self, text: str) -> str:
        """Check a URL, and return it as it is sent: with an ASCII host, without a fragment."""
        try:
            url = HttpUrl(text.split("#")[0])
        except ValidationError as error:
            raise ValueError(f"no URL that can be called: {error.errors()[0]['msg']}") from None
        if url.scheme != "https" and not self.plain_http:
            raise ValueError("a URL without TLS (give https://, or the target plain_http=True)")
        if url.username is not None or url.password is not None:
            raise ValueError("a URL with a user or password (give a header Secret(…) instead)")
        host = (url.host or "").strip("[]")
        if not _HOST.fullmatch(host):
            raise ValueError(f"a host that no name server knows, {host!r:.100} (each part has 1 to 63 characters)")
        if _is_literal(host) and not self.addresses.permit(host):
            raise ValueError(f"{host} is not public (give the target allow=[…] with its network)")
        return str(url)

    def redirected(self, url: str, location: str) -> str:
        """Return where a redirect leads: to a path of the same origin, or of the same host with TLS.

        Another origin would get a body, headers and a signature that were made for this one.
        """
        target = self.url(urljoin(url, location))
        here, there = urlsplit(url), urlsplit(target)
        gets_tls = (here.scheme, here.port, there.scheme, there.port) == ("http", None, "https", None)
        if here.netloc != there.netloc or (here.scheme != there.scheme and not gets_tls):
            raise ValueError(f"another origin, {there.scheme}://{there.netloc}: enqueue the URL there if it is right")
        return target

    def headers(self, given: Headers | None) -> Headers | None:
        """Check names and values, and that no credential stands in the clear."""
        seen = set()
        for name, value in (given or {}).items():
            low = name.lower()
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r:.100} is no name of a header")
            if low in OURS:
                raise ValueError(f"the header {name} is set by pgqueue")
            if low in seen:
                raise ValueError(f"the header {name} is given twice")
            seen.add(low)
            if isinstance(value, Secret):
                self.secrets.check(value.secret)
            elif low in CREDENTIALS:
                raise ValueError(f"{name} would stand in the job (give Secret('name of a secret') instead)")
            elif not _VALUE.fullmatch(value):
                raise ValueError(f"the value of {name} is not printable ASCII in one line")
        return given

    def signer(self, name: str | None) -> str | None:
        """Check the name of the secret that signs."""
        if name is not None:
            self.secrets.check(name)
        return name


def _is_literal(host: str) -> bool:
    """Whether a host, as a URL has it, is an address: pydantic has written each form of IPv4 with dots."""
    return ":" in host or re.fullmatch(r"[0-9.]+", host) is not None


def content_of(body: object) -> tuple[bytes, str | None]:
    """Return a body as bytes, and its type. A text goes as it is, anything else as JSON; None is no body."""
    if body is None:
        return b"", None
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(), "application/json"
