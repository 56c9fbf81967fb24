"""Adding to workflows that run, as steps that a caller's verb and a running job share."""

from collections.abc import Iterable, Mapping
from typing import Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas.addition import NewNodes
from pgqueue.client.steps import Steps, all_or_nothing
from pgqueue.errors import InvalidWorkflow, LeaseLost, OlderReleaseRuns, UnknownWorkflow, WorkflowEnded
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.workflows import WorkflowQueries
from pgqueue.queries.workflows.adding import Entered, LockedGroup
from pgqueue.queries.workflows.enqueue import KNOWS, KNOWS_ADDING, InsertedWorkflow
from pgqueue.tasks.added import Addable, AfterAdded
from pgqueue.workflows.check import check
from pgqueue.workflows.gates import with_policy
from pgqueue.workflows.graph import Graph


def refuse_older(queries: WorkflowQueries, *, is_open: bool = False) -> Steps[None]:
    """Refuse a workflow, or one to which others add, while a worker lives whose release does not know such a one."""
    older: str | None = yield queries.find_older(KNOWS_ADDING if is_open else KNOWS)
    if older is not None:
        what = "jobs that are added to one that runs" if is_open else "workflows"
        raise OlderReleaseRuns(
            f"worker {older} knows no {what}, and would end jobs without telling those that wait: replace it first"
        )


def compiled(
    app: AppParts, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None
) -> NewNodes[Any]:
    """Return what is to be added. Raises InvalidWorkflow, also for tasks of another app, and what compiling raises."""
    if not hasattr(part, "addition"):
        raise InvalidWorkflow(f"{part!r:.100} cannot be added: give task.s(…), a canvas or a workflow")
    new = part.addition(after, name)
    if not isinstance(new, NewNodes) or new.app.tasks is not app.tasks:
        raise InvalidWorkflow("tasks of another app cannot be added: a workflow is rows in one schema")
    return new


def add_to(queries: WorkflowQueries, group: int, new: NewNodes[Any]) -> Steps[Mapping[str, Any]]:
    """Add new nodes to a group that runs, in a transaction; return the row of what was added.

    Raises WorkflowEnded, UnknownWorkflow, and InvalidWorkflow.
    """
    into = yield from _lock(queries, group)
    if into.state != "running":
        raise WorkflowEnded(into.root_id, into.state)
    graph = with_policy(new.graph, into.ties)
    if graph.outside:
        yield from _check_parents(queries, into, graph.outside)
    inserted: InsertedWorkflow = yield queries.add(into, graph)
    if graph.outside:
        yield queries.tell_late(len(graph.edges), inserted.jobs)
    return new.row(inserted.groups, inserted.jobs)


def add_from(queries: WorkflowQueries, job: ClaimedJob, new: NewNodes[Any]) -> Steps[Mapping[str, Any]]:
    """Add new nodes to the group of a running job, in a transaction, under its lease; of a callback, to its workflow.

    Raises LeaseLost, OlderReleaseRuns, and what `add_to` raises.
    """
    yield from refuse_older(queries, is_open=True)
    entered: Entered | None = yield queries.enter(job)
    if entered is None:
        raise LeaseLost(f"job {job.id} is no longer this worker's: nothing was added")
    if new.graph.outside:
        yield queries.mark_late_of(new.graph.outside)
    return (yield from add_to(queries, entered.group or entered.workflow, new))


def open_workflow(queries: WorkflowQueries, graph: Graph) -> Steps[InsertedWorkflow]:
    """Insert an open workflow, in a transaction."""
    yield from refuse_older(queries, is_open=True)
    inserted: InsertedWorkflow = yield queries.enqueue(check(graph))
    return inserted


def begin_adding(queries: WorkflowQueries, workflow: int) -> Steps[LockedGroup]:
    """Begin to add to a workflow, in a transaction in which blocks of members follow.

    Raises WorkflowEnded, UnknownWorkflow, OlderReleaseRuns.
    """
    yield from refuse_older(queries, is_open=True)
    into = yield from _lock(queries, workflow)
    if into.state != "running":
        raise WorkflowEnded(into.root_id, into.state)
    return into


@all_or_nothing
def stop_and_seal(queries: WorkflowQueries, workflow: int, reason: str) -> Steps[bool]:
    """Ask that a workflow is cancelled, and seal it if it is open; return whether it runs.

    It waits for those who add before it locks gates, so that jobs end meanwhile.
    """
    yield queries.close_open(workflow)
    running: bool = yield queries.request_stop(workflow, reason)
    if running:
        yield queries.seal(workflow)
    return running


def seal(queries: WorkflowQueries, workflow: int) -> Steps[bool]:
    """Seal a workflow, in a transaction; return whether it was open.

    Of one that is sealed nothing is locked: whoever cancels it holds its row already, and those who add may want that.
    """
    found: LockedGroup | None = yield queries.look_at_group(workflow)
    if found is None or found.sealed:
        return False
    yield queries.close_open(workflow)
    was_open: bool = yield queries.seal(workflow)
    return was_open


def _lock(queries: WorkflowQueries, group: int) -> Steps[LockedGroup]:
    """Lock a group, or share an open workflow with others who add to it."""
    found: LockedGroup | None = yield queries.look_at_group(group)
    if found is not None and not found.sealed:
        yield queries.share_open(group)
        found = yield queries.look_at_group(group)
    if found is None or found.sealed:
        found = yield queries.lock_group(group)
    if found is None:
        raise UnknownWorkflow(f"no workflow {group}: never committed, or dropped by retention")
    return found


def _check_parents(queries: WorkflowQueries, into: LockedGroup, parents: Iterable[int]) -> Steps[None]:
    strangers, circle = yield queries.check_parents(into, list(parents))
    if strangers:
        raise InvalidWorkflow(
            f"{strangers[0]} is no job or group of workflow {into.root_id}, so nothing there can wait for it"
        )
    if circle:
        raise InvalidWorkflow(
            f"what is added to group {into.id} of workflow {into.root_id} would wait for the end of that group, and "
            "that for it: let it wait for something before"
        )
