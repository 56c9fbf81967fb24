"""The gauges of the database: read at most every ten seconds, by one process, whoever asks and how often."""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pgqueue import db
from pgqueue.app import App
from pgqueue.config import release
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.errors import NotAllowed, PgqueueError
from pgqueue.jobs.tally import UNKNOWN
from pgqueue.metrics.families import Sample, gauge
from pgqueue.queries.base import statement_timeout
from pgqueue.queries.metrics import QueueGauges
from pgqueue.timing import monotonic

log = logging.getLogger("pgqueue")
FRESH_SECONDS = 10.0
STATEMENT_SECONDS = 5.0
MOST_LOCKS = 10_000
PATIENCE = 8.0  # seconds for which a scrape waits for a reading: Prometheus gives up after ten
_VERSION = re.compile(r"[0-9]{1,4}")


class DatabaseMetrics(Collector):
    """Collects the gauges of an app's database.

    A reading has one connection, a `statement_timeout`, and a repeatable read transaction that writes nothing. What the
    role may not read is left out, and logged once. Without the database `pgqueue_up` is 0, and the other gauges are
    absent. `head` is the newest migration that is known here.
    """

    def __init__(self, app: App, head: str) -> None:
        self._app = app
        self._head = head
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="pgqueue-metrics")
        self._reading: Future[list[Family]] | None = None
        self._read_at = -FRESH_SECONDS
        self._denied: set[str] = set()
        self._failed = False

    def collect(self) -> Iterator[Family]:
        """Yield the gauges, from a reading that is at most ten seconds old."""
        yield gauge("pgqueue_build_info", [((release(),), 1)])
        found = self.refresh()
        yield gauge("pgqueue_up", [((), float(found is not None))])
        yield from found or ()

    def refresh(self) -> list[Family] | None:
        """Return the last reading if it is fresh, else a new one; None if the database cannot be read in time."""
        with self._lock:
            reading = self._reading
            if reading is None or (reading.done() and monotonic() - self._read_at > FRESH_SECONDS):
                reading = self._reading = self._reader.submit(self._read)
        try:
            found = reading.result(PATIENCE)
        except Late:
            return None  # it goes on: no second one is begun beside it
        return found or None

    def _read(self) -> list[Family]:
        """Read all gauges; none where the database cannot be reached."""
        found: list[Family] = []
        try:
            with self._app.database.connect("pgqueue metrics", STATEMENT_SECONDS) as conn:
                for part in (
                    self._queues, self._waiting, self._workflows, self._tasks, self._locks, self._processes,
                    self._schedules, self._server, self._storage,
                ):  # fmt: skip
                    found += self._allowed(conn, part)
            self._failed = False
        except (*DATABASE_ERRORS, PgqueueError) as error:
            found.clear()
            if not self._failed:
                log.warning("metrics of the database cannot be read: %s", brief(error))
            self._failed = True
        self._read_at = monotonic()
        return found

    def _allowed(self, conn: db.Connection, part: Callable[[db.Connection], list[Family]]) -> list[Family]:
        """Read a part of the gauges in one snapshot; nothing of what this role may not read."""
        name = part.__name__.strip("_")
        try:
            with conn.transaction():
                conn.execute("set transaction isolation level repeatable read, read only")
                db.run(conn, statement_timeout(STATEMENT_SECONDS))
                db.run(conn, self._app.queries.jobs.prefer_indexes())
                return part(conn)
        except NotAllowed as error:
            if name not in self._denied:
                log.warning("metrics of %s are left out: %s", name, brief(error))
            self._denied.add(name)
            return []

    def _queues(self, conn: db.Connection) -> list[Family]:
        queues = db.run(conn, self._app.queries.metrics.queues())
        return [
            gauge("pgqueue_queue_jobs", [sample for queue in queues for sample in _phases(queue)]),
            gauge("pgqueue_queue_jobs_capped", [sample for queue in queues for sample in _capped(queue)]),
            gauge("pgqueue_queue_oldest_due_seconds", (((q.queue,), q.oldest_due_seconds) for q in queues)),
            gauge("pgqueue_queue_paused", (((q.queue,), float(q.paused)) for q in queues)),
            gauge("pgqueue_queue_slots", (((q.queue,), float(q.slots)) for q in queues)),
        ]

    def _waiting(self, conn: db.Connection) -> list[Family]:
        waiting = db.run(conn, self._app.queries.metrics.waiting())
        jobs: list[Sample] = []
        capped: list[Sample] = []
        for load in waiting:
            for state, count, more in (
                ("for_jobs", load.for_jobs, load.for_jobs_capped),
                ("sleeping", load.sleeping, load.asleep_capped),
                ("waiting", load.waiting, load.asleep_capped),
            ):
                jobs.append(((load.queue, state), float(count)))
                capped.append(((load.queue, state), float(more)))
        return [gauge("pgqueue_queue_waiting_jobs", jobs), gauge("pgqueue_queue_waiting_jobs_capped", capped)]

    def _workflows(self, conn: db.Connection) -> list[Family]:
        load = db.run(conn, self._app.queries.metrics.workflows())
        letters = db.run(conn, self._app.queries.metrics.letters())
        states = ("running", "open", "held", "stopping")
        return [
            gauge("pgqueue_workflows", (((state,), float(getattr(load, state))) for state in states)),
            gauge("pgqueue_workflows_capped", [((), float(load.capped))]),
            gauge("pgqueue_workflow_oldest_seconds", [((), load.oldest_seconds)]),
            gauge("pgqueue_workflow_unsettled_seconds", [((), load.unsettled_seconds)]),
            gauge("pgqueue_letters", (((kind,), float(count)) for kind, count, _ in letters)),
            gauge(
                "pgqueue_letter_oldest_seconds",
                (((kind,), oldest or 0.0) for kind, _, oldest in letters if kind != "call"),
            ),
        ]

    def _tasks(self, conn: db.Connection) -> list[Family]:
        dead: dict[tuple[str, ...], float] = {}
        for queue, task, jobs, known in db.run(conn, self._app.queries.metrics.dead()):
            labels = queue, task if known else self._name_of(task)
            dead[labels] = dead.get(labels, 0) + jobs
        unknown: dict[tuple[str, ...], float] = {}
        for task, version, jobs in db.run(conn, self._app.queries.metrics.parked()):
            labels = self._name_of(task), version if _VERSION.fullmatch(version) else "other"
            unknown[labels] = unknown.get(labels, 0) + jobs
        pauses = db.run(conn, self._app.queries.pauses.list())
        paused = {(self._name_of(pause.name),): 1.0 for pause in pauses if pause.kind == "task"}
        return [
            gauge("pgqueue_dead_letters", dead.items()),
            gauge("pgqueue_unknown_task_jobs", unknown.items()),
            gauge("pgqueue_task_paused", paused.items()),
        ]

    def _locks(self, conn: db.Connection) -> list[Family]:
        locks = db.run(conn, self._app.queries.metrics.locks(MOST_LOCKS))
        return [
            gauge("pgqueue_locks_held", [((), float(min(locks.held, MOST_LOCKS)))]),
            gauge("pgqueue_locks_waited_for", [((), float(min(locks.waited_for, MOST_LOCKS)))]),
        ]

    def _processes(self, conn: db.Connection) -> list[Family]:
        workers = db.run(conn, self._app.queries.metrics.workers())
        revision = db.run(conn, self._app.queries.metrics.revision())
        return [
            gauge("pgqueue_workers", ((labels, float(count)) for *labels, count in workers)),  # type: ignore[misc]
            gauge("pgqueue_schema_info", [((revision or "none", self._head), 1)]),
        ]

    def _schedules(self, conn: db.Connection) -> list[Family]:
        schedules = db.run(conn, self._app.queries.metrics.schedules())
        fires = (((name,), fired.timestamp()) for name, _, fired in schedules if fired is not None)
        return [
            gauge("pgqueue_schedule_lag_seconds", (((name,), lag or 0.0) for name, lag, _ in schedules)),
            gauge("pgqueue_schedule_last_fire_timestamp_seconds", fires),
        ]

    def _server(self, conn: db.Connection) -> list[Family]:
        snapshot, notify = db.run(conn, self._app.queries.metrics.snapshot())
        oldest = [] if snapshot is None else [gauge("pgqueue_oldest_snapshot_seconds", [((), snapshot)])]
        return [*oldest, gauge("pgqueue_notify_queue_ratio", [((), notify)])]

    def _storage(self, conn: db.Connection) -> list[Family]:
        tables = db.run(conn, self._app.queries.metrics.tables())
        partitions = db.run(conn, self._app.queries.metrics.partitions())
        return [
            gauge("pgqueue_table_dead_rows", (((name,), float(dead)) for name, dead, _ in tables)),
            gauge("pgqueue_table_bytes", (((name,), float(size)) for name, _, size in tables)),
            gauge("pgqueue_partition_days_ahead", (((name,), ahead) for name, ahead, _ in partitions)),
            gauge("pgqueue_default_partition_bytes", (((name,), float(size)) for name, _, size in partitions)),
        ]

    def _name_of(self, task: str) -> str:
        spec = self._app.tasks.get(task)
        return UNKNOWN if spec is None else spec.name


def _phases(queue: QueueGauges) -> Iterator[Sample]:
    for state in ("due", "turn", "scheduled", "retrying", "running", "blocked"):
        yield (queue.queue, state), float(getattr(queue, state))


def _capped(queue: QueueGauges) -> Iterator[Sample]:
    yield (queue.queue, "due"), float(queue.due_capped)
    yield (queue.queue, "turn"), float(queue.turn_capped)
    for state in ("scheduled", "retrying"):
        yield (queue.queue, state), float(queue.later_capped)
