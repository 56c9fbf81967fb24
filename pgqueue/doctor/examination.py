"""The examination: every check on one connection, and what they found, the worst first."""

from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from difflib import get_close_matches

from pgqueue.doctor.catalogue import CHECKS, KINDS
from pgqueue.doctor.check import GENERAL, Check, Exam, Needs, Patient
from pgqueue.doctor.finding import Finding, Report
from pgqueue.doctor.limits import Limits
from pgqueue.errors import InvalidOption

NAME = "pgqueue doctor"


def this_clock() -> datetime:
    """Return the time by this machine's clock."""
    return datetime.now(UTC)


def examine(
    app: Patient,
    only: Collection[str] = (),
    limits: Limits = Limits(),  # noqa: B008 - a value, and frozen
    clock: Callable[[], datetime] = this_clock,
) -> Report:
    """Make every check, or only those that may have one of the findings `only`; return what they found.

    Raises InvalidOption for an id that no finding has, and DatabaseUnreachable.
    """
    for each in set(only) - {kind.id for kind in KINDS}:
        close = get_close_matches(each, [kind.id for kind in KINDS], 1)
        hint = f"did you mean {close[0]}?" if close else "docs/doctor.md lists them all"
        raise InvalidOption(f"no finding has the id {each!r}: {hint}")
    exam = Exam(app, limits, clock, app.database.connect(NAME))
    try:
        installed = exam.ask(app.queries.schema.has_version())
        there = {Needs.SERVER: True, Needs.TABLES: installed, Needs.TASKS: installed and bool(app.tasks.names())}
        wanted = [check for check in CHECKS if not only or _may_find(check, only)]
        checks = [check for check in wanted if there[check.needs]]
        findings = [finding for check in checks for finding in _findings(check, exam, only)]
    finally:
        exam.conn.close()  # another one than at first, if that has ended in the middle
    return Report(len(checks), sorted(findings, key=lambda finding: -finding.severity.rank))


def _may_find(check: Check, only: Collection[str]) -> bool:
    return any(kind.id in only for kind in (*check.kinds, *GENERAL))


def _findings(check: Check, exam: Exam, only: Collection[str]) -> Iterator[Finding]:
    """Yield what a check finds. Where only some findings are wanted, so are those that say that it could not look."""
    if exam.conn.closed:  # the server, or somebody, has ended it: the others go on
        exam.conn = exam.app.database.connect(NAME)
    others = {kind.id for kind in check.kinds} - set(only) if only else set()
    yield from (finding for finding in check.run(exam) if finding.id not in others)
