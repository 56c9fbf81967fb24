"""The checker: returns the violations in a history, each with the number of the invariant and its evidence.

The numbers are those of the project's list: S is safety, L bounded liveness.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from pgqueue.jobs.lifecycle import TRANSITIONS
from pgqueue.worker.claiming.producer import MAX_CLAIM

from .history import History, Row, Step, moment
from .violation import Violation

# How long a worker may go on claiming after others have declared it lost: until its own next beat, when cut off for a
# few seconds at most.
ZOMBIE = timedelta(seconds=8)
TERMINAL = ("succeeded", "failed", "cancelled")


class Facts:
    """A history with the indexes that several checks want."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.steps = history.steps()
        self.all_steps = sorted((s for steps in self.steps.values() for s in steps), key=lambda s: s.event.seq)
        self.final: dict[int, list[Row]] = defaultdict(list)
        for row in history.final:
            self.final[row["id"]].append(row)
        self.created = {job: steps[0].new for job, steps in self.steps.items() if steps[0].new is not None}
        self.ended = {(t["job_id"], t["lease"]): t for t in history.transitions if t["from_state"] == "running"}
        self.process_of = {e.new["id"]: e.process for e in history.workers if e.new and e.op == "I"}
        self.slots = {e.new["id"]: e.new["slots"] for e in history.workers if e.new and e.op == "I"}
        self.gone: dict[str, int] = {}
        self.lost_at: dict[str, datetime] = {}
        for event in history.workers:
            row = event.old or event.new or {}
            if event.op == "D" or (event.new and event.new["lost_at"]):
                self.gone.setdefault(row["id"], event.seq)
                self.lost_at.setdefault(row["id"], event.at)

    def op_of(self, job: int) -> str:
        """Which operation the job belongs to, by its arguments."""
        return str(self.created[job]["args"].get("op"))


Check = Callable[[Facts], Iterator[Violation]]


def check(history: History) -> list[Violation]:
    """Return every violation that the history proves."""
    from . import checks_ends, checks_turns, checks_woven  # the other parts; they import the values above

    facts = Facts(history.apart())
    checks: Iterable[Check] = (*CHECKS, *checks_ends.CHECKS, *checks_turns.CHECKS)
    found = [violation for one in checks for violation in one(facts)]
    return found + checks_woven.check_woven(history.woven)


def _tell(step: Step) -> str:
    def row(values: Row | None) -> str:
        if values is None:
            return "none"
        return f"{values['state']}(attempt {values['attempt']}, lease {values['lease']}, worker {values['worker_id']})"

    event = step.event
    return f"job {step.job}, seq {event.seq} by {event.process} [{event.app}]: {row(step.old)} -> {row(step.new)}"


def continuous(facts: Facts) -> Iterator[Violation]:
    """H: each move starts from where the last one ended; else the history itself cannot be trusted."""
    for steps in facts.steps.values():
        for before, after in pairwise(steps):
            if after.old is None or before.new is None:
                continue
            if [before.new[k] for k in ("state", "lease", "attempt")] != [
                after.old[k] for k in ("state", "lease", "attempt")
            ]:
                yield Violation("H", f"versions do not join: {_tell(before)}; {_tell(after)}")


def single_owner(facts: Facts) -> Iterator[Violation]:
    """S5: running intervals never overlap, the lease goes up by one with each claim, and stays otherwise."""
    for step in facts.all_steps:
        if step.old is None or step.new is None:
            continue
        raised = step.new["lease"] - step.old["lease"]
        if step.is_claim and step.edge[0] == "running":
            yield Violation("S5", f"claimed while it ran: {_tell(step)}")
        if raised != int(step.is_claim):
            yield Violation("S5", f"the lease moved by {raised}: {_tell(step)}")
        if step.is_claim and step.event.process != facts.process_of.get(step.new["worker_id"]):
            yield Violation("S5", f"claimed for another process: {_tell(step)}")
    claims = Counter(
        (s.job, s.new["attempt"], facts.process_of.get(s.new["worker_id"])) for s in facts.all_steps if s.is_claim
    )
    starts = Counter((line["job"], line["attempt"], line["process"]) for line in facts.history.starts)
    for (job, attempt, process), count in starts.items():
        if count > claims[job, attempt, process]:
            claimed = claims[job, attempt, process]
            yield Violation("S5", f"job {job} attempt {attempt} started {count} times in {process}, claimed {claimed}")


