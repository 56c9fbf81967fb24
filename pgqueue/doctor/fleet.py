"""The processes: workers, schedulers, what they serve and whether they work."""

from collections.abc import Iterator
from datetime import timedelta
from shlex import quote  # names in remedies: SQL may have written anything, and remedies are pasted

from pgqueue.doctor.check import Exam, finds
from pgqueue.doctor.finding import Finding, Kind, Severity

QUEUE_UNSERVED = Kind(
    "queue-without-worker", Severity.ERROR, "Jobs of a queue have been due for a minute, and no worker serves it.",
    "`pgqueue work -A … -Q …`",
)  # fmt: skip
TASK_UNKNOWN = Kind(
    "task-without-worker", Severity.ERROR,
    "Jobs wait for a worker that knows their task, its version or its parameters, and none that lives does.",
    "deploy the release that has it, or `pgqueue jobs cancel …`",
)  # fmt: skip
RELEASES_MIXED = Kind(
    "releases-mixed", Severity.WARN,
    "Workers of different versions of pgqueue, or of different releases of the app, have worked beside each other for "
    "an hour: a deployment has stopped half way.", "`pgqueue workers stop …` for the older ones",
)  # fmt: skip
WORKER_LOST = Kind(
    "worker-lost", Severity.WARN, "A worker or scheduler ended without a word within the last hour, or its heartbeat "
    "does not get through.", "its log; `journalctl`, `kubectl describe pod`, `dmesg` for the OOM killer",
)  # fmt: skip
DUTY_STUCK = Kind(
    "duty-stuck", Severity.WARN, "A duty of a living process has not worked for two hours: it fails again and again.",
    "its log says why; `pgqueue workers stop …`",
)  # fmt: skip
LOOP_BLOCKED = Kind(
    "event-loop-blocked", Severity.WARN,
    "A task blocks the event loop of its worker for longer than a quarter of the lease. Beyond the lease it sees no "
    "cancellation and loses its jobs as soon as the heartbeat's thread gets no turn, either.",
    "`def` or `isolation=\"process\"` for that task (the worker's log names its line), or a longer `--lease`",
)  # fmt: skip
NO_SCHEDULER = Kind(
    "scheduler-missing", Severity.ERROR, "There are schedules, and no scheduler that fires them.",
    "`pgqueue schedule -A …`",
)  # fmt: skip
ONE_SCHEDULER = Kind(
    "scheduler-alone", Severity.INFO, "One scheduler fires all schedules: while it restarts, ticks are late.",
    "a second `pgqueue schedule -A …`",
)  # fmt: skip
SCHEDULE_BROKEN = Kind(
    "schedule-broken", Severity.ERROR, "A scheduler cannot use a schedule: it does not tick.",
    "`pgqueue schedules show …`",
)  # fmt: skip
SCHEDULE_LATE = Kind(
    "schedule-late", Severity.WARN, "A tick has been due for a minute, and no scheduler has looked at it.",
    "`pgqueue schedule -A …`; the log of the schedulers",
)  # fmt: skip
MANY_DEAD = Kind(
    "dead-letters-many", Severity.WARN, "There are more than 10,000 dead letters. Only an operator removes them.",
    "`pgqueue dead groups`, then `pgqueue dead redrive` or `discard`",
)  # fmt: skip
DEAD_GROWING = Kind(
    "dead-letters-growing", Severity.WARN, "More than a hundred jobs failed for good within the last hour.",
    "`pgqueue dead groups`",
)  # fmt: skip


@finds(QUEUE_UNSERVED)
def queues(exam: Exam) -> Iterator[Finding]:
    """Look for queues whose jobs wait and that nobody serves. A paused queue waits because somebody wants it to."""
    for queue in exam.ask(exam.queries.queues.list()):
        waits = max(queue.oldest_due_seconds or 0.0, queue.oldest_turn_seconds or 0.0)
        if not queue.workers and not queue.paused_at and waits > exam.limits.waiting_seconds:
            due = f"{queue.due + queue.turn}{'+' if queue.due_capped or queue.turn_capped else ''}"
            yield QUEUE_UNSERVED.found(
                f"queue {queue.queue}: {due} jobs are due, the oldest for {waits:.0f} s, and no worker serves it",
                f"pgqueue work -A … -Q {quote(queue.queue)}",
            )


@finds(TASK_UNKNOWN)
def tasks(exam: Exam) -> Iterator[Finding]:
    """Look for parked jobs that no living worker can run."""
    exam.ask(exam.queries.jobs.prefer_indexes())
    for parked in exam.ask(exam.queries.jobs.count_parked(1000)):
        if not parked.known_to_a_worker:
            jobs = f"{min(parked.jobs, 1000)}{'+' if parked.at_least else ''}"
            version = "" if parked.version == "1" else f", version {parked.version}"
            yield TASK_UNKNOWN.found(
                f"{jobs} jobs in queue {parked.queue} wait for a worker that knows task {parked.task}{version}",
                f"pgqueue jobs list --state blocked --task {quote(parked.task)}",
            )


