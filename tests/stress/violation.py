"""A violation: a broken invariant and what proves it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """A broken invariant and what proves it."""

    number: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.number}: {self.evidence}"
