"""Jobs that a workflow has counted come back with their workflow, from what failed."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import Steps
from pgqueue.errors import WorkflowIncomplete, WorkflowRunning
from pgqueue.queries.workflows.retry import LockedWorkflow, Revived


class Revival(NamedTuple):
    """How many of some jobs came back with their workflows, and which did not because others hold dead letters."""

    done: int
    held: Sequence[int]


def revive_with(
    app: AppParts, ids: Sequence[int], reason: str, *, strict: bool = False, within: Collection[str] | None = None
) -> Steps[Revival]:
    """Bring the workflows of these dead letters and cancelled jobs back.

    A workflow of which jobs live or are gone is left as it is, and so is one that somebody retries now; with `strict`
    these raise WorkflowRunning and WorkflowIncomplete. A workflow that holds has counted none of its dead letters.
    `within`: also a workflow is left as it is with which jobs outside these queues would come back. So is one of which
    others hold dead letters; with `strict`, which is for one job, it waits for them.
    """
    counted: Mapping[int, int] = yield app.queries.workflows.counted(ids)
    back, held = set[int](), set[int]()
    for workflow in sorted(set(counted.values())):
        locked: LockedWorkflow | None = yield app.queries.workflows.lock_free_for_retry(workflow)
        if locked is None or not locked.settled:
            if strict:
                raise WorkflowRunning(workflow)
            continue
        if within is not None and (yield app.queries.workflows.elsewhere(workflow, within)):
            continue
        if not strict and (yield app.queries.workflows.lock_letters(locked)):
            held.add(workflow)
            continue
        revived: Revived = yield app.queries.workflows.revive(locked, reason)
        if strict and revived.living:
            raise WorkflowRunning(workflow)
        if strict and revived.ended != locked.jobs:
            raise WorkflowIncomplete(workflow, locked.jobs - revived.ended)
        if revived.revived:
            back.add(workflow)
    left = [job for job, workflow in counted.items() if workflow in held]
    return Revival(sum(workflow in back for workflow in counted.values()), left)


def leaves(app: AppParts, ids: Sequence[int], queues: Collection[str]) -> Steps[bool]:
    """Find out whether jobs outside these queues would come back with these dead letters and cancelled jobs."""
    counted: Mapping[int, int] = yield app.queries.workflows.counted(ids)
    for workflow in sorted(set(counted.values())):
        if (yield app.queries.workflows.elsewhere(workflow, queues)):
            return True
    return False
