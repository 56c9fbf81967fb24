"""What the forms do: the verbs of the command line, by the same functions, in the name of whoever has sent the form."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from pgqueue.app import App
from pgqueue.client.recording import RecordedStep, recorded
from pgqueue.dashboard import forms
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.filters import dead_filter, job_filter, read_end, read_id
from pgqueue.dashboard.request import Request, slug
from pgqueue.errors import InvalidOption
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import JobState
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.queries.operations import Operation
from pgqueue.timing import UNITS

T = TypeVar("T")
VIA = "dashboard"
# Fields of a form that its row repeats; arguments may be secret.
SAID_IN_ROWS = ("why", "for", "until", "catch_up", "key", "reason", "text")
MOMENT = 0.5  # seconds after its first batch for which a form waits, so that what is small is shown as ended
PATIENCE = 3.0  # seconds for which a form waits for the first batch; the operation goes on behind the page


@dataclass(frozen=True, slots=True)
class Act:
    """One form that was sent: by whom, and with what in it."""

    app: App
    request: Request
    access: Access

    @property
    def by(self) -> str:
        """Whom the rows name as the actor."""
        return self.access.who

    def field(self, name: str) -> str | None:
        """Return a field without the spaces around it, None for an empty one."""
        return self.request.form.get(name, "").strip() or None

    @property
    def recorded(self) -> dict[str, Any]:
        """The options by which an operation says who asked for it."""
        return {"by": self.by, "via": VIA}

    @property
    def bringing_back(self) -> dict[str, Any]:
        """The same of a verb with which a workflow may come back: only within the queues of the access."""
        return self.recorded if self.access.queues is None else {**self.recorded, "within": self.access.queues}

    def record(self, kind: str, what: Mapping[str, str], do: Callable[[], T]) -> T:
        """Do something of which the row of an operation says who has done it, and with what in the form."""
        said = {name: self.field(name) for name in SAID_IN_ROWS}
        return recorded(self.app, RecordedStep(kind, what, said, self.by, VIA), do)


@dataclass(frozen=True, slots=True)
class Done:
    """The page on which to go on, and what it says there."""

    page: str
    said: str


Doer: TypeAlias = Callable[[Act, str], Done]
SAID = {
    "cancelled": "Cancelled. A running job is asked to stop.",
    "retried": "It runs again now.",
    "promoted": "It is due now.",
    "redriven": "Brought back: it runs again.",
    "discarded": "Discarded.",
    "annotated": "The note is on the dead letter.",
    "edited": "The arguments are changed. The history keeps what they were.",
    "revealed": "Hidden values are shown on this page. An operation says who has looked.",
    "unchanged": "Nothing was changed: the arguments are as they were.",
    "enqueued": "Enqueued.",
    "paused": "Paused.",
    "resumed": "Resumed.",
    "ran": "Fired: this is its job.",
    "asked": "Asked. The process does it at its next heartbeat.",
    "begun": "The operation has begun.",
    "stopped": "The operation is stopped.",
    "skipped": "Nothing was done: the job is not in a state for it any more, or its task refuses the arguments.",
}


def cancel(act: Act, name: str) -> Done:
    """Cancel a job."""
    return _one(act, name, "cancelled", act.app.jobs.cancel)


def retry(act: Act, name: str) -> Done:
    """Let a job run again now."""
    job_id = read_id(name)
    state = act.app.get(job_id).state
    chosen = JobFilter(ids=[job_id], state="cancelled" if state is JobState.CANCELLED else None)
    return _after(act.app.jobs.retry(chosen, **act.bringing_back), f"jobs/{job_id}", "retried")


def promote(act: Act, name: str) -> Done:
    """Make a job due now."""
    return _one(act, name, "promoted", act.app.jobs.promote)


def redrive(act: Act, name: str) -> Done:
    """Bring a dead letter back."""
    job_id = read_id(name)
    done = act.app.dead.redrive(DeadFilter(ids=[job_id]), **act.bringing_back)
    return _after(done, f"jobs/{job_id}", "redriven")


def discard(act: Act, name: str) -> Done:
    """End a dead letter as cancelled, with a reason."""
    job_id, reason = read_id(name), act.field("reason") or ""
    done = act.app.dead.discard(DeadFilter(ids=[job_id]), reason=reason, **act.recorded)
    return _after(done, f"jobs/{job_id}", "discarded")


def annotate(act: Act, name: str) -> Done:
    """Put a note on a dead letter."""
    act.app.dead.annotate(read_id(name), act.field("text") or "", by=act.by)
    return Done(f"jobs/{name}", "annotated")


def reveal(act: Act, name: str) -> Done:
    """Show what is hidden of a job's values, to whoever has asked for it."""
    return Done(f"jobs/{act.app.get(read_id(name)).id}", "revealed")


