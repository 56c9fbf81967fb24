"""Which jobs are meant: one filter for lists, previews and operations, and as JSON in the row of an operation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from pgqueue.errors import InvalidOption

PHASES = ("blocked", "pending", "scheduled", "retrying", "running", "succeeded", "failed", "cancelled")


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

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
                raise InvalidOption(f"{name}={moment!r} cannot be used: give a datetime with a timezone")
        if self.ids is not None and not self.ids:
            raise InvalidOption("ids is empty: give ids of jobs, or leave it out")
        if self.ids is not None and any(type(one) is not int or not 0 < one < 2**63 for one in self.ids):
            raise InvalidOption(f"ids={list(self.ids)!r} cannot be used: give ids of jobs")

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
            raise InvalidOption(f"state={self.state!r} cannot be used: give one of {', '.join(PHASES)}")
