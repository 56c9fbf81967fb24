"""The jobs of ticks: what a schedule's task gives them."""

from dataclasses import replace

from pgqueue.client.app_parts import AppParts
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.keys import Conditions
from pgqueue.tasks.metering import Metering
from pgqueue.tasks.spec import TaskSpec
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
        made.flow = _flow(spec, spec.metering, job, app.tasks.queue_rules.get(job.queue))
        if spec.metering.order is not None:
            made.priority = spec.priority
    return made


def _flow(spec: TaskSpec, metering: Metering, job: NewJob, queue_rule: str | None) -> Flow:
    """Return the flow that the arguments of a schedule make, which its row has as JSON.

    Where they no longer fit the task, its job will fail; until then it takes the bucket of each rule alone, so that no
    limit is exceeded.
    """
    if not metering.is_keyed:
        return metering.flow(queue_rule, {}, None)
    try:
        stored = replace(job, headers=with_own(job.headers, replace(job, flow=None)))
        return metering.flow(queue_rule, spec.coder.defaults | spec.arguments(stored), None)
    except Exception:  # noqa: BLE001 - validators, upcasters and functions for keys are the user's: they may raise anything
        return metering.flow_without_keys(queue_rule)
