"""Jobs that a workflow has counted come back with their workflow, from what failed."""

from collections.abc import Collection, Mapping, Sequence

from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import Steps
from pgqueue.errors import WorkflowIncomplete, WorkflowRunning
from pgqueue.queries.workflows.retry import LockedWorkflow, Revived


def revive_with(
    app: AppParts, ids: Sequence[int], reason: str, *, strict: bool = False, within: Collection[str] | None = None
) -> Steps[int]:
    """Bring the workflows of these dead letters and cancelled jobs back; return how many of the jobs came with them.

    A workflow of which jobs live or are gone is left as it is, and so is one that somebody retries now; with `strict`
    these raise WorkflowRunning and WorkflowIncomplete. A workflow that holds has counted none of its dead letters.
    `within`: also a workflow is left as it is with which jobs outside these queues would come back.
    """
    counted: Mapping[int, int] = yield app.queries.workflows.counted(ids)
    back: set[int] = set()
    for workflow in sorted(set(counted.values())):
        locked: LockedWorkflow | None = yield app.queries.workflows.lock_free_for_retry(workflow)
        if locked is None or locked.state == "running" or not locked.settled:
            if strict:
                raise WorkflowRunning(workflow)
            continue
        if within is not None and (yield app.queries.workflows.elsewhere(workflow, within)):
            continue
        revived: Revived = yield app.queries.workflows.revive(locked, reason)
        if strict and revived.living:
            raise WorkflowRunning(workflow)
        if strict and revived.ended != locked.jobs:
            raise WorkflowIncomplete(workflow, locked.jobs - revived.ended)
        if revived.revived:
            back.add(workflow)
    return sum(workflow in back for workflow in counted.values())


def leaves(app: AppParts, ids: Sequence[int], queues: Collection[str]) -> Steps[bool]:
    """Find out whether jobs outside these queues would come back with these dead letters and cancelled jobs."""
    counted: Mapping[int, int] = yield app.queries.workflows.counted(ids)
    for workflow in sorted(set(counted.values())):
        if (yield app.queries.workflows.elsewhere(workflow, queues)):
            return True
    return False
