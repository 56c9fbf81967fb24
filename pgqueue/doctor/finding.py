"""What the doctor finds: kinds of findings, and findings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from psycopg.sql import Identifier

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def identifier(name: str) -> str:
    """Return a name as SQL that can be pasted has it: quoted, unless it is plain."""
    return name if _PLAIN.fullmatch(name) else Identifier(name).as_string()


class Severity(StrEnum):
    """How bad a finding is. `info`: good to know. `warn`: it will hurt, or hurts a little. `error`: it hurts now, or
    what was committed may be lost."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """Its place among the three, the worst last."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor found.

    `id` is stable. `what` is a sentence with numbers. `since` is None where nothing tells it. `remedy` is a command or
    a line of SQL that can be pasted, or None where there is none.
    """

    id: str
    severity: Severity
    what: str
    remedy: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding: its stable id, how bad it is, what it means, and what to do about it, as the docs say it."""

    id: str
    severity: Severity
    meaning: str
    remedy: str

    def found(self, what: str, remedy: str | None = None, since: datetime | None = None) -> Finding:
        """Return a finding of this kind."""
        return Finding(self.id, self.severity, what, remedy, since)


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found, the worst first, in how many checks."""

    checks: int
    findings: Sequence[Finding]

    def at_least(self, level: Severity) -> list[Finding]:
        """Return the findings that are at least so bad."""
        return [finding for finding in self.findings if finding.severity.rank >= level.rank]

    def of(self, severity: Severity) -> list[Finding]:
        """Return the findings that are just so bad."""
        return [finding for finding in self.findings if finding.severity is severity]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {"checks": self.checks, "findings": list(self.findings)}
