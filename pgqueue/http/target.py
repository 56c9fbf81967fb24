"""`http.target`: a task whose jobs are requests, with the options of a task and its own."""

import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Unpack

from pydantic import AfterValidator, JsonValue

from pgqueue.app import App
from pgqueue.client.task import TaskDecorator
from pgqueue.errors import InvalidOption
from pgqueue.http.addresses import Addresses
from pgqueue.http.answers import PERMANENT
from pgqueue.http.requests import Checks, GivenSecrets, Headers, Secrets
from pgqueue.http.sending import MOST_READ, Sender, Sent
from pgqueue.jobs.retry import Exponential, as_policy
from pgqueue.tasks.context import Context
from pgqueue.tasks.options import TaskOptions

Method = Literal["POST", "PUT", "PATCH", "DELETE", "GET", "HEAD"]
RETRY = Exponential(base=5, factor=4, max=86_400, jitter=0.2)  # eleven attempts in three days
MAX_ATTEMPTS = 11
TIMEOUT = 20.0
OWN = ("secrets", "sign", "allow", "plain_http", "permanent", "redirects", "keep_response", "tls")


class TargetOptions(TaskOptions, total=False):
    """The options of `http.target`: those of a task, and its own.

    `secrets`: a mapping, or a function of a name, that has the secrets by name: `whsec_…` or bytes to sign with, or a
    list of them while they are rotated, and texts for headers. They are looked up for each request; a function must not
    block. `sign`: the name of the secret that signs, unless a job names another one. `allow`: networks of addresses
    that are not public, to which requests may go all the same. `plain_http=True` allows `http://`. `permanent`:
    statuses from 400 on after which the job is given up. `redirects`: how many redirects with 307 or 308 are followed,
    none of them to another origin. `keep_response`: how many bytes of an answer's body are kept, 65,536 at most.
    `tls`: a context that verifies certificates, for an authority of your own or a client certificate.
    """

    secrets: GivenSecrets
    sign: str | None
    allow: Sequence[str]
    plain_http: bool
    permanent: Collection[int]
    redirects: int
    keep_response: int
    tls: ssl.SSLContext | None


class Target:
    """A task whose jobs are HTTP requests: what `http.target` returns.

    `enqueue(url, method="POST", headers=None, body=None, sign=None)` makes a job on a connection of pgqueue's own;
    `using(conn, **options)` binds the caller's connection and options as for any task, and `s` makes a signature for a
    workflow. A `body` that is a text is sent as it is, anything else as JSON. Values of `headers` are texts, or
    `Secret(name)`. `sign` names the secret that signs.

    What cannot be sent raises InvalidArguments before anything is written. `task` is the task itself.
    """

    def __init__(self, app: App, name: str, options: TargetOptions) -> None:
        given: Mapping[str, Any] = options
        sender = _sender(given)
        default_signer: str | None = given.get("sign")

        async def send(
            context: Context,
            url: str,
            method: Method = "POST",
            headers: Headers | None = None,
            body: JsonValue = None,
            sign: str | None = None,
        ) -> Sent:
            request = sender.request(context, url, method, headers, body)
            return await sender.send(context, request, sign or default_signer)

        # What this target allows is checked where a job is enqueued; the annotations of types stay as they are written.
        send.__annotations__ |= {
            "url": Annotated[str, AfterValidator(sender.checks.url)],
            "headers": Annotated[Headers | None, AfterValidator(sender.checks.headers)],
            "sign": Annotated[str | None, AfterValidator(sender.checks.signer)],
        }
        self.task = _decorator(app, name, given, sender)(send)
        self.using = self.task.using
        self.enqueue = self.task.enqueue
        self.aenqueue = self.task.aenqueue
        self.enqueue_many = self.task.enqueue_many
        self.aenqueue_many = self.task.aenqueue_many
        self.s = self.task.s

    @property
    def name(self) -> str:
        """The name that the jobs carry."""
        return self.task.name

    def __repr__(self) -> str:
        return f"<HTTP target {self.name}>"


def target(app: App, name: str, /, **options: Unpack[TargetOptions]) -> Target:
    """Register a task whose work is one HTTP request, under a name.

    A job succeeds with any status from 200 to 299; its result is a `Sent`. It is given up after a redirect, after one
    of the statuses in `permanent` and where its host has no address that is allowed; all else is retried, for three
    days unless `retry` and `max_attempts` say otherwise, and not before `Retry-After` has passed. `timeout` (20
    seconds) bounds an attempt. Options: `TargetOptions`.

    Raises InvalidOption for an option that cannot be used, InvalidTask for a name that is taken.
    """
    return Target(app, name, options)


def _decorator(app: App, name: str, given: Mapping[str, Any], sender: Sender) -> TaskDecorator:
    """Return `app.task(…)` with the options that a task has, and the defaults of a target."""
    options: dict[str, Any] = {option: value for option, value in given.items() if option not in OWN}
    if given.get("retry") is None:
        options = {"max_attempts": MAX_ATTEMPTS} | options
    decorator: TaskDecorator = app.task(**{"timeout": TIMEOUT, **options, "name": name, "retry": sender.policy})
    return decorator


def _sender(given: Mapping[str, Any]) -> Sender:
    """Return what sends, made of a target's own options. Raises InvalidOption."""
    secrets = Secrets(_secrets(given.get("secrets", {})))
    if (signer := given.get("sign")) is not None and isinstance(given.get("secrets", {}), Mapping):
        secrets.keys(signer)
    tls = given.get("tls")
    if tls is not None and not (isinstance(tls, ssl.SSLContext) and tls.verify_mode == ssl.CERT_REQUIRED):
        raise InvalidOption(
            "tls=… cannot be used: give an ssl.SSLContext that verifies, as create_default_context does"
        )
    return Sender(
        secrets,
        Checks(secrets, Addresses(given.get("allow", ())), given.get("plain_http", False) is True),
        as_policy(RETRY if given.get("retry") is None else given["retry"]),
        _statuses(given.get("permanent", PERMANENT)),
        _whole("redirects", given.get("redirects", 0), 10),
        _whole("keep_response", given.get("keep_response", 0), MOST_READ),
        tls,
    )


def _secrets(given: object) -> GivenSecrets:
    if isinstance(given, Mapping) or callable(given):
        return given
    raise InvalidOption("secrets=… cannot be used: give a mapping, or a function of a name")


def _statuses(given: Collection[object]) -> frozenset[int]:
    found = frozenset(status for status in given if isinstance(status, int) and 400 <= status < 600)
    if len(found) != len(frozenset(given)):
        raise InvalidOption(f"permanent={given!r:.100} cannot be used: give statuses from 400 to 599")
    return found


def _whole(option: str, given: object, most: int) -> int:
    if type(given) is not int or not 0 <= given <= most:
        raise InvalidOption(f"{option}={given!r:.100} cannot be used: give 0 to {most}")
    return given
