"""Jobs: the list, one of them, and the form that changes its arguments."""

from typing import Any, NamedTuple

from pgqueue.dashboard import copies, forms
from pgqueue.dashboard.filters import JOB_FIELDS, dead_filter, given, job_filter, query_of, read_id
from pgqueue.dashboard.look import Look, Page
from pgqueue.dashboard.reasons import reasons_within
from pgqueue.dashboard.tracebacks import Excerpt, excerpt_of
from pgqueue.dashboard.traces import Trace, trace_of
from pgqueue.errors import InvalidOption
from pgqueue.jobs.job import Attempt, Job, JobState
from pgqueue.jobs.job_filter import PHASES
from pgqueue.jobs.keys import key_hashes
from pgqueue.jobs.listed import ListedJobs
from pgqueue.queries.chosen import Preview
from pgqueue.queries.ties import MOST_LOOKED_AT, TieKeys, enqueued_of, without_rest

LISTED = 50
PREVIEWED = 1000
OF_DEAD = ("redrive", "discard")
BULK = ("cancel", "retry", "promote", *OF_DEAD)
LINE_WIDTH = 640


class Run(NamedTuple):
    """An attempt as a line of time has it: when it began and for how long it ran, of the width of the line."""

    attempt: Attempt
    x: float
    width: float
    seconds: float | None
    excerpt: Excerpt | None


def jobs(look: Look, _: str) -> Page:
    """List the newest jobs that fit the filter in the address."""
    asked = look.request.asked
    fields = given(look.request, JOB_FIELDS)
    values: dict[str, Any] = {
        "fields": fields,
        "phases": PHASES,
        "jobs": [],
        "wrong": None,
        "next": None,
        "unseen": None,
    }
    try:
        before = None if asked("before") is None else read_id(asked("before"))
        found = _listed(look, before)
    except InvalidOption as error:
        return Page("jobs.html", "Jobs", values | {"wrong": str(error)}, 400)
    last = found[-1].id if len(found) == LISTED else found.unseen_below
    values |= {
        "jobs": [(job, look.redaction.shown(job, "args", job.args)) for job in found],
        "next": None if last is None else query_of({**fields, "before": last}),
        "unseen": found.unseen_below,
        "query": query_of(fields),
    }
    return Page("jobs.html", "Jobs", values)


def _listed(look: Look, before: int | None) -> ListedJobs:
    chosen = job_filter(look.request.asked, look.request.query)
    found = look.ask(look.queries.jobs.list(chosen, before, LISTED))
    if len(found) == LISTED or chosen.ids is not None:
        return ListedJobs(found)
    return ListedJobs(found, look.ask(look.queries.jobs.unseen(chosen, before)))


def job(look: Look, name: str) -> Page:
    """Show one job: why it does not run or what became of it, its attempts, its data."""
    why = look.app.using(look.conn).why(read_id(name))
    found = why.job
    shown = look.redaction.shown
    headers = {name: value for name, value in found.headers.items() if not name.startswith("$")}
    parts = {"args": found.args, "headers": headers, "result": found.result, "progress": found.progress}
    seen = {part: shown(found, part, value) for part, value in parts.items()}
    may_see = [part for part in parts if part != "result" or look.access.shows("results")]
    whole = look.redaction.revealing().shown
    schedule = seen["headers"].get("schedule")
    trace = trace_of(seen["headers"], look.settings.trace_url)
    hidden = () if schedule == headers.get("schedule") else ("schedule",)  # what the reasons do not say either
    reasons = [reason for reason in why.reasons if reason.code not in hidden]
    values = {
        "job": found,
        "reasons": reasons_within(reasons, look.access.queues),
        "runs": runs_of(found),
        **seen,
        "hides": any(whole(found, part, parts[part]) != seen[part] for part in may_see),
        "copies": _copies(look, found),
        "may": verbs_of(found),
        "schedule": None if hidden else schedule,
        "trace": trace,
        **ties_of(look, found, trace),
    }
    return Page("job.html", f"Job {found.id}", values)


