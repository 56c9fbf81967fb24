"""The flow of a job that is stored without one: of a schedule, or enqueued before its task had a rule."""

import json

from pgqueue.jobs.flow import FLOW, Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.tasks.metering import Metering
from pgqueue.tasks.registry import Tasks
from pgqueue.tasks.spec import StoredArguments, TaskSpec


def stored_flow(spec: TaskSpec, metering: Metering, job: StoredArguments, queue_rule: str | None) -> Flow:
    """Return the flow that stored arguments make.

    Where they do not fit the task, its job will fail; until then it takes the bucket of each rule alone, so that no
    limit is exceeded.
    """
    if not metering.is_keyed:
        return metering.flow(queue_rule, {}, None)
    try:
        return metering.flow(queue_rule, spec.coder.defaults | spec.arguments(job), None)
    except Exception:  # noqa: BLE001 - validators, upcasters and functions for keys are the user's: they may raise anything
        return metering.flow_without_keys(queue_rule)


class Latecomers:
    """Finds claimed jobs that rules of this app concern, and that carry no flow.

    They were enqueued before the rule existed, by a release that does not know it, or by SQL that did not say so. A
    worker does not run them: they get their flow, and wait for their turn. So do jobs in order with a wrong priority.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        named = [(name, spec) for spec in tasks for name in (spec.name, *spec.aliases)]
        self._metered = {name: (spec, spec.metering) for name, spec in named if spec.metering is not None}

    def __bool__(self) -> bool:
        """Whether the app has rules."""
        return bool(self._metered or self._tasks.queue_rules)

    def label(self, job: ClaimedJob) -> str | None:
        """Return, as JSON, the flow that a job should have, and its priority where that is wrong; None if it is right.

        All jobs in order have the priority of their task. One that SQL, or an app without the task, has given another
        one stands in another lane, and would pass those that wait.
        """
        known = self._metered.get(job.task)
        if job.lane is not None:
            if job.lane >= 0 or known is None or known[1].order is None or job.priority == known[0].priority:
                return None
            header = json.loads(job.headers or "{}")[FLOW]
            return json.dumps(header | {"priority": known[0].priority})
        rule = self._tasks.queue_rules.get(job.queue)
        if known is None:
            return None if rule is None else json.dumps(Flow((rule,)).header())
        flow = stored_flow(*known, job, rule)
        return json.dumps(flow.header() | ({"priority": known[0].priority} if flow.in_order else {}))
