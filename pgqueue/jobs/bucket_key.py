"""Keys of buckets: a value becomes the same text wherever the job is enqueued."""

import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from uuid import UUID

LONGEST = 200  # characters; of a longer key its hash is used
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class NoKey(ValueError):
    """A value that gives no key. It says what kind of value it is, and quotes none."""


def key_text(value: object) -> str:
    """Return a value as the key of a bucket. Raises NoKey for one that has no text of its own.

    A text longer than 200 characters, or with control characters, is replaced by its hash; the SQL function `enqueue`
    does the same. Moments are the same in whatever zone they are written.
    """
    text = _text(value)
    if not text:
        raise NoKey("an empty text is no key")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise NoKey("a text with half of a surrogate pair cannot be stored") from None
    if len(text) > LONGEST or _CONTROL.search(text):
        return f"sha256:{sha256(encoded).hexdigest()[:32]}"
    return text


def _text(value: object) -> str:
    match value:
        case Enum():
            return _text(value.value)
        case bool():
            return "true" if value else "false"
        case str():
            return str.__str__(value)
        case int() | UUID():
            return str(value)
        case Decimal() if value.is_finite():
            return format(value.normalize(), "f")
        case datetime() if value.utcoffset() is not None:
            return value.astimezone(UTC).isoformat()
        case date() | time():
            return value.isoformat()
    raise NoKey(
        f"a {type(value).__name__} is no key: give a text, a number, a date, a UUID or an enum, or a function for by"
    )
