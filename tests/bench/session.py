"""What every run needs: a new database, processes on it, and a machine to itself while the clock runs."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgqueue import migrate

from . import track
from .database import Database
from .processes import Producer, Worker, producers
from .server import Server

Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How the runs are made. `jobs` and `seconds` take the place of each case's own; `scale` shrinks histories."""

    concurrency: int = 100
    threads: int = 16
    worker_options: tuple[str, ...] = ()
    jobs: int | None = None
    seconds: float | None = None
    warm: float = 6.0
    cap: float = 50.0
    scale: float = 1.0
    lock: str | None = None


class Session:
    """One invocation on one server. `name` begins the names of its databases, which are dropped and made anew."""

    def __init__(self, server: Server, settings: Settings, name: str = "pgqueue_bench") -> None:
        self.server = server
        self.settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="pgqueue-bench-runs-"))
        self._name = name
        self._log = (self.directory / "log").open("ab")
        self._templates: dict[str, str] = {}
        self._open: Database | None = None

    @property
    def track(self) -> Path:
        """Where the bodies of this run leave their records."""
        return self.directory / "track"

    def options(self, *, threads: bool = False, processes: int = 1) -> list[str]:
        """The options of `pgqueue work` in a run."""
        slots = self.settings.threads if threads else self.settings.concurrency
        more = ["--processes", str(processes)] if processes > 1 else []
        return ["-c", str(slots), *more, *self.settings.worker_options]

    def fresh(self, template: str | None = None) -> Database:
        """A new database with pgqueue's schema, or a copy of a template; the track is empty."""
        self._leave()
        self.track.unlink(missing_ok=True)
        dsn = self.server.create(self._name, template)
        if template is None:
            migrate.upgrade(dsn)
        self._open = Database(self.server, self._name, dsn)
        return self._open

    def keep_as_template(self, name: str) -> str:
        """Put the open database aside, to be copied; return what it is called now."""
        self._leave()
        kept = f"{self._name}_{name}"
        self.server.rename(self._name, kept)
        self._templates[name] = kept
        return kept

    def template(self, name: str) -> str | None:
        """The template kept under a name, if this session has made it."""
        return self._templates.get(name)

    def _environ(self) -> dict[str, str]:
        assert self._open, "no database is open"
        given = {"PGQUEUE_DSN": self._open.dsn, track.VARIABLE: str(self.track), "PYTHONUNBUFFERED": "1"}
        return os.environ | given

    @contextmanager
    def working(self, options: Sequence[str]) -> Iterator[Worker]:
        """A worker on the open database."""
        worker = Worker([*options, "--log-level", "warning"], self._environ(), self._log)
        try:
            yield worker
        finally:
            worker.stop()

    @contextmanager
    def producing(self, *calls: Sequence[object]) -> Iterator[list[Producer]]:
        """Producers on the open database, connected and waiting for the word."""
        with producers([[str(word) for word in call] for call in calls], self._environ(), self._log) as started:
            yield started

    def produce(self, *call: object) -> Record:
        """Run one producer to its end; return what it says."""
        with self.producing(call) as (producer,):
            producer.go()
            return producer.answer()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Have the machine to ourselves, as far as others take the same lock."""
        if not self.settings.lock:
            yield
            return
        with Path(self.settings.lock).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def log(self) -> str:
        """What the processes had to say lately."""
        return (self.directory / "log").read_text(errors="replace")[-3000:]

    def _leave(self) -> None:
        if self._open:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Drop the databases, remove the files."""
        self._leave()
        for name in [self._name, *self._templates.values()]:
            self.server.drop(name)
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
