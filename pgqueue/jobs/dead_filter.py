"""Which dead letters are meant: one filter for previews, for operations in bulk, and as JSON in their row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pgqueue.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Dead letters that fit all that is given.

    `task`: a name, with `*` for any characters. `error`: the class, in full or its last part. `group`: a fingerprint,
    as `dead groups` shows it. `since` and `until`: when they failed. `args`: what the arguments contain.
    """

    task: str | None = None
    queue: str | None = None
    error: str | None = None
    group: str | None = None
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
        """Whether nothing is given, so that every dead letter fits."""
        return all(value is None for value in asdict(self).values())

    def as_json(self) -> str:
        """Return the filter as it stands in the row of an operation."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        given |= {name: given[name].isoformat() for name in ("since", "until") if name in given}
        return json.dumps(given)

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> "DeadFilter":
        """Read a filter from the row of an operation. Raises InvalidOption for one that SQL has written wrongly."""
        try:
            given = dict(stored)
            given |= {name: datetime.fromisoformat(given[name]) for name in ("since", "until") if name in given}
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise InvalidOption(f"the filter of the operation cannot be read: {error}") from None
