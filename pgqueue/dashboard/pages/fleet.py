"""Workers, workflows, the database, operations: what runs, and who asked for what."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pgqueue.client.bulk import KINDS
from pgqueue.dashboard import charts
from pgqueue.dashboard.filters import given, query_of, read_id
from pgqueue.dashboard.graph import picture_of
from pgqueue.dashboard.look import Look, Page
from pgqueue.dashboard.redaction import without_secrets
from pgqueue.doctor.limits import Limits
from pgqueue.errors import InvalidOption, UnknownJob, UnknownWorkflow
from pgqueue.jobs.job import Job
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.queries.dashboard import Announced, KeptDay
from pgqueue.queries.operations import Operation
from pgqueue.queries.workers import WorkerStatus

LISTED = 50
MOST_JOBS = 2000  # of a workflow, that a page reads
DAYS = 7
MOST_TASKS, MOST_INDEXES = 200, 20
STUCK_SECONDS = Limits().duty_seconds
STATES = ("running", "succeeded", "failed", "cancelled")


def workers(look: Look, _: str) -> Page:
    """List workers and schedulers, the lost ones first."""
    found = look.ask(look.queries.workers.list())
    order = {"lost": 0, "silent": 1, "stopping": 2, "quiet": 3}
    found.sort(key=lambda each: (order.get(each.status, 4), each.kind != "worker", each.host, each.pid))
    alive = [each for each in found if each.kind == "worker" and each.status not in ("lost", "silent")]
    running = look.ask(look.queries.jobs.list(JobFilter(state="running"), None, LISTED))
    jobs: dict[UUID | None, list[Job]] = {}
    for job in running:
        jobs.setdefault(job.worker_id, []).append(job)
    slots, announced = sum(w.slots for w in alive), look.ask(look.queries.dashboard.announced())
    tasks = known_tasks(announced)
    span = charts.chosen(look.request.asked("span"), "24h")
    activity = look.activity(charts.SPANS[span])
    values = {
        "workers": [(each, _stuck(each), jobs.get(each.id, [])) for each in found],
        "slots": slots,
        "running": sum(w.running for w in alive),
        "tasks": tasks[:MOST_TASKS],
        "more_tasks": max(0, len(tasks) - MOST_TASKS),
        "living": sum(len(each.workers) for each in announced),
        **charts.used_of(activity, span, slots),
    }
    return Page("workers.html", "Workers", values)


class KnownTask(NamedTuple):
    """A task, how many of the workers that live know it, and up to which version, the newest first."""

    task: str
    workers: int
    versions: Sequence[tuple[int, int]]


def known_tasks(announced: Iterable[Announced]) -> list[KnownTask]:
    """Return the tasks that workers have announced: first those about which they differ."""
    found: dict[str, dict[int, int]] = {}
    living = 0
    for each in announced:
        living += len(each.workers)
        newest: dict[str, int] = {}
        for label in each.tasks:
            name, _, version = label.rpartition("@")
            if not (name and version.isdecimal()):  # the first version, maybe of a task whose own name has an @
                name, version = label, "1"
            newest[name] = max(newest.get(name, 1), int(version))
        for name, up_to in newest.items():
            known = found.setdefault(name, {})
            known[up_to] = known.get(up_to, 0) + len(each.workers)
    tasks = [
        KnownTask(name, sum(versions.values()), sorted(versions.items(), reverse=True))
        for name, versions in found.items()
    ]
    return sorted(tasks, key=lambda task: (task.workers == living and len(task.versions) == 1, task.task))


def _stuck(worker: WorkerStatus) -> list[tuple[str, float]]:
    """Return the duties of a process that have not worked for longer than any of them rests, with the seconds."""
    ages = ((name, seconds) for name, seconds in worker.duties.items() if seconds)
    return sorted((name, seconds) for name, seconds in ages if seconds > STUCK_SECONDS)


def workflows(look: Look, _: str) -> Page:
    """List the newest workflows."""
    state, before = look.request.asked("state"), look.request.asked("before")
    if state is not None and state not in STATES:
        raise InvalidOption(f"state={state!r:.100} cannot be used: give {', '.join(STATES)}")
    found = look.ask(look.queries.workflows.list(state, None if before is None else read_id(before), LISTED))
    fields = given(look.request, ("state",))
    last = query_of({**fields, "before": found[-1].id}) if len(found) == LISTED else None
    return Page("workflows.html", "Workflows", {"workflows": found, "states": STATES, "state": state, "next": last})


def workflow(look: Look, name: str) -> Page:
    """Show one workflow: its graph, with the state of each job."""
    number, queries = read_id(name), look.queries.workflows
    status = look.ask(queries.get(number))
    if status is None:
        raise UnknownWorkflow(f"no workflow {number}: never committed, or dropped by retention")
    jobs = look.ask(queries.jobs(number, MOST_JOBS))
    edges = look.ask(queries.edges(number, MOST_JOBS))
    groups = look.ask(queries.groups(number, MOST_JOBS))
    values = {"workflow": status, "jobs": jobs, "most": MOST_JOBS, "picture": picture_of(jobs, edges, groups)}
    return Page("workflow.html", f"Workflow {status.name}", values)


def database(look: Look, _: str) -> Page:
    """Show how big the tables are, and what holds them back. The doctor's findings are put in by the dashboard."""
    queries = look.queries.metrics
    snapshot, notify = look.ask(queries.snapshot())
    tables = look.ask(queries.tables())
    days = look.ask(look.queries.dashboard.days_kept())
    tables.sort(key=lambda table: -table[2])
    values: dict[str, Any] = {
        "tables": tables,
        "largest": max((table[2] for table in tables), default=0) or 1,
        "indexes": look.ask(look.queries.dashboard.indexes(MOST_INDEXES)),
        "partitions": look.ask(queries.partitions()),
        "days": days_of(days),
        "snapshot": snapshot,
        "notify": notify,
        "revision": look.ask(queries.revision()),
    }
    return Page("database.html", "Database", values)


