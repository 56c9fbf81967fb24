"""Every verb in any order, against a model that is nothing but the table of allowed moves."""

import contextlib
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pytest
from harness import QUERIES, Conn, add_worker
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pgqueue import App, UnknownJob, db
from pgqueue.job import ClaimedJob, JobState
from pgqueue.lifecycle import TRANSITIONS, decide
from pgqueue.outcome import (
    AskedRetry,
    ErrorInfo,
    Outcome,
    Raised,
    Rejected,
    Snoozed,
    Succeeded,
    UnknownHere,
    Unstarted,
    Withdrawn,
)
from pgqueue.retry import Constant

ERROR = ErrorInfo("E", "m")
OUTCOMES: list[Outcome] = [
    Succeeded("1"), Raised(ERROR), Raised(ERROR, permanent=True), AskedRetry(None, ERROR), Snoozed(1.0, "later"),
    Rejected(ERROR), Withdrawn("why"), Unstarted(), UnknownHere(),
]  # fmt: skip
MAX_CRASHES = 3
PICKS = st.integers(0, 20)
WORKERS = st.sampled_from(["a", "b"])


@dataclass
class Model:
    """What a job should be. `moves`: what the log should say of it."""

    max_attempts: int
    state: str = "pending"
    attempt: int = 0
    lease: int = 0
    crashes: int = 0
    holder: str | None = None
    unwanted: bool = False
    moves: list[tuple[str | None, str, int]] = field(default_factory=lambda: [(None, "pending", 0)])

    def move(self, verb: str, **changes: Any) -> None:
        """Make a move of the table, and no other."""
        sources, target = TRANSITIONS[verb]
        assert self.state in sources, f"{verb} from {self.state}"
        before, self.state = self.state, target.value
        for name, value in changes.items():
            setattr(self, name, value)
        if target is not JobState.RUNNING:
            self.holder = None
        self.moves.append((before, self.state, self.lease))