def ties_of(look: Look, job: Job, trace: Trace | None) -> dict[str, Any]:
    """Return what a job has to do with other jobs, and until when its idempotency key is taken. Of jobs in other queues
    than those of the access only how many there are."""
    key, queues = job.headers.get("idempotency_key"), look.access.queues
    hashed = key_hashes(job.task, [key])[0] if isinstance(key, str) else None
    after = 0 if look.request.asked("after") is None else read_id(look.request.asked("after"))
    keys = TieKeys(job.id, hashed, None if trace is None or after else trace.id, after)
    ties = look.ask(look.queries.dashboard.ties(keys))
    found, rest = without_rest(ties, keys.most)
    enqueued = enqueued_of(found, "made") if after else enqueued_of(found, "called", "made", "traced")
    shown = [tie for tie in found if queues is None or tie.queue in queues]
    one = {kind: next((tie for tie in shown if tie.kind == kind), None) for kind in ("caller", "maker", "letter")}
    return {
        "enqueued": [tie for tie in enqueued if tie in shown],
        "elsewhere": len([tie for tie in enqueued if tie not in shown]),
        "after": after,
        "rest": rest,
        **one,
        "key": next((tie for tie in found if tie.kind == "key"), None),
        "looked_at": MOST_LOOKED_AT,
    }


def _copies(look: Look, job: Job) -> copies.Copies | None:
    """Return how to enqueue a job like this one; None if its row lacks arguments, or they are sealed, so that a copy
    would fail."""
    args = look.redaction.shown(job, "args", job.args)
    if job.inputs or not isinstance(args, dict):
        return None
    return copies.enqueueing(look.app.schema, job.task, args, job.queue)


def verbs_of(job: Job) -> list[str]:
    """Return what can be done to a job as it is."""
    match job.state:
        case JobState.FAILED:
            return ["redrive", "edit", "discard", "annotate"]
        case JobState.PENDING | JobState.BLOCKED:
            later = ["promote"] if job.phase in ("scheduled", "retrying") else []
            return [*later, *(["retry"] if job.phase == "retrying" else []), "edit", "cancel"]
        case JobState.RUNNING:
            return ["cancel"]
        case JobState.CANCELLED:
            return ["retry"]
        case _:
            return []


def runs_of(job: Job) -> list[Run]:
    """Return the attempts of a job on a line from when it was enqueued until now, or until it ended."""
    if not job.attempts:
        return []
    ends = [each.ended_at or each.started_at for each in job.attempts]
    begin, end = job.created_at, max([*ends, job.finished_at or job.created_at])
    whole = max((end - begin).total_seconds(), 1e-6)
    found = []
    for each in job.attempts:
        seconds = None if each.ended_at is None else (each.ended_at - each.started_at).total_seconds()
        x = max(0.0, (each.started_at - begin).total_seconds() / whole * LINE_WIDTH)
        width = LINE_WIDTH - x if seconds is None else seconds / whole * LINE_WIDTH
        excerpt = None if each.error is None else excerpt_of(each.error.traceback)
        found.append(Run(each, round(min(x, LINE_WIDTH - 2), 2), round(max(2.0, width), 2), seconds, excerpt))
    return found


def edit(look: Look, name: str) -> Page:
    """Show the form that changes the arguments of a job that waits, or of a dead letter."""
    found = look.app.using(look.conn).get(read_id(name))
    values = {
        "job": found,
        "fields": forms.fields_of(look.app.tasks, found.task, found.args),
        "sent": look.request.form,
        "can_edit": "edit" in verbs_of(found) and "$codec" not in found.args,
    }
    return Page("edit.html", f"Edit job {found.id}", values)


def preview(look: Look, verb: str) -> Page:
    """Show which jobs a verb would take now, and ask."""
    fields = given(look.request, (*JOB_FIELDS, "group", "error"))
    values: dict[str, Any] = {
        "verb": verb,
        "fields": fields,
        "found": [],
        "notice": None,
        "wrong": None,
        "most": PREVIEWED,
        "sent": look.request.form,
    }
    if verb not in BULK:
        raise InvalidOption(f"verb={verb!r:.100} cannot be previewed: give one of {', '.join(BULK)}")
    try:
        found = _found(look, verb)
        return Page("preview.html", f"{verb.capitalize()} jobs", values | {"found": found, "notice": found.notice})
    except InvalidOption as error:
        return Page("preview.html", f"{verb.capitalize()} jobs", values | {"wrong": str(error)}, 400)


def _found(look: Look, verb: str) -> Preview:
    """Return what an operation would take, by the verb's own preview on this connection."""
    if verb in OF_DEAD:
        filtered = dead_filter(look.request.asked, look.request.query)
        return look.app.dead.using(look.conn).preview(filtered, PREVIEWED + 1, kind=verb, within=look.access.queues)
    return look.app.jobs.using(look.conn).preview(
        verb, job_filter(look.request.asked, look.request.query), PREVIEWED + 1, within=look.access.queues
    )
