"""Why a job does not run: looked up, and said in sentences."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import Steps
from pgqueue.client.why_turns import of_buckets, of_place
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.retry import policy_in_words
from pgqueue.jobs.why import Reason, Why
from pgqueue.queries.pauses import Pause
from pgqueue.queries.steps import OpenWait
from pgqueue.queries.why import MOST_AHEAD, Parent, Parents, RunsAt, Unmet, Waits
from pgqueue.queries.why_turns import BucketState
from pgqueue.tasks.sealing import sealed_by
from pgqueue.tasks.versions import parts_of
from pgqueue.timing import in_words


def look_up(app: AppParts, job: Job) -> Steps[Why]:
    """Look up why a job does not run, or what became of it."""
    queries = app.queries.why
    if job.state == JobState.RUNNING and job.worker_id is not None:
        place: RunsAt | None = yield queries.runs_at(job.id, job.worker_id)
        return Why(job, (*_of_running(job, place), *_of_history(job)))
    waits: Waits | None = yield queries.waits(job.id)
    if waits is None or job.state.is_terminal:
        skipped = (yield from _skipped(app, job)) if job.reason == SKIPPED else []
        return Why(job, (*_of_ended(job), *skipped, *_of_history(job)))
    pauses: list[Pause] = yield app.queries.pauses.of(job.queue, job.task)
    is_due = waits.due_in <= 0 and job.state == JobState.PENDING
    ahead: int = (yield queries.ahead(job)) if is_due else 0
    turn = (yield from _of_turn(app, job, waits)) if job.waits_for_turn else []
    parents = (yield from _of_parents(app, job)) if job.waits_for == "jobs" else []
    may_rest = job.attempt == 0 and not (job.waits_for_turn and waits.due_in <= 0)  # what is due is not asleep
    steps: list[OpenWait] = (yield app.queries.steps.open_waits(job.id)) if may_rest else []
    before = [*parents, *of_steps(steps), *_of_waiting(app, job, waits)]
    reasons = [*before, *_of_pauses(pauses), *turn, *_of_workers(job, waits)]
    if is_due or (job.waits_for_turn and waits.due_in <= 0):
        reasons += _of_due(job, waits, ahead, held_up=bool(reasons))
    return Why(job, (*reasons, *_of_origin(job, waits), *_of_history(job)))


def _of_turn(app: AppParts, job: Job, waits: Waits) -> Steps[list[Reason]]:
    """Look up why the turn of a metered job has not come."""
    queries, place = app.queries.why, None
    if waits.due_in <= 0 and waits.lane is not None:
        place = yield queries.place(job, waits.lane)
    names = () if job.flow is None else job.flow.buckets
    buckets: list[BucketState] = (yield queries.buckets(names)) if names else []
    return [*of_buckets(buckets, place), *(() if place is None else of_place(job, place))]


def of_steps(steps: Sequence[OpenWait]) -> Iterator[Reason]:
    """Yield for what its task lets it wait, and until when."""
    for step in steps:
        facts = {"step": step.name, "since": step.since, "until": step.wake_at}
        if step.kind == "sleep":
            yield Reason("sleeps", f"It sleeps ({step.name!r}) until {_time(step.wake_at)}.", facts)
            continue
        if step.kind == "call":
            yield _of_calls(step, facts)
            continue
        until = "without a timeout" if step.wake_at is None else f"until {_time(step.wake_at)}"
        key = "" if step.key is None else f" with the key {step.key!r}"
        what = "a signal" if step.kind == "signal" else "an event"
        facts |= {"name": step.waits, "key": step.key}
        yield Reason(f"waits_for_{step.kind}", f"It waits for {what} {step.waits!r}{key}, {until}.", facts)


def _of_calls(step: OpenWait, facts: dict[str, Any]) -> Reason:
    open_ones = step.open or []
    names = ", ".join(map(str, open_ones[:3])) + (", …" if len(open_ones) > 3 else "")
    jobs = f": {'job' if len(open_ones) == 1 else 'jobs'} {names}" if open_ones else ""
    facts |= {"calls": step.calls, "left": len(open_ones), "jobs": open_ones[:3]}
    text = f"It waits for {len(open_ones)} of {step.calls} calls ({step.name!r}){jobs}."
    return Reason("waits_for_calls", text, facts)


SKIPPED = "skipped"  # the reason of a job that ended because what it waited for cannot come true
_ASKED = {"s": "to succeed", "f": "to fail"}
_ENDS = {"s": "to succeed", "e": "to end", "f": "to fail"}


def _of_parents(app: AppParts, job: Job) -> Steps[list[Reason]]:
    """Look up for which jobs and groups of its workflow a job waits."""
    parents: Parents = yield app.queries.why.parents(job.id)
    facts: dict[str, Any] = {"edges": parents.edges, "left": parents.left, "parents": parents.first}
    if job.cancel_requested_at is not None:
        text = "What it waits for cannot come true any more: a worker ends it as skipped."
        return [Reason("skipped", text, facts), *(yield from _skipped(app, job))]
    if standing := [parent for parent in parents.first if parent.stands_in]:
        one = standing[0]
        text = f"It was replaced by {one.name} {one.id} ({one.state}), and ends when that has ended."
        return [Reason("replaced", text, facts)]
    return [Reason("waits_for_jobs", parents_in_words(parents.edges, parents.left, parents.first), facts)]


def _skipped(app: AppParts, job: Job) -> Steps[list[Reason]]:
    """Look up because of which job or group a job is skipped."""
    if job.workflow_id is None:
        return []
    unmet: list[Unmet] = yield app.queries.why.skipped_for(job.id, job.workflow_id)
    if not unmet:
        return []
    parent, cause = unmet[0], unmet[-1]
    is_over = "was" if job.state.is_terminal else "is"
    text = f"It {is_over} skipped because of {_asked(parent)}"
    if cause is not parent:
        text += f", because of {_asked(cause)}"
    facts = {"parent": parent.id, "task": parent.name, "state": parent.state, "queue": parent.queue,
             "cause": cause._asdict()}  # fmt: skip
    return [Reason("skipped_for", f"{text}.", facts)]


def _asked(unmet: Unmet) -> str:
    """Name a parent, say what it was to do, and how it ended."""
    return f"{unmet.name} {unmet.id}, which was {_ASKED[unmet.when]}: {_end(unmet)}"


def _end(unmet: Unmet) -> str:
    """Say how a parent ended."""
    if unmet.state == "cancelled" and unmet.reason == SKIPPED:
        return "it was skipped itself"
    if unmet.state == "cancelled":
        why = sealed_by(unmet.reason) or unmet.reason
        return f"it was cancelled{f' ({why:.200})' if why else ''}"
    return "it failed for good" if unmet.state == "failed" else f"it {unmet.state}"


def parents_in_words(edges: int, left: int, named: Sequence[Parent], rest: str | None = None) -> str:
    """Say for which jobs and groups a job waits, some of them by name; `rest`: how the others are counted."""
    names = [f"{parent.name} {parent.id} ({parent.state}) {_ENDS[parent.when]}" for parent in named]
    if others := left - len(named):
        names.append("…" if rest is None else f"{others} {rest}{'s' if others > 1 else ''}")
    return f"It waits for {left} of {edges}: {', '.join(names)}."


def _of_waiting(app: AppParts, job: Job, waits: Waits) -> Iterator[Reason]:
    """Yield what the job itself waits for."""
    if job.waits_for == "pause":
        text = "It was set aside while its task is paused: a worker brings it back when the pause is over."
        yield Reason("set_aside", text, {"task": job.task})
    elif job.state == JobState.BLOCKED and not job.waits_for_turn and job.waits_for != "jobs":
        version, names = parts_of(waits.label)
        what = f"task {job.task} version {version}" + (f" with {', '.join(names)}" if names else "")
        facts = {"task": job.task, "version": version, "parameters": names}
        yield Reason("blocked", f"It is parked: it waits for a worker that knows {what}.", facts)
    if waits.due_in > 0:
        when = f"due in {in_words(waits.due_in)}, at {_time(job.run_at)}"
        facts = {"due_in_seconds": waits.due_in, "run_at": job.run_at}
        if job.phase == "retrying":
            policy = _policy(app, job)
            facts |= {"attempt": job.attempt + 1, "max_attempts": job.max_attempts, "policy": policy}
            by = "" if policy is None else f", by the policy {policy}"
            text = f"It waits for attempt {job.attempt + 1} of {job.max_attempts}, {when}{by}."
            yield Reason("retrying", text, facts)
        else:
            yield Reason("scheduled", f"It is scheduled: {when}.", facts)
    if waits.is_expired:
        text = f"It expired at {_time(waits.expires_at)}: no worker takes it, and it will end as cancelled."
        yield Reason("expired", text, {"expires_at": waits.expires_at})


def _of_pauses(pauses: Sequence[Pause]) -> Iterator[Reason]:
    """Yield what is paused: since when, by whom, until when and why."""
    for pause in pauses:
        by = "" if pause.by is None else f" by {pause.by}"
        until = "" if pause.until is None else f" until {_time(pause.until)}"
        words = "" if pause.why is None else f": {pause.why}"
        facts = {pause.kind: pause.name, "paused_at": pause.since, "paused_by": pause.by,
                 "paused_until": pause.until, "paused_why": pause.why}  # fmt: skip
        text = f"{pause.kind.capitalize()} {pause.full_name} is paused{by} since {_time(pause.since)}{until}{words}."
        yield Reason("paused", text, facts)


def _of_workers(job: Job, waits: Waits) -> Iterator[Reason]:
    """Yield what is wrong with the workers that could take it."""
    facts = {"queue": job.queue, "workers": waits.workers, "knowing": waits.knowing, "slots": waits.slots,
             "running": waits.running}  # fmt: skip
    if waits.workers == 0:
        yield Reason("no_worker", f"No living worker serves queue {job.queue}.", facts)
    elif waits.knowing == 0:
        version = waits.label.split("+")[0]
        what = job.task if version == "1" else f"version {version} of {job.task}"
        has = "worker serves" if waits.workers == 1 else "workers serve"
        text = f"{waits.workers} {has} queue {job.queue}, and none of them knows task {what}."
        yield Reason("unknown_task", text, facts)
    elif waits.slots <= waits.running:
        text = f"All {waits.slots} slots of the {_workers(waits.knowing)} that may take it are taken."
        yield Reason("no_slot", text, facts)


def _of_due(job: Job, waits: Waits, ahead: int, *, held_up: bool) -> Iterator[Reason]:
    """Yield where a job that is due stands in its queue."""
    late = in_words(-waits.due_in)
    if ahead:
        many = f"more than {MOST_AHEAD:,}" if ahead > MOST_AHEAD else f"{ahead:,}"
        text = f"{many} due jobs go before it in queue {job.queue}: they have a higher priority, or are due earlier."
        if ahead == 1:
            text = f"1 due job goes before it in queue {job.queue}: it has a higher priority, or is due earlier."
        facts = {"ahead": min(ahead, MOST_AHEAD), "at_least": ahead > MOST_AHEAD, "due_seconds": -waits.due_in}
        yield Reason("ahead", text, facts)
    elif not held_up:
        free = waits.slots - waits.running
        text = (
            f"It is due since {late}, no job goes before it, and {free} of {waits.slots} slots are free: a worker "
            "takes it when it looks next."
        )
        yield Reason("next", text, {"due_seconds": -waits.due_in, "slots": waits.slots, "running": waits.running})
    if held_up:
        yield Reason("due", f"It is due since {late}.", {"due_seconds": -waits.due_in})


def _of_origin(job: Job, waits: Waits) -> Iterator[Reason]:
    """Yield what the job stands for."""
    if waits.has_key:
        until = "it has ended" if waits.key_while_live else "a worker claims it"
        text = f"It holds its unique key until {until}: a call with the same key enqueues no other job."
        yield Reason("unique_key", text, {"until_it_ends": waits.key_while_live})
    if waits.schedule is not None:
        text = f"Schedule {waits.schedule} fired it for its tick at {waits.tick}."
        yield Reason("schedule", text, {"schedule": waits.schedule, "tick": waits.tick})


def _of_running(job: Job, place: RunsAt | None) -> Iterator[Reason]:
    attempt = f"attempt {job.attempt} of {job.max_attempts}"
    facts: dict[str, object] = {"attempt": job.attempt, "max_attempts": job.max_attempts, "worker_id": job.worker_id}
    if place is None:
        yield Reason("running", f"It runs: {attempt}; the row of its worker is gone, so others take it.", facts)
    else:
        facts |= {"host": place.host, "pid": place.pid, "seconds": place.seconds,
                  "beat_seconds_ago": place.beat_seconds_ago}  # fmt: skip
        text = (
            f"It runs: {attempt}, for {in_words(place.seconds)}, on worker {place.host}:{place.pid}, whose last beat "
            f"was {in_words(place.beat_seconds_ago)} ago."
        )
        yield Reason("running", text, facts)
        if place.is_lost:
            how = f" ({place.death})" if place.death else ""
            yield Reason("worker_lost", f"Its worker was declared lost{how}: another one takes the job.", facts)
        elif place.beat_seconds_ago > place.lease_seconds:
            text = f"Its worker is silent for longer than its lease time of {place.lease_seconds:g} s."
            yield Reason("worker_silent", text, {**facts, "lease_seconds": place.lease_seconds})
    if job.cancel_requested_at is not None:
        text = f"Its worker was asked to stop it at {_time(job.cancel_requested_at)}."
        yield Reason("cancel_requested", text, {"cancel_requested_at": job.cancel_requested_at})


def _of_ended(job: Job) -> Iterator[Reason]:
    facts = {"finished_at": job.finished_at, "reason": job.reason}
    words = "" if job.reason is None or sealed_by(job.reason) else f": {job.reason}"
    match job.state:
        case JobState.FAILED:
            text = (
                f"It is a dead letter: it failed for good at {_time(job.finished_at)}, in attempt {job.attempt}{words}."
            )
            yield Reason("failed", text, facts)
        case JobState.CANCELLED:
            yield Reason("cancelled", f"It was cancelled at {_time(job.finished_at)}{words}.", facts)
        case JobState.SUCCEEDED:
            yield Reason("succeeded", f"It succeeded at {_time(job.finished_at)}, in attempt {job.attempt}.", facts)
        case _:  # it ended, or went on, between two statements
            yield Reason("moved", "It has just moved: ask again.", {})


def _of_history(job: Job) -> Iterator[Reason]:
    """Yield the last error."""
    failed = [(attempt, attempt.error) for attempt in job.attempts if attempt.error is not None]
    if not failed:
        return
    last, error = failed[-1]
    message = sealed_by(error.message) or error.message
    first_line = message.splitlines()[0] if message else ""
    facts = {"attempt": last.number, "ended_at": last.ended_at, "type": error.type, "message": error.message}
    text = f"Attempt {last.number} ended at {_time(last.ended_at)} with {error.type}: {first_line:.200}"
    yield Reason("last_error", text, facts)


def _policy(app: AppParts, job: Job) -> str | None:
    """Return the retry policy of the job's task in words, where the task is known here."""
    spec = app.tasks.get(job.task)
    return None if spec is None else policy_in_words(spec.retry)


def _workers(number: int) -> str:
    return "worker" if number == 1 else f"{number} workers"


def _time(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else moment.astimezone(UTC).isoformat(" ", "seconds")
