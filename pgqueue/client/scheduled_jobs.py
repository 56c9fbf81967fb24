"""The jobs of ticks: what a schedule's task gives them."""

from dataclasses import replace

from pgqueue.client.app_parts import AppParts
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.keys import Conditions
from pgqueue.tasks.stored_flow import stored_flow
from pgqueue.tasks.versions import with_own


def of_tick(app: AppParts, job: NewJob) -> NewJob:
    """Return the job of a tick with what its task says now: its rules, and without `expires` in the schedule that of
    the task. The task's keys of conditions do not apply: they are for callers."""
    spec = app.tasks.get(job.task)
    if spec is None or (spec.rules is None and spec.metering is None):
        flow = app.tasks.flow(None, job.task, job.queue, None, None)
        return job if flow is None else replace(job, flow=flow)
    made = replace(job)
    if job.conditions is None and spec.rules is not None and spec.rules.expires is not None:
        made.conditions = Conditions(expires=spec.rules.expires)
    if spec.metering is None:
        made.flow = app.tasks.flow(spec, spec.name, job.queue, None, None)
    else:
        stored = replace(job, headers=with_own(job.headers, replace(job, flow=None)))
        made.flow = stored_flow(spec, spec.metering, stored, app.tasks.queue_rules.get(job.queue))
        if spec.metering.order is not None:
            made.priority = spec.priority
    return made
