"""`pgqueue status`: queues, workers and schedules, read in one transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from pgqueue import db
from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.call import Call
from pgqueue.cli.completion import complete_queue
from pgqueue.cli.limits import holds_of
from pgqueue.cli.schedule_input import read_seconds
from pgqueue.cli.schedules import print_schedules
from pgqueue.cli.verdict import Limits, Verdict, describe_pause, find_unknown, judge
from pgqueue.cli.workers import print_workers
from pgqueue.errors import InvalidOption
from pgqueue.jobs.patterns import is_pattern
from pgqueue.queries.activity import ActivityQueries, QueueRate
from pgqueue.queries.jobs import JobQueries
from pgqueue.queries.jobs.asleep import with_waiting
from pgqueue.queries.jobs.count import MOST_COUNTED, DeadCount, FinishedCount, ParkedJobs, QueueCounts, with_turns
from pgqueue.queries.limits import LimitQueries, LimitStatus
from pgqueue.queries.metrics import LockCounts
from pgqueue.queries.operations import Operation
from pgqueue.queries.partitions import PartitionState, faulty
from pgqueue.queries.pauses import Pause
from pgqueue.queries.schedules.read import ScheduleStatus
from pgqueue.queries.workers import WorkerStatus

PHASES = ("pending", "scheduled", "sleeping", "waiting", "retrying", "turn", "running", "blocked", "dead")
RARE = ("sleeping", "waiting")  # they have a column only where a queue has some
SPARE = (
    "sleeping",
    "waiting",
    "ended/s",
    "blocked",
    "drained in",
    "scheduled",
    "turn",
)  # left out on a narrow terminal
MOST_OPERATIONS = 20
MOST_LIMITS = 5

Exact = Annotated[bool, typer.Option("--exact", help="Count to the end: slow on a big backlog.")]


@dataclass(frozen=True, slots=True)
class Status:
    """All that `pgqueue status` shows of one schema.

    `unknown`: jobs whose task no worker knew. `ended`: how many jobs ended within the last hour, by state. `dead`: how
    many dead letters that hour brought, by queue. `operations`: those that run. `locks`: the named locks that are
    held. `limits`: those for which jobs wait, read where a queue holds due jobs that wait for their turn and no others.
    """

    queues: list[QueueCounts]
    rates: list[QueueRate]
    workers: list[WorkerStatus]
    unknown: list[ParkedJobs]
    schedules: list[ScheduleStatus]
    ended: list[FinishedCount]
    partition_faults: list[PartitionState]
    pauses: list[Pause]
    dead: list[DeadCount]
    operations: list[Operation]
    locks: LockCounts
    limits: list[LimitStatus] = field(default_factory=list)

    def of_queue(self, queue: str) -> "Status":
        """Return the status without the other queues."""
        return replace(
            self,
            queues=[q for q in self.queues if q.queue == queue],
            rates=[rate for rate in self.rates if rate.queue == queue],
            unknown=[jobs for jobs in self.unknown if jobs.queue == queue],
            pauses=[pause for pause in self.pauses if pause.kind != "queue" or pause.name == queue],
            dead=[dead for dead in self.dead if dead.queue == queue],
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the status as `--json` prints it."""
        parts = {"queues": self.queues, "rates": self.rates, "workers": self.workers, "unknown_tasks": self.unknown}
        ended = {ended.state: ended.jobs for ended in self.ended}
        faults = [fault._asdict() for fault in self.partition_faults]
        parts |= {"schedules": self.schedules, "finished_last_hour": ended, "partition_faults": faults}
        dead = {dead.queue: dead.jobs for dead in self.dead}
        return {**parts, "pauses": self.pauses, "dead_last_hour": dead, "operations": self.operations,
                "limits": self.limits, "locks": self.locks}  # fmt: skip


