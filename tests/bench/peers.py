"""Other job queues, measured by their own harness: its `run.py` runs one case of one peer and prints JSON."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .results import Record
from .server import BenchServer

DEFAULT = ("graphile:batch", "pgboss", "pgqueuer", "procrastinate")
LONGEST = 900
KEPT = (
    "version", "config", "jobs", "sent", "reached", "seconds", "jobs_s", "pending", "ratio", "p50_ms", "p95_ms",
    "p99_ms", "max_ms", "note", "ok",
)  # fmt: skip
OTHER_WORDS = {"first10_s": "first_s", "last10_s": "last_s", "body_runs": "bodies", "dead_tuples": "dead_rows"}


@dataclass(frozen=True)
class Peer:
    """Another queue: `name`, or `name:config` for one of its configurations."""

    who: str

    @property
    def name(self) -> str:
        """The name of its adapter in the harness."""
        return self.who.partition(":")[0]

    @property
    def config(self) -> str:
        """The name of its configuration; empty if it has only one."""
        return self.who.partition(":")[2]


class Harness:
    """A directory with `run.py`. PEERS_PYTHON, PEERS_NODE and PEERS_NODE_MODULES name what it runs with."""

    def __init__(self, directory: Path, server: BenchServer, lock: str | None, jobs: int | None) -> None:
        self._script = directory / "run.py"
        self._server = server
        self._environ = os.environ | ({"PEERS_LOCK": lock} if lock else {})
        self._jobs = ("--jobs", str(jobs)) if jobs else ()

    def run(self, peer: Peer, case: tuple[str, ...]) -> Record:
        """Run one case of one peer; return its figures under our names."""
        python = self._environ.get("PEERS_PYTHON", sys.executable)
        with tempfile.TemporaryDirectory() as directory:
            command = [python, str(self._script), "--peer", peer.name, "--config", peer.config, "--case", *case]
            command += ["--dsn", self._server.url(f"peer_{peer.name}"), "--out", f"{directory}/out", *self._jobs]
            done = subprocess.run(command, env=self._environ, capture_output=True, text=True, timeout=LONGEST)
        for line in reversed(done.stdout.splitlines()):
            if line.startswith("{"):
                return _renamed(json.loads(line))
        raise RuntimeError(f"{peer.who} {' '.join(case)}: {done.stderr[-500:] or done.stdout[-500:]}")

    def forget(self, peer: Peer) -> None:
        """Drop its database."""
        self._server.drop(f"peer_{peer.name}")


def _renamed(line: Record) -> Record:
    kept = {name: line[name] for name in KEPT if name in line}
    return kept | {ours: line[theirs] for theirs, ours in OTHER_WORDS.items() if theirs in line}
