"""The verbs of a caller: enqueue and get, in the caller's transaction or on a connection of our own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.new_job import new_job
from pgqueue.client.options import Options
from pgqueue.client.session import Session
from pgqueue.client.waiting import WaitHandle
from pgqueue.config import check_name
from pgqueue.errors import InvalidOption, UnknownJob
from pgqueue.jobs.job import Job, JobState, NewJob
from pgqueue.tasks.storable import encode_unregistered


class Client:
    """The verbs that take a task by name. `app.using(conn, …)` makes one; its options apply to each job."""

    def __init__(self, home: AppParts, conn: object, options: Options) -> None:
        self._home = home
        self._session = Session(home, conn)
        self._options = options

    def enqueue(self, task: str, args: Mapping[str, Any] | None = None) -> Job:
        """Enqueue a task by name. A task registered here has its arguments validated; another one waits for a worker
        that knows it. Raises InvalidArguments before anything is written."""
        job, inline = self._session.insert(self._new(task, args)), self._home.backend.inline
        return job if inline is None else inline.run(job)

    async def aenqueue(self, task: str, args: Mapping[str, Any] | None = None) -> Job:
        """Enqueue a task by name. A task registered here has its arguments validated; another one waits for a worker
        that knows it. Raises InvalidArguments before anything is written."""
        job, inline = await self._session.ainsert(self._new(task, args)), self._home.backend.inline
        return job if inline is None else await inline.arun(job)

    def get(self, job_id: int) -> Job:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        return _found(job_id, self._session.run(self._home.queries.jobs.get(job_id)), self._session.handle)

    async def aget(self, job_id: int) -> Job:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        return _found(job_id, await self._session.arun(self._home.queries.jobs.get(job_id)), self._session.handle)

    def cancel(self, job_id: int, reason: str = "cancelled by request") -> bool:
        """Cancel a job: True if it was waiting and has ended, False if it runs and its worker is asked to stop it.

        Raises UnknownJob for a job that has ended or never was.
        """
        return _cancelled(job_id, self._session.run(self._home.queries.jobs.cancel(job_id, reason)))

    async def acancel(self, job_id: int, reason: str = "cancelled by request") -> bool:
        """Cancel a job: True if it was waiting and has ended, False if it runs and its worker is asked to stop it.

        Raises UnknownJob for a job that has ended or never was.
        """
        return _cancelled(job_id, await self._session.arun(self._home.queries.jobs.cancel(job_id, reason)))

    def _new(self, task: str, args: Mapping[str, Any] | None) -> NewJob:
        check_name("task", task)
        spec = self._home.tasks.get(task)
        given = {} if args is None else args
        if spec is not None and self._options.version not in (None, spec.version):
            raise InvalidOption(
                f"version={self._options.version} cannot be used: task {task} is registered here, at version "
                f"{spec.version}, and its arguments are checked as that"
            )
        values: list[dict[str, Any]] = []
        if spec is None:
            text = encode_unregistered(task, given, self._home.max_args_bytes)
            values.append(dict(given))
        else:
            text = spec.coder.encode((), given, values)
        options = self._options
        if spec is not None and (spec.rules is not None or options.rules is not None):
            options = replace(options, rules=spec.rules_of(options.rules))
        elif options.rules is not None:
            options.rules.check_unregistered(task, given)
        return new_job(text, options, spec, task, self._home, values[0])


def _found(job_id: int, job: Job | None, handle: WaitHandle) -> Job:
    if job is None:
        raise UnknownJob(f"no job {job_id}: never committed, or dropped by retention")
    return replace(job, handle=handle)


def _cancelled(job_id: int, state: str | None) -> bool:
    if state is None:
        raise UnknownJob(f"no job {job_id} is waiting or running: it has ended, or was never committed")
    return state != JobState.RUNNING
