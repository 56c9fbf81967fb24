"""The report of a run: totals, coverage, violations."""

from collections import Counter
from collections.abc import Iterator

from pgqueue.jobs.lifecycle import TRANSITIONS

from .checker import Facts
from .history import History, Step
from .run import Result
from .violation import Violation


def report(result: Result, violations: list[Violation], seed: int) -> str:
    """Return the report of a run as text."""
    return "\n".join(_lines(result, violations, seed))


def totals(history: History) -> dict[str, int]:
    """Count jobs, events and faults."""
    facts = Facts(history)
    effects = Counter(effect["job_id"] for effect in history.effects)
    retried = {s.job for s in facts.all_steps if s.plain_edge == ("running", "pending") and not s.is_rescue}
    outcomes = Counter(operation.outcome for operation in history.operations.values())
    unclear = [operation.op for operation in history.operations.values() if operation.outcome == "info"]
    there = {facts.op_of(job) for job in facts.created}
    made = {(t["job_id"], t["lease"]) for t in history.transitions if t["from_state"] == "running"}
    kept = {(t["job_id"], t["lease"]) for t in history.transitions if t["reason"] == "rescued"}
    return {
        "jobs": len(facts.created),
        "attempts": sum(1 for step in facts.all_steps if step.is_claim),
        "transactions ok": outcomes["ok"],
        "transactions failed": outcomes["fail"],
        "transactions unclear": outcomes["info"],
        "unclear, found committed": sum(1 for op in unclear if op in there),
        "rescues": sum(1 for step in facts.all_steps if step.is_rescue),
        "stale writes refused": sum(1 for _, job, lease in history.stale if (job, lease) in kept),
        "own writes repeated": sum(1 for _, job, lease in history.stale if (job, lease) in made - kept),
        "stray claims released": history.strays,
        "workers declared lost that came back": history.reborn,
        "metered jobs": sum("$flow" in row["headers"] for row in facts.created.values()),
        "claims of metered jobs": sum("$flow" in s.new["headers"] for s in facts.all_steps if s.is_claim and s.new),
        "changes of limits": len(history.limits),
        "snapshots of counters": history.looks,
        "effects in ctx.transaction()": len(history.exact),
        "jobs somebody cancelled": len(history.cancels),
        "jobs that ran twice though no attempt failed (at-least-once)": sum(
            1 for job, count in effects.items() if count > 1 and job not in retried
        ),
    }


def edges(history: History) -> Counter[str]:
    """Count the verbs of the state machine that were exercised (M3)."""
    facts = Facts(history)
    return Counter(_verb(facts, step) for step in facts.all_steps if step.edge[0] != step.edge[1] or step.is_claim)


def _verb(facts: Facts, step: Step) -> str:
    told = facts.ended.get((step.job, (step.old or {}).get("lease"))) or {"reason": None, "error": None}
    match step.plain_edge:
        case (None, "pending"):
            return "enqueue"
        case ("pending", "running"):
            return "claim"
        case ("blocked", "running"):
            return "adopt"
        case ("pending", "blocked"):
            return "set_aside"
        case ("running", "pending") if step.is_rescue:
            return "rescue"
        case ("running", "failed") if step.is_rescue:
            return "rescue_spent"
        case ("running", "cancelled") if told["reason"] == "rescued":
            return "rescue_cancelled"
        case ("pending" | "blocked", "cancelled"):
            return "expire" if (step.new or {}).get("reason") == "expired" else "cancel"
        case (source, "pending") if source in _BACK:
            return _BACK[source]
        case ("running", "pending") if told["reason"] == "released":
            return "release"
        case ("running", "pending"):
            return "retry" if told["error"] else "snooze"
        case ("running", target) if target in _ENDS:
            return _ENDS[target]
        case (source, target):
            return f"{source} -> {target}"


_BACK = {"failed": "redrive", "cancelled": "restore", "blocked": "bring_back"}
_ENDS = {"succeeded": "succeed", "failed": "dead_letter", "cancelled": "withdraw", "blocked": "park"}


def _lines(result: Result, violations: list[Violation], seed: int) -> Iterator[str]:
    history = result.history
    yield f"seed {seed}"
    yield "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(result.faults.items(), key=_number))
    if result.recovery:
        slowest, mean = max(result.recovery), sum(result.recovery) / len(result.recovery)
        yield f"after a fault, five jobs had ended within {mean:.1f} s on average, {slowest:.1f} s at most"
    for what, count in totals(history).items():
        yield f"{what}: {count}"
    done = edges(history)
    yield "moves (M3): " + ", ".join(f"{verb} {count}" for verb, count in sorted(done.items()))
    yield "moves not exercised: " + (", ".join(sorted(set(TRANSITIONS) - set(done))) or "none")
    ends = Counter((row["task"], row["state"]) for row in history.final)
    yield "ends: " + ", ".join(f"{task} {state} {count}" for (task, state), count in sorted(ends.items()))
    for number in sorted({probe.number for probe in history.probes}):
        took = [probe.seconds for probe in history.probes if probe.number == number and probe.seconds is not None]
        yield f"{number}: {len(took)} waits, the longest {max(took, default=0):.1f} s"
    yield "acts and effects that are missing: " + (", ".join(f"{k} {v}" for k, v in history.missing.items()) or "none")
    fires = Counter(fire["outcome"] for fire in history.fires)
    yield "ticks: " + (", ".join(f"{outcome} {count}" for outcome, count in sorted(fires.items())) or "none")
    yield "processes that ended: " + str(dict(Counter(f"{end.kind}: {end.planned}" for end in history.exits)))
    found = Counter(violation.number for violation in violations)
    yield f"lost {found['S1']}, ghosts {found['S2']}, violations {len(violations)} {dict(found)}"
    for violation in violations[:40]:
        yield f"VIOLATION {violation}"


def _number(item: tuple[str, int]) -> int:
    return int(item[0][1:])
