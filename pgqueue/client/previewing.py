"""Previews: which jobs a verb would take, without those that fit the filter and that it would skip."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.bulk import DEAD, FINISHED, KINDS, takes
from pgqueue.client.steps import Steps
from pgqueue.jobs.job_filter import Filter
from pgqueue.queries.chosen import Chosen, Fitting, Page, Preview

LEAST_PAGE = 1000  # jobs that fit, of which a preview finds out whether a verb skips them


def previewed(app: AppParts, kind: str, chosen: Filter, limit: int, options: Mapping[str, Any]) -> Steps[Preview]:
    """Return the jobs that a verb would take, of the newest in each place. What ids name is looked at wherever.

    It reads one page of each place, of `limit` jobs or more, and asks about all workflows at once: by six statements at
    most, however many jobs the verb would skip. Where a page is full and too few of it are left, `unseen_from` says it;
    likewise where the workflow of a job is too large to find out whether it comes back.
    """
    queries, found, below, beyond = app.queries.chosen, list[Chosen](), list[int](), list[int]()
    bound = set[int]()  # jobs that come back with their workflow or not at all
    for place in KINDS[kind].places(chosen):
        unseen: int | None = None if chosen.ids is not None else (yield queries.unseen(kind, place))
        below += [] if unseen is None else [unseen]
        if (left := limit - len(found)) <= 0:
            continue
        size = max(left, LEAST_PAGE) if KINDS[kind].checks_arguments else left
        page: list[Fitting] = yield queries.preview(kind, place, chosen, Page(size, unseen), options.get("priority"))
        beyond += [page[-1].shown.id + 1] if len(page) == size else []
        taken = [job.shown for job in page if job.stored is None or takes(app, job.stored)]
        found += taken
        if kind == "redrive" or (kind == "retry" and place in (DEAD, FINISHED)):
            bound.update(job.id for job in taken)
    stay, unsure = yield from _stay(app, sorted(bound), options.get("within"))
    beyond += unsure
    found = [job for job in found if job.id not in stay][:limit]
    return Preview(found, max(below, default=None), min(beyond, default=None) if len(found) < limit else None)


def _stay(app: AppParts, jobs: Sequence[int], within: Collection[str] | None) -> Steps[tuple[set[int], set[int]]]:
    """Return which of these dead letters and cancelled jobs are not shown, because their workflow does not come back
    `within` these queues; and those of them of which that is not known, because their workflow is too large to look at.
    """
    if not jobs:
        return set(), set()
    workflows: Mapping[int, int] = yield app.queries.workflows.counted(jobs)
    if not workflows:
        return set(), set()
    back: Mapping[int, bool] = yield app.queries.workflows.comes_back({*workflows.values()}, within)
    unsure = {job for job, workflow in workflows.items() if back.get(workflow) is False}
    return unsure | {job for job, workflow in workflows.items() if workflow not in back}, unsure