def status(
    call: Call,
    exact: Exact = False,
    queue: Annotated[
        str | None, typer.Option("-Q", "--queue", help="Only this queue.", autocompletion=complete_queue)
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Print one line, and exit 1 if something is wrong; for monitoring.")
    ] = False,
    max_age: Annotated[
        str | None, typer.Option(help="With --exit-code: how long a due job may wait: 60s, 5m, 2h. Default: any time.")
    ] = None,
    max_dead: Annotated[
        int | None,
        typer.Option(min=0, help="With --exit-code: how many dead letters an hour may bring. Default: any number."),
    ] = None,
) -> Status | Verdict:
    """Show queues, workers, schedules, and the jobs that wait for a worker that knows their task.

    Counts stop at 10000, for many queues at fewer, so that the command costs the same on any backlog: 10000+ means
    more. With --exit-code a queue with due jobs that no worker takes is always wrong, and so is one that is named and
    that no worker serves while it holds no job: it may be misspelt.
    """
    limits = Limits(read_seconds("--max-age", max_age), max_dead)
    if not exit_code and limits != Limits():
        raise InvalidOption("--max-age and --max-dead are limits of --exit-code: say that as well")
    if queue is not None and is_pattern(queue):
        raise InvalidOption(f"--queue {queue!r:.120} is a pattern: name one queue, or leave it out for all")
    found = read_status(call.app, None if exact else MOST_COUNTED)
    unknown = [] if queue is None else find_unknown(queue, found.queues, found.workers)
    found = found if queue is None else found.of_queue(queue)
    if not exit_code:
        return found
    verdict = Verdict(unknown + judge(found.queues, found.pauses, found.dead, limits).reasons)
    call.exit_code = 1 if verdict.reasons else 0
    return verdict


def read_status(app: App, most: int | None) -> Status:
    """Read the status. Each count stops at one more than `most`; None counts to the end."""
    queries = app.queries
    with app.backend.pools.connection() as conn, conn.transaction():
        if most is not None:
            db.run(conn, queries.jobs.prefer_indexes())
        queues = _queues(conn, queries.jobs, most)
        return Status(
            queues,
            _rates(conn, queries.activity, MOST_COUNTED if most is None else most),
            db.run(conn, queries.workers.list()),
            db.run(conn, queries.jobs.count_parked(most)),
            db.run(conn, queries.schedules.list()),
            db.run(conn, queries.jobs.count_finished(most)),
            faulty(db.run(conn, queries.partitions.states())),
            db.run(conn, queries.pauses.list()),
            db.run(conn, queries.jobs.count_dead(most)),
            db.run(conn, queries.operations.list_open(MOST_OPERATIONS)),
            db.run(conn, queries.metrics.locks(most)),
            _limits(conn, queries.limits, queues),
        )


def _queues(conn: db.Connection, jobs: JobQueries, most: int | None) -> list[QueueCounts]:
    plain = with_turns(db.run(conn, jobs.count(most)), db.run(conn, jobs.count_turns(most)))
    return with_waiting(plain, db.run(conn, jobs.count_waiting(most)))


def _limits(conn: db.Connection, limits: LimitQueries, queues: Sequence[QueueCounts]) -> list[LimitStatus]:
    """Read the limits for which jobs wait, if some queue holds nothing else that is due."""
    if not any(map(_waits_for_turns, queues)):
        return []
    return [one for one in db.run(conn, limits.list()) if one.waiting]


def _waits_for_turns(queue: QueueCounts) -> bool:
    """Whether all that is due in a queue waits for its turn, and somebody is there to take it."""
    return bool(queue.turn and queue.workers) and not (queue.pending or queue.retrying or queue.paused)


def _rates(conn: db.Connection, activity: ActivityQueries, most: int) -> list[QueueRate]:
    due_turns = db.run(conn, activity.due_turns(most))
    return [rate.with_turns(due_turns) for rate in db.run(conn, activity.rates(most))]


def print_status(status: Status | Verdict) -> None:
    """Print the state of one schema as tables, or the one line that says whether it is well."""
    if isinstance(status, Verdict):
        output.console.print(str(status), soft_wrap=True)
        return
    output.console.print(queue_table("queues", status, status.queues))
    print_workers(status.workers)
    print_schedules(status.schedules)
    _print_unknown_tasks(status.unknown)
    for line in facts(status):
        output.console.print(line)


def facts(status: Status) -> list[str]:
    """Return what is to be said beside the tables, a line each."""
    ended = ", ".join(f"{_count(e.jobs, e.at_least)} {e.state}" for e in sorted(status.ended)) or "none"
    dead = ", ".join(f"{_count(d.jobs, d.at_least)} in {d.queue}" for d in status.dead)
    lines = [f"ended within the last hour: {ended}" + (f" (dead letters: {dead})" if dead else "")]
    lines += [describe_pause(pause) for pause in status.pauses]
    lines += [*_held(status.limits), *_locks(status.locks)]
    lines += [
        f"operation {o.id} runs: {o.kind} by {o.actor}, {o.done} done, {o.skipped} skipped" for o in status.operations
    ]
    return lines + [f"{fault}: docs/operations.md, Partitions, says what to do" for fault in status.partition_faults]


