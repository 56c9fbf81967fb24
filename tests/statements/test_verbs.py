"""Any sequence of verbs leaves the database as the model says: state, attempt, lease, table, log of every job."""

import uuid
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgqueue import App, UnknownJob, WrongState, db
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import ClaimedJob, JobState
from pgqueue.jobs.lifecycle import TRANSITIONS, Resolution
from pgqueue.queries.workers import WorkerInfo
from tests.harness import QUERIES, Conn
from tests.statements.verb_model import Model, ModelJob, Seen

ERROR = ErrorInfo("E", "it broke")
RESOLUTIONS = [
    Resolution("succeed", result='{"a": 1}'),
    Resolution("retry", "error", delay=0.0, error=ERROR),
    Resolution("retry", "error", delay=3600.0, error=ERROR),
    Resolution("snooze", "later", delay=3600.0, refund=True),
    Resolution("release", "released", refund=True),
    Resolution("park", "unknown task", refund=True),
    Resolution("dead_letter", "exhausted", error=ERROR),
    Resolution("withdraw", "not wanted"),
]
MAX_CRASHES, LIMITS = 2, {"fragile": 1}
TASKS = ["t", "fragile", "forgotten"]

JOBS = """
select id, 'live', state, attempt, lease, crash_count, run_at <= now(), worker_id, cancel_requested_at is not null,
       case when state = 'running' then progress->>'done' end from pgqueue.job_live
union all select id, 'finished', state, attempt, lease, crash_count, null, null, false, null from pgqueue.job_finished
union all select id, 'dead', state, attempt, lease, crash_count, null, null, false, null from pgqueue.dead_letter"""
LOG = "select job_id, from_state, to_state, attempt, lease from pgqueue.transition order by at"
EMPTY = """delete from pgqueue.job_live; delete from pgqueue.job_finished; delete from pgqueue.dead_letter;
delete from pgqueue.transition; delete from pgqueue.worker"""

which = st.integers(0, 30)
task_names = st.sampled_from(TASKS)
enqueues = st.tuples(task_names, st.integers(0, 1), st.sampled_from([1, 2, 4]), st.booleans())
resolutions = st.sampled_from([*RESOLUTIONS, RESOLUTIONS[5]])  # parked jobs have verbs of their own
answers = st.lists(st.tuples(which, st.booleans(), resolutions), min_size=1, max_size=3)
AB = st.sampled_from("AB")


