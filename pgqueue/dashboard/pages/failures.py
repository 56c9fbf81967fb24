"""Failures: dead letters by what their errors have in common."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pgqueue.dashboard import charts
from pgqueue.dashboard.look import Look, Page
from pgqueue.dashboard.tracebacks import excerpt_of
from pgqueue.errors import UnknownJob
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import Job
from pgqueue.queries.dashboard import HOURS, MOST_FAILURES, FailedDay

MOST_GROUPS = 100
NEWEST = 50
SHARED = 0.5  # of the newest jobs of a group: an argument that more of them have may be the cause
MOST_SHARED = 6
DAYS, MOST_TASKS = 7, 20


def failures(look: Look, _: str) -> Page:
    """List groups of dead letters, the latest failure first."""
    groups = look.ask(look.queries.dashboard.failures(MOST_GROUPS))
    days = look.ask(look.queries.dashboard.days_of_failures())
    values = {
        "groups": [(group, charts.hourly(group, HOURS)) for group in groups],
        "is_whole": all(group.read < MOST_FAILURES for group in groups),
        "most": MOST_FAILURES,
        "days": days_of(days),
    }
    return Page("failures.html", "Failures", values)


def group(look: Look, name: str) -> Page:
    """Show one group: its newest error, what its arguments have in common, its newest jobs."""
    jobs = look.ask(look.queries.dead.list(DeadFilter(group=name), None, NEWEST))
    if not jobs:
        raise UnknownJob(f"no dead letter is in group {name} any more")
    groups = look.ask(look.queries.dashboard.failures(MOST_GROUPS))
    found = next((each for each in groups if each.group == name), None)
    shown = [(job, look.redaction.shown(job, "args", job.args)) for job in jobs]
    error = jobs[0].error
    values = {
        "name": name,
        "group": found,
        "chart": None if found is None else charts.hourly(found, HOURS),
        "jobs": shown,
        "newest": jobs[0],
        "error": error,
        "excerpt": None if error is None else excerpt_of(error.traceback),
        "common": common_arguments([args for _, args in shown]) if look.access.shows("arguments") else [],
        "tasks": sorted({job.task for job in jobs}),
    }
    return Page("failure.html", f"Failures {_title(jobs[0], name)}", values)


def days_of(found: Sequence[FailedDay]) -> list[tuple[str, list[int]]]:
    """Return for each task how many of its dead letters failed today (UTC) and on each of the six days before, the task
    with the most first."""
    days: dict[str, list[int]] = {}
    for each in found:
        if 0 <= each.ago < DAYS:
            days.setdefault(each.task, [0] * DAYS)[each.ago] += each.jobs
    return sorted(days.items(), key=lambda task: (-sum(task[1]), task[0]))[:MOST_TASKS]


def common_arguments(all_args: Sequence[Any]) -> list[tuple[str, str, int]]:
    """Return arguments that most of the jobs have, with their value and how many have it, the most common first."""
    if len(all_args) < 2:
        return []
    seen = Counter(
        (str(name), json.dumps(value, ensure_ascii=False, default=str))
        for args in all_args
        if isinstance(args, dict)
        for name, value in args.items()
    )
    least = max(2, SHARED * len(all_args))
    return [(name, value, jobs) for (name, value), jobs in seen.most_common(MOST_SHARED) if jobs >= least]


def _title(job: Job, name: str) -> str:
    return job.error.type if job.error is not None else name
