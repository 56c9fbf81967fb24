"""What an operation does with a batch of jobs, by its kind; and how its options are checked and read again."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from pgqueue.client.app_parts import AppParts
from pgqueue.client.edited_flow import flow_after, flow_of
from pgqueue.client.reviving import Revival, revive_with
from pgqueue.client.settings import check_count, check_optional_count, check_priority, check_run_at
from pgqueue.client.steps import Steps
from pgqueue.config import check_queue
from pgqueue.errors import CannotOpen, InvalidArguments, InvalidOption, UnknownKey
from pgqueue.events import WaitingJobCancelled
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import JobState
from pgqueue.jobs.job_filter import Filter, JobFilter, is_storable
from pgqueue.queries.chosen import Candidate
from pgqueue.queries.jobs.cancel import FoundToCancel
from pgqueue.queries.jobs.change import Edit, EditedJob
from pgqueue.queries.operations import Operation
from pgqueue.tasks.coder import problems_of
from pgqueue.tasks.inputs import ByReference
from pgqueue.tasks.sealing import open_args, seal_args
from pgqueue.tasks.storable import encode_unregistered
from pgqueue.tasks.versions import NewerVersion, UnknownParameters
from pgqueue.timing import DELAY, check_optional_duration

LEAST_RATE, MOST_RATE = 0.001, 100_000  # jobs a second
Options = Mapping[str, Any]


class Work(NamedTuple):
    """One batch: the operation, its options as they are read, the place where its jobs were found, and the jobs."""

    operation: Operation
    options: Options
    place: int
    jobs: Sequence[Candidate]

    @property
    def ids(self) -> list[int]:
        """The ids of the jobs."""
        return [job.id for job in self.jobs]

    def reason(self, done: str) -> str:
        """Return the reason that the log gets."""
        return f"{done} by {self.operation.actor} (operation {self.operation.id})"


class Acted(NamedTuple):
    """How many jobs of a batch were changed, and which were not because of what others hold."""

    done: int
    held: Sequence[int] = ()


class Kind(NamedTuple):
    """A kind of operation: its filter, the places where it looks, and what it does with a batch.

    `checks_arguments`: it leaves jobs whose arguments their task refuses.
    """

    filter: type[Filter]
    places: Callable[[Any], Sequence[int]]
    act: Callable[[AppParts, Work], Steps[Acted]]
    checks_arguments: bool = False


def _redrive(app: AppParts, work: Work) -> Steps[Acted]:
    rule, flows = (yield from rule_of_queue(app, work.options.get("queue"))), dict[int, str | None]()
    if rule is not None:
        flows = {job.id: flow_after(app, job, queue_rule=rule) for job in work.jobs}
    reason = work.reason("redriven")
    done: int = yield app.queries.dead.redrive(work.operation.id, work.ids, reason, work.options, flows)
    return (yield from _revive(app, work, reason, done))


def _revive(app: AppParts, work: Work, reason: str, done: int) -> Steps[Acted]:
    """Bring those back with their workflows that did not come back alone."""
    if done == len(work.ids):
        return Acted(done)
    more: Revival = yield from revive_with(app, work.ids, reason, within=work.options.get("within"))
    return Acted(done + more.done, more.held)


def rule_of_queue(app: AppParts, queue: str | None) -> Steps[str | None]:
    """Return the rule of a queue to which jobs go: an empty name if it has none; None if they stay where they are."""
    if queue is None:
        return None
    rule: str = yield app.queries.jobs.rule_of_queue(queue)
    return rule


def _discard(app: AppParts, work: Work) -> Steps[Acted]:
    reason = f"{work.reason('discarded')}: {work.options.get('reason', '')}"
    return Acted((yield app.queries.dead.discard(work.ids, reason)))


def _cancel(app: AppParts, work: Work) -> Steps[Acted]:
    reason = work.options.get("reason") or work.reason("cancelled")
    return Acted(len((yield from cancel_all(app, work.ids, reason))))


def cancel_all(app: AppParts, ids: Sequence[int], reason: str) -> Steps[list[FoundToCancel]]:
    """Cancel jobs, and emit the event of those that waited; return them as they were."""
    found: list[FoundToCancel] = yield app.queries.jobs.cancel(ids, reason)
    for job in found:
        if job.state != JobState.RUNNING:
            app.listeners.emit(WaitingJobCancelled(job.id, job.task, job.queue, reason))
    return found


def _retry(app: AppParts, work: Work) -> Steps[Acted]:
    if work.place == LIVE:
        return Acted(len((yield app.queries.jobs.retry_waiting(work.ids, work.reason("retried")))))
    if work.place == DEAD:
        return (yield from _redrive(app, work))
    reason = work.reason("brought back")
    return (yield from _revive(app, work, reason, len((yield app.queries.jobs.restore(work.ids, reason)))))


def _promote(app: AppParts, work: Work) -> Steps[Acted]:
    moved = yield app.queries.jobs.promote(work.ids, work.reason("promoted"), work.options.get("priority"))
    return Acted(len(moved))


def _edit(app: AppParts, work: Work) -> Steps[Acted]:
    changes = _open_changes(app, work.options.get("set"))
    rule, edits = (yield from rule_of_queue(app, work.options.get("queue"))), dict[int, EditedJob]()
    for job in work.jobs:
        if "priority" in work.options and is_in_order(job):
            continue
        try:
            edits[job.id] = edited(app, job, changes, rule)
        except (InvalidArguments, UnknownKey, CannotOpen):
            continue
    edit = Edit(**{name: work.options.get(name) for name in Edit._fields})
    return Acted(len((yield app.queries.jobs.edit_waiting(edits, work.reason("edited"), edit))) if edits else 0)


LIVE, DEAD, FINISHED = 0, 1, 2  # the places of a retry
_RETRIED = {"retrying": [LIVE], "failed": [DEAD], "cancelled": [FINISHED]}


def _places_of_retry(chosen: JobFilter) -> Sequence[int]:
    """Cancelled jobs come back only where they are named: by id or by state. Succeeded and running ones never do."""
    if chosen.state is not None:
        return _RETRIED.get(chosen.state, [])
    return [LIVE, DEAD] if chosen.ids is None else [LIVE, DEAD, FINISHED]


def _first_place(_: Filter) -> Sequence[int]:
    return [0]


KINDS = {
    "redrive": Kind(DeadFilter, _first_place, _redrive, checks_arguments=True),
    "discard": Kind(DeadFilter, _first_place, _discard),
    "cancel": Kind(JobFilter, _first_place, _cancel),
    "retry": Kind(JobFilter, _places_of_retry, _retry, checks_arguments=True),
    "promote": Kind(JobFilter, _first_place, _promote),
    "edit": Kind(JobFilter, _first_place, _edit),
}
_WAITING = ("blocked", "pending", "scheduled", "sleeping", "waiting", "retrying")
_STATES = {
    "cancel": (*_WAITING, "running"),
    "retry": tuple(_RETRIED),
    "promote": _WAITING,
    "edit": _WAITING,
}


def check_filter(kind: str, chosen: Filter) -> None:
    """Raise InvalidOption for a filter of another kind, that fits all, or that names a state whose jobs the verb never
    takes."""
    check_kind(chosen, KINDS[kind].filter)
    if chosen.fits_all:
        every = "dead letter" if KINDS[kind].filter is DeadFilter else "job"
        raise InvalidOption(f"{kind} without a filter would take every {every}: if you mean that, say task='*'")
    if isinstance(chosen, JobFilter) and chosen.state is not None and chosen.state not in _STATES[kind]:
        raise InvalidOption(f"{kind} takes no job that is {chosen.state}: give {', '.join(_STATES[kind])}")


def check_kind(chosen: object, kind: type[Filter]) -> None:
    """Raise InvalidOption unless it is a filter of this kind."""
    if not isinstance(chosen, kind):
        raise InvalidOption(f"the filter {chosen!r:.100} cannot be used: give a {kind.__name__}, such as task='shop.*'")


def read_filter(operation: Operation) -> Filter:
    """Return the filter of an operation. Raises InvalidOption for one that check_filter refuses or nobody can read."""
    chosen = KINDS[operation.kind].filter.of_json(operation.filter)
    check_filter(operation.kind, chosen)
    return chosen


def read_options(operation: Operation) -> Options:
    """Return the options of an operation. Raises InvalidOption for those that SQL has written wrongly."""
    return check_options(operation.options)


def check_options(given: Options) -> dict[str, Any]:
    """Return the options of an operation that are given, checked, as its row has them."""
    options = {name: value for name, value in given.items() if value is not None}
    if "rate" in options:
        options["rate"] = _check_rate(options["rate"])
    if "delay" in options:
        options["delay"] = check_optional_duration("delay", options["delay"], DELAY)
    if "attempts" in options:
        check_count("attempts", options["attempts"])
    check_optional_count("limit", options.get("limit"))
    if "queue" in options:
        check_queue(options["queue"])
    if "within" in options:
        options["within"] = _checked_queues(options["within"])
    if "priority" in options:
        check_priority(options["priority"])
    if "reason" in options:
        check_reason(options["reason"])
    if "run_at" in options:
        options["run_at"] = _read_run_at(options["run_at"])
    return options


def _checked_queues(given: object) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Collection) or not given:
        raise InvalidOption(f"within={given!r:.100} cannot be used: give names of queues")
    return sorted(check_queue(name) for name in given)


def check_reason(reason: object) -> str:
    """Return the reason of an end. Raises InvalidOption unless it is a text of 1 to 1000 characters."""
    return check_text("reason", reason)


def check_text(name: str, given: object) -> str:
    """Return what somebody wrote. Raises InvalidOption unless it is a text of 1 to 1000 characters, without NUL."""
    if not isinstance(given, str) or not is_storable(given) or not 1 <= len(given) <= 1000:
        raise InvalidOption(f"{name}={given!r:.100} cannot be used: give a text of 1 to 1000 characters")
    return given


def _check_rate(rate: object) -> float:
    """Return a rate. Raises InvalidOption unless it is a number of jobs a second within the bounds."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not LEAST_RATE <= rate <= MOST_RATE:  # nor is NaN
        raise InvalidOption(f"rate={rate!r:.100} cannot be used: give {LEAST_RATE} to {MOST_RATE} jobs a second")
    return float(rate)


