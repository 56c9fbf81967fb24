"""Writes outcomes and, in the same transaction, what belongs to them: the expiry of results, dead-letter tasks, waits
of jobs that are asleep, undos, and what runs in the place of a job."""

from collections.abc import Callable, Sequence

from pgqueue import db
from pgqueue.app import App
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.jobs.step import UNDO_MARK, can_be_undone, undoes
from pgqueue.queries import Query
from pgqueue.queries.jobs.resolve import is_counted
from pgqueue.queries.jobs.ties import TiedEnds
from pgqueue.worker.signals import ignore
from pgqueue.workflows.gates import with_policy
from pgqueue.workflows.stored import from_text

Outcome = tuple[ClaimedJob, Resolution]
Outcomes = Sequence[Outcome]


class OutcomeWriter:
    """Writes batches of outcomes. A part of which nothing else is to be written is one statement.

    `on_ends` hears what has moved by the ends of jobs with ties. In a transaction that is not committed yet: a hint.
    """

    def __init__(self, app: App, on_ends: Callable[[TiedEnds], None] = ignore) -> None:
        self._on_ends = on_ends
        self._queries, self._steps, self._workflows = app.queries.jobs, app.queries.steps, app.queries.workflows
        named = [(name, spec) for spec in app.tasks for name in (spec.name, *spec.aliases)]
        self._ttls = {name: spec.result_ttl for name, spec in named if spec.result_ttl is not None}
        self._targets = app.tasks.dead_letter_targets(app.queue)
        self.signalled: set[int] = set()  # jobs that were to wait, and go on at once
        self._with_target = {name for name, target in self._targets.items() if target is not None}

    def parts(self, batch: Outcomes) -> list[Outcomes]:
        """Return a batch as parts that one statement writes each: plain jobs, metered ones, and both with ties.

        A job that is replaced is a part of its own: what comes with it is inserted in the same transaction.
        """
        metered = batch[0][0].lane is not None
        if all(job.ties is None and end.graph is None and (job.lane is not None) is metered for job, end in batch):
            return [batch]  # as most are
        found: dict[tuple[bool, bool, int], list[tuple[ClaimedJob, Resolution]]] = {}
        for job, end in batch:
            alone = 0 if end.graph is None else job.id
            found.setdefault((job.lane is not None, job.ties is not None, alone), []).append((job, end))
        return [found[kind] for kind in sorted(found)]

    async def write(self, link: Link, part: Outcomes) -> set[int]:
        """Write a part of a batch; return the ids of the jobs that moved."""
        alone = (not self._ttls or not self._ttls_of(part)) and (not self._with_target or not self._dead_of(part))
        if alone and not any(map(_uses_steps, part)):
            if part[0][0].ties is None:
                return await link.run(self._queries.resolve(part))
            return self._tell(await link.run(self._ends(part)))
        async with link.connection() as conn, conn.transaction():
            return await self.write_on(conn, part)

    async def write_on(self, conn: db.AsyncConnection, part: Outcomes) -> set[int]:
        """Write a part of a batch in the transaction of a connection; return the ids of the jobs that moved."""
        if part[0][0].ties is None:
            moved = await db.run_async(conn, self._queries.resolve(part))
        else:
            moved = self._tell(await db.run_async(conn, self._ends(part)))
        if ttls := self._ttls_of(part):
            expiries = {job: ttls[job] for job in moved & ttls.keys()}
            await db.run_async(conn, self._queries.set_result_expiry(expiries))
        if dead := self._dead_of(part):
            await db.run_async(conn, self._queries.enqueue_dead_letter_tasks(moved & dead, self._targets))
        if any(map(_uses_steps, part)):
            await self._write_steps(conn, [entry for entry in part if entry[0].id in moved])
        if part[0][1].graph is not None and moved:
            await self._replace(conn, part[0][0], part[0][1].graph)
        return moved

    async def _replace(self, conn: db.AsyncConnection, job: ClaimedJob, text: str) -> None:
        """Insert what runs in the place of a job that was written as replaced; one that was cancelled has ended."""
        entered = await db.run_async(conn, self._workflows.enter_replaced(job))
        if entered is not None:
            graph = with_policy(from_text(text), entered.ties)
            await db.run_async(conn, self._workflows.replace(job.id, entered.workflow, graph))

    def _ends(self, part: Outcomes) -> Query[TiedEnds]:
        """Return the statement that writes a part whose jobs have ties."""
        if all(is_counted(job, end) for job, end in part):
            return self._queries.succeed_counted(part)
        return self._queries.resolve_tied(part)

    def _tell(self, ends: TiedEnds) -> set[int]:
        self._on_ends(ends)
        return ends.moved

    async def _write_steps(self, conn: db.AsyncConnection, moved: Outcomes) -> None:
        """Let jobs wait that fall asleep, undo what jobs have done that ended otherwise than by success, and let the
        next undo follow one that has succeeded."""
        waiting = [(job, end.wakening.at) for job, end in moved if end.wakening is not None]
        ended = [job for job, end in moved if end.verb != "succeed" and can_be_undone(job)]
        undoing = [job.id for job, end in moved if end.verb == "succeed" and undoes(job)]
        if waiting:
            at_once = await db.run_async(conn, self._steps.put_to_sleep(waiting))
            self.signalled.update(at_once)
        if ended:
            await db.run_async(conn, self._steps.compensate(ended))
        if undoing:
            await db.run_async(conn, self._steps.undo_ended(undoing))

    def _ttls_of(self, batch: Outcomes) -> dict[int, float]:
        return {job.id: self._ttls[job.task] for job, end in batch if end.result and job.task in self._ttls}

    def _dead_of(self, batch: Outcomes) -> set[int]:
        """Return the jobs that become dead letters and whose task has a dead-letter task."""
        return {job.id for job, end in batch if end.verb == "dead_letter" and job.task in self._with_target}


def _uses_steps(entry: Outcome) -> bool:
    """Whether more belongs to an outcome than its row: the job falls asleep, is replaced, can be undone, or undoes."""
    job, end = entry
    if job.headers is None:  # the usual case
        return end is not PLAIN_SUCCESS and (end.wakening is not None or end.graph is not None)
    if end.graph is not None or end.wakening is not None:
        return True
    return UNDO_MARK in job.headers and (can_be_undone(job) or undoes(job))
