"""Checks of the turns of metered jobs (FL) in a history: its moves are in the order of the locks of their buckets."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from pgqueue.jobs.flow import Flow

from .checker import Check, Facts
from .history import Row, moment
from .metered_shop import PERIOD, STARTS
from .turns import NEVER, Move, Term, Turns, check_turns
from .violation import Violation

COMMIT = timedelta(seconds=1)  # between the change of a limit and its commit, at most


def turns(facts: Facts) -> Iterator[Violation]:
    """FL1 to FL9, as far as a log can prove them."""
    yield from check_turns(evidence(facts))


def evidence(facts: Facts) -> Turns:
    """Return what the history says of metered jobs."""
    history = facts.history
    flows = {job: flow for job, row in facts.created.items() if (flow := Flow.of_headers(row["headers"])) is not None}
    moves = [
        Move(step.event.at, step.job, *_edge(step.edge), (step.new or {}).get("reason"), _due(step.new))
        for step in facts.all_steps
        if step.job in flows
    ]
    return Turns(
        flows=flows,
        moves=moves,
        terms=_terms(facts),
        rates={"paced": (STARTS, PERIOD)},
        known=history.acknowledged,
        due={job: moment(row["run_at"]) for job, row in facts.created.items() if job in flows},
        attempts={row["id"]: (row["attempt"], row["lease"]) for row in history.final if row["id"] in flows},
        shut=frozenset({"shut_out"}),
        drifts=history.drifts,
        counters=history.counters if history.quiescent else {},
        reconciled=history.reconciled,
    )


def _edge(edge: tuple[str | None, str | None]) -> tuple[str | None, str]:
    return edge[0], edge[1] or "nowhere"


def _due(row: Row | None) -> datetime | None:
    return None if row is None else moment(row["run_at"])


def _terms(facts: Facts) -> dict[str, list[Term]]:
    terms: dict[str, list[Term]] = defaultdict(list)
    for event in facts.history.limits:
        if event.new is None:
            continue
        mine = terms[event.new["name"]]
        if mine:
            mine[-1] = Term(mine[-1].since, event.at + COMMIT, mine[-1].most)
        mine.append(Term(event.at, NEVER, event.new["max_running"]))
    return terms


CHECKS: tuple[Check, ...] = (turns,)
