"""Now, queues, limits: whether jobs get through, and what holds them up."""

import shlex
from collections.abc import Collection, Sequence

from pgqueue.dashboard import charts
from pgqueue.dashboard.look import Look, Page
from pgqueue.errors import UnknownQueue
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.patterns import serves
from pgqueue.queries.queues import MOST_LEFT, QueueLoad
from pgqueue.queries.workers import WorkerStatus

NEWEST = 20
MOST_GROUPS = 5
MOST_TASKS = 20


def now(look: Look, _: str) -> Page:
    """Show what is wrong and what happens now."""
    span = charts.chosen(look.request.asked("span"), "1h")
    look.begin_today()
    activity = look.activity(charts.SPANS[span])
    groups = look.ask(look.queries.dashboard.failures(MOST_GROUPS))
    workers = look.ask(look.queries.workers.list())
    values = {
        **charts.pair_of(activity, span),
        "today": look.today(),
        "queues": _worst_first(look.pulse.queues),
        "groups": groups,
        "workers": workers,
        "slots": sum(worker.slots for worker in workers if worker.kind == "worker" and worker.status == "alive"),
        "operations": look.ask(look.queries.operations.list_open(MOST_GROUPS)),
    }
    return Page("now.html", "Now", values)


def queues(look: Look, _: str) -> Page:
    """Show every queue, the one whose oldest job waits longest first."""
    found, waits = _worst_first(look.pulse.queues), look.waits(charts.SMALL)
    values = {
        "queues": found,
        "rates": look.rates(),
        "waits": {each.queue: charts.waits_of(waits[each.queue], charts.SMALL) for each in found if each.queue in waits}
        if waits is not None
        else None,
    }
    return Page("queues.html", "Queues", values)


def queue(look: Look, name: str) -> Page:
    """Show one queue: how it does, who serves it, its newest jobs."""
    found, serving = _known(look, name)
    span = charts.chosen(look.request.asked("span"), "3h")
    activity = look.activity(charts.SPANS[span], queue=name)
    jobs = look.ask(look.queries.jobs.list(JobFilter(queue=name), None, NEWEST))
    rates = look.rates()
    values = {
        "name": name,
        "queue": found,
        "rates": rates,
        "rate": None if rates is None else rates.get(name),
        "workers": [(worker, _served(worker, look.access.queues)) for worker in _serving_first(serving)],
        **charts.pair_of(activity, span),
        "tasks": look.ask_if_quick(look.queries.dashboard.tasks_of_queue(name, MOST_TASKS)) or (),
        "jobs": [(job, look.redaction.shown(job, "args", job.args)) for job in jobs],
    }
    return Page("queue.html", f"Queue {name}", values)


def _known(look: Look, name: str) -> tuple[QueueLoad | None, list[WorkerStatus]]:
    """Return how a queue is, and the workers that serve it. Raises UnknownQueue."""
    found = next((each for each in look.pulse.queues if each.queue == name), None)
    workers = look.ask(look.queries.workers.list())
    serving = [worker for worker in workers if worker.kind == "worker" and serves(worker.queues, name)]
    if found is None and not serving:
        raise UnknownQueue(f"queue {name} holds no job, no worker serves it, and it was never paused")
    return found, serving


def drain(look: Look, name: str) -> Page:
    """Show what a queue has left to do, until it is empty. Of a paused one only what runs: the rest stays."""
    found, serving = _known(look, name)
    left, rates = look.ask(look.queries.queues.left(name)), look.rates()
    paused = found is not None and found.paused_at is not None
    values = {
        "name": name,
        "queue": found,
        "paused": paused,
        "workers": len(serving),
        "left": left,
        "most": MOST_LEFT,
        "drained": not left.running and (paused or not left.due),
        "rates": rates,
        "rate": None if rates is None else rates.get(name),
        "command": f"pgqueue queues drain {shlex.quote(name)}" + (" --only-running" if paused else ""),
    }
    return Page("drain.html", f"Drain queue {name}", values)


def limits(look: Look, _: str) -> Page:
    """Show the rules of flow control, what runs under them and what waits for them."""
    return Page("limits.html", "Limits", {"limits": look.ask(look.queries.limits.list())})


def _served(worker: WorkerStatus, queues: Collection[str] | None) -> list[str]:
    """Return what a worker serves: all of it, by names and patterns, or which of these queues."""
    return list(worker.queues) if queues is None else [name for name in sorted(queues) if serves(worker.queues, name)]


def _worst_first(found: Sequence[QueueLoad]) -> list[QueueLoad]:
    return sorted(found, key=lambda each: (-(each.oldest_due_seconds or 0), -each.due, -each.running, each.queue))


def _serving_first(workers: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    return sorted(workers, key=lambda worker: (worker.status != "alive", worker.host, worker.pid))
