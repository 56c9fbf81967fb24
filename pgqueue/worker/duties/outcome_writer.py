"""Writes outcomes and, in the same transaction, what belongs to them: the expiry of results, dead-letter tasks, waits
of jobs that are asleep and undos."""

from collections.abc import Callable, Sequence

from pgqueue import db
from pgqueue.app import App
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.jobs.step import can_be_undone, undoes
from pgqueue.queries.jobs.ties import TiedEnds
from pgqueue.worker.signals import ignore

Outcome = tuple[ClaimedJob, Resolution]
Outcomes = Sequence[Outcome]


class OutcomeWriter:
    """Writes batches of outcomes. A part of which nothing else is to be written is one statement.

    `on_ends` hears what has moved by the ends of jobs with ties. In a transaction that is not committed yet: a hint.
    """

    def __init__(self, app: App, on_ends: Callable[[TiedEnds], None] = ignore) -> None:
        self._on_ends = on_ends
        self._queries, self._steps = app.queries.jobs, app.queries.steps
        named = [(name, spec) for spec in app.tasks for name in (spec.name, *spec.aliases)]
        self._ttls = {name: spec.result_ttl for name, spec in named if spec.result_ttl is not None}
        self._targets = app.tasks.dead_letter_targets(app.queue)
        self.signalled: set[int] = set()  # jobs that were to wait, and go on at once
        self._with_target = {name for name, target in self._targets.items() if target is not None}

    def parts(self, batch: Outcomes) -> list[Outcomes]:
        """Return a batch as parts that one statement writes each: plain jobs, metered ones, and both with ties."""
        special = [entry for entry in batch if entry[0].lane is not None or entry[0].ties is not None]
        if not special:
            return [batch]
        found: dict[tuple[bool, bool], list[tuple[ClaimedJob, Resolution]]] = {}
        for entry in batch:
            found.setdefault((entry[0].lane is not None, entry[0].ties is not None), []).append(entry)
        return [found[kind] for kind in sorted(found)]

    async def write(self, link: Link, part: Outcomes) -> set[int]:
        """Write a part of a batch; return the ids of the jobs that moved."""
        alone = (not self._ttls or not self._ttls_of(part)) and (not self._with_target or not self._dead_of(part))
        if alone and not any(map(_uses_steps, part)):
            if part[0][0].ties is None:
                return await link.run(self._queries.resolve(part))
            return self._tell(await link.run(self._queries.resolve_tied(part)))
        async with link.connection() as conn, conn.transaction():
            return await self.write_on(conn, part)

    async def write_on(self, conn: db.AsyncConnection, part: Outcomes) -> set[int]:
        """Write a part of a batch in the transaction of a connection; return the ids of the jobs that moved."""
        if part[0][0].ties is None:
            moved = await db.run_async(conn, self._queries.resolve(part))
        else:
            moved = self._tell(await db.run_async(conn, self._queries.resolve_tied(part)))
        if ttls := self._ttls_of(part):
            expiries = {job: ttls[job] for job in moved & ttls.keys()}
            await db.run_async(conn, self._queries.set_result_expiry(expiries))
        if dead := self._dead_of(part):
            await db.run_async(conn, self._queries.enqueue_dead_letter_tasks(moved & dead, self._targets))
        if any(map(_uses_steps, part)):
            await self._write_steps(conn, [entry for entry in part if entry[0].id in moved])
        return moved

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
    """Whether more belongs to an outcome than its row: the job falls asleep, can be undone, or undoes a step."""
    job, end = entry
    if job.headers is None:  # the usual case
        return end is not PLAIN_SUCCESS and end.wakening is not None
    return end.wakening is not None or can_be_undone(job) or undoes(job)