def _read_run_at(given: object) -> str:
    """Return a run time in ISO 8601, from a datetime or from such a text."""
    with suppress(ValueError):
        given = datetime.fromisoformat(given) if isinstance(given, str) else given
    return check_run_at(given).isoformat()


def check_changes(changes: object) -> None:
    """Raise InvalidOption unless it is a mapping of names of arguments to values."""
    if not isinstance(changes, Mapping) or not all(isinstance(name, str) for name in changes):
        kind = type(changes).__name__  # not the values: they are arguments of jobs
        raise InvalidOption(f"changes of type {kind} cannot be used: give names of arguments with their new values")


def sealed_changes(app: AppParts, changes: Mapping[str, Any]) -> Any:
    """Return changes of arguments as the row of an operation has them: sealed, where arguments are."""
    text = encode_unregistered("", changes, app.max_args_bytes)
    codec = app.queries.jobs.codec
    return json.loads(text if codec is None else seal_args(codec, _OPERATION, text))


def _open_changes(app: AppParts, stored: Any) -> Mapping[str, Any] | None:
    if stored is None:
        return None
    changes: Mapping[str, Any] = json.loads(open_args(app.queries.jobs.codec, _OPERATION, json.dumps(stored)))
    return changes


_OPERATION = "pgqueue operation"  # in place of a task's name: no task's arguments can be put into an operation's row


