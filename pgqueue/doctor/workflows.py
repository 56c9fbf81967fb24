"""Workflows and durable steps: what keeps history, what waits for ever, what is not delivered."""

from collections.abc import Iterator

from pgqueue.doctor.check import Exam, finds
from pgqueue.doctor.finding import Finding, Kind, Severity

HOLDS_PARTITION = Kind(
    "workflow-holds-partition", Severity.WARN,
    "A workflow, or a callback of one that has ended, lives for longer than finished jobs are kept, so days stay that "
    "retention would drop: it may need them.",
    "`pgqueue workflows show …`, then let it go on or `pgqueue workflows cancel …`",
)  # fmt: skip
HOLLOW = Kind(
    "workflow-without-jobs", Severity.ERROR,
    "A workflow runs, and none of its members is there any more: somebody has deleted their rows by hand. A worker "
    "ends it within ten minutes.", "`pgqueue work -A …`",
)  # fmt: skip
FORGOTTEN = Kind(
    "workflow-left-open", Severity.WARN,
    "A workflow or batch is older than a day and not sealed, and none of its members lives: somebody may have "
    "forgotten to seal it. It never ends by itself, what waits for it waits on, and retention keeps old days for it.",
    "`pgqueue workflows seal …`",
)  # fmt: skip
STUCK = Kind(
    "job-waits-for-gone", Severity.ERROR,
    "A job of a workflow waits for jobs that somebody has deleted by hand. A worker skips it within ten minutes.",
    "`pgqueue jobs cancel …`",
)  # fmt: skip
UNSENT = Kind(
    "signals-undelivered", Severity.ERROR,
    "A signal or event has waited for a minute to be delivered to the jobs that wait for it: no worker does so.",
    "`pgqueue work -A …`",
)  # fmt: skip
ENDLESS = Kind(
    "wait-without-end", Severity.INFO,
    "A job has waited for a week for a signal or event, without a timeout: an event that was sent is forgotten by now.",
    "`select pgqueue.signal(…);`, `select pgqueue.signal_event(…);` or `pgqueue jobs cancel …`",
)  # fmt: skip
LOOKED = 1000  # jobs, or workflows


@finds(HOLDS_PARTITION)
def holding(exam: Exam) -> Iterator[Finding]:
    """Look for workflows that keep partitions from being dropped."""
    for each in exam.ask(exam.queries.doctor.holding()):
        lives = "has not ended" if each.job is None else f"has ended, but its job {each.job} has not"
        what = f"workflow {each.id} {each.name!r} {lives}, and keeps {each.partitions} old days of job_finished"
        remedy = f"pgqueue workflows cancel {each.id}" if each.job is None else f"pgqueue jobs why {each.job}"
        yield HOLDS_PARTITION.found(what, remedy, each.created_at)


@finds(HOLLOW)
def hollow(exam: Exam) -> Iterator[Finding]:
    """Look for workflows that run with nothing alive."""
    for each in exam.ask(exam.queries.workflows.find_hollow(LOOKED)):
        what = f"workflow {each.id} {each.name!r} runs, and none of its jobs is there"
        yield HOLLOW.found(what, "pgqueue work -A …", each.created_at)


@finds(FORGOTTEN)
def forgotten(exam: Exam) -> Iterator[Finding]:
    """Look for open workflows that nobody adds to, or seals."""
    for each in exam.ask(exam.queries.doctor.left_open(exam.limits.open_seconds)):
        what = f"workflow {each.id} {each.name!r} is not sealed, and none of its {each.jobs} jobs lives"
        yield FORGOTTEN.found(what, f"pgqueue workflows seal {each.id}", each.created_at)


@finds(STUCK)
def stuck(exam: Exam) -> Iterator[Finding]:
    """Look for jobs that wait for jobs that are nowhere."""
    for job in exam.ask(exam.queries.workflows.find_stuck(LOOKED)):
        what = f"job {job.id} {job.task} of workflow {job.workflow} waits for jobs that are in no table"
        yield STUCK.found(what, f"pgqueue jobs cancel {job.id}")


@finds(UNSENT)
def letters(exam: Exam) -> Iterator[Finding]:
    """Look for signals and events that nobody delivers."""
    now = exam.ask(exam.queries.doctor.clock())
    signal, event = exam.ask(exam.queries.doctor.unsent())
    for what, since in (("a signal", signal), ("an event", event)):
        seconds = 0.0 if since is None else (now - since).total_seconds()
        if seconds > exam.limits.waiting_seconds:
            yield UNSENT.found(f"{what} waits for {seconds:.0f} s to be delivered", "pgqueue work -A …", since)


@finds(ENDLESS)
def waits(exam: Exam) -> Iterator[Finding]:
    """Look for waits that nothing but a signal ends."""
    for wait in exam.ask(exam.queries.doctor.endless(exam.limits.wait_seconds)):
        key = "" if wait.key is None else f" with the key {wait.key!r}"
        what = f"job {wait.job} waits for {wait.kind} {wait.name!r}{key}, without a timeout"
        yield ENDLESS.found(what, f"pgqueue jobs cancel {wait.job}", wait.since)


CHECKS = (holding, hollow, forgotten, stuck, letters, waits)
