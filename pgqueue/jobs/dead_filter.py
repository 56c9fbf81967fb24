"""Which dead letters are meant: the filter of jobs, and what only dead letters have."""

from dataclasses import dataclass
from typing import ClassVar

from pgqueue.jobs.job_filter import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter(Filter):
    """Dead letters that fit all that is given.

    `task`: a name, with `*` for any characters. `error`: the class, in full or its last part. `group`: a fingerprint,
    as `dead groups` shows it. `since` and `until`: when they failed. `args`: what the arguments contain.
    """

    error: str | None = None
    group: str | None = None

    _TEXTS: ClassVar[tuple[str, ...]] = ("task", "queue", "tag", "error", "group")
