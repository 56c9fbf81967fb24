"""A run of pytest on one server, and what became of it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from .finding import Server

ROOT = Path(__file__).parents[2]
GIVEN = ("PGQUEUE_TEST_DSN", "PGQUEUE_TEST_PROGRAMS", "PGQUEUE_TEST_PACKAGE", "PGQUEUE_TEST_IMAGE")


@dataclass(frozen=True)
class Outcome:
    """What became of the tests on one server. `failures` names the tests that failed, and a run that did not end."""

    version: str
    origin: str
    tests: int = 0
    skipped: int = 0
    seconds: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return self.tests - self.skipped - sum(not name.startswith("the run") for name in self.failures)


def run(server: Server, arguments: Sequence[str], seconds: float) -> Outcome:
    """Run these tests on a server; stop them after so many seconds."""
    # Two processes would share the roles of a server that runs already; of programs each starts a server of its own.
    processes = ["-n", "0"] if "PGQUEUE_TEST_DSN" in server.environment else []
    environment = {name: value for name, value in os.environ.items() if name not in GIVEN} | server.environment
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", *processes, f"--junitxml={report}", *arguments]
        # What pytest says goes to stderr: the table alone is on stdout.
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sys.stderr, process_group=0)
        ended = _wait(process, seconds)
        took = round(time.monotonic() - began)
        tests, skipped, failures = read_report(report) if report.exists() else (0, 0, [])
    if not ended:
        failures.append(f"the run did not end within {seconds:g} s")
    elif process.returncode and not failures:
        failures.append(f"the run ended with status {process.returncode}")
    return Outcome(server.shown, server.origin, tests, skipped, took, failures)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end; say whether it came in time. What is late is interrupted, so that it stops its servers."""
    for patience, number in ((seconds, signal.SIGINT), (60.0, signal.SIGKILL)):
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60.0)
            raise
        else:
            return number == signal.SIGINT
    process.wait()
    return False


def read_report(report: Path) -> tuple[int, int, list[str]]:
    """Return how many tests ran, how many were skipped, and the names of those that failed."""
    tests, skipped, failures = set[str](), set[str](), list[str]()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        tests.add(name)
        if case.find("skipped") is not None:
            skipped.add(name)
        if (case.find("failure") is not None or case.find("error") is not None) and name not in failures:
            failures.append(name)
    return len(tests), len(skipped), failures
