"""What a storm over workflows must have done, and what must have come of it: a storm goes on until all of it is there.

An act counts as performed if there was something to do it to. Its effect is counted in the rows, for what a weaver
cancels may have just ended. So an act without an effect is missing, and so is one that nobody has performed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from .struck import FROZEN, KILLED
from .weaver import ALONE, BACK, MANY, OUTSIDE, ROLLED_BACK, SAGA, TWO, WHOLE

# What weavers perform, by the names that their journals have.
ACTS = (
    "weave", "begin saga", "publish", "grow", "stream", "grow alone", "signal", "cancel job", "cancel workflow",
    "retry workflow", "retry saga", "tell all", "release held", "add", "add block", "seal", "redrive alone",
    "redrive many", "redrive twice", "retry callback", "unpublish", ROLLED_BACK,
)  # fmt: skip
# What a storm strikes, and what came of it: jobs that ran on who was struck, and were rescued; transactions that were
# open and that the kill has rolled back.
FAULTS = ("kills", "freezes", "kills of weavers", KILLED, FROZEN, "transactions cut off")

# By effect, for which lines of the log it is counted.
_MOVES = {
    "jobs cancelled by hand": "reason = 'by hand'",
    "jobs of workflows cancelled by hand": "reason = 'all by hand'",
    "jobs expired": "reason = 'expired'",
    "jobs skipped": "reason = 'skipped'",
    "jobs stopped by a failure": "reason = 'a job failed'",
    "jobs of retried workflows back": f"reason = 'retried by {WHOLE}'",
    "jobs back with one letter": f"reason = 'redriven by {ALONE}'",
    "jobs back in bulk": f"reason like 'redriven by {MANY} (%'",
    "jobs back by one of two": f"reason like 'redriven by {TWO} (%'",
    "callbacks back alone": f"reason = 'redriven by {BACK}'",
    "sagas redriven": f"reason = 'redriven by {SAGA}'",
    "held letters redriven": "reason = 'redriven'",
    "held letters discarded": "reason = 'discarded'",
    "jobs that fell asleep": "reason = 'asleep'",
}
# By effect, how often a task has written down that it came about.
_DEEDS = {
    "jobs added by jobs": "kind = 'added'",
    "jobs added from outside ran": f"kind = 'run' and starts_with(name, '{OUTSIDE}')",
    "workflows that grew called back": "kind = 'over'",
    "events heard": "kind = 'heard'",
    "steps in transactions": "kind = 'tx'",
    "signals sent": "kind = 'sent'",
}
_OTHERS = {
    "signals taken": "from pgqueue.step where kind = 'signal' and done and not timed_out",
    "timeouts recorded": "from pgqueue.step where done and timed_out",
    "events taken": "from pgqueue.step where kind = 'event' and done and not timed_out",
    "calls answered": "from pgqueue.step where kind = 'call' and done",
    "steps undone": "from pgqueue.undo where ended_at is not null",
    "jobs replaced": "from pgqueue.workflow where replaces is not null and state = 'succeeded'",
    "open workflows sealed": "from pgqueue.workflow where name ~ '^[gb][.]o[.]' and id = root_id and sealed",
}
EFFECTS = (*_MOVES, *_DEEDS, *_OTHERS)


def _counts(conditions: Mapping[str, str]) -> str:
    return ", ".join(f"count(*) filter (where {condition})" for condition in conditions.values())


_COUNT = f"""
select m.*, d.*, {", ".join(f"(select count(*) {rows})" for rows in _OTHERS.values())}
from (select {_counts(_MOVES)} from pgqueue.transition) as m, (select {_counts(_DEEDS)} from stress.deed) as d"""


def effects(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """Count in the rows what has come of acts so far."""
    row = conn.execute(_COUNT).fetchone()
    return dict(zip(EFFECTS, row or (), strict=True))


def missing(counts: Mapping[str, int], demand: int, faults: Sequence[str] = FAULTS) -> dict[str, str]:
    """Return what is not there as often as is demanded, each with how often it is there: each act of weavers at least
    once, each effect and fault as often as `demand` says."""
    wanted = dict.fromkeys(ACTS, 1) | dict.fromkeys((*faults, *EFFECTS), demand)
    there = {what: counts.get(what, 0) for what in wanted}
    return {what: f"{there[what]} of {least}" for what, least in wanted.items() if there[what] < least}
