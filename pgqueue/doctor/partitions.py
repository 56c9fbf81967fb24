"""The daily partitions of the histories."""

from collections.abc import Iterator
from datetime import timedelta

from pgqueue.doctor.check import Exam, finds
from pgqueue.doctor.finding import Finding, Kind, Severity
from pgqueue.queries.partitions import LARGE

PARTITION_MISSING = Kind(
    "partition-missing", Severity.ERROR,
    "Today or tomorrow has no partition: rows go to the default partition.", "`pgqueue migrate`, as the owner",
)  # fmt: skip
FEW_PARTITIONS = Kind(
    "partitions-few", Severity.WARN,
    "Fewer than three days ahead have partitions: neither workers nor `pgqueue migrate` have made them lately.",
    "`pgqueue migrate`, as the owner",
)  # fmt: skip
DEFAULT_USED = Kind(
    "default-partition-used", Severity.WARN,
    "A default partition has rows, so Postgres makes no partition of their days until they are moved.",
    "`pgqueue repair partitions`, as the owner",
)  # fmt: skip
DEFAULT_LARGE = Kind(
    "default-partition-large", Severity.ERROR,
    "A default partition is beyond 16 MB, so no partition is made beside it.",
    "`pgqueue repair partitions`, as the owner",
)  # fmt: skip


@finds(PARTITION_MISSING, FEW_PARTITIONS)
def days(exam: Exam) -> Iterator[Finding]:
    """Look which of the coming days have no partition."""
    today = exam.ask(exam.queries.doctor.clock()).date()  # a partition is a day of UTC, as this is
    for state in exam.ask(exam.queries.partitions.states()):
        if state.first_missing is None:
            continue
        ahead = (state.first_missing - today) // timedelta(days=1)
        if ahead < exam.limits.days_ahead + 1:
            kind = PARTITION_MISSING if ahead <= 1 else FEW_PARTITIONS
            what = f"{state.history} has no partition of {state.first_missing}, {ahead} days from today"
            yield kind.found(what, "pgqueue migrate")


@finds(DEFAULT_USED, DEFAULT_LARGE)
def defaults(exam: Exam) -> Iterator[Finding]:
    """Look into the default partitions."""
    sizes = {state.history: state.default_bytes for state in exam.ask(exam.queries.partitions.states())}
    used = exam.ask(exam.queries.doctor.used_defaults()) if any(sizes.values()) else []
    for history in used:
        large = sizes[history] > LARGE
        what = f"{history}_default has rows, {sizes[history] / 1024 / 1024:.1f} MB"
        yield (DEFAULT_LARGE if large else DEFAULT_USED).found(what, "pgqueue repair partitions")


CHECKS = (days, defaults)
