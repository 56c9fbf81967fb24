"""The duty that reads the results for which claimed jobs have waited, before the jobs begin."""

import logging
from collections.abc import Iterable, Sequence

from pgqueue.client.result_pages import ResultPages
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.process.duty import Duty
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals
from pgqueue.workflows.gates import INPUTS

log = logging.getLogger("pgqueue.worker")
BATCH = 100  # jobs whose inputs one statement reads


class InputReader(Duty):
    """Hands claimed jobs on: most at once, and those with inputs when these are read, all of a claim together.

    A job whose lease was lost meanwhile is dropped. When the worker stops before they are read, the jobs are released
    as strays.
    """

    name = "inputs"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._app = core.app
        self._queries = core.queries.workflows
        self._signals = signals
        self._most_bytes = core.app.max_args_bytes
        self._waiting: list[ClaimedJob] = []

    def take(self, jobs: Sequence[ClaimedJob]) -> None:
        """Hand on jobs that were just claimed."""
        needing = [job for job in jobs if job.ties is not None and job.ties & INPUTS]
        if needing:
            self._waiting += needing
            self.wake()
            jobs = [job for job in jobs if job.ties is None or not job.ties & INPUTS]
        self._signals.jobs_ready(jobs)

    def _paged(self, job: ClaimedJob) -> Iterable[str]:
        spec = self._app.tasks.get(job.task)
        return () if spec is None else spec.paged_in(job.headers)

    def waiting_jobs(self) -> list[int]:
        """The jobs whose inputs are not read yet."""
        return [job.id for job in self._waiting]

    async def step(self) -> float:
        """Read the inputs of a batch of jobs, and hand them on."""
        batch = self._waiting[:BATCH]
        if not batch:
            return 3600.0
        paged = {job.id: names for job in batch if (names := self._paged(job))}
        later = [f"{job} {name}" for job, names in paged.items() for name in names]
        found = await self.link.run(self._queries.inputs(batch, later))
        del self._waiting[: len(batch)]
        for job in batch:
            job.pages = ResultPages(self._app, job.id) if job.id in paged else None
            job.inputs = found.get(job.id)
            if job.inputs is not None and len(job.inputs) > self._most_bytes:
                log.warning(
                    "job %d %s gets %d bytes of results of other jobs, more than the %d that its arguments may have: "
                    "let the jobs before it return less, or store what they make and return where it is",
                    job.id, job.task, len(job.inputs), self._most_bytes, extra=job.log_facts,
                )  # fmt: skip
        self._signals.jobs_ready([job for job in batch if job.inputs is not None])
        return 0.0
