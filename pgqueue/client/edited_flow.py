"""The flow of a job that somebody edits or brings back: keys of other arguments, the rule of another queue."""

import json
from contextlib import suppress

from pgqueue.client.app_parts import AppParts
from pgqueue.errors import InvalidArguments
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.limit_rule import is_queue_rule
from pgqueue.queries.chosen import Candidate
from pgqueue.tasks.metering import Metering
from pgqueue.tasks.spec import TaskSpec


def flow_after(app: AppParts, job: Candidate, args: str | None = None, queue_rule: str | None = None) -> str | None:
    """Return the flow that a job has after a change, as JSON text: `null` for none; None where it stays as it is.

    `args`: its new arguments as JSON text, not sealed. `queue_rule`: the rule of its new queue, empty without one. None
    stays. Raises InvalidArguments where no key can be made of the arguments.
    """
    old = flow_of(job)
    new = old if args is None or old is None else _of_args(app, job, args, old)
    if queue_rule is not None:
        new = _in_queue(new, queue_rule)
    if new == old:
        return None
    return "null" if new is None else json.dumps(new.header())


def flow_of(job: Candidate) -> Flow | None:
    """Return the flow of a job from its headers as they are stored."""
    with suppress(RecursionError, ValueError):  # what SQL may have stored, and Python cannot read
        return Flow.of_headers(json.loads(job.headers))
    return None


def _of_args(app: AppParts, job: Candidate, args: str, old: Flow) -> Flow:
    """Return the flow that new arguments make. Keys that the call gave, and not the arguments, stay; so does a flow
    that the old arguments would not make here."""
    spec = app.tasks.get(job.task)
    if spec is None or spec.metering is None or not spec.metering.is_keyed:
        return old
    of_queue = [bucket for bucket in old.buckets if is_queue_rule(bucket)]
    rule = of_queue[0] if of_queue else None
    try:
        before = _made(spec, spec.metering, job, rule)
    except Exception:  # noqa: BLE001 - validators, upcasters and functions for keys are the user's: they may raise anything
        return old
    if before != old:
        return old
    try:
        return _made(spec, spec.metering, job._replace(args=args), rule)
    except InvalidArguments:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise InvalidArguments(job.task, [f"no key of its rules can be made: {error}"]) from None


def _made(spec: TaskSpec, metering: Metering, job: Candidate, queue_rule: str | None) -> Flow:
    return metering.flow(queue_rule, spec.coder.defaults | spec.arguments(job), None)


def _in_queue(flow: Flow | None, rule: str) -> Flow | None:
    """Return a flow with the rule of another queue, or none, instead of the one it had; None if nothing is left."""
    flow = flow or Flow()
    kept = [bucket for bucket in flow.buckets if not is_queue_rule(bucket)]
    found = Flow(tuple(sorted([*kept, rule] if rule else kept)), flow.order, flow.share)
    return None if found == Flow() else found
