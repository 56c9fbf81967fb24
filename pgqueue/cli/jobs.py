"""`pgqueue enqueue` and `pgqueue jobs …`."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.filters import filtered
from pgqueue.cli.options import Before, Limit, TaskArgs, TaskName, read_arguments
from pgqueue.client.why import of_steps
from pgqueue.errors import CodecError, InvalidOption, NotAllowed
from pgqueue.jobs.job import Attempt, Job, Note
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.why import Reason
from pgqueue.printable import one_line
from pgqueue.queries.steps import OpenWait
from pgqueue.queries.ties import Tie, TieKeys, enqueued_of, without_rest
from pgqueue.queries.why import ShownStep
from pgqueue.queries.workers import Located
from pgqueue.tasks.sealing import open_value

jobs_cli = typer.Typer(help="Jobs: list, show, wait, why; cancel, retry, promote, edit.", no_args_is_help=True)

MOST_STEPS = 1000
MOST_ENQUEUED = 1000
KINDS_OF_STEPS = {"value": "step", "signal": "wait", "event": "wait"}
JobId = Annotated[int, typer.Argument(help="The job's id.")]


def enqueue(
    call: Call,
    task: TaskName,
    args: TaskArgs = "{}",
    queue: Annotated[str | None, typer.Option("-Q", "--queue", help="The queue. Default: the task's.")] = None,
    priority: Annotated[
        int | None, typer.Option(help="-100 to 100; a higher one runs sooner. Default: the task's.")
    ] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds to wait before the job may start. Default: 0.")] = None,
    task_version: Annotated[
        int | None, typer.Option(help="The task's version, if no app here declares it. Default: 1.")
    ] = None,
    max_attempts: Annotated[int | None, typer.Option(help="How often the job may run. Default: the task's.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag for the job. May be repeated.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A header, as name=value, that travels with the job. May be repeated.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Enqueue one job per key; a repeated call prints the first job's id. Default: no key."),
    ] = None,
    unique_key: Annotated[
        str | None, typer.Option(help="Enqueue only if no job with this key waits. Default: no key.")
    ] = None,
    on_conflict: Annotated[
        str | None, typer.Option(help="If one waits: skip, replace or raise. Default: skip.")
    ] = None,
    expires: Annotated[
        float | None, typer.Option(help="Seconds after which the job is not started any more. Default: the task's.")
    ] = None,
) -> Job:
    """Enqueue a job. If an app is named, its task must be registered and its arguments are validated."""
    call.check_task(task)
    options: Any = {
        "queue": queue, "priority": priority, "delay": delay, "version": task_version, "max_attempts": max_attempts,
        "tags": tag, "idempotency_key": idempotency_key, "unique_key": unique_key, "on_conflict": on_conflict,
        "expires": expires, "headers": _headers(header),
    }  # fmt: skip
    return call.app.using(**options).enqueue(task, read_arguments(task, args))


def _headers(given: list[str] | None) -> dict[str, str] | None:
    """Read headers that are typed as name=value; a value may hold further signs of equality."""
    headers: dict[str, str] = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidOption(f"--header {text!r:.120} has no value: give name=value")
        if name in headers:
            raise InvalidOption(f"--header {name!r} is given twice: give each name once")
        headers[name] = value
    return headers or None


def _print_jobs(jobs: Sequence[Job]) -> None:
    rows = [(j.id, j.task, j.queue, j.phase, f"{j.attempt}/{j.max_attempts}", j.run_at, _why(j)) for j in jobs]
    output.print_table(
        "jobs", ("id", "task", "queue", "phase", "attempt", "run at", "why"), rows, spare=("run at", "attempt")
    )


@filtered(jobs_cli, "list", _print_jobs, JobFilter)
def list_jobs(call: Call, chosen: JobFilter, limit: Limit = 20, before: Before = None) -> Sequence[Job]:
    """List jobs, newest first, of the newest 200000. Where it did not look at all, it says so on stderr."""
    found = call.app.jobs.list(chosen, limit, before)
    if found.notice is not None:
        output.say(found.notice)
    return found


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job with its attempts, where the workers run that made them, for what its task lets it wait, and its recorded
    steps; `values`: what these returned, None where nobody has asked for that. `enqueued`: the jobs that its task has
    called or enqueued; `rest`: the id after which more of them come."""

    job: Job
    workers: Mapping[UUID, Located]
    waits: Sequence[Reason] = ()
    steps: Sequence[ShownStep] = ()
    values: Mapping[str, Any] | None = None
    enqueued: Sequence[Tie] = ()
    rest: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the job as `--json` prints it: each attempt has the host and pid of its worker, if known."""
        attempts = []
        for attempt in self.job.attempts:
            host, pid = self.workers.get(attempt.worker_id, (None, None)) if attempt.worker_id else (None, None)
            attempts.append({**output.fields_of(attempt), "host": host, "pid": pid})
        waits = [{"code": wait.code, "text": wait.text, **wait.facts} for wait in self.waits]
        steps = [
            step._asdict() | ({} if self.values is None else {"value": self.values.get(step.name)})
            for step in self.steps
        ]
        enqueued = [
            {"id": tie.id, "task": tie.task, "queue": tie.queue, "state": tie.state, "step": tie.name}
            for tie in self.enqueued
        ]
        lists = {"attempts": attempts, "waits": waits, "steps": steps, "enqueued": enqueued}
        return output.fields_of(self.job) | lists


def print_job(shown: ShownJob) -> None:
    """Print a job, the notes on it, its attempts, and the traceback of its last error."""
    job = shown.job
    names = ["task", "queue", "priority", "phase", "args", "tags", "created_at", "run_at"]
    if_any = ["enqueued_by", "workflow_id", "inputs", "headers", "crash_count", "waits_for"]
    if_any += ["finished_at", "reason", "result", "error"]
    facts = {name: getattr(job, name) for name in names}
    facts["attempt"] = f"{job.attempt} of {job.max_attempts}"
    facts |= {name: getattr(job, name) for name in if_any if getattr(job, name)}
    if job.flow is not None:
        parts = {"buckets": ", ".join(job.flow.buckets), "order": job.flow.order, "share": job.flow.share}
        facts |= {name: part for name, part in parts.items() if part}
    output.print_facts(f"job {job.id}", facts)
    for wait in shown.waits:
        output.console.print(one_line(wait.text), soft_wrap=True)
    for note in job.notes:
        output.console.print(note_line(note), soft_wrap=True)
    if shown.steps:
        _print_steps(shown.steps, shown.values)
    if shown.enqueued:
        _print_enqueued(shown.enqueued, shown.rest)
    columns = ("attempt", "started at", "took", "then", "why", "error", "worker")
    rows = [(*_attempt_row(attempt), _worker(attempt, shown.workers)) for attempt in job.attempts]
    output.print_table("attempts", columns, rows, spare=("worker", "started at", "took"))
    failed = [attempt for attempt in job.attempts if attempt.error and attempt.error.traceback]
    if failed and failed[-1].error:
        output.console.print(f"traceback of attempt {failed[-1].number}", style="bold")
        output.console.print(failed[-1].error.traceback)


def _print_steps(steps: Sequence[ShownStep], values: Mapping[str, Any] | None) -> None:
    """Print the recorded steps of a job in the order of their records."""
    columns = ["step", "kind", "recorded at", "attempt", "then", *(() if values is None else ("result",))]
    rows = [
        (s.name, KINDS_OF_STEPS.get(s.kind, s.kind), s.at, s.attempt, _state_of(s),
         *(() if values is None else (output.cell(values.get(s.name)),)))
        for s in steps
    ]  # fmt: skip
    title = "steps" if len(steps) < MOST_STEPS else f"steps: the first {MOST_STEPS}"
    output.print_table(title, columns, rows, spare=("attempt", "recorded at"))


def _print_enqueued(jobs: Sequence[Tie], rest: int | None) -> None:
    """Print the jobs that the task of a job has called or enqueued."""
    rows = [(j.id, j.task, j.queue, j.state, "enqueued" if j.name is None else f"called by {j.name}") for j in jobs]
    title = "enqueued" if rest is None else f"enqueued: the first {MOST_ENQUEUED}"
    output.print_table(title, ("id", "task", "queue", "state", "how"), rows, spare=("queue",))


def _state_of(step: ShownStep) -> str:
    """Return what became of a step, or until when it goes on."""
    undo = ", can be undone" if step.has_undo else ""
    key = "" if step.key is None else f" {step.key}"
    until = "" if step.wake_at is None else f" until {output.cell(step.wake_at)}"
    if step.kind == "sleep":
        return until.strip()
    if not step.done:
        return f"waits{'' if step.waits is None else f' for {step.waits}{key}'}{until}{undo}"
    what = "" if step.waits is None else f"got {step.waits}{key}"
    return "timed out" if step.timed_out else f"{what or 'done'}{undo}"


def note_line(note: Note) -> str:
    """Return a note on a dead letter, in one line."""
    return one_line(f"note of {output.cell(note.at)} by {note.by}: {note.text}")


def show_job(
    call: Call,
    job_id: JobId,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show what recorded steps returned, too.")] = False,
) -> ShownJob:
    """Show one job with its recorded steps, what it enqueued, its attempts, their errors and their workers.

    The host and pid of a worker are known while it runs, and for an hour after it was lost. What steps returned is
    shown with --reveal alone: it may be what nobody wants in a terminal, such as the answer of another service.
    """
    job = call.app.get(job_id)
    ids = {attempt.worker_id for attempt in job.attempts if attempt.worker_id}
    workers = call.run(call.app.queries.workers.locate(list(ids))) if ids else {}
    asleep = job.phase in ("sleeping", "waiting")
    steps: list[OpenWait] = call.run(call.app.queries.steps.open_waits(job_id)) if asleep else []
    recorded = call.run(call.app.queries.why.steps(job_id, MOST_STEPS))
    values = _values(call, job, recorded) if reveal else None
    return ShownJob(job, workers, list(of_steps(steps)), recorded, values, *_enqueued(call, job_id))


def _enqueued(call: Call, job_id: int) -> tuple[list[Tie], int | None]:
    """Return the jobs that the task of a job has called or enqueued, and the id after which more of them come. A role
    that may read jobs alone, such as `web`, gets none, and a line that says so."""
    try:
        found = call.run(call.app.queries.dashboard.ties(TieKeys(job_id, most=MOST_ENQUEUED)))
    except NotAllowed:
        output.say("this role may not read what the job has enqueued: ask with one that may, such as operator")
        return [], None
    ties, rest = without_rest(found, MOST_ENQUEUED)
    return enqueued_of(ties, "called", "made"), rest


def _values(call: Call, job: Job, steps: Sequence[ShownStep]) -> dict[str, Any]:
    """Return what the steps of a job returned, opened where this app can; what it cannot open stays sealed."""
    stored, values = call.run(call.app.queries.why.step_values(job.id, MOST_STEPS)), dict[str, Any]()
    for step in steps:
        if (text := stored.get(step.name)) is None:
            continue
        sealed_as = ("step", job.task) if step.waits is None else (step.kind, step.waits)
        with suppress(CodecError):
            text = open_value(call.app.codec, *sealed_as, text)
        values[step.name] = json.loads(text)
    return values


command(jobs_cli, "show", print_job)(show_job)


def print_dead(jobs: Sequence[Job]) -> None:
    """Print dead letters as a table."""
    rows = [(j.id, j.task, j.queue, j.attempt, j.finished_at, j.reason, j.error) for j in jobs]
    columns = ("id", "task", "queue", "attempts", "failed at", "reason", "error")
    output.print_table("dead letters", columns, rows, spare=("attempts", "queue", "reason"))


def _attempt_row(attempt: Attempt) -> tuple[object, ...]:
    took = f"{attempt.ended_at.timestamp() - attempt.started_at.timestamp():.3f} s" if attempt.ended_at else "runs"
    return attempt.number, attempt.started_at, took, attempt.state, attempt.reason, attempt.error


def _worker(attempt: Attempt, workers: Mapping[UUID, Located]) -> str:
    if attempt.worker_id is None:
        return ""
    place, short = workers.get(attempt.worker_id), str(attempt.worker_id)[:8]
    return short if place is None else f"{short} {place.host}:{place.pid}"


def _why(job: Job) -> str:
    if job.waits_for == "pause":
        return f"set aside: task {job.task} is paused"
    if job.waits_for_turn:
        flow = job.flow
        names = [] if flow is None else [*flow.buckets, *([flow.share] if flow.share else [])]
        return f"waits for its turn: {', '.join(names)}"
    if job.waits_for == "jobs":
        return "waits for other jobs of its workflow"
    if job.waits_for:
        return f"waits for a worker that knows {job.task}"
    reason, error = output.cell(job.reason), output.cell(job.error)
    return f"{reason}: {error}" if reason and error else reason or error