def edit(act: Act, name: str) -> Done:
    """Change the arguments of a job that waits, or of a dead letter, and bring that back if so asked."""
    job = act.app.get(read_id(name))
    page = f"jobs/{job.id}"
    changes = forms.read_fields(forms.fields_of(act.app.tasks, job.task, job.args), act.request.form, job.args)
    comes_back = act.field("then") == "redrive"
    if comes_back and not act.access.may("redrive"):
        raise InvalidOption("the job was not changed: you may edit it and not redrive it")
    if not changes and not comes_back:
        return Done(page, "unchanged")
    if job.state is JobState.FAILED:
        if changes:
            save = partial(act.app.dead.edit, job.id, changes, by=act.by)
            act.record("edit", {"job": name}, save)
        return redrive(act, name) if comes_back else Done(page, "edited")
    return _after(act.app.jobs.edit(JobFilter(ids=[job.id]), changes, **act.recorded), page, "edited")


def cancel_many(act: Act, _: str) -> Done:
    """Cancel what fits the filter in the address."""
    chosen = job_filter(act.request.asked, act.request.query)
    return _many(act, lambda **how: act.app.jobs.cancel(chosen, reason=act.field("reason"), **how))


def retry_many(act: Act, _: str) -> Done:
    """Let run again what fits the filter in the address."""
    chosen = job_filter(act.request.asked, act.request.query)
    return _many(act, lambda **how: act.app.jobs.retry(chosen, **how), **act.bringing_back)


def promote_many(act: Act, _: str) -> Done:
    """Make due what fits the filter in the address."""
    chosen = job_filter(act.request.asked, act.request.query)
    return _many(act, lambda **how: act.app.jobs.promote(chosen, **how))


def redrive_many(act: Act, _: str) -> Done:
    """Bring back the dead letters that fit the filter in the address."""
    chosen, rate = dead_filter(act.request.asked, act.request.query), act.field("rate")
    per_second = None if rate is None else _number("rate", rate)
    return _many(act, lambda **how: act.app.dead.redrive(chosen, rate=per_second, **how), **act.bringing_back)


def discard_many(act: Act, _: str) -> Done:
    """Discard the dead letters that fit the filter in the address."""
    chosen, reason = dead_filter(act.request.asked, act.request.query), act.field("reason") or ""
    return _many(act, lambda **how: act.app.dead.discard(chosen, reason=reason, **how))


def pause_queue(act: Act, name: str) -> Done:
    """Pause a queue."""
    act.app.pause(queue=name, **_pause_options(act))
    return Done(f"queues/{slug(name)}", "paused")


def resume_queue(act: Act, name: str) -> Done:
    """Resume a queue."""
    act.app.resume(queue=name, by=act.by)
    return Done(f"queues/{slug(name)}", "resumed")


def pause_task(act: Act, name: str) -> Done:
    """Pause a task."""
    act.app.pause(task=name, **_pause_options(act))
    return Done(f"tasks/{slug(name)}", "paused")


def resume_task(act: Act, name: str) -> Done:
    """Resume a task."""
    act.app.resume(task=name, by=act.by)
    return Done(f"tasks/{slug(name)}", "resumed")


def pause_limit(act: Act, name: str) -> Done:
    """Pause a limit, or one key of it."""
    act.app.pause(limit=name, key=act.field("key"), **_pause_options(act))
    return Done("limits", "paused")


def resume_limit(act: Act, name: str) -> Done:
    """Resume a limit, or one key of it."""
    act.app.resume(limit=name, key=act.field("key"), by=act.by)
    return Done("limits", "resumed")


def enqueue(act: Act, name: str) -> Done:
    """Enqueue one job of a task, with the arguments of the form."""
    args = forms.read_fields(forms.fields_of(act.app.tasks, name, {}), act.request.form, {})
    job = act.record("enqueue", {"task": name}, partial(act.app.enqueue, name, args))
    return Done(f"jobs/{job.id}", "enqueued")


