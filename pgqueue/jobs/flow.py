"""What holds a job back until its turn: the buckets that it takes while it runs, its order and its fair share.

A job that any rule concerns waits in a lane of its own kind, and carries all that decides about its turn in the header
`$flow`. So whatever is done to it, by a retry, a redrive or a hand with SQL, its rules stay with it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
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

        The first 63 bits of the MD5 of its parts, a line each; negative where jobs run in order. Those of one order are
        in one lane whatever their other buckets, for only the first of them can have its turn. The SQL function
        `enqueue` computes it in the same way.
        """
        text = "\n".join(["", self.share or "", *self.buckets]) if self.order is None else self.order
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


@lru_cache(maxsize=4096)
def header_text(flow: Flow) -> str:
    """Return the header of a flow with its name, as JSON text without braces. Jobs of a lane have the same one."""
    return f'"{FLOW}": {json.dumps(flow.header())}'


def headers_of_each(shared: str | None, flows: Sequence[Flow | None], keys: Sequence[str | None] | None = None) -> str:
    """Return the headers of many jobs, a JSON array: those that they share, as JSON text, the flow of each, and their
    idempotency keys where they have any."""
    common = "" if shared is None else shared[1:-1]
    texts = []
    for at, flow in enumerate(flows):
        key = None if keys is None else keys[at]
        parts = [
            "" if key is None else f'"idempotency_key": {json.dumps(key)}',
            common,
            "" if flow is None else header_text(flow),
        ]
        texts.append(f"{{{', '.join(filter(None, parts))}}}")
    return f"[{','.join(texts)}]"


def buckets_of(headers: str | None, rule: str) -> tuple[str, ...]:
    """Return the buckets of a rule that a job takes, from its headers as JSON text: one, or none."""
    if headers is None or FLOW not in headers:
        return ()
    flow = Flow.of_headers(json.loads(headers))
    return () if flow is None else tuple(b for b in flow.buckets if b == rule or b.startswith(f"{rule}/"))