def days_of(found: Iterable[KeptDay]) -> list[tuple[str, list[int | None]]]:
    """Return the bytes of each history's last seven days, today (UTC) first; None for a day without a partition."""
    days: dict[str, list[int | None]] = {}
    for each in found:
        days.setdefault(each.history, [None] * DAYS)[each.ago] = each.bytes
    return sorted(days.items())


def operations(look: Look, _: str) -> Page:
    """List the newest operations: who asked for what, and how far it is."""
    found = look.ask(look.queries.operations.list(LISTED))
    return Page(
        "operations.html", "Operations", {"operations": [(each, without_secrets(each.filter)) for each in found]}
    )


def operation(look: Look, name: str) -> Page:
    """Show one operation."""
    found = look.ask(look.queries.operations.list(1, read_id(name)))
    if not found:
        raise UnknownJob(f"there is no operation {name}")
    values = {
        "operation": found[0],
        "wants": _wanted(found[0]),
        "on_jobs": found[0].kind in KINDS and not found[0].filter.keys() & {"job", "workflow", "schedule"},
        "filter": without_secrets(found[0].filter),
        "options": without_secrets(_options(found[0], look.access.queues)),
    }
    return Page("operation.html", f"Operation {found[0].id}", values)


def _options(operation: Operation, queues: Collection[str] | None) -> dict[str, Any]:
    """Return the options of an operation, without names of queues that there are not for whoever looks."""
    if queues is None:
        return dict(operation.options)
    options = {name: value for name, value in operation.options.items() if name != "queue" or value in queues}
    return (
        options | {"within": [name for name in options["within"] if name in queues]} if "within" in options else options
    )


def _wanted(operation: Operation) -> int | None:
    """Return how many jobs it may change at most, where that was said."""
    limit = operation.options.get("limit")
    return limit if isinstance(limit, int) else None