def _held(limits: Sequence[LimitStatus]) -> Iterator[str]:
    """Yield what each limit lets jobs wait for, a line each; a rule with keys where none of its keys says it."""
    keyed = {one.rule for one in limits if one.key is not None}
    told = [one for one in limits if one.key is not None or one.rule not in keyed]
    for one in told[:MOST_LIMITS]:
        why = ", ".join(holds_of(one))
        name = one.rule if one.key is None else f"{one.rule}/{one.key}"
        yield f"limit {name}: {_count(one.waiting, one.waiting_capped)} wait{f'; {why}' if why else ''}"
    if len(told) > MOST_LIMITS:
        yield f"jobs wait for {len(told) - MOST_LIMITS} more limits: pgqueue limits list"


def _locks(locks: LockCounts) -> Iterator[str]:
    """Yield the line about named locks, if any is held."""
    held, waited_for = (_count(found, locks.at_least) for found in (locks.held, locks.waited_for))
    if locks.held:
        told = f"{held} lock is held" if held == "1" else f"{held} locks are held"
        if locks.waited_for:
            told += f", {waited_for} {'is' if waited_for == '1' else 'are'} waited for"
        yield f"{told}: pgqueue locks list"


def queue_table(title: str, status: Status, queues: Sequence[QueueCounts]) -> RenderableType:
    """Return the table of these queues."""
    phases = [phase for phase in PHASES if phase not in RARE or any(getattr(q, phase) for q in queues)]
    columns = ("queue", *phases, "waits", "ended/s", "drained in", "workers")
    rows = [queue_cells(status, q) for q in queues]
    return output.table(title, columns, ([row[column] for column in columns] for row in rows), spare=SPARE)


def queue_cells(status: Status, q: QueueCounts) -> dict[str, object]:
    """Return the cells of a queue. One that has due jobs and no worker shows NONE; one that grows is never drained.
    `turn`: metered jobs that are due."""
    rates = {rate.queue: rate for rate in status.rates}
    workers = "paused" if q.paused else q.workers or ("NONE" if q.pending + q.retrying + q.turn else 0)
    cells: dict[str, object] = {phase: _count(getattr(q, phase), phase in q.at_least) for phase in PHASES}
    ended, drained = _rate(q, rates.get(q.queue))
    cells |= {"queue": q.queue, "waits": output.age(q.oldest_due_seconds)}
    return cells | {"ended/s": ended, "drained in": drained, "workers": workers}


def _rate(queue: QueueCounts, rate: QueueRate | None) -> tuple[str, str]:
    """Return how many attempts end a second, and when no job is due any more if all goes on so; `turns` where limits
    say when their turns come."""
    due = queue.pending + queue.retrying + queue.turn
    if not due:
        return f"{rate.ended_per_second:.3g}" if rate else "0", ""
    unknown = "turns" if _waits_for_turns(queue) else "never"
    if rate is None:
        return "0", unknown
    seconds = rate.drained_in(due)
    at_least = bool({"pending", "turn"}.intersection(queue.at_least)) and seconds is not None
    drained = unknown if seconds is None else f"{output.age(seconds)}{'+' if at_least else ''}"
    return f"{rate.ended_per_second:.3g}", drained


def _print_unknown_tasks(unknown: Sequence[ParkedJobs]) -> None:
    """Print the jobs that wait for a worker that knows their task, version or parameters, if there are any."""
    if unknown:
        rows = [
            (u.task, u.version, u.queue, _count(u.jobs, u.at_least), "yes" if u.known_to_a_worker else "NO")
            for u in unknown
        ]
        columns = ("task", "version+parameters", "queue", "jobs", "a worker knows it")
        output.print_table("jobs that wait for a worker that knows their task, version or parameters", columns, rows)


def _count(jobs: int, at_least: bool) -> str:
    """Return a count as people see it: 10000+ for one that was not counted to its end."""
    return f"{min(jobs, MOST_COUNTED)}+" if at_least else str(jobs)
