"""Which jobs are meant: one filter for lists, previews and operations, and as JSON in the row of an operation."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

from pgqueue.errors import InvalidOption

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it
PHASES = (
    "blocked", "pending", "scheduled", "sleeping", "waiting", "retrying", "running", "succeeded", "failed", "cancelled",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Jobs that fit all that is given.

    `task`: a name, with `*` for any characters. `since`, `until`: a span of time. `args`: what the arguments contain.
    """

    task: str | None = None
    queue: str | None = None
    tag: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    args: Mapping[str, Any] | None = None
    ids: Sequence[int] | None = None

    _TEXTS: ClassVar[tuple[str, ...]] = ("task", "queue", "tag")

    def __post_init__(self) -> None:
        for name in self._TEXTS:
            _check_text(name, getattr(self, name))
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and (not isinstance(moment, datetime) or moment.utcoffset() is None):
                raise InvalidOption(f"{name}={moment!r:.100} cannot be used: give a datetime with a timezone")
        if self.args is not None:
            object.__setattr__(self, "args", _checked_args(self.args))
        if self.ids is not None:
            object.__setattr__(self, "ids", _checked_ids(self.ids))

    @property
    def fits_all(self) -> bool:
        """Whether nothing is given, so that every job fits."""
        return all(value is None for value in asdict(self).values())

    def as_json(self) -> str:
        """Return the filter as it stands in the row of an operation."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        given |= {name: given[name].isoformat() for name in ("since", "until") if name in given}
        return json.dumps(given)

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read a filter from the row of an operation. Raises InvalidOption for one that SQL has written wrongly."""
        try:
            given = dict(stored)
            given |= {name: datetime.fromisoformat(given[name]) for name in ("since", "until") if name in given}
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise InvalidOption(f"the filter of the operation cannot be read: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter(Filter):
    """Jobs that fit all that is given.

    `task`: a name, with `*` for any characters. `state`: a state or a phase. `since` and `until`: when they were
    enqueued. `args`: what the arguments contain.
    """

    state: str | None = None

    def __post_init__(self) -> None:
        Filter.__post_init__(self)  # super() does not work in a dataclass with slots
        if self.state is not None and self.state not in PHASES:
            raise InvalidOption(f"state={self.state!r:.100} cannot be used: give one of {', '.join(PHASES)}")


def _check_text(name: str, given: object) -> None:
    """Raise InvalidOption unless it is None or a text that Postgres can store, of 1 to 1000 characters."""
    if given is not None and not (isinstance(given, str) and 1 <= len(given) <= 1000 and is_storable(given)):
        raise InvalidOption(f"{name}={given!r:.100} cannot be used: give a text of 1 to 1000 characters without NUL")


def _checked_args(args: object) -> dict[str, Any]:
    """Return arguments as a dict. Raises InvalidOption for none, and for what is no JSON that Postgres can store."""
    if not isinstance(args, Mapping) or not args or not all(isinstance(name, str) for name in args):
        raise InvalidOption("args cannot be used: give names of arguments with their values")  # quotes none: secrets
    try:
        text = json.dumps(dict(args), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = "\0"
    if not is_storable(text) or _NUL.search(text):
        raise InvalidOption("args cannot be used: give values that are JSON: finite, without NUL")
    return dict(args)


def _checked_ids(ids: object) -> list[int]:
    """Return ids as a list. Raises InvalidOption for none, and for what is no sequence of ids."""
    if ids == [] or ids == ():
        raise InvalidOption("ids is empty: give ids of jobs, or leave it out")
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes) or not all(_is_id(one) for one in ids):
        raise InvalidOption(f"ids={ids!r:.100} cannot be used: give a list of ids of jobs")
    return list(ids)


def _is_id(given: object) -> bool:
    return type(given) is int and 0 < given < 2**63


def is_storable(text: str) -> bool:
    """Whether Postgres can store a text: it has neither NUL nor half a character."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
