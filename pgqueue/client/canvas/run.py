"""A workflow that was enqueued, and the verbs on it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from pgqueue.client.workflows import Workflows
from pgqueue.errors import UnknownWorkflow
from pgqueue.queries.workflows.read import WorkflowStatus
from pgqueue.tasks.added import Addable, AddedNode, AfterAdded

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """A workflow that was enqueued: what `enqueue` of a canvas, a workflow or a batch returns.

    `jobs`: the ids of its jobs, in the order in which they are written; none of a batch that went to the database
    block by block, is not sealed, or adds to another one: `app.workflows.jobs(run.id)` lists those. A canvas of
    nothing, such as a group without members, has no row and no `id`; it has succeeded at once. On a borrowed
    connection the workflow exists if and only if the caller's transaction commits; the verbs here have connections of
    their own, and raise UnknownWorkflow before that. `app.workflows` has the same verbs for an id.
    """

    id: int | None
    jobs: list[int]
    workflows: Workflows | None = field(default=None, repr=False, compare=False)

    @property
    def state(self) -> str:
        """How it stands, as the database has it now: running, succeeded, failed or cancelled."""
        return "succeeded" if self.id is None else self.status().state

    def status(self) -> WorkflowStatus:
        """Return how it stands, with how many of its jobs wait, run and have ended."""
        workflows, workflow = self._own()
        return workflows.get(workflow)

    async def astatus(self) -> WorkflowStatus:
        """The async twin of `status`."""
        workflows, workflow = self._own()
        return await workflows.aget(workflow)

    def wait(self, timeout: float | timedelta | None = None) -> str:
        """Wait until it has ended, at most `timeout` seconds; return its state then. Callbacks may run on.

        Raises WaitTimeout. In an event loop use `await_end`. Do not wait inside the transaction that enqueues it.
        """
        if self.id is None:
            return self.state
        workflows, workflow = self._own()
        return workflows.wait(workflow, timeout).state

    async def await_end(self, timeout: float | timedelta | None = None) -> str:
        """The async twin of `wait`."""
        if self.id is None:
            return self.state
        workflows, workflow = self._own()
        return (await workflows.await_end(workflow, timeout)).state

    def cancel(self, reason: str | None = None) -> bool:
        """End what has not begun as cancelled, and ask what runs to stop; return False if it had ended."""
        if self.id is None:
            return False
        workflows, workflow = self._own()
        return workflows.cancel(workflow, reason)

    async def acancel(self, reason: str | None = None) -> bool:
        """The async twin of `cancel`."""
        if self.id is None:
            return False
        workflows, workflow = self._own()
        return await workflows.acancel(workflow, reason)

    def add(
        self, part: Addable[R], /, *, after: AfterAdded | Iterable[AfterAdded] = (), name: str | None = None
    ) -> AddedNode[R]:
        """Add a signature, a canvas or a workflow while it runs, and commit at once; see `app.workflows.add`, which
        takes a connection: `app.workflows.using(conn).add(run.id, …)`."""
        workflows, workflow = self._own()
        return workflows.add(workflow, part, after=after, name=name)

    async def aadd(
        self, part: Addable[R], /, *, after: AfterAdded | Iterable[AfterAdded] = (), name: str | None = None
    ) -> AddedNode[R]:
        """The async twin of `add`."""
        workflows, workflow = self._own()
        return await workflows.aadd(workflow, part, after=after, name=name)

    def seal(self) -> bool:
        """Seal it, if it is open: it ends with its last job. Returns False if it was sealed already."""
        workflows, workflow = self._own()
        return workflows.seal(workflow)

    async def aseal(self) -> bool:
        """The async twin of `seal`."""
        workflows, workflow = self._own()
        return await workflows.aseal(workflow)

    def retry(self) -> int:
        """Run it again from what failed; return how many jobs came back. What has succeeded does not run again.

        Raises WorkflowRunning while jobs of it wait or run, and WorkflowIncomplete if retention has dropped some.
        """
        workflows, workflow = self._own()
        return workflows.retry(workflow)

    async def aretry(self) -> int:
        """The async twin of `retry`."""
        workflows, workflow = self._own()
        return await workflows.aretry(workflow)

    def _own(self) -> tuple[Workflows, int]:
        if self.id is None or self.workflows is None:
            raise UnknownWorkflow("a canvas of nothing has no workflow: there was no job to enqueue")
        return self.workflows, self.id
