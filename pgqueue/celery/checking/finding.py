"""What a check finds, as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a place moves: as it is, with another meaning, or not without a change."""

    MOVES = "moves"
    DIFFERS = "differs"
    CHANGE = "change"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place in a code base. `path` is as it was given, `what` says what stands there, `remedy` what to do."""

    path: str
    line: int
    kind: Kind
    id: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Review:
    """What was found in a code base, by file and line, and how many files were read."""

    files: int
    findings: Sequence[Finding]

    def of(self, kind: Kind) -> list[Finding]:
        """Return the findings of a kind."""
        return [each for each in self.findings if each.kind == kind]
