"""The demo's processes, and how they are started, frozen, killed and stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

PGQUEUE = [sys.executable, "-m", "pgqueue"]
APP = ["-A", "pgqueue.demo.shop:app", "--lease", "2"]
WORK = [*PGQUEUE, "work", *APP, "-Q", "critical,default", "-c", "4", "--poll", "0.5"]
SCHEDULE = [*PGQUEUE, "schedule", *APP]


class Processes:
    """Children by name, each with a log file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: dict[str, subprocess.Popen[str]] = {}

    def start_receiver(self) -> str:
        """Start the webhook receiver; return its URL."""
        received = self._directory / "received.jsonl"
        received.touch()
        child = self._start("receiver", [sys.executable, "-m", "pgqueue.demo.receiver", str(received)], piped=True)
        port = child.stdout.readline().strip() if child.stdout else ""
        if not port:
            raise RuntimeError(f"the receiver did not start: see {self._directory / 'receiver.log'}")
        return f"http://127.0.0.1:{port}/webhooks"

    def start(self, name: str, command: list[str]) -> int:
        """Start a child; return its pid."""
        return self._start(name, command).pid

    def _start(self, name: str, command: list[str], *, piped: bool = False) -> subprocess.Popen[str]:
        with (self._directory / f"{name}.log").open("w") as log:
            child = subprocess.Popen(  # noqa: S603 - fixed commands
                command, stdout=subprocess.PIPE if piped else log, stderr=log, text=True
            )
        self._children[name] = child
        return child

    def pause(self, name: str) -> None:
        """Freeze a child where it is."""
        os.kill(self._children[name].pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a frozen child continue."""
        os.kill(self._children[name].pid, signal.SIGCONT)

    def kill(self, name: str) -> None:
        """Kill a child at once, as the loss of its machine would."""
        self._children[name].kill()
        self._children[name].wait()

    def stop(self, *names: str) -> None:
        """Stop children in order and wait for them."""
        for name in names:
            self._children[name].terminate()
        for name in names:
            self._children[name].wait(timeout=40)

    def died(self) -> list[str]:
        """Return the names of children that failed by themselves."""
        return [name for name, child in self._children.items() if child.poll() not in (None, 0, -signal.SIGKILL)]

    def stop_all(self) -> None:
        """Kill all children that still run."""
        for child in self._children.values():
            if child.poll() is None:
                child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
