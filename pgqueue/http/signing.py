"""Signatures by the Standard Webhooks specification 1.0: HMAC-SHA256 over id, time and body of a request."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets as random_secrets
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pgqueue.errors import InvalidOption, InvalidSignature
from pgqueue.timing import LIMIT, Seconds, check_duration

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
PREFIX, SCHEME = "whsec_", "v1"
LEAST, MOST = 24, 64  # bytes of a key, by the specification
SigningSecret: TypeAlias = str | bytes
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


def new_secret() -> str:
    """Return a new secret for signatures, as receivers and their libraries take it: `whsec_` and 32 bytes as base64."""
    return PREFIX + base64.b64encode(random_secrets.token_bytes(32)).decode()


def key_of(secret: object) -> bytes:
    """Return the key in a secret: bytes are one, a text has it as base64, with or without `whsec_`.

    Raises InvalidOption, which does not repeat the secret.
    """
    try:
        key = secret if isinstance(secret, bytes) else base64.b64decode(_text(secret), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not LEAST <= len(key) <= MOST:
        raise InvalidOption(
            f"a secret for signatures cannot be used: give {LEAST} to {MOST} bytes, as bytes or as base64 after "
            f"{PREFIX}; pgqueue.http.new_secret() makes one"
        )
    return key


def _text(secret: object) -> str:
    if not isinstance(secret, str):
        raise ValueError
    encoded = secret.removeprefix(PREFIX)
    return encoded + "=" * (-len(encoded) % 4)


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Return one signature, as the header has it."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return f"{SCHEME},{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}"


def signed(keys: Sequence[bytes], message_id: str, body: bytes) -> dict[str, str]:
    """Return the headers of a request that is sent now, signed by each key: a receiver needs one that fits."""
    timestamp = str(int(time.time()))
    signatures = " ".join(sign(key, message_id, timestamp, body) for key in keys)
    return {ID: message_id, TIMESTAMP: timestamp, SIGNATURE: signatures}


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secrets: SigningSecret | Sequence[SigningSecret],
    *,
    tolerance: Seconds = 300,
) -> str:
    """Return the id of a request that was signed by Standard Webhooks; the same id means the same message again.

    `body` is the body as it came, before anything has parsed it. `headers` are those of the request, in any case.
    `secrets` is the secret, or several while they are rotated: one must fit. The request must have been sent at most
    `tolerance` seconds ago, or be so much ahead of this machine's clock.

    Raises InvalidSignature, and InvalidOption for a secret that cannot be used.
    """
    keys = [key_of(secret) for secret in ([secrets] if isinstance(secrets, (str, bytes)) else secrets)]
    span = check_duration("tolerance", tolerance, LIMIT)
    given = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in (ID, TIMESTAMP, SIGNATURE) if not given.get(name)]
    if missing:
        raise InvalidSignature(f"the request has no header {missing[0]}: it was not signed by Standard Webhooks")
    if not _SECONDS.fullmatch(given[TIMESTAMP]):
        raise InvalidSignature(f"{TIMESTAMP} is no number of seconds: the request was not signed by Standard Webhooks")
    if not _fits(keys, given, body):
        raise InvalidSignature("no signature of the request fits: it was altered, or signed with another secret")
    age = time.time() - int(given[TIMESTAMP])
    if abs(age) > span:
        raise InvalidSignature(
            f"the request was signed {abs(age):.0f} seconds {'ago' if age > 0 else 'ahead'}: at most {span:.0f} are "
            "tolerated; compare the clocks, or it is an old request that somebody has sent again"
        )
    return given[ID]


def _fits(keys: Sequence[bytes], given: Mapping[str, str], body: bytes) -> bool:
    """Whether one of the signatures was made with one of the keys. All pairs are compared, each in constant time."""
    wanted = [sign(key, given[ID], given[TIMESTAMP], body).encode() for key in keys]
    found = [text.encode() for text in given[SIGNATURE].split(" ")]
    return sum(hmac.compare_digest(one, other) for one in wanted for other in found) > 0
