"""`python -m tests.bench.profile`: where the time of one drained job goes, in Postgres and in Python.

Postgres: the CPU of each server process, as the system counts it. Each duty of a worker has a connection of its own, so
a server process stands for a statement. Python: the CPU of the worker and its children, divided among the functions in
which py-spy finds it, 500 times a second, in a run of its own. The server must run on this machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from . import machine, track
from .drain import emptied, filled
from .processes import ROOT, MeasuredWorker
from .server import BenchServer, StartedServer
from .session import BenchSession, BenchSettings

PROCESSES = "select pid, backend_type, application_name from pg_stat_activity where datname = %s or datname is null"
STATEMENTS = {
    "claim": "claim: `claim_beyond`, `claim`, `next_due`, `adopt`", "resolve": "resolve: `resolve`",
    "chores": "cancellations, rescue, sweep", "heartbeat": "heartbeat", "full scan": "`claim`, beside the claims",
    "listen": "LISTEN",
}  # fmt: skip
EVERY = 0.1
SHOWN = 0.1  # µs a job; the rest is summed up in one row


@dataclass
class Sampled:
    """CPU seconds of server processes by name, and of the worker."""

    began: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    worker: tuple[float, float] = (0.0, 0.0)
    rate: float = 0.0  # jobs a second
    idle: float = 0.0  # the share of the cores that was idle, in percent

    def total(self) -> dict[str, float]:
        """Return the seconds by name."""
        used: dict[str, float] = defaultdict(float)
        for pid, name in self.names.items():
            used[name] += self.ended[pid] - self.began[pid]
        return used


def cpu_of(pid: int) -> float | None:
    """Return the seconds of CPU that a process has used; None if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return None


def _name(kind: str, application: str) -> str:
    if not application.startswith("pgqueue worker "):
        return kind
    return STATEMENTS.get(duty := application.removeprefix("pgqueue worker "), duty)


class Sampler:
    """Reads the CPU times of the server's processes and of the worker, ten times a second."""

    def __init__(
        self, session: BenchSession, database: str, spy: Callable[[MeasuredWorker], object] = lambda worker: None
    ) -> None:
        self.sampled = Sampled()
        self._conn = session.server.connect()
        self._track = session.track
        self._database = database
        self._spy = spy
        self._next = 0.0

    def __call__(self, worker: MeasuredWorker) -> None:
        """Take a sample if one is due. The first is due when the first job has begun."""
        if monotonic() < self._next or not (self._next or track.count(self._track)):
            return
        if not self._next:
            self.sampled.worker = (worker.cpu(), 0.0)
            self._spy(worker)
        self._next = monotonic() + EVERY
        self.sampled.worker = (self.sampled.worker[0], worker.cpu())
        for pid, kind, application in self._conn.execute(PROCESSES, [self._database]):
            if (used := cpu_of(pid)) is not None and not application.startswith("pgqueue bench"):
                self.sampled.began.setdefault(pid, used)
                self.sampled.ended[pid] = used
                self.sampled.names[pid] = _name(kind, application)


@dataclass(frozen=True)
class Drain:
    """A drain of `n` jobs of one task by `processes` worker processes."""

    n: int
    task: str
    processes: int

    def run(self, session: BenchSession, spy: Callable[[MeasuredWorker], object] = lambda worker: None) -> Sampled:
        """Drain the jobs; return the samples."""
        database = session.fresh()
        filled(session, database, self.task, self.n)
        sampler = Sampler(session, database.name, spy)
        record = emptied(session, database, self.n, session.options(processes=self.processes), sampler)
        if not record["ok"]:
            raise SystemExit(f"the run failed: {record} {session.log()}")
        sampler.sampled.rate, sampler.sampled.idle = record["jobs_s"], record["idle_percent"]
        print(f"{self.task}: {record['jobs_s']:,.0f} jobs/s", file=sys.stderr)
        return sampler.sampled


def _spied(session: BenchSession, drain: Drain) -> Counter[str]:
    """Return how often py-spy found each function at work."""
    out = session.directory / "spy"
    spies: list[subprocess.Popen[bytes]] = []

    def spy(worker: MeasuredWorker) -> None:
        command = ["py-spy", "record", "--nonblocking", "-F", "-s", "-f", "raw", "-r", "500", "-d", "600"]
        spies.append(
            subprocess.Popen(
                [*command, "-o", str(out), "-p", str(worker.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    try:
        drain.run(session, spy)
    finally:
        for process in spies:
            process.wait(60)  # ends with the worker
    return _self_time(out.read_text().splitlines())


def _self_time(stacks: Iterable[str]) -> Counter[str]:
    """Count the innermost function of each stack; C code counts as its caller. The heartbeat's thread is left out."""
    found: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        if "heartbeat" not in stack:
            found[_place(stack.split(";")[-1])] += int(count)
    return found


def _place(frame: str) -> str:
    if frame.startswith("process "):  # the frame that py-spy puts first: the command of the process
        return "in no function of Python"
    function, _, rest = frame.partition(" (")
    path = rest.rstrip(")").partition(":")[0]
    for root in (f"{ROOT}/", "site-packages/", f"{Path(os.__file__).parent}/"):
        path = path.rpartition(root)[2]
    return f"`{function}` {path}"


def _table(head: str, rows: Sequence[tuple[str, float]]) -> str:
    small = sum(micros for _, micros in rows if micros < SHOWN)
    shown = sorted(((what, micros) for what, micros in rows if micros >= SHOWN), key=lambda row: -row[1])
    lines = [f"| {head} | µs a job |", "|---|--:|", *(f"| {what} | {micros:.2f} |" for what, micros in shown)]
    total = sum(micros for _, micros in rows)
    return "\n".join([*lines, f"| all others, each below {SHOWN} | {small:.2f} |", f"| together | {total:.2f} |"])


def _median(runs: Sequence[dict[str, float]], n: int) -> list[tuple[str, float]]:
    names = {name for run in runs for name in run}
    return [(name, statistics.median(run.get(name, 0.0) for run in runs) / n * 1e6) for name in names]


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--dsn", help="a server on this machine to use, as a superuser; without it one is started")
    parser.add_argument("--jobs", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--task", default="noop", help="noop (async) or noop_thread")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    server = BenchServer(given.dsn) if given.dsn else StartedServer()
    session = BenchSession(server, BenchSettings())
    try:
        drain = Drain(given.jobs, given.task, given.processes)
        runs = [drain.run(session) for _ in range(given.runs)]
        spied = _spied(session, drain)
        worker = statistics.median(run.worker[1] - run.worker[0] for run in runs) / given.jobs * 1e6
        about = machine.machine() | {"postgres": machine.postgres(server)["version"]}
        where = ", ".join(f"{key} {value}" for key, value in about.items())
        print("# Where the time of a drained job goes\n")
        rate = statistics.median(run.rate for run in runs)
        idle = statistics.median(run.idle for run in runs)
        print(
            f"`python -m tests.bench.profile`: medians of {given.runs} runs of {given.jobs:,} jobs `{given.task}`, full"
            f"\nhistory, `--processes {given.processes}`; {where}."
            f"\n{rate:,.0f} jobs/s, {idle:.0f} % of the cores idle.\n"
        )
        print(_table("in Postgres", _median([run.total() for run in runs], given.jobs)), "\n")
        shares = [(place, worker * count / spied.total()) for place, count in spied.items()]
        print(_table("in Python", shares))
    finally:
        session.close()
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
