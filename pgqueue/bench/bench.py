"""What every case works with: the bench's schema and tasks, and how much to measure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pgqueue.bench import schema
from pgqueue.bench.process import WorkerProcess
from pgqueue.bench.schema import Connection
from pgqueue.bench.tasks import BenchTasks

BULK = 1000  # jobs in a call of enqueue_many


def _show_nothing(done: float, total: float) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: `jobs` in bulk and in each drain, `rounds` of drains, `seconds` and `rate` of the rest."""

    jobs: int = 30_000
    rounds: int = 3
    seconds: float = 10.0
    rate: float = 20.0


@dataclass(slots=True)
class Bench:
    """The bench's schema and tasks. `show_progress(done, total)` moves the bar of the case that runs.

    `clean_rates` are those of the drains of empty tables, which the drains with a history are compared with.
    """

    tasks: BenchTasks
    conn: Connection
    schema: str
    directory: Path
    scale: Scale
    show_progress: Callable[[float, float], None] = _show_nothing
    clean_rates: list[float] = field(default_factory=list)

    def worker(self) -> WorkerProcess:
        """Return a worker on the bench's queue, a context manager."""
        return WorkerProcess(self.tasks.app.dsn, self.schema, self.directory)

    def empty(self, *tables: str) -> None:
        """Empty the named tables; without names, all that hold jobs."""
        schema.empty(self.conn, self.schema, *tables)

    def settle(self) -> None:
        """Bring the tables into the same state before each run."""
        schema.settle(self.conn, self.schema)

    def enqueue(self, count: int) -> list[int]:
        """Enqueue jobs that do nothing, in bulk; return their ids."""
        ids: list[int] = []
        while len(ids) < count:
            ids += self.tasks.nothing.enqueue_many(calls(min(BULK, count - len(ids))))
            self.show_progress(len(ids), count)
        return ids


def calls(count: int) -> list[dict[str, int]]:
    """Return the arguments of `count` jobs."""
    return [{"number": number} for number in range(count)]
