"""Retention: whether what has ended goes, and goes in time."""

from collections.abc import Iterator

from pgqueue.doctor.check import Exam, finds
from pgqueue.doctor.finding import Finding, Kind, Severity

RETENTION_OFF = Kind(
    "retention-off", Severity.WARN,
    "A general rule keeps succeeded or cancelled jobs, ticks, operations or activity for ever: the tables grow without "
    "end.", "`pgqueue retention set … 7d`, or `App(retention=…)`",
)  # fmt: skip
RETENTION_LATE = Kind(
    "retention-late", Severity.WARN,
    "A day has been older than every rule for two days, and nothing has emptied it: no worker prunes, its role owns "
    "nothing, or somebody holds the partition.", "`pgqueue prune`, as the owner",
)  # fmt: skip
MAY_BE_FOR_EVER = ("failed", "history")  # these grow with failures alone


@finds(RETENTION_OFF)
def rules(exam: Exam) -> Iterator[Finding]:
    """Look for general rules that keep for ever."""
    for rule in exam.ask(exam.queries.retention.rules()):
        if rule.age is None and (rule.queue, rule.task) == ("*", "*") and rule.name not in MAY_BE_FOR_EVER:
            what = f"retention of {rule.name} is for ever, set by {rule.set_by}"
            yield RETENTION_OFF.found(what, f"pgqueue retention set {rule.name} 30d")


@finds(RETENTION_LATE)
def late(exam: Exam) -> Iterator[Finding]:
    """Look for days that should have been emptied."""
    found = exam.ask(exam.queries.doctor.late_partitions(exam.limits.prune_seconds))
    for history, part, since, size in found:
        what = (
            f"partition {part} of {history}, {size / 1024 / 1024:.1f} MB, is older than every rule and was not emptied"
        )
        yield RETENTION_LATE.found(what, "pgqueue prune", since)


CHECKS = (rules, late)
