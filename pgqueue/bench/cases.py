"""The cases, in the order they run: history comes right after the clean drain it is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgqueue.bench.draining import drain, history
from pgqueue.bench.enqueueing import enqueue_bulk, enqueue_one
from pgqueue.bench.latency import latency
from pgqueue.bench.measure import Result
from pgqueue.bench.pinned import pinned
from pgqueue.bench.setting import Setting
from pgqueue.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Case:
    """Something that is measured."""

    name: str
    title: str
    run: Callable[[Setting], Result]


CASES = (
    Case("enqueue", "enqueue one", enqueue_one),
    Case("bulk", "enqueue in bulk", enqueue_bulk),
    Case("latency", "latency at a rate", latency),
    Case("pinned", "flow under a pinned xmin", pinned),
    Case("drain", "drain, one worker", drain),
    Case("history", "drain with a history", history),
)


def chosen(names: Sequence[str]) -> list[Case]:
    """Return the cases of these names, or all where none is named, in the order they run."""
    known = [case.name for case in CASES]
    for name in names:
        if name not in known:
            raise InvalidOption(f"--only {name!r} is not one of {', '.join(known)}")
    return [case for case in CASES if not names or case.name in names]
