"""What the tests of the doctor share: looking for one finding, and mending it as its remedy says."""

from typing import Any

import psycopg

from pgqueue import App
from pgqueue.doctor import Finding, Limits, examine
from tests.harness import Conn


def found(app: App, finding_id: str, **limits: Any) -> list[Finding]:
    """Return the findings of this id."""
    return [finding for finding in examine(app, [finding_id], Limits(**limits)).findings if finding.id == finding_id]


def provoked(app: App, finding_id: str, **limits: Any) -> Finding:
    """Return the one finding of this id; fail unless there is one. Each id has a test that calls this."""
    (finding,) = found(app, finding_id, **limits)
    assert finding.what
    return finding


def mend(conn: Conn, finding: Finding) -> None:
    """Do what the remedy of a finding says, a line of SQL."""
    assert finding.remedy is not None
    for statement in finding.remedy.split("; "):
        conn.execute(statement.encode())


def execute(dsn: str, *statements: str) -> None:
    """Run statements, each by itself."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())
