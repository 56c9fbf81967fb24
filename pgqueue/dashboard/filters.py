"""Filters of jobs in the address of a page: the address is the state of a list, and the way back works.

An argument stands in it as `arg.tenant=7`. What a form or a person writes as `arg=tenant=7` is understood, too.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias
from urllib.parse import urlencode

from pgqueue.client.moments import read_moment, read_time
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.redaction import Redaction
from pgqueue.dashboard.request import Request
from pgqueue.errors import InvalidOption
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.timing import read_span

JOB_FIELDS = ("state", "task", "queue", "tag", "since", "until", "arg", "id")
DEAD_FIELDS = ("group", "error", "task", "queue", "tag", "since", "until", "arg", "id")

ARG = "arg."  # before the name of an argument
Asked: TypeAlias = Callable[[str], str | None]  # a field of the address by its name, None without one


def job_filter(asked: Asked, names: Iterable[str] = ()) -> JobFilter:
    """Read a filter of jobs; `names` are those of all fields in the address. Raises InvalidOption."""
    return JobFilter(state=asked("state"), **_shared(asked, names))


def dead_filter(asked: Asked, names: Iterable[str] = ()) -> DeadFilter:
    """Read a filter of dead letters; `names` as for `job_filter`. Raises InvalidOption."""
    return DeadFilter(error=asked("error"), group=asked("group"), **_shared(asked, names))


def given(request: Request, fields: tuple[str, ...]) -> dict[str, str]:
    """Return the fields that are given, as they were written, but each argument by itself: `arg.tenant`. What cannot be
    read of them stays as it is."""
    found = {name: text for name in fields if (text := request.asked(name)) is not None}
    if "arg" in fields:
        try:
            several = _named_args(request.asked, request.query) | _args(found.get("arg"))
        except InvalidOption:
            return found | {f"{ARG}{name}": text for name, text in _named_args(request.asked, request.query).items()}
        found.pop("arg", None)
        found |= {f"{ARG}{name}": text for name, text in several.items()}
    return found


def check_filter(access: Access, redaction: Redaction, asked: Asked, names: Iterable[str]) -> None:
    """Refuse a filter by arguments that are hidden from this person: what fits it would tell them. Whoever may reveal
    hidden values may filter by them, too. Raises InvalidOption."""
    names = list(names)
    if not any(asked(name) for name in names if name == "arg" or name.startswith(ARG)):
        return
    if not access.shows("arguments"):
        raise InvalidOption("you may not see arguments, so no filter can have one: leave arg out of it")
    if access.may("reveal"):
        return
    try:
        args = _filtered_args(asked, names)
    except InvalidOption:
        return  # the page finds no job by it, and says what is wrong
    redaction.check_filter(args, asked("task"), asked("queue"))


def query_of(fields: Mapping[str, object]) -> str:
    """Return fields as the query of an address; those without a value are left out."""
    return urlencode({name: str(value) for name, value in fields.items() if value is not None})


def _shared(asked: Asked, names: Iterable[str]) -> dict[str, Any]:
    return {
        "task": asked("task"),
        "queue": asked("queue"),
        "tag": asked("tag"),
        "since": read_moment("since", asked("since")),
        "until": read_moment("until", asked("until")),
        "args": _filtered_args(asked, names) or None,
        "ids": None if asked("id") is None else [read_id(asked("id"))],
    }


def _filtered_args(asked: Asked, names: Iterable[str]) -> dict[str, Any]:
    """Return what the arguments contain of the jobs that fit. Raises InvalidOption."""
    named, args = _named_args(asked, names), _args(asked("arg"))
    if twice := sorted(named.keys() & args.keys()):
        raise InvalidOption(f"arg={twice[0]!r:.100} is given twice: give each argument once")
    if "" in named:
        raise InvalidOption("arg.= cannot be used: give the name of an argument, for example arg.tenant=7")
    return {name: read_json(text) for name, text in (named | args).items()}


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


def _named_args(asked: Asked, names: Iterable[str]) -> dict[str, str]:
    """Return each argument of `arg.tenant=7`, and its value as it was written: JSON, or else plain text."""
    named = [name for name in names if name.startswith(ARG)]
    return {name.removeprefix(ARG): text for name in named if (text := asked(name)) is not None}


def _args(text: str | None) -> dict[str, str]:
    """Read `tenant=7`, or a JSON object of several; return the values as they are written in an address."""
    if text is None:
        return {}
    if text.startswith("{"):
        found = read_json(text)
        if isinstance(found, dict):
            return {name: json.dumps(value) for name, value in found.items()}
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidOption(f"arg={text!r:.100} cannot be used: give name=value, for example tenant=7")
    return {name: value}


def read_json(text: str) -> Any:
    """Return JSON as what it says, and other text as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
