"""The targets for the figures. The page shows a missed target as missed."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

from .results import US, Results

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt,
}  # fmt: skip
SIGN = {">=": "≥", ">": ">", "<=": "≤", "<": "<"}


@dataclass(frozen=True)
class Figure:
    """A metric of a case and a queue; its value is the median over the runs."""

    case: str
    metric: str = "jobs_s"
    who: str = US


@dataclass(frozen=True)
class Target:
    """A bound for a figure, or for its ratio to another (`against`)."""

    figure: Figure
    sign: str
    bound: float
    against: Figure | None = None
    unit: str = "times"

    @property
    def text(self) -> str:
        """The bound as the page prints it."""
        return f"{SIGN[self.sign]} {self.bound:g} {self.unit}".strip()


@dataclass(frozen=True)
class Judgement:
    """A target and the value that it judges; None if a figure was not measured. `mixed`: from two sessions."""

    target: Target
    value: float | None
    mixed: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if it was not measured."""
        return None if self.value is None else COMPARE[self.target.sign](self.value, self.target.bound)


def _peer(case: str, who: str, sign: str, bound: float, theirs: str | None = None) -> Target:
    return Target(Figure(case), sign, bound, Figure(theirs or case, who=who))


def _ratio(case: str, against: str, bound: float) -> Target:
    return Target(Figure(case), ">=", bound, Figure(against))


def _own(case: str, metric: str, sign: str, bound: float, unit: str) -> Target:
    return Target(Figure(case, metric), sign, bound, None, unit)


TARGETS = (
    _peer("c", "graphile:batch", ">=", 0.8),
    _peer("c", "pgboss", ">", 1.0),
    _peer("c", "pgqueuer", ">=", 2.0),
    _peer("c", "procrastinate", ">=", 25.0),
    _peer("c0", "graphile:batch", ">", 1.0, "c"),
    _ratio("d", "c", 1.2),
    _ratio("ct", "c", 0.5),
    _ratio("ct100", "c", 0.5),
    _peer("b", "graphile:batch", ">", 1.0),
    _peer("b", "pgboss", ">", 1.0),
    _peer("b", "pgqueuer", ">", 1.0),
    _peer("b", "procrastinate", ">", 1.0),
    _ratio("b", "b-copy", 0.6),
    _ratio("a", "a-hand", 0.85),
    *(_own(case, "ratio", "<=", 1.6, "times") for case in ("k", "k-one", "k-lent")),
    _ratio("n", "n-never", 0.9),
    _own("e", "p50_ms", "<=", 3, "ms"),
    _own("e", "p99_ms", "<=", 15, "ms"),
    _own("e1000", "p99_ms", "<=", 50, "ms"),
    *(_own(case, "ratio", ">=", 0.9, "") for case in ("f", "f-reader", "f-writer")),
    _ratio("f-reader", "f", 0.9),
    _ratio("f-writer", "f", 0.9),
    _own("f0", "ratio", ">=", 0.9, ""),
    _ratio("g", "c", 0.9),
    _ratio("g10", "c", 0.9),
    *(
        _own(case, "ratio", ">=", bound, "of plain")
        for case, bound in (("q-loose", 0.85), ("q-fair", 0.75), ("q-tenant", 0.5), ("q-own", 0.35), ("q-behind", 0.95))
    ),
    _own("unused", "ratio", ">=", 0.98, "of before"),
    _own("q-one", "jobs_s", ">=", 400, "jobs/s"),
    _own("q-one", "hand_p50_ms", "<=", 3, "ms"),
    _own("q-rate", "percent", ">=", 97, "%"),
    _own("q-rate", "over", "<=", 0, "windows over"),
    _own("q-new", "p99_ms", "<=", 150, "ms"),
    _own("q-slots", "percent", ">=", 90, "%"),
    _own("q-pinned", "ratio", ">=", 0.9, ""),
    _own("q-why", "why_ms", "<=", 20, "ms"),
    _own("s-chain", "link_p50_ms", "<=", 4, "ms"),
    _own("s-chains", "ratio", ">=", 0.5, "of plain"),
    _own("s-group", "ratio", ">=", 0.85, "of plain"),
    _own("s-group", "after_ms", "<=", 20, "ms"),
    _own("s-fanin", "ratio", ">=", 0.9, "of plain"),
    _own("s-pinned", "ratio", ">=", 0.9, ""),
    _own("s-stream", "seconds", "<=", 15, "s"),
    _own("s-graph", "insert_ms", "<=", 300, "ms"),
    _own("s-cascade", "skipped_ms", "<=", 1000, "ms"),
    _own("s-cascade", "resolve_p99_ms", "<=", 20, "ms"),
    _own("s-cascade", "retry_ms", "<=", 1000, "ms"),
    _own("s-sleepers", "ratio", ">=", 0.95, "of plain"),
    _own("s-steps", "steps_s", ">=", 15_000, "steps/s"),
    _own("s-step", "step_ms", "<=", 0.4, "ms"),
    _own("s-replay", "replay_ms", "<=", 20, "ms"),
    _own("s-signal", "p50_ms", "<=", 10, "ms"),
    _own("s-signal", "p99_ms", "<=", 100, "ms"),
    _own("o-metrics", "overhead_percent", "<", 2, "%"),
    _own("o-traced-1ms", "overhead_percent", "<", 3, "%"),
    _own("l21", "ratio", "<=", 2, ""),
    _own("w", "wal_bytes", "<=", 2000, "bytes"),
    _own("m", "rss_percent", "<=", 5, "%"),
    _own("i", "cpu_percent", "<", 1, "%"),
    _own("i", "statements_s", "<=", 2, "/s"),
)


def judge(results: Results, target: Target) -> Judgement:
    """Judge the results by a target."""
    figure, against = target.figure, target.against
    together = compared(results, target)
    found = (together or results).summary(figure.case, figure.metric, figure.who)
    if found is None:
        return Judgement(target, None)
    if against is None:
        return Judgement(target, found.median)
    other = (together or results).summary(against.case, against.metric, against.who)
    if other is None or not other.median:
        return Judgement(target, None)
    return Judgement(target, found.median / other.median, together is None)


def compared(results: Results, target: Target) -> Results | None:
    """Return the session that has both figures of a target; None if none has, or the target compares nothing."""
    if target.against is None:
        return None
    return results.together(*((figure.case, figure.who) for figure in (target.figure, target.against)))
