"""The trace of a job: its id in the header `traceparent`, and where a tracing system shows it."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pgqueue.errors import InvalidOption

PLACE = "{trace_id}"
# W3C Trace Context: version, trace id, id of the parent span, flags. A later version may have more behind it.
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.ASCII)


class Trace(NamedTuple):
    """The id of a trace, and the URL of its page where the dashboard knows one."""

    id: str
    url: str | None


def check_trace_url(template: str | None) -> str | None:
    """Return a template of URLs of traces. Raises InvalidOption unless it is one of http or https with `{trace_id}`
    behind the host, without a space or a control character."""
    if template is None:
        return None
    try:
        is_plain = isinstance(template, str) and template.isprintable() and not re.search(r"\s", template)
        parts = urlsplit(template) if is_plain else None
        whole = parts is not None and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # also of a port that is none
        parts = whole = None
    if parts is None or not whole or PLACE not in template.partition(parts.netloc)[2] or PLACE in parts.netloc:
        raise InvalidOption(
            f"trace_url={template!r:.200} cannot be used: give the http or https URL of a trace, with {PLACE} in it, "
            f"such as https://jaeger.example.com/trace/{PLACE}"
        )
    return template


def trace_of(headers: Mapping[str, Any], template: str | None) -> Trace | None:
    """Return the trace that a job's headers name; None where they name none. The id is hexadecimal digits alone, so no
    header brings anything else into the URL."""
    parent = headers.get("traceparent")
    found = _PARENT.fullmatch(parent) if isinstance(parent, str) else None
    if found is None or not found[1].strip("0"):
        return None
    return Trace(found[1], None if template is None else template.replace(PLACE, found[1]))
