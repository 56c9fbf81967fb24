"""Filters of jobs in the address of a page: the address is the state of a list, and the way back works."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from pgqueue.client.moments import read_moment, read_time
from pgqueue.errors import InvalidOption
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.timing import read_span

JOB_FIELDS = ("state", "task", "queue", "tag", "since", "until", "arg", "id")
DEAD_FIELDS = ("group", "error", "task", "queue", "tag", "since", "until", "arg", "id")

Asked = Callable[[str], str | None]


def job_filter(asked: Asked) -> JobFilter:
    """Read a filter of jobs. Raises InvalidOption."""
    return JobFilter(state=asked("state"), **_shared(asked))


def dead_filter(asked: Asked) -> DeadFilter:
    """Read a filter of dead letters. Raises InvalidOption."""
    return DeadFilter(error=asked("error"), group=asked("group"), **_shared(asked))


def given(asked: Asked, fields: tuple[str, ...]) -> dict[str, str]:
    """Return the fields that are given, as they were written."""
    return {name: text for name in fields if (text := asked(name)) is not None}


def query_of(fields: Mapping[str, object]) -> str:
    """Return fields as the query of an address; those without a value are left out."""
    return urlencode({name: str(value) for name, value in fields.items() if value is not None})


def _shared(asked: Asked) -> dict[str, Any]:
    return {
        "task": asked("task"),
        "queue": asked("queue"),
        "tag": asked("tag"),
        "since": read_moment("since", asked("since")),
        "until": read_moment("until", asked("until")),
        "args": _args(asked("arg")),
        "ids": None if asked("id") is None else [read_id(asked("id"))],
    }


def read_id(text: str | None) -> int:
    """Read the id of a job. Raises InvalidOption."""
    if text is None or not re.fullmatch(r"[0-9]{1,19}", text) or not 0 < int(text) < 2**63:
        raise InvalidOption(f"id={text!r:.100} cannot be used: give the id of a job")
    return int(text)


def read_end(option: str, text: str | None) -> float | datetime | None:
    """Read the end of a pause: a duration such as 15m, in seconds, or a time with its zone. Raises InvalidOption."""
    if text is None:
        return None
    seconds = read_span(text)
    return float(seconds) if seconds is not None else read_time(option, text, "a duration such as 15m, or ")


def _args(text: str | None) -> dict[str, Any] | None:
    """Read `tenant=7`, of which the value is JSON or else plain text; or a JSON object of several."""
    if text is None:
        return None
    if text.startswith("{"):
        found = read_json(text)
        if isinstance(found, dict):
            return found
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidOption(f"arg={text!r:.100} cannot be used: give name=value, for example tenant=7")
    return {name: read_json(value)}


def read_json(text: str) -> Any:
    """Return JSON as what it says, and other text as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
