"""The history of a run as plain values: everything that the checker reads."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from . import growing_shop
from .journal import read
from .turns import Drift
from .woven import DEAD, FINISHED, LIVE, Row, Woven

__all__ = ["DEAD", "FINISHED", "LIVE", "Row"]

COUNTERS = """
select u.name, u.taken - f.freed as running
from pgqueue.limit_use u join pgqueue.limit_freed f on f.name = u.name"""


def moment(text: str) -> datetime:
    """Return a timestamp that Postgres wrote into JSON."""
    return datetime.fromisoformat(text)


@dataclass(frozen=True)
class Event:
    """One version of a row, as the trigger saw it. `process`: which process of the run wrote it."""

    seq: int
    xid: int
    at: datetime
    app: str | None
    process: str | None
    table: str
    op: str
    old: Row | None
    new: Row | None


def _plain(row: Row | None) -> str | None:
    return None if row is None else "pending" if row.get("waits_for") == "turn" else row["state"]


@dataclass(frozen=True)
class Step:
    """One move of a job: from its row before to its row after, whichever tables held them."""

    event: Event
    job: int
    old: Row | None
    new: Row | None

    @property
    def edge(self) -> tuple[str | None, str | None]:
        """The states it moved between."""
        return (self.old["state"] if self.old else None, self.new["state"] if self.new else None)

    @property
    def plain_edge(self) -> tuple[str | None, str | None]:
        """The states it moved between, of a metered job as if it were a plain one: where it waits for its turn, others
        are pending."""
        return _plain(self.old), _plain(self.new)

    @property
    def is_claim(self) -> bool:
        """Whether it starts an attempt."""
        if self.new is None or self.new["state"] != "running":
            return False
        old = self.old or {"state": None}
        return old["state"] != "running" or any(old[key] != self.new[key] for key in ("lease", "worker_id"))

    @property
    def is_rescue(self) -> bool:
        """Whether the job was taken from a worker that others believed dead."""
        return bool(self.old and self.new and self.new["crash_count"] > self.old["crash_count"])


@dataclass
class Operation:
    """A producer's transaction and how it ended for the producer: ok, fail, or info if that is unknown."""

    op: str
    kind: str
    tasks: list[str]
    digests: list[str]
    outcome: str = "info"
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Probe:
    """A measured wait: what had to happen, how long it took (None: it did not happen), and the bound."""

    number: str
    what: str
    seconds: float | None
    bound: float

    @property
    def kept(self) -> bool:
        """Whether it happened in time."""
        return self.seconds is not None and self.seconds <= self.bound


@dataclass
class History:
    """All sources of the evidence."""

    events: list[Event] = field(default_factory=list)
    limits: list[Event] = field(default_factory=list)  # changes of rules
    workers: list[Event] = field(default_factory=list)
    transitions: list[Row] = field(default_factory=list)
    final: list[Row] = field(default_factory=list)  # rows of the three tables, with `table`
    fires: list[Row] = field(default_factory=list)
    effects: list[Row] = field(default_factory=list)
    orders: dict[str, int] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    starts: list[Row] = field(default_factory=list)
    ends: list[Row] = field(default_factory=list)
    cancels: dict[int, str | None] = field(default_factory=dict)  # a job whose cancellation was requested: the answer
    retried: set[int] = field(default_factory=set)  # jobs that an operator asked to run again
    exact: list[Row] = field(default_factory=list)  # effects written in ctx.transaction()
    stale: list[tuple[str, int, int]] = field(default_factory=list)  # process, job, lease that was refused
    acknowledged: dict[int, datetime] = field(default_factory=dict)  # when it was certain that a job was committed
    drifts: list[Drift] = field(default_factory=list)
    looks: int = 0  # at the counters
    counters: dict[str, int] = field(default_factory=dict)  # of limits, at the end
    reconciled: list[str] = field(default_factory=list)  # what workers said of counters that were wrong
    strays: int = 0
    reborn: int = 0
    probes: list[Probe] = field(default_factory=list)
    hygiene: dict[str, int] = field(default_factory=dict)
    exits: list[Any] = field(default_factory=list)
    quiescent: bool = True
    woven: Woven = field(default_factory=Woven)
    missing: dict[str, str] = field(default_factory=dict)  # acts of weavers, and their effects

    def apart(self) -> "History":
        """The same history without the jobs of workflows, durable tasks and events."""
        others = {row["id"] for row in self.woven.jobs if row["task"] in growing_shop.TASKS}
        events = [event for event in self.events if (event.new or event.old or {})["id"] not in others]
        return replace(
            self,
            events=events,
            transitions=[row for row in self.transitions if row["job_id"] not in others],
            final=[row for row in self.final if row["id"] not in others],
        )

    def steps(self) -> dict[int, list[Step]]:
        """The moves of each job in order: a delete and the insert that follows it in its transaction are one."""
        steps: dict[int, list[Step]] = defaultdict(list)
        leaving: dict[int, Event] = {}
        for event in self.events:
            job = (event.new or event.old or {})["id"]
            left = leaving.get(job)
            if left is not None and (event.op != "I" or event.xid != left.xid):
                steps[job].append(Step(left, job, left.old, None))
                left = leaving.pop(job) and None
            if event.op == "D":
                leaving[job] = event
            else:
                steps[job].append(Step(event, job, left.old if left else event.old, event.new))
                leaving.pop(job, None)
        for job, left in leaving.items():
            steps[job].append(Step(left, job, left.old, None))
        return steps