def legal_claims(facts: Facts) -> Iterator[Violation]:
    """S6: claimed when due, with an attempt left, from a claimable state; no more than slots and what may be ahead."""
    taken: Counter[tuple[int, str]] = Counter()
    for step in facts.all_steps:
        if not step.is_claim or step.old is None or step.new is None:
            continue
        taken[step.event.xid, step.new["worker_id"]] += 1
        if step.old["state"] not in ("pending", "blocked"):
            yield Violation("S6", f"claimed from {step.old['state']}: {_tell(step)}")
        if step.old.get("waits_for") == "pause":
            yield Violation("FL7", f"claimed while it was set aside: {_tell(step)}")
        if moment(step.old["run_at"]) > step.event.at:
            yield Violation("S6", f"due {step.old['run_at']}, claimed {step.event.at.isoformat()}: {_tell(step)}")
        since = step.event.at - facts.lost_at.get(step.new["worker_id"], step.event.at)
        if since > ZOMBIE:
            yield Violation("L6", f"claimed by a worker that had been lost for {since}: {_tell(step)}")
        if step.old["attempt"] >= step.old["max_attempts"]:
            yield Violation("S6", f"claimed without an attempt left: {_tell(step)}")
    for (xid, worker), count in taken.items():
        if count > facts.slots.get(worker, 0) + MAX_CLAIM:
            yield Violation("S6", f"one claim (xid {xid}) took {count} jobs, the worker has {facts.slots.get(worker)}")


# Moves that only people ask for. A job that comes back from its end without having been asked to is a violation.
ASKED = {"redrive", "restore", "discard"}
BACK = {("failed", "pending"), ("cancelled", "pending")}
ALLOWED = {
    (source, move.target)
    for verb, move in TRANSITIONS.items()
    if verb not in ASKED
    for source in (move.sources or {None})
}


def state_machine(facts: Facts) -> Iterator[Violation]:
    """S7: only moves of the table in pgqueue.lifecycle; those that people ask for only where one did."""
    for step in facts.all_steps:
        if step.new is None:
            yield Violation("S18", f"removed and put nowhere: {_tell(step)}")
        elif step.plain_edge in BACK and step.job in facts.history.retried:
            continue
        elif step.plain_edge not in ALLOWED and step.edge[0] != step.edge[1]:
            yield Violation("S7", f"no such move: {_tell(step)}")
        elif step.edge[0] == step.edge[1] and step.edge[0] in TERMINAL:
            yield Violation("S7", f"a terminal row was changed: {_tell(step)}")


def fenced(facts: Facts) -> Iterator[Violation]:
    """S8: only the holder of the lease moves a running job; others only when its worker is lost (L2)."""
    for step in facts.all_steps:
        worker = (step.event.app or "").startswith("pgqueue worker")
        if step.edge[0] != "running" or step.old is None or step.is_claim or not worker:
            continue
        owner = step.old["worker_id"]
        told = facts.ended.get((step.job, step.old["lease"]))
        if step.is_rescue or (told and told["reason"] == "rescued"):
            if step.event.seq < facts.gone.get(owner, step.event.seq + 1):
                yield Violation("L2", f"taken from a worker that nobody had declared lost: {_tell(step)}")
        elif step.event.process != facts.process_of.get(owner):
            holder = facts.process_of.get(owner)
            yield Violation("S8", f"{step.event.process} moved a job that {holder} held: {_tell(step)}")
    for event in facts.history.workers:
        if event.op == "U" and event.old and event.new and event.new["lost_at"] and not event.old["lost_at"]:
            silent = moment(event.new["lost_at"]) - moment(event.old["heartbeat_at"])
            if silent < timedelta(seconds=event.old["lease_seconds"]):
                yield Violation("L2", f"worker {event.old['id']} declared lost {silent} after its beat")


def attempts(facts: Facts) -> Iterator[Violation]:
    """S10: charged in the claim, given back only by an end that is no failure, never above the limit; a job that is
    brought back has all of them again."""
    for step in facts.all_steps:
        if step.old is None or step.new is None:
            continue
        charged = step.new["attempt"] - step.old["attempt"]
        if step.new["attempt"] > step.new["max_attempts"]:
            yield Violation("S10", f"more attempts than allowed: {_tell(step)}")
        if step.is_claim:
            if charged != 1:
                yield Violation("S10", f"a claim charged {charged}: {_tell(step)}")
            continue
        if step.plain_edge in BACK:
            if step.new["attempt"]:
                yield Violation("S10", f"brought back without all of its attempts: {_tell(step)}")
            continue
        told = facts.ended.get((step.job, step.old["lease"]))
        failed = step.is_rescue or (told is not None and told["error"] is not None)
        if charged not in (0, -1) or (charged == -1 and (failed or step.edge[0] != "running")):
            yield Violation("S10", f"the attempt moved by {charged}: {_tell(step)}")


def ledger(facts: Facts) -> Iterator[Violation]:
    """S11: each move is logged once, with the lease it was made under; each claim has one end."""
    moves = [s for s in facts.all_steps if s.edge[0] != s.edge[1] or s.is_claim]  # not progress
    made = Counter((s.job, *s.edge, s.new["lease"]) for s in moves if s.new is not None)
    logged = Counter(
        (t["job_id"], t["from_state"], t["to_state"], t["lease"])
        for t in facts.history.transitions
        if t["from_state"] != t["to_state"] or t["to_state"] == "running"  # else it was promoted or edited
    )
    for move in (made - logged).keys() | (logged - made).keys():
        yield Violation("S11", f"job, from, to, lease {move}: made {made[move]} times, logged {logged[move]}")


CHECKS: tuple[Check, ...] = (continuous, single_owner, legal_claims, state_machine, fenced, attempts, ledger)
