"""What every case works with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pgqueue.bench import schema
from pgqueue.bench.process import WorkerProcess
from pgqueue.bench.schema import Connection
from pgqueue.bench.tasks import Measured

BULK = 1000  # jobs in a call of enqueue_many


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: `jobs` in bulk and in each drain, `rounds` of drains, `seconds` and `rate` of the rest."""

    jobs: int = 30_000
    rounds: int = 3
    seconds: float = 10.0
    rate: float = 20.0


@dataclass(slots=True)
class Setting:
    """The bench's schema and tasks. `tell(done, total)` shows progress; `clean` keeps what a case left for the next."""

    measured: Measured
    conn: Connection
    schema: str
    directory: Path
    scale: Scale
    tell: Callable[[float, float], None]
    clean: list[float] = field(default_factory=list)

    def worker(self) -> WorkerProcess:
        """A worker on the bench's queue, to be entered."""
        return WorkerProcess(self.measured.app.dsn, self.schema, self.directory)

    def empty(self, *tables: str) -> None:
        """Empty all tables that hold jobs, or those named."""
        schema.empty(self.conn, self.schema, *tables)

    def settle(self) -> None:
        """Bring the tables into a state that is the same each time."""
        schema.settle(self.conn, self.schema)

    def enqueue(self, count: int) -> list[int]:
        """Enqueue jobs that do nothing, in bulk; return their ids."""
        ids: list[int] = []
        while len(ids) < count:
            ids += self.measured.nothing.enqueue_many(calls(min(BULK, count - len(ids))))
            self.tell(len(ids), count)
        return ids


def calls(count: int) -> list[dict[str, int]]:
    """Arguments for so many jobs."""
    return [{"number": number} for number in range(count)]