@finds(RELEASES_MIXED)
def releases(exam: Exam) -> Iterator[Finding]:
    """Look whether workers of an older release still work an hour after the first of a newer one began."""
    workers = [each for each in exam.ask(exam.queries.doctor.processes()) if each.lives and each.kind == "worker"]
    began = {each.runs: each.started_at for each in reversed(workers)}  # the first of each release
    since = max(began.values(), default=None)
    now = exam.ask(exam.queries.doctor.clock())
    if len(began) > 1 and since and now - since > timedelta(seconds=exam.limits.mixed_seconds):
        count = {runs: sum(each.runs == runs for each in workers) for runs in began}
        mixed = ", ".join(f"{number} with {runs}" for runs, number in sorted(count.items()))
        oldest = next(each for each in workers if each.started_at < since)
        yield RELEASES_MIXED.found(
            f"workers of {len(began)} releases work: {mixed}",
            f"pgqueue workers stop {quote(f'{oldest.host}:{oldest.pid}')}",
            since,
        )


@finds(WORKER_LOST, DUTY_STUCK, LOOP_BLOCKED)
def processes(exam: Exam) -> Iterator[Finding]:
    """Look for processes that are gone, or live and do not work."""
    for each in exam.ask(exam.queries.doctor.processes()):
        if not each.lives:
            since = each.lost_at or each.heartbeat_at
            what = f"{each} {each.death or 'has not beaten for its whole lease'}"
            yield WORKER_LOST.found(what, "pgqueue workers list", since)
            continue
        ages = {name: seconds for name, seconds in each.duties.items() if seconds is not None}
        stop = f"pgqueue workers stop {quote(f'{each.host}:{each.pid}')}"
        for name, seconds in ages.items():
            if name != "watchdog" and seconds > exam.limits.duty_seconds:
                since = each.heartbeat_at - timedelta(seconds=seconds)
                yield DUTY_STUCK.found(f"{name} of {each} has not worked for {seconds:.0f} s", stop, since)
        blocked = ages.get("watchdog", 0.0)  # it has a step each sixteenth of a lease, unless the loop is blocked
        if blocked > max(each.lease_seconds / 4, 1.0):
            longer = "longer" if blocked > each.lease_seconds else "shorter"
            yield LOOP_BLOCKED.found(
                f"the event loop of {each} was blocked for {blocked:.0f} s at its last heartbeat, {longer} than its "
                f"lease of {each.lease_seconds:.0f} s",
                f"pgqueue work --lease {4 * max(blocked, each.lease_seconds):.0f} …",
            )


@finds(NO_SCHEDULER, ONE_SCHEDULER)
def schedulers(exam: Exam) -> Iterator[Finding]:
    """Count the schedulers, where there are schedules."""
    if not exam.ask(exam.queries.doctor.has_schedules()):
        return
    alive = [each for each in exam.ask(exam.queries.doctor.processes()) if each.lives and each.kind == "scheduler"]
    if not alive:
        yield NO_SCHEDULER.found("there are schedules, and no scheduler lives", "pgqueue schedule -A …")
    elif len(alive) == 1:
        yield ONE_SCHEDULER.found(f"{alive[0]} is the only scheduler", "pgqueue schedule -A …", alive[0].started_at)


@finds(SCHEDULE_BROKEN, SCHEDULE_LATE)
def schedules(exam: Exam) -> Iterator[Finding]:
    """Look for schedules that do not tick."""
    now = exam.ask(exam.queries.doctor.clock())
    for ill in exam.ask(exam.queries.doctor.ill_schedules(exam.limits.late_seconds)):
        if ill.error is not None:
            yield SCHEDULE_BROKEN.found(
                f"schedule {ill.name}: {ill.error}", f"pgqueue schedules show {quote(ill.name)}"
            )
        elif ill.wake_at is not None:
            what = f"schedule {ill.name} is late by {(now - ill.wake_at).total_seconds():.0f} s"
            yield SCHEDULE_LATE.found(what, f"pgqueue schedules show {quote(ill.name)}", ill.wake_at)


@finds(MANY_DEAD, DEAD_GROWING)
def dead_letters(exam: Exam) -> Iterator[Finding]:
    """Count dead letters."""
    limits = exam.limits
    count = exam.ask(exam.queries.doctor.dead_letters(max(limits.dead_letters, limits.dead_letters_an_hour)))
    if count.all > limits.dead_letters:
        yield MANY_DEAD.found(f"there are more than {limits.dead_letters} dead letters", "pgqueue dead groups")
    if count.last_hour > limits.dead_letters_an_hour:
        what = f"{min(count.last_hour, limits.dead_letters)} jobs failed for good within the last hour"
        yield DEAD_GROWING.found(what, "pgqueue dead groups")


CHECKS = (queues, tasks, releases, processes, schedulers, schedules, dead_letters)
