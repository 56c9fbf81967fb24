"""Why a job does not run, or what became of it: values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pgqueue.jobs.job import Job


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason. `code` is for programs and stays the same, `text` is a sentence for people, `facts` are the numbers
    and names in it."""

    code: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job does not run, or what became of it: every reason that holds, the weightiest first."""

    job: Job
    reasons: tuple[Reason, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the reasons."""
        return tuple(reason.code for reason in self.reasons)

    def __str__(self) -> str:
        return "\n".join(reason.text for reason in self.reasons)
