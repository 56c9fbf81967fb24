"""Sends the request of a job, and decides by the answer how the job goes on."""

import asyncio
import hashlib
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from urllib.parse import urlsplit, urlunsplit

import httpcore

from pgqueue.http.answers import PERMANENT, retry_after
from pgqueue.http.connecting import AddressRefused, Connector
from pgqueue.http.requests import IDEMPOTENCY, Checks, Headers, Secret, Secrets, content_of
from pgqueue.http.signing import signed
from pgqueue.jobs.retry import RetryPolicy
from pgqueue.jobs.verdicts import Fail, Retry
from pgqueue.tasks.context import Context

MOST_READ = 65_536  # bytes of an answer
READ_SECONDS = 5.0  # for the body of an answer whose status is known
CONNECT_SECONDS = 5.0  # for each address of a host
SHOWN = 500  # characters of an answer in a reason
_CLEAN_ID = re.compile(r"[A-Za-z0-9_:-]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a job: the status of the answer, and the beginning of its body if the target keeps that."""

    status: int
    body: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `secret_values` are those that its headers have from secrets, by the name of the header."""

    url: str
    method: str
    headers: Mapping[str, str]
    secret_values: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)

    @property
    def host(self) -> str:
        """The host, without a path or a query, which may hold a secret."""
        return urlsplit(self.url).hostname or ""

    @property
    def parts(self) -> httpcore.URL:
        """The URL as httpcore takes it. httpcore itself would drop `;…` at the end of a path."""
        url = urlsplit(self.url)
        target = urlunsplit(("", "", url.path, url.query, ""))
        return httpcore.URL(scheme=url.scheme, host=self.host, port=url.port, target=target)

    def without_secrets(self, text: str) -> str:
        """Return text of the answer without the secrets of the request, and as Postgres can store it."""
        for value in filter(None, self.secret_values.values()):
            text = text.replace(value, "…")
        return text.replace("\x00", "\ufffd")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Sender:
    """Sends the requests of a target. Each attempt has a connection of its own."""

    secrets: Secrets
    checks: Checks
    policy: RetryPolicy
    permanent: frozenset[int] = PERMANENT
    redirects: int = 0
    keep_response: int = 0
    given_tls: ssl.SSLContext | None = None

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Verifies certificates and host names."""
        return self.given_tls or httpcore.default_ssl_context()

    def request(self, context: Context, url: str, method: str, headers: Headers | None, content: object) -> Request:
        """Return the request of a job, without a signature."""
        body, kind = content_of(content)
        given = headers or {}
        plain = {name.lower(): value for name, value in given.items() if isinstance(value, str)}
        secret = {name.lower(): self.secrets.text(v.secret) for name, v in given.items() if isinstance(v, Secret)}
        ours = {"user-agent": "pgqueue", "accept": "*/*", IDEMPOTENCY: message_id(context)}
        if kind is not None:
            ours["content-type"] = kind
        return Request(url, method, ours | plain, secret, body)

    async def send(self, context: Context, request: Request, signer: str | None) -> Sent:
        """Send a request and return how it was answered. Raises Retry or Fail for what is no success."""
        for _ in range(self.redirects + 1):
            answer = await self._ask(context, request, signer)
            location = answer.headers.get("location")
            if answer.status not in (307, 308) or location is None or not self.redirects:
                return self._ended(context, request, answer)
            try:
                request = replace(request, url=self.checks.redirected(request.url, location))
            except ValueError as error:
                raise Fail(f"{request.host} redirects to {error}") from None
        raise Fail(f"{request.host} redirects more than {self.redirects} times")

    async def _ask(self, context: Context, request: Request, signer: str | None) -> Answer:
        headers = {"host": urlsplit(request.url).netloc, **request.headers, **request.secret_values}
        if signer is not None:
            headers |= signed(self.secrets.keys(signer), message_id(context), request.content)
        try:
            return await self._exchange(request, headers)
        except AddressRefused as error:
            raise Fail(f"{error}: give the target allow=[…] with its network") from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            said = request.without_secrets(f"{type(error).__name__}: {error}").removesuffix(": ")
            raise Retry(f"{request.host} cannot be reached: {said:.300}") from None

    async def _exchange(self, request: Request, headers: Mapping[str, str]) -> Answer:
        connector = Connector(self.checks.addresses)
        tls = self.tls if request.url.startswith("https:") else None
        async with httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=connector) as pool:
            opened = pool.stream(
                request.method,
                request.parts,
                headers=list(headers.items()),
                content=request.content,
                extensions={"timeout": {"connect": CONNECT_SECONDS}},
            )
            async with opened as response:
                found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                return Answer(response.status, found, await _beginning(response))

    def _ended(self, context: Context, request: Request, answer: Answer) -> Sent:
        """Return the result of a success. Raises Fail where no later attempt can succeed, Retry otherwise."""
        whole = request.without_secrets(answer.body.decode(errors="replace"))  # one that a cut halves is none any more
        text = whole.encode()[: self.keep_response].decode(errors="ignore")
        if 200 <= answer.status < 300:
            return Sent(answer.status, text if self.keep_response else None)
        reason = f"{request.host} answered {answer.status}" + (f": {text[:SHOWN]}" if text else "")
        if answer.status < 400 or answer.status in self.permanent:
            raise Fail(reason)
        asked = retry_after(answer.headers)
        # At least as long as the policy says: a receiver that always asks for one second would use up the attempts.
        raise Retry(reason, delay=None if asked is None else max(asked, self.policy.delay(context.attempt)))


async def _beginning(response: httpcore.Response) -> bytes:
    """Return the beginning of the body. The status is known, so neither its length nor its end decides anything."""
    read = bytearray()
    with suppress(TimeoutError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in response.aiter_stream():
                read += chunk
                if len(read) >= MOST_READ:
                    break
    return bytes(read[:MOST_READ])


def message_id(context: Context) -> str:
    """Return the id of a job's message, the same on each attempt: its idempotency key, or the hash of one that holds
    what the id of a signed message may not, such as a dot."""
    key = context.idempotency_key
    return key if _CLEAN_ID.fullmatch(key) else f"msg_{hashlib.sha256(key.encode()).hexdigest()[:40]}"
