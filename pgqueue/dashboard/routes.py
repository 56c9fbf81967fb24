"""Which path shows which page, and which form does what."""

from collections.abc import Collection
from typing import NamedTuple

from pgqueue.dashboard import verbs
from pgqueue.dashboard.look import Shower
from pgqueue.dashboard.pages import code, failures, fleet, jobs, overview
from pgqueue.dashboard.request import unslug
from pgqueue.dashboard.verbs import Doer

# A part of a path in braces is the name of a thing, or its number.
SHOWERS: dict[str, Shower] = {
    "": overview.now,
    "queues": overview.queues,
    "queues/{}": overview.queue,
    "queues/{}/drain": overview.drain,
    "limits": overview.limits,
    "jobs": jobs.jobs,
    "jobs/{}": jobs.job,
    "jobs/{}/edit": jobs.edit,
    "preview/{}": jobs.preview,
    "failures": failures.failures,
    "failures/{}": failures.group,
    "tasks": code.tasks,
    "tasks/{}": code.task,
    "tasks/{}/enqueue": code.enqueue,
    "schedules": code.schedules,
    "schedules/{}": code.schedule,
    "schedules/{}/pause": code.pause,
    "workers": fleet.workers,
    "workflows": fleet.workflows,
    "workflows/{}": fleet.workflow,
    "database": fleet.database,
    "operations": fleet.operations,
    "operations/{}": fleet.operation,
}


class Deed(NamedTuple):
    """What a form does: the verb that the access must allow, and the function that does it.

    `of`: what the row of the operation names; None where the function leaves a row itself.
    """

    verb: str
    do: Doer
    of: str | None = None


DEEDS: dict[str, Deed] = {
    "jobs/{}/cancel": Deed("cancel", verbs.cancel),
    "jobs/{}/retry": Deed("retry", verbs.retry),
    "jobs/{}/promote": Deed("promote", verbs.promote),
    "jobs/{}/redrive": Deed("redrive", verbs.redrive),
    "jobs/{}/discard": Deed("discard", verbs.discard),
    "jobs/{}/annotate": Deed("annotate", verbs.annotate, "job"),
    "jobs/{}/reveal": Deed("reveal", verbs.reveal, "job"),
    "jobs/{}/edit": Deed("edit", verbs.edit),
    "preview/cancel": Deed("cancel", verbs.cancel_many),
    "preview/retry": Deed("retry", verbs.retry_many),
    "preview/promote": Deed("promote", verbs.promote_many),
    "preview/redrive": Deed("redrive", verbs.redrive_many),
    "preview/discard": Deed("discard", verbs.discard_many),
    "queues/{}/pause": Deed("pause", verbs.pause_queue, "queue"),
    "queues/{}/resume": Deed("resume", verbs.resume_queue, "queue"),
    "tasks/{}/pause": Deed("pause", verbs.pause_task, "task"),
    "tasks/{}/resume": Deed("resume", verbs.resume_task, "task"),
    "tasks/{}/enqueue": Deed("enqueue", verbs.enqueue),
    "limits/{}/pause": Deed("pause", verbs.pause_limit, "limit"),
    "limits/{}/resume": Deed("resume", verbs.resume_limit, "limit"),
    "schedules/{}/pause": Deed("pause", verbs.pause_schedule, "schedule"),
    "schedules/{}/resume": Deed("resume", verbs.resume_schedule, "schedule"),
    "schedules/{}/run": Deed("run", verbs.run_schedule, "schedule"),
    "workers/{}/quiet": Deed("quiet", verbs.quiet_worker, "process"),
    "workers/{}/resume": Deed("quiet", verbs.resume_worker, "process"),
    "workers/{}/stop": Deed("stop", verbs.stop_worker, "process"),
    "workflows/{}/cancel": Deed("cancel", verbs.cancel_workflow, "workflow"),
    "workflows/{}/retry": Deed("retry", verbs.retry_workflow, "workflow"),
    "operations/{}/stop": Deed("halt", verbs.stop_operation, "operation"),
    "operations/{}/resume": Deed("halt", verbs.resume_operation, "operation"),
}


def shower_of(path: str) -> tuple[Shower, str] | None:
    """Return the page of a path, and the name in it."""
    shape, name = shape_of(path, SHOWERS)
    return (SHOWERS[shape], name) if shape in SHOWERS else None


def deed_of(path: str) -> tuple[Deed, str] | None:
    """Return what a form that is sent to a path does, and the name in it."""
    shape, name = shape_of(path, DEEDS)
    return (DEEDS[shape], name) if shape in DEEDS else None


def shape_of(path: str, known: Collection[str]) -> tuple[str, str]:
    """Return the path with braces for the name in it, and the name."""
    whole = path.strip("/")
    if whole in known:
        return whole, ""
    first, _, rest = whole.partition("/")
    name, slash, last = rest.partition("/")
    return f"{first}/{{}}{slash}{last}", unslug(name)