class Verbs(RuleBasedStateMachine):
    """Drives a database and the model side by side."""

    dsn: ClassVar[str]
    conn: ClassVar[Conn]
    app: ClassVar[App]

    def __init__(self) -> None:
        super().__init__()
        tables = ("job_live", "job_finished", "dead_letter", "transition", "worker")
        self.conn.execute("truncate " + ", ".join(f"pgqueue.{table}" for table in tables))
        self.jobs: dict[int, Model] = {}
        self.workers: dict[str, UUID] = {name: add_worker(self.conn) for name in "ab"}
        self.claims: list[ClaimedJob] = []
        self.enqueue(True, 3, 5)

    @rule(commits=st.booleans(), count=st.integers(1, 3), max_attempts=st.integers(1, 5))
    def enqueue(self, commits: bool, count: int, max_attempts: int) -> None:
        with psycopg.connect(self.dsn) as lent:
            client = self.app.using(lent, max_attempts=max_attempts)
            ids = [client.enqueue("t").id for _ in range(count)]
            if not commits:
                lent.rollback()
        self.jobs |= {job: Model(max_attempts) for job in ids if commits}

    def _taken(self, worker: str, verb: str, jobs: list[ClaimedJob], room: int) -> None:
        source = next(iter(TRANSITIONS[verb].sources))
        waiting = [job for job, model in self.jobs.items() if model.state == source]
        assert len(jobs) == min(room, len(waiting))
        for job in jobs:
            model = self.jobs[job.id]
            model.move(verb, attempt=model.attempt + 1, lease=model.lease + 1, holder=worker)
            model.moves[-1] = (model.moves[-1][0], "running", model.lease)
            assert (job.attempt, job.lease, job.worker_id) == (model.attempt, model.lease, self.workers[worker])
        self.claims += jobs

    def _pick(self, pick: int, current: bool) -> ClaimedJob | None:
        """A claim of old or of now. Mostly one that is still good: else little would move."""
        good = [c for c in self.claims if (m := self.jobs[c.id]).state == "running" and m.lease == c.lease]
        claims = good if current and good else self.claims
        return claims[pick % len(claims)] if claims else None

    @rule(worker=WORKERS, room=st.integers(1, 4))
    def claim(self, worker: str, room: int) -> None:
        self.conn.execute("update pgqueue.job_live set run_at = now() - interval '1 h' where state = 'pending'")
        query = QUERIES.claim(self.workers[worker], {"default": room}, room)
        self._taken(worker, "claim", db.run(self.conn, query), room)

    @rule(worker=WORKERS, room=st.integers(1, 4))
    def adopt(self, worker: str, room: int) -> None:
        query = QUERIES.adopt(self.workers[worker], {"default": room}, ["t"], room)
        self._taken(worker, "adopt", db.run(self.conn, query), room)

    @rule(pick=PICKS, current=st.integers(0, 3), outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=3))
    def resolve(self, pick: int, current: int, outcomes: list[Outcome]) -> None:
        """Whatever claim it was, of old or of now: only the newest can move the job, and only once."""
        for number, outcome in enumerate(outcomes):
            job = self._pick(pick + number, current > 0)
            if job is not None:
                self._resolve(job, outcome)

    def _resolve(self, job: ClaimedJob, outcome: Outcome) -> None:
        resolution = decide(job, outcome, Constant(1))
        moved = db.run(self.conn, QUERIES.resolve([(job, resolution)]))
        model = self.jobs[job.id]
        if model.state != "running" or model.lease != job.lease:
            assert moved == set()
            return
        assert moved == {job.id}
        if model.unwanted and not resolution.target.is_terminal:
            model.move("withdraw")
        else:
            model.move(resolution.verb, attempt=model.attempt - resolution.refund)

    @rule(pick=PICKS, current=st.booleans())
    def progress(self, pick: int, current: bool) -> None:
        job = self._pick(pick, current)
        if job is not None:
            ours = self.jobs[job.id].state == "running" and self.jobs[job.id].lease == job.lease
            assert db.run(self.conn, QUERIES.note_progress([(job, "{}")])) == ({job.id} if ours else set())

    @rule(pick=PICKS, seldom=st.integers(0, 2))
    def cancel(self, pick: int, seldom: int) -> None:
        if seldom:
            return
        job = sorted(self.jobs)[pick % len(self.jobs)] if self.jobs else pick
        model = self.jobs.get(job)
        if model is None or JobState(model.state).is_terminal:
            with contextlib.suppress(UnknownJob):
                self.app.cancel(job)
                raise AssertionError("a job that has ended was cancelled")
            return
        assert self.app.cancel(job) == (model.state != "running")
        if model.state == "running":
            model.unwanted = True
        else:
            model.move("cancel")

    @rule(worker=WORKERS, seldom=st.integers(0, 2))
    def die(self, worker: str, seldom: int) -> None:
        """A worker is lost, its jobs are rescued, and it comes back under a new identity."""
        if seldom:
            return
        self.conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (self.workers[worker],))
        self.workers[worker] = add_worker(self.conn)
        db.run(self.conn, QUERIES.rescue(self.workers[worker], MAX_CRASHES))
        for model in self.jobs.values():
            if model.holder != worker:
                continue
            spent = model.attempt == model.max_attempts or model.crashes + 1 == MAX_CRASHES
            if model.unwanted:
                model.move("rescue_cancelled")
            else:
                model.move("rescue_spent" if spent else "rescue", crashes=model.crashes + 1)

    @rule(worker=WORKERS, held=st.integers(0, 3))
    def give_back_strays(self, worker: str, held: int) -> None:
        mine = [job for job, model in self.jobs.items() if model.holder == worker]
        released = db.run(self.conn, QUERIES.release_strays(self.workers[worker], mine[:held]))
        assert sorted(released) == sorted(mine[held:])
        for job in mine[held:]:
            model = self.jobs[job]
            if model.unwanted:
                model.move("withdraw")
            else:
                model.move("release", attempt=model.attempt - 1)

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        rows = self.conn.execute("select id, state, attempt, lease, crash_count from pgqueue.job").fetchall()
        assert len(rows) == len(self.jobs)
        for job, *values in rows:
            model = self.jobs[job]
            assert values == [model.state, model.attempt, model.lease, model.crashes]
        moves = self.conn.execute("select job_id, from_state, to_state, lease from pgqueue.transition order by at")
        log: dict[int, list[Any]] = {job: [] for job in self.jobs}
        for job, *move in moves.fetchall():
            log[job].append(tuple(move))
        assert log == {job: model.moves for job, model in self.jobs.items()}


def drive(dsn: str, examples: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set synchronous_commit = off")
        Verbs.dsn, Verbs.conn, Verbs.app = dsn, conn, App(dsn)
        try:
            run_state_machine_as_test(
                Verbs,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            Verbs.app.close()


def test_verbs_in_any_order_make_the_allowed_moves_and_no_others(dsn: str) -> None:
    drive(dsn, 20)


@pytest.mark.stress
def test_verbs_in_any_order_for_longer(dsn: str) -> None:
    drive(dsn, 400)