class Verbs(RuleBasedStateMachine):
    """Two workers, three tasks, one queue. Each step is one committed statement, which the model then confirms."""

    def __init__(self, app: App, conn: Conn, happened: set[Any]) -> None:
        super().__init__()
        self.app, self.conn = app, conn
        self.model = Model()
        self.model.happened = happened
        self.claims: list[ClaimedJob] = []
        self.known: list[int] = []
        self.workers: dict[str, UUID] = {}
        conn.execute(EMPTY)
        for name in "AB":
            self.boot(name)

    def boot(self, name: str) -> None:
        worker = uuid.uuid4()
        info = WorkerInfo(worker, "worker", "h", 1, "0", ["default"], TASKS, 8, 30.0)
        db.run(self.conn, QUERIES.workers.register(info))
        self.workers[name] = worker
        self.model.alive.add(worker)

    def run_at(self) -> dict[int, Any]:
        return dict(self.conn.execute("select id, run_at from pgqueue.job_live").fetchall())

    def a_claim(self, index: int, current: bool) -> ClaimedJob:
        """Return a current claim, or a stale one, preferably of a job that runs again under another claim; else any."""
        jobs = self.model.jobs
        running = [c for c in self.claims if c.id in jobs and jobs[c.id].state == JobState.RUNNING]
        wanted = [c for c in running if (jobs[c.id].lease == c.lease) == current]
        of = wanted if wanted and (current or index % 2) else self.claims
        return of[index // 2 % len(of)]

    @initialize(jobs=st.lists(enqueues, min_size=4, max_size=8), ends=st.lists(resolutions, min_size=4, max_size=4))
    def begin_with_jobs_that_have_a_past(self, jobs: list[tuple[str, int, int, bool]], ends: list[Resolution]) -> None:
        self.enqueue_in_a_transaction(jobs, commit=True)
        self.an_hour_passes()
        self.claim("A", 4)
        self.note_progress(0, True, 1)
        self.resolve([(2 * index, True, end) for index, end in enumerate(ends)])
        self.claim("B", 2)

    @rule(jobs=st.lists(enqueues, min_size=1, max_size=4), commit=st.sampled_from([True, True, True, False]))
    def enqueue_in_a_transaction(self, jobs: list[tuple[str, int, int, bool]], commit: bool) -> None:
        new = []
        with self.conn.transaction(force_rollback=not commit):
            for task, priority, most, due in jobs:
                options: dict[str, Any] = {"priority": priority, "max_attempts": most, "delay": None if due else 3600}
                job = self.app.using(self.conn, **options).enqueue(task)
                new.append(ModelJob(job.id, task, priority, most, due, history=task != "fragile"))
        self.known += [job.id for job in new]
        if commit:
            for job in new:
                self.model.enqueue(job)

    @rule(task=task_names)
    def enqueue_on_a_connection_of_its_own(self, task: str) -> None:
        job = self.app.enqueue(task)
        self.known.append(job.id)
        self.model.enqueue(ModelJob(job.id, task, 0, job.max_attempts, True, history=task != "fragile"))

    @rule(name=AB, room=st.integers(1, 4))
    def claim(self, name: str, room: int) -> None:
        worker, run_at = self.workers[name], self.run_at()
        claimed = db.run(self.conn, QUERIES.jobs.claim(worker, {"default": room}, room))
        assert [job.id for job in claimed] == self.model.claim(worker, run_at, room)
        self.took(claimed)

    @rule(name=AB, room=st.integers(1, 4), tasks=st.lists(task_names, unique=True))
    def adopt(self, name: str, room: int, tasks: list[str]) -> None:
        worker, run_at = self.workers[name], self.run_at()
        claimed = db.run(self.conn, QUERIES.jobs.adopt(worker, {"default": room}, tasks, room))
        assert {job.id for job in claimed} == self.model.adopt(worker, run_at, tasks, room)
        self.took(claimed)

    def took(self, claimed: list[ClaimedJob]) -> None:
        for job in claimed:
            expected = self.model.jobs[job.id]
            assert (job.attempt, job.lease, job.worker_id) == (expected.attempt, expected.lease, expected.worker)
        self.claims += claimed

    @precondition(lambda self: self.claims)
    @rule(given=answers)
    def resolve(self, given: list[tuple[int, bool, Resolution]]) -> None:
        batch = {}
        for index, current, resolution in given:
            claim = self.a_claim(index, current)
            exhausted = resolution.verb == "retry" and claim.is_last_attempt  # as lifecycle.decide() does it
            batch[claim.id, claim.lease] = claim, RESOLUTIONS[6] if exhausted else resolution
        moved = db.run(self.conn, QUERIES.jobs.resolve(list(batch.values())))
        assert moved == self.model.resolve(batch.values())

    @precondition(lambda self: self.claims)
    @rule(index=which, current=st.booleans(), done=st.integers(0, 9))
    def note_progress(self, index: int, current: bool, done: int) -> None:
        claim = self.a_claim(index, current)
        noted = db.run(self.conn, QUERIES.jobs.note_progress([(claim, f'{{"done": {done}}}')]))
        assert noted == self.model.note_progress([(claim, str(done))])

    @precondition(lambda self: self.known)
    @rule(index=which)
    def cancel(self, index: int) -> None:
        job = self.known[index % len(self.known)]
        try:
            ended: bool | None = self.app.using(self.conn).cancel(job)
        except UnknownJob:
            ended = None
        assert ended == self.model.cancel(job)

    @precondition(lambda self: self.known)
    @rule(index=which, verb=st.sampled_from(["retry", "promote", "edit"]))
    def ask_for(self, index: int, verb: str) -> None:
        job = self.known[index % len(self.known)]
        client = self.app.using(self.conn)
        try:
            {"retry": client.retry, "promote": client.promote, "edit": lambda one: client.edit(one, priority=0)}[verb](
                job
            )
            done = True
        except (UnknownJob, WrongState):
            done = False
        assert done == getattr(self.model, verb)(job)
        if verb == "edit" and done:
            self.model.jobs[job].priority = 0

    @precondition(lambda self: self.known)
    @rule(index=which)
    def discard(self, index: int) -> None:
        job = self.known[index % len(self.known)]
        assert db.run(self.conn, QUERIES.dead.discard([job], "given up")) == self.model.discard(job)

    @precondition(lambda self: self.known)
    @rule(index=which)
    def expire(self, index: int) -> None:
        job = self.known[index % len(self.known)]
        self.conn.execute("update pgqueue.job_live set expires_at = now() where id = %s", (job,))
        expired = db.run(self.conn, QUERIES.jobs.expire(10))
        self.conn.execute("update pgqueue.job_live set expires_at = null where id = %s", (job,))
        assert [one.id for one in expired] == [job] * self.model.expire(job)

    @rule(name=AB, index=which)
    def cancel_what_runs(self, name: str, index: int) -> None:
        running = [job.id for job in self.model.jobs.values() if job.worker == self.workers[name]]
        if running:
            self.cancel(self.known.index(running[index % len(running)]))

    @rule(name=AB)
    def declare_lost(self, name: str) -> None:
        worker = self.workers[name]
        db.run(self.conn, QUERIES.workers.record_deaths({worker: "was killed by SIGKILL"}))
        self.model.alive.discard(worker)

    @rule(name=AB)
    def end_without_a_row(self, name: str) -> None:
        """Delete the row of a worker: its jobs count as lost. A new boot follows, since claims need no row."""
        worker = self.workers[name]
        db.run(self.conn, QUERIES.workers.unregister(worker))
        self.model.alive.discard(worker)
        self.boot(name)

    @rule(name=AB)
    def boot_again(self, name: str) -> None:
        self.boot(name)

    @rule(name=AB, lost=st.sampled_from(["A", "B", None]))
    def rescue(self, name: str, lost: str | None) -> None:
        if lost is not None:
            self.declare_lost(lost)
        rescued = db.run(self.conn, QUERIES.jobs.rescue(self.workers[name], MAX_CRASHES, LIMITS))
        assert {(job.id, str(job.state)) for job in rescued} == self.model.rescue(MAX_CRASHES, LIMITS)

    @rule(name=AB, indices=st.lists(which, max_size=2))
    def release_strays(self, name: str, indices: list[int]) -> None:
        held = [self.known[index % len(self.known)] for index in indices if self.known]
        released = db.run(self.conn, QUERIES.jobs.release_strays(self.workers[name], held))
        assert set(released) == self.model.release_strays(self.workers[name], held)

    @rule()
    def an_hour_passes(self) -> None:
        self.conn.execute("update pgqueue.job_live set run_at = run_at - interval '61 minutes'")
        for job in self.model.jobs.values():
            job.due = True

    @invariant()
    def the_database_is_as_the_model_says(self) -> None:
        found = {row[0]: Seen(*row[1:]) for row in self.conn.execute(JOBS).fetchall()}
        assert found == {job.id: job.seen() for job in self.model.jobs.values()}
        log: dict[int, list[Any]] = {}
        for job, *line in self.conn.execute(LOG).fetchall():
            log.setdefault(job, []).append(tuple(line))
        assert log == self.model.log


def drive(app: App, conn: Conn, examples: int, steps: int, *, derandomize: bool) -> set[Any]:
    """Run the machine; return every (verb, state it found) that occurred."""
    happened: set[Any] = set()
    app.task(name="fragile", retention=0)(lambda: None)
    run_state_machine_as_test(
        lambda: Verbs(app, conn, happened),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return happened


def test_any_sequence_of_verbs_leaves_what_the_model_says(app: App, conn: Conn) -> None:
    happened = drive(app, conn, 50, 40, derandomize=True)
    often = {(verb, JobState.RUNNING) for verb in ("current", "stale", "succeed", "retry", "dead_letter", "rescue")}
    assert often - happened == set()


@pytest.mark.stress
def test_many_sequences_of_verbs_leave_what_the_model_says(app: App, conn: Conn) -> None:
    """Enough runs that each transition of the table occurs, and a stale lease is tried in each state."""
    happened = drive(app, conn, 1500, 60, derandomize=False)
    moves = {(verb, source) for verb, move in TRANSITIONS.items() for source in move.sources or [None]}
    assert (moves | {("stale", state) for state in JobState}) - happened == set()
