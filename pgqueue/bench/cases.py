"""The cases, in the order they run. History follows the drain of empty tables that it is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgqueue.bench.bench import Bench
from pgqueue.bench.draining import drain, history
from pgqueue.bench.enqueueing import enqueue_bulk, enqueue_one
from pgqueue.bench.latency import latency
from pgqueue.bench.measure import CaseResult
from pgqueue.bench.pinned import pinned
from pgqueue.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class BenchCase:
    """One thing that the bench measures: `name` is for --only, `title` for the report."""

    name: str
    title: str
    run: Callable[[Bench], CaseResult]


CASES = (
    BenchCase("enqueue", "enqueue one", enqueue_one),
    BenchCase("bulk", "enqueue in bulk", enqueue_bulk),
    BenchCase("latency", "latency at a rate", latency),
    BenchCase("pinned", "flow under a pinned xmin", pinned),
    BenchCase("drain", "drain, one worker", drain),
    BenchCase("history", "drain with a history", history),
)


def choose_cases(names: Sequence[str]) -> list[BenchCase]:
    """Return the cases with these names, or all if `names` is empty, in the order they run."""
    known = [case.name for case in CASES]
    for name in names:
        if name not in known:
            raise InvalidOption(f"--only {name!r} is not one of {', '.join(known)}")
    return [case for case in CASES if not names or case.name in names]
