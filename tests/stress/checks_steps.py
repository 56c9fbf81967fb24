"""Checks of durable steps (ST) and of published events (EV): each returns the violations that the rows prove."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from .violation import Violation
from .woven import TERMINAL, Row, Woven
from .woven_shop import CALLS, TOPICS

PROMPT = timedelta(seconds=1)  # how old a look may be that does not see what was committed before
LATE = timedelta(milliseconds=50)  # between the end of an attempt and its log


@dataclass
class Record:
    """A step as it was recorded, and what became of it. `gone`: when it was forgotten."""

    row: Row
    at: datetime
    over: Row | None = None  # of a wait: its row once it is over
    over_at: datetime | None = None
    gone: datetime | None = None

    @property
    def value(self) -> object:
        return (self.over or self.row)["value"]


class Steps:
    """The records of each step, by job and name, in order."""

    def __init__(self, woven: Woven) -> None:
        self.woven = woven
        self.records: dict[tuple[int, str], list[Record]] = defaultdict(list)
        self.changed: list[Violation] = []
        for line in woven.log:
            self._read(line)

    def _read(self, line: Row) -> None:
        row = line["new"] or line["old"]
        mine = self.records[row["job_id"], row["name"]]
        if line["op"] == "I":
            mine.append(Record(row, datetime.fromisoformat(row["at"])))
            return
        if line["op"] == "D":
            mine[-1].gone = line["at"]
            return
        changed = {key for key in row if line["old"][key] != row[key]}
        number = {"signal": "ST4", "event": "ST4", "call": "CA2"}.get(row["kind"], "ST1")
        if changed == {"undo"} and row["undo"] is None:
            return
        if line["old"]["done"] or not row["done"] or not changed <= {"done", "timed_out", "value", "event_id"}:
            self.changed.append(Violation(number, f"step {row['name']} of job {row['job_id']} changed: {changed}"))
        else:
            mine[-1].over, mine[-1].over_at = row, line["at"]

    def of(self, kinds: Iterable[str]) -> Iterator[tuple[int, str, Record]]:
        """Every record of these kinds."""
        for (job, name), records in self.records.items():
            for record in records:
                if record.row["kind"] in kinds:
                    yield job, name, record


def claims_of(woven: Woven, job: int) -> dict[int, datetime]:
    """When each lease of a job began."""
    return {move["lease"]: move["at"] for move in woven.moves_of.get(job, []) if move["to_state"] == "running"}


def recorded(steps: Steps) -> Iterator[Violation]:
    """ST1: a record is made under a lease that is valid until its commit, never changes, and its function does not run
    in an attempt that began afterwards; what the task gets is what is recorded."""
    yield from steps.changed
    for job, name, record in steps.of(("value", "sleep", "signal", "event", "call")):
        lease = record.row["lease"]
        claims = claims_of(steps.woven, job)
        left = [move for move in steps.woven.moves_of.get(job, []) if move["from_state"] == "running"]
        over = [move["at"] for move in left if move["lease"] == lease]
        if lease not in claims or claims[lease] > record.at or any(at < record.at for at in over):
            yield Violation("ST1", f"step {name} of job {job} was recorded at {record.at} under lease {lease}: {over}")
    for job, deeds in steps.woven.deeds_of.items():
        claims = claims_of(steps.woven, job)
        for deed in deeds:
            yield from _replayed(steps, job, deed, claims.get(deed["lease"]))


def _replayed(steps: Steps, job: int, deed: Row, began: datetime | None) -> Iterator[Violation]:
    """Whether a deed of a job is right, by what was recorded when its attempt began."""
    name, records = deed["name"], steps.records.get((job, deed["name"]), [])
    if deed["kind"] == "did" and began is not None:
        for record in records:
            if record.at < began and (record.gone is None or record.gone > deed["at"]):
                yield Violation("ST1", f"step {name} of job {job} ran again under lease {deed['lease']}")
    if (
        deed["kind"] == "saw"
        and not name.startswith(CALLS)
        and deed["value"] not in [each.value for each in records if each.at < deed["at"]]
    ):
        yield Violation("ST1", f"job {job} saw of {name} what is not recorded: {deed['value']}")


def transactions(steps: Steps) -> Iterator[Violation]:
    """ST2: of steps in a transaction there are as many effects as records."""
    made = Counter((deed["job_id"], deed["name"], deed["value"]) for deed in steps.woven.deeds if deed["kind"] == "tx")
    kept = Counter((job, name, each.value) for job, name, each in steps.of(("value",)) if name.startswith("tx"))
    for job, name, value in (made - kept).keys() | (kept - made).keys():
        counts = f"{made[job, name, value]} effects and {kept[job, name, value]} records"
        yield Violation("ST2", f"step {name} of job {job} has {counts}")


def sleeps(steps: Steps) -> Iterator[Violation]:
    """ST3: a sleep does not end before its time."""
    for job, name, record in steps.of(("sleep",)):
        wakes = datetime.fromisoformat(record.row["wake_at"])
        for deed in steps.woven.deeds_of.get(job, []):
            is_of_it = deed["kind"] == "saw" and deed["name"] == name and record.at < deed["at"]
            if is_of_it and (record.gone is None or deed["at"] < record.gone) and deed["at"] < wakes:
                yield Violation("ST3", f"job {job} woke from {name} at {deed['at']}, before {wakes}")


def signals(steps: Steps) -> Iterator[Violation]:
    """ST4: a signal is taken at most once, and none is missed that was there before a wait ended, or went to sleep."""
    sent: dict[int, dict[int, datetime]] = defaultdict(dict)  # by job and number: when it was sent
    for deed in steps.woven.deeds:
        if deed["kind"] == "sent":
            sent[deed["job_id"]][deed["value"]] = deed["at"]
    taken: dict[int, dict[int, datetime]] = defaultdict(dict)
    for job, name, record in steps.of(("signal",)):
        if record.over is not None and record.over_at is not None and not record.over["timed_out"]:
            number = record.over["value"]
            if number in taken[job]:
                yield Violation("ST4", f"signal {number} to job {job} was taken twice, now by {name}")
            taken[job][number] = record.over_at
    for job, name, record in steps.of(("signal",)):
        if record.over is not None and record.over_at is not None and record.over["timed_out"]:
            for number, at in sent[job].items():
                if at + PROMPT < record.over_at <= taken[job].get(number, record.over_at):
                    yield Violation("ST4", f"{name} of job {job} timed out, and signal {number} was there since {at}")
    yield from _slept_through(steps)
    yield from _events_taken(steps)


def _slept_through(steps: Steps) -> Iterator[Violation]:
    """A job that sleeps on beside a signal that it waits for."""
    if not steps.woven.quiescent:
        return
    mail = {(letter["job_id"], letter["name"]) for letter in steps.woven.mailbox if letter["seen"]}
    for job, name, record in steps.of(("signal",)):
        row = steps.woven.job.get(job)
        is_open = record.over is None and record.gone is None
        if row is not None and row["state"] not in TERMINAL and is_open and (job, record.row["waits"]) in mail:
            yield Violation("ST4", f"job {job} waits in {name}, and the signal is in its mailbox")


def _events_taken(steps: Steps) -> Iterator[Violation]:
    taken = Counter(
        (job, each.over["event_id"]) for job, _, each in steps.of(("event",)) if each.over and each.over["event_id"]
    )
    for (job, event), count in taken.items():
        lives = 1 + sum(move["from_state"] == "failed" for move in steps.woven.moves_of.get(job, []))
        if count > lives:
            yield Violation("ST4", f"job {job} took event {event} {count} times")


def asleep(steps: Steps) -> Iterator[Violation]:
    """ST5: a job that sleeps or waits has no worker: its task does nothing under a lease that fell asleep."""
    for job, deeds in steps.woven.deeds_of.items():
        fell = {move["lease"]: move["at"] for move in steps.woven.moves_of.get(job, []) if move["reason"] == "asleep"}
        for deed in deeds:
            if deed["lease"] in fell and deed["at"] > fell[deed["lease"]] + LATE and deed["kind"] != "sent":
                since = f"asleep since {fell[deed['lease']]}"
                yield Violation("ST5", f"job {job} did {deed['name']} at {deed['at']}, {since}")


def undos(steps: Steps) -> Iterator[Violation]:
    """ST6: what a job that ended badly had recorded is undone in reverse order, each step once to success."""
    chains: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in steps.woven.undos:
        chains[row["job_id"], row["lease"]].append(row)
    known = {(row["job_id"], row["number"]) for row in steps.woven.undos}
    for job, name, record in steps.of(("value",)):
        if record.row["undo"] is None or (job, record.row["number"]) in known:
            continue
        bad = [m for m in steps.woven.moves_of.get(job, []) if m["to_state"] in ("failed", "cancelled")]
        if any(move["at"] > record.at for move in bad):
            yield Violation("ST6", f"job {job} ended badly, and its step {name} is not undone")
    for (job, lease), rows in chains.items():
        yield from _chain(steps.woven, job, lease, sorted(rows, key=lambda row: -row["number"]))


def _chain(woven: Woven, job: int, lease: int, chain: list[Row]) -> Iterator[Violation]:
    for row in chain:
        moves = woven.moves_of.get(row["undo_job_id"] or 0, [])
        done = sum(move["to_state"] == "succeeded" for move in moves)
        if done > 1 or done != (row["ended_at"] is not None) or (woven.quiescent and not done):
            yield Violation("ST6", f"step {row['step']} of job {job} (lease {lease}) is undone {done} times")
    for later, earlier in pairwise(chain):
        began = [move["at"] for move in woven.moves_of.get(earlier["undo_job_id"] or 0, [])][:1]
        if began and (later["ended_at"] is None or began[0] < later["ended_at"]):
            order = f"{earlier['step']} was undone before {later['step']}"
            yield Violation("ST6", f"job {job} (lease {lease}): {order}")


def events(steps: Steps) -> Iterator[Violation]:
    """EV: an event makes one job of each of its subscribers, which succeeds once, and one that was rolled back none."""
    heard: dict[tuple[int, str], set[int]] = defaultdict(set)
    for deed in steps.woven.deeds:
        if deed["kind"] == "heard":
            heard[deed["value"], deed["name"]].add(deed["job_id"])
    topics = {row["id"]: row["topic"] for row in steps.woven.events}
    for (event, task), jobs in heard.items():
        if event not in topics or task not in TOPICS.get(topics[event], ()):
            yield Violation("EV", f"{task} heard of event {event}, which is not for it ({topics.get(event)})")
        if len(jobs) > 1:
            yield Violation("EV", f"event {event} made {len(jobs)} jobs of {task}: {sorted(jobs)}")
    for event, topic in topics.items() if steps.woven.quiescent else ():
        for task in TOPICS.get(topic, ()):
            if not heard[event, task]:
                yield Violation("EV", f"{task} has not heard of event {event} ({topic})")


Check = Callable[[Steps], Iterator[Violation]]
CHECKS: tuple[Check, ...] = (recorded, transactions, sleeps, signals, asleep, undos, events)