def is_in_order(job: Candidate) -> bool:
    """Whether a job runs in order, so that it keeps the priority of the others of its key."""
    flow = flow_of(job)
    return flow is not None and flow.in_order


def edited(
    app: AppParts, job: Candidate, changes: Mapping[str, Any] | None, queue_rule: str | None = None
) -> EditedJob:
    """Return what an edit makes of a job: its arguments with some changed, and its flow. `queue_rule` as in flow_after.

    Raises InvalidArguments if its task here does not take them, UnknownKey or CannotOpen if they are sealed and this
    app cannot open them.
    """
    if not changes:
        return EditedJob(None, flow_after(app, job, queue_rule=queue_rule))
    codec = app.queries.jobs.codec
    args = json.loads(open_args(codec, job.task, job.args)) | dict(changes)
    text = encode_unregistered(job.task, args, app.max_args_bytes)
    check_arguments(app, job._replace(args=text))
    flow = flow_after(app, job, text, queue_rule)
    return EditedJob(text if codec is None else seal_args(codec, job.task, text), flow)


def check_arguments(app: AppParts, job: Candidate) -> None:
    """Raise InvalidArguments if the task of that name here does not take them. A task that is not here takes all."""
    spec = app.tasks.get(job.task)
    if spec is None:
        return
    try:
        spec.arguments(job)
    except ByReference:
        return
    except (UnknownKey, CannotOpen):
        raise
    except ValidationError as error:
        raise InvalidArguments(job.task, list(problems_of(error))) from None
    except Exception as error:  # noqa: BLE001 - a user's own validators and upcasters may raise anything
        raise InvalidArguments(job.task, [str(error)]) from None


def takes(app: AppParts, job: Candidate) -> bool:
    """Whether the task of this app takes the arguments; true where only another release or app can tell."""
    spec = app.tasks.get(job.task)
    if spec is None:
        return True
    try:
        spec.arguments(job)
    except (NewerVersion, UnknownParameters, UnknownKey, CannotOpen, ByReference):
        return True  # a worker that knows it takes it
    except Exception:  # noqa: BLE001 - a user's own validators and upcasters may raise anything
        return False
    return True