def pause_schedule(act: Act, name: str) -> Done:
    """Pause a schedule, until a moment or until somebody resumes it."""
    end, catch_up = read_end("until", act.field("until")), act.field("catch_up") or "skip"
    act.app.schedules.pause(name, until=end, by=act.by, catch_up=catch_up)
    return Done(f"schedules/{slug(name)}", "paused")


def resume_schedule(act: Act, name: str) -> Done:
    """Resume a schedule."""
    act.app.schedules.resume(name)
    return Done(f"schedules/{slug(name)}", "resumed")


def run_schedule(act: Act, name: str) -> Done:
    """Fire a schedule now."""
    return Done(f"jobs/{act.app.schedules.run(name, by=act.by).id}", "ran")


def quiet_worker(act: Act, name: str) -> Done:
    """Let a worker claim no more jobs."""
    act.app.workers.quiet(name, by=act.by)
    return Done("workers", "asked")


def resume_worker(act: Act, name: str) -> Done:
    """Let a quiet worker claim jobs again."""
    act.app.workers.resume(name, by=act.by)
    return Done("workers", "asked")


def stop_worker(act: Act, name: str) -> Done:
    """Stop a process."""
    act.app.workers.stop(name, by=act.by)
    return Done("workers", "asked")


def cancel_workflow(act: Act, name: str) -> Done:
    """Cancel a workflow."""
    act.app.workflows.cancel(read_id(name), by=act.by)
    return Done(f"workflows/{name}", "cancelled")


def retry_workflow(act: Act, name: str) -> Done:
    """Run a workflow again from what failed."""
    act.app.workflows.retry(read_id(name), by=act.by)
    return Done(f"workflows/{name}", "retried")


def stop_operation(act: Act, name: str) -> Done:
    """Stop an operation."""
    act.app.operations.stop(read_id(name))
    return Done(f"operations/{name}", "stopped")


def resume_operation(act: Act, name: str) -> Done:
    """Let a stopped operation go on."""
    number = read_id(name)
    return _behind(lambda watch: act.app.operations.resume(number, on_batch=watch))


def _one(act: Act, name: str, said: str, verb: Callable[..., Operation]) -> Done:
    job_id = read_id(name)
    return _after(verb(JobFilter(ids=[job_id]), **act.recorded), f"jobs/{job_id}", said)


def _after(operation: Operation, page: str, said: str) -> Done:
    return Done(page, said if operation.done else "skipped")


def _many(act: Act, verb: Callable[..., Operation], **how: Any) -> Done:
    """Begin an operation, at most for so many jobs as the form says."""
    limit = act.field("limit")
    most = None if limit is None else int(_number("limit", limit))
    return _behind(lambda watch: verb(limit=most, on_batch=watch, **(how or act.recorded)))


def _behind(work: Callable[[Callable[[Operation], object]], Operation]) -> Done:
    """Let an operation run behind the page, and go on where it can be seen. Raises what it raises at once."""
    found = begun(work)
    return Done(f"operations/{found.id}" if found is not None else "operations", "begun")


def begun(work: Callable[[Callable[[Operation], object]], Operation]) -> Operation | None:
    """Let an operation run, and return how far it is once it has ended or begun, at the latest after PATIENCE; None
    where not even its first batch is known by then. Raises what it raises at once."""
    seen, ended = threading.Event(), threading.Event()
    found: list[Operation] = []
    errors: list[Exception] = []

    def watch(operation: Operation) -> None:
        found.append(operation)
        seen.set()

    def run() -> None:
        try:
            watch(work(watch))
        except Exception as error:  # noqa: BLE001 - raised below, in the thread of the form, if it still waits
            errors.append(error)
        finally:
            seen.set()
            ended.set()

    threading.Thread(target=run, name="pgqueue-operation", daemon=True).start()
    if seen.wait(PATIENCE):
        ended.wait(MOMENT)
    if errors:
        raise errors[0]
    return found[-1] if found else None


def _pause_options(act: Act) -> dict[str, Any]:
    until = act.field("for")
    return {"why": act.field("why"), "by": act.by, "until": None if until is None else _duration(until)}


def _duration(text: str) -> float:
    """Read a duration such as 15m."""
    if text[:-1].isascii() and text[:-1].isdecimal() and text[-1:] in UNITS and len(text) < 10:
        return float(int(text[:-1]) * UNITS[text[-1]])
    raise InvalidOption(f"for={text!r:.100} cannot be used: give a duration such as 15m, 2h or 1d")


def _number(name: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < 1e9:
        raise InvalidOption(f"{name}={text!r:.100} cannot be used: give a number above zero")
    return found
