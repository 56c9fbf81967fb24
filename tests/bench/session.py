"""What every run needs: a new database, processes that use it, and the machine to itself while it is timed."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import track
from .database import BenchDatabase
from .processes import ROOT, MeasuredWorker, ProducerProcess, environ_of, migrate_by, producers
from .results import Record
from .server import BenchServer


@dataclass(frozen=True)
class BenchSettings:
    """How runs are made. `jobs` and `seconds` replace those of each case; `scale` shrinks histories."""

    concurrency: int = 100
    threads: int = 16
    worker_options: tuple[str, ...] = ()
    jobs: int | None = None
    seconds: float | None = None
    warm: float = 6.0
    cap: float = 50.0
    scale: float = 1.0
    lock: str | None = None


class BenchSession:
    """One invocation on one server. The names of its databases begin with `name`; they are dropped and created anew."""

    def __init__(self, server: BenchServer, settings: BenchSettings, name: str = "pgqueue_bench") -> None:
        self.server = server
        self.settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="pgqueue-bench-runs-"))
        self._name = name
        self._log = (self.directory / "log").open("ab")
        self._templates: dict[str, str] = {}
        self._open: BenchDatabase | None = None
        self._root = ROOT

    @property
    def track(self) -> Path:
        """The file to which the jobs of this run append their records."""
        return self.directory / "track"

    def options(self, *, threads: bool = False, processes: int = 1) -> list[str]:
        """Return the options of `pgqueue work` for a run."""
        slots = self.settings.threads if threads else self.settings.concurrency
        more = ["--processes", str(processes)] if processes > 1 else []
        return ["-c", str(slots), *more, *self.settings.worker_options]

    def fresh(self, template: str | None = None) -> BenchDatabase:
        """Return a new database with pgqueue's schema, or a copy of a template, and empty the track."""
        self._close_database()
        self.track.unlink(missing_ok=True)
        dsn = self.server.create(self._name, template)
        if template is None:
            migrate_by(self._root, dsn)
        self._open = BenchDatabase(self.server, self._name, dsn)
        return self._open

    def keep_as_template(self, name: str) -> str:
        """Rename the open database to be a template; return its new name."""
        self._close_database()
        kept = f"{self._name}_{name}"
        self.server.rename(self._name, kept)
        self._templates[name] = kept
        return kept

    def template(self, name: str) -> str | None:
        """Return the database of a template if this session has made it."""
        return self._templates.get(name)

    def _environ(self) -> dict[str, str]:
        assert self._open, "no database is open"
        given = {"PGQUEUE_DSN": self._open.dsn, track.VARIABLE: str(self.track), "PYTHONUNBUFFERED": "1"}
        return environ_of(self._root) | given

    @contextmanager
    def with_code_of(self, root: Path) -> Iterator[None]:
        """Take the schema, workers and producers from this folder within this context."""
        self._root = root
        try:
            yield
        finally:
            self._root = ROOT

    @contextmanager
    def working(self, options: Sequence[str]) -> Iterator[MeasuredWorker]:
        """Run a worker on the open database within this context."""
        worker = MeasuredWorker([*options, "--log-level", "warning"], self._environ(), self._log, self._root)
        try:
            yield worker
        finally:
            worker.stop()

    @contextmanager
    def producing(self, *calls: Sequence[object]) -> Iterator[list[ProducerProcess]]:
        """Yield producers that are connected to the open database and wait to begin."""
        with producers(
            [[str(word) for word in call] for call in calls], self._environ(), self._log, self._root
        ) as started:
            yield started

    def produce(self, *call: object) -> Record:
        """Run one producer to its end; return its answer."""
        with self.producing(call) as (producer,):
            producer.go()
            return producer.answer()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Hold the lock that keeps other runs from this machine, if one is given."""
        if not self.settings.lock:
            yield
            return
        with Path(self.settings.lock).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def log(self) -> str:
        """Return the end of the log of all processes."""
        return (self.directory / "log").read_text(errors="replace")[-3000:]

    def _close_database(self) -> None:
        if self._open:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Drop the databases and remove the files."""
        self._close_database()
        for name in [self._name, *self._templates.values()]:
            self.server.drop(name)
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
