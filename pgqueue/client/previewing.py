"""What a preview leaves out: jobs that fit the filter, and that the verb would skip."""

from collections.abc import Collection, Mapping, Sequence

from pgqueue.client.app_parts import AppParts
from pgqueue.client.bulk import DEAD, FINISHED, KINDS, takes
from pgqueue.client.steps import Steps
from pgqueue.queries.chosen import Candidate, Chosen


def will_move(
    app: AppParts, kind: str, place: int, found: Sequence[Chosen], within: Collection[str] | None
) -> Steps[list[Chosen]]:
    """Return those of these jobs that a verb would not skip now: whose tasks take their arguments, and whose workflows,
    if they come back with these, would come back `within` these queues."""
    ids = [job.id for job in found if app.tasks.get(job.task) is not None]
    refused: set[int] = set()
    if KINDS[kind].checks_arguments and ids:
        read: list[Candidate] = yield app.queries.chosen.read(kind, place, ids)
        refused = {job.id for job in read if not takes(app, job)}
    if found and (kind == "redrive" or (kind == "retry" and place in (DEAD, FINISHED))):
        counted: Mapping[int, int] = yield app.queries.workflows.counted([job.id for job in found])
        back: set[int] = (yield app.queries.workflows.comes_back({*counted.values()}, within)) if counted else set()
        refused |= {job for job, workflow in counted.items() if workflow not in back}
    return [job for job in found if job.id not in refused]
