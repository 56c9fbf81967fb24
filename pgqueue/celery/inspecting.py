"""`app.control.inspect()`: what workers do, in Celery's words, read from the rows that they write."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pgqueue.celery.parts import Adapter
from pgqueue.celery.values import read
from pgqueue.client.workers import Pong
from pgqueue.errors import UnknownJob, UnknownVerb
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.patterns import Patterns
from pgqueue.queries.workers import WorkerStatus
from pgqueue.tasks.call_shape import POSITIONAL

MOST = 1000  # jobs of a state in one answer
ELSEWHERE = {
    "clock": "nothing: the database is the only clock",
    "conf": "app.conf",
    "hello": "ping()",
    "memdump": "stats(), which has the memory of each worker",
    "memsample": "stats(), which has the memory of each worker",
    "objgraph": "a profiler, such as py-spy",
    "report": "pgqueue doctor",
    "revoked": "app.pgqueue.jobs.list(JobFilter(state='cancelled'))",
}
Answer = dict[str, Any] | None


def name_of(worker: WorkerStatus) -> str:
    """Return the name of a worker: host and pid, as `pgqueue workers` takes it."""
    return f"{worker.host}:{worker.pid}"


def answers(pongs: Sequence[Pong]) -> dict[str, Any]:
    """Return the answers to a ping as Celery has them; who was silent is left out."""
    return {name_of(pong.worker): {"ok": "pong"} for pong in pongs if pong.seconds is not None}


class Inspect:
    """The living workers, each under `host:pid`; None where there is none. `destination`: only these workers.

    Where workers of Celery hold messages, jobs stand in queues until they run. So `reserved` and `scheduled` have the
    jobs that are due and that are for later, each once, under the first worker that serves its queue; of the newest
    1,000 of each state. A verb that has another place raises UnknownVerb, which names it.
    """

    def __init__(self, app: Adapter, destination: Iterable[str] | None = None, timeout: float = 1.0) -> None:
        names = [destination] if isinstance(destination, str) else destination
        self._app = app
        self._names = None if names is None else set(names)
        self._timeout = timeout

    def __getattr__(self, name: str) -> Any:
        if name in ELSEWHERE:
            raise UnknownVerb("app.control.inspect()", name, ELSEWHERE[name])
        raise AttributeError(name)

    def ping(self, destination: Iterable[str] | None = None) -> Answer:
        """Return who answers within the timeout: `{"host:1": {"ok": "pong"}}`."""
        which = self if destination is None else Inspect(self._app, destination, self._timeout)
        pongs = self._app.pgqueue.workers.ping(timeout=self._timeout)
        return answers([pong for pong in pongs if which._is_meant(pong.worker)]) or None

    def active(self, safe: bool | None = None) -> Answer:
        """Return the jobs that run, by worker."""
        workers, jobs = self._workers(), self._jobs("running")
        return {name_of(w): [self._shown(job, w) for job in jobs if job.worker_id == w.id] for w in workers} or None

    def reserved(self, safe: bool | None = None) -> Answer:
        """Return the jobs that are due and do not run yet."""
        return self._of_queues(["pending"], self._shown)

    def scheduled(self, safe: bool | None = None) -> Answer:
        """Return the jobs that are for later, with their `eta`: scheduled ones, and those that are tried again."""

        def with_eta(job: Job, worker: WorkerStatus) -> dict[str, Any]:
            return {"eta": job.run_at.isoformat(), "priority": job.priority, "request": self._shown(job, worker)}

        return self._of_queues(["scheduled", "retrying"], with_eta)

    def registered(self, *taskinfoitems: str) -> Answer:
        """Return the names of the tasks that each worker knows."""
        known = self._app.pgqueue.workers.tasks()
        return {name_of(worker): known.get(worker.id, []) for worker in self._workers()} or None

    registered_tasks = registered

    def active_queues(self) -> Answer:
        """Return the queues that each worker serves."""
        return {name_of(w): [{"name": queue} for queue in w.queues] for w in self._workers()} or None

    def stats(self) -> Answer:
        """Return slots, running jobs, memory in bytes, and since when it runs, of each worker."""
        return {name_of(worker): _stats(worker) for worker in self._workers()} or None

    def query_task(self, *ids: str | Iterable[str]) -> Answer:
        """Return which of these jobs each worker runs: `{"host:1": {"7": ["active", {…}]}}`."""
        asked = [str(one) for each in ids for one in ([each] if isinstance(each, str) else each)]
        found = {one: job for one in asked if (job := self._job(one)) is not None and job.state == JobState.RUNNING}
        return {
            name_of(w): {one: ["active", self._shown(job, w)] for one, job in found.items() if job.worker_id == w.id}
            for w in self._workers()
        } or None

    def _job(self, task_id: str) -> Job | None:
        try:
            return self._app.pgqueue.get(int(task_id)) if task_id.isdecimal() else None
        except UnknownJob:
            return None

    def _is_meant(self, worker: WorkerStatus) -> bool:
        return worker.kind == "worker" and (self._names is None or name_of(worker) in self._names)

    def _workers(self) -> list[WorkerStatus]:
        found = self._app.pgqueue.workers.list()
        return [worker for worker in found if worker.status not in ("lost", "silent") and self._is_meant(worker)]

    def _jobs(self, phase: str) -> Sequence[Job]:
        found = self._app.pgqueue.jobs.list(JobFilter(state=phase), MOST)
        return [job for job in found if job.phase == phase]  # `pending` is also the state of jobs for later

    def _of_queues(self, phases: Sequence[str], show: Callable[[Job, WorkerStatus], dict[str, Any]]) -> Answer:
        """Return jobs of these phases under the first worker that serves their queue."""
        workers = self._workers()
        found: dict[str, list[dict[str, Any]]] = {name_of(worker): [] for worker in workers}
        for phase in phases:
            for job in self._jobs(phase):
                first = next((worker for worker in workers if _serves(worker, job.queue)), None)
                if first is not None:
                    found[name_of(first)].append(show(job, first))
        return found or None

    def _shown(self, job: Job, worker: WorkerStatus) -> dict[str, Any]:
        task = self._app.tasks.get(job.task)
        values = read(job.args)
        args, kwargs = ((), values) if task is None else task.shape.given(values, job.headers.get(POSITIONAL))
        return {
            "id": str(job.id),
            "name": job.task,
            "type": job.task,
            "args": list(args),
            "kwargs": kwargs,
            "hostname": name_of(worker),
            "worker_pid": worker.pid,
            "time_start": None if job.claimed_at is None else job.claimed_at.timestamp(),
            "acknowledged": False,
            "delivery_info": {"routing_key": job.queue, "priority": job.priority, "redelivered": job.attempt > 1},
        }


def _serves(worker: WorkerStatus, queue: str) -> bool:
    return any(
        Patterns([served]).match(queue) is not None if "*" in served else served == queue for served in worker.queues
    )


def _stats(worker: WorkerStatus) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "started_at": worker.started_at.isoformat(),
        "pool": {"max-concurrency": worker.slots, "running": worker.running},
        "rusage": {"rss_bytes": worker.rss_bytes},
        "status": worker.status,
        "version": worker.version,
        "release": worker.release,
    }
