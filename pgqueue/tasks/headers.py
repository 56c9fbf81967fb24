"""Headers that callers give: texts that a job carries beside its arguments, such as the context of a trace."""

import json
from collections.abc import Mapping

from pgqueue.errors import InvalidOption

MAX_HEADERS = 50
MAX_NAME = 100  # characters
MAX_BYTES = 8192  # of all headers of a job, as JSON
# What pgqueue itself writes as headers that tasks read. Names that begin with $ are ours, too, and hidden from tasks.
RESERVED = frozenset({"schedule", "tick", "expires_at", "idempotency_key"})


def headers_text(given: Mapping[str, str] | None) -> str | None:
    """Return headers as JSON text, None for none.

    Raises InvalidOption unless they are at most 50 texts with printable names of 1 to 100 characters that are not ours,
    and at most 8 KiB of JSON together.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or len(given) > MAX_HEADERS:
        raise InvalidOption(f"headers={given!r:.100} cannot be used: give a dict of at most {MAX_HEADERS} texts")
    for name, value in given.items():
        _check_name(name)
        if not isinstance(value, str) or "\0" in value or not _is_text(value):
            raise InvalidOption(f"header {name!r} cannot be used: give a text without NUL as its value")
    text = json.dumps(dict(given))
    if len(text) > MAX_BYTES:
        raise InvalidOption(f"headers of {len(text)} bytes cannot be used: give at most {MAX_BYTES}, as JSON")
    return text if given else None


def merged(one: str | None, more: Mapping[str, str]) -> str | None:
    """Return the text of headers with more of them; where both have a name, `one` counts."""
    if not more:
        return one
    return json.dumps(dict(more) if one is None else dict(more) | json.loads(one))


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable() or not _is_text(name):
        raise InvalidOption(f"header {name!r:.120} cannot be used: its name has 1 to {MAX_NAME} printable characters")
    if name.startswith("$") or name in RESERVED:
        raise InvalidOption(f"header {name!r} is pgqueue's own: give it another name")


def _is_text(text: str) -> bool:
    """Whether Postgres can store a text: half of a surrogate pair has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
