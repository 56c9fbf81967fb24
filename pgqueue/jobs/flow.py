"""What holds a job back until its turn: the buckets that it takes while it runs, its order and its fair share.

A job that any rule concerns waits in a lane of its own kind, and carries all that decides about its turn in the header
`$flow`. So whatever is done to it, by a retry, a redrive or a hand with SQL, its rules stay with it.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

FLOW = "$flow"


@dataclass(frozen=True, slots=True)
class Flow:
    """The turn of a job. A bucket is a rule, or one key of it: `rule` or `rule/key`.

    `buckets`, sorted: what the job takes while it runs. `order`: the bucket whose jobs run in the order of their ids.
    `share`: the rule and key among whose keys turns are fair.
    """

    buckets: tuple[str, ...] = ()
    order: str | None = None
    share: str | None = None

    @property
    def lane(self) -> int:
        """The number of the lane: all jobs of a lane have the same turn, so that a lane as a whole can run or cannot.

        The first 63 bits of the MD5 of its parts, a line each; negative where jobs run in order. The SQL function
        `enqueue` computes it in the same way.
        """
        text = "\n".join([self.order or "", self.share or "", *self.buckets])
        number = int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8]) >> 1
        return number if self.order is None else -1 - number

    def header(self) -> dict[str, Any]:
        """Return the flow as a job carries it."""
        found: dict[str, Any] = {"lane": self.lane, "buckets": list(self.buckets)}
        if self.order is not None:
            found["order"] = self.order
        if self.share is not None:
            found["share"] = self.share
        return found

    @property
    def in_order(self) -> bool:
        """Whether the jobs of its lane run in the order of their ids."""
        return self.order is not None

    @classmethod
    def of_headers(cls, headers: Mapping[str, Any]) -> "Flow | None":
        """Return the flow among the headers of a job; None without one, or where SQL has written another thing."""
        with suppress(KeyError, TypeError, AttributeError):
            return cls.of_header(headers[FLOW])
        return None

    @classmethod
    def of_header(cls, found: Mapping[str, Any]) -> "Flow":
        """Return the flow that a job carries."""
        return cls(tuple(found["buckets"]), found.get("order"), found.get("share"))