def load(dsn: str, directory: Path) -> History:
    """Collect the evidence from the database and from the journals and logs of a directory."""
    history = History()
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        every = conn.execute(
            "select seq, xid, clock as at, app, process, tbl as table, op, old, new from stress.chk_log order by seq"
        )
        for row in every:
            event = Event(**row)
            {"worker": history.workers, "limit_rule": history.limits}.get(event.table, history.events).append(event)
        history.transitions = _rows(conn, "select * from pgqueue.transition")
        for table in (LIVE, FINISHED, DEAD):
            history.final += _rows(conn, f"select '{table}' as table, j.* from pgqueue.{table} j")
        history.fires = _rows(conn, "select * from pgqueue.schedule_fire order by schedule, tick")
        history.effects = _rows(conn, "select job_id, attempt, process from stress.effect")
        history.exact = _rows(conn, "select job_id, attempt from stress.exact")
        history.counters = {row["name"]: row["running"] for row in _rows(conn, COUNTERS)}
        history.orders = {row["op"]: row["jobs"] for row in _rows(conn, "select op, jobs from stress.orders")}
    for line in read(iter(sorted(directory.glob("jobs-*.jsonl")))):
        (history.starts if line["kind"] == "start" else history.ends).append(line)
    for line in read(iter(sorted(directory.glob("ops-*.jsonl")))):
        if line["type"] == "cancel":
            history.cancels[line["job"]] = line.get("outcome") or history.cancels.get(line["job"])
        elif line["type"] == "retry":
            history.retried.add(line["job"])
        elif line["type"] == "invoke":
            history.operations[line["op"]] = Operation(line["op"], line["kind"], line["tasks"], line["digests"])
        else:
            operation = history.operations[line["op"]]
            operation.outcome, operation.ids = line["type"], line.get("ids", [])
            if line["type"] == "ok":
                at = datetime.fromtimestamp(line["at"], UTC)
                history.acknowledged.update(dict.fromkeys(operation.ids, at))
    _read_logs(history, sorted(directory.glob("*.log")))
    return history


def _rows(conn: psycopg.Connection[Row], statement: str) -> list[Row]:
    return conn.execute(statement).fetchall()


_STALE = re.compile(r"job (\d+): lease (\d+) is lost")


def _read_logs(history: History, logs: Sequence[Path]) -> None:
    for path in logs:
        text = path.read_text(errors="replace")
        history.stale += [(path.stem, int(job), int(lease)) for job, lease in _STALE.findall(text)]
        history.reconciled += re.findall(r"the counter of .* said .*", text)
        history.strays += sum(int(count) for count in re.findall(r"released (\d+) jobs whose claim", text))
        history.reborn += len(re.findall(r"was declared lost(?:: it drops| and goes on)", text))
