"""Two connections bring jobs of one workflow back at once: in bulk, alone, and with their workflow."""

from collections.abc import Callable, Collection, Sequence

import pytest

from pgqueue import App, WorkflowRunning, db
from pgqueue.client.operations import DoneBatch, finish, work_on
from pgqueue.client.steps import Step, Steps, follow
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.queries import Query
from pgqueue.queries.chosen import Batch
from pgqueue.queries.operations import Operation
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_worker, new_job
from tests.statements.graphs import DEAD, DONE, claim, end, graph, insert, retry, run_all, states, tidy, workflow_state
from tests.statements.test_graph_races import after_waiting
from tests.statements.test_races import at_once

Open = Callable[[], Conn]
BROUGHT_BACK = """select count(*) from pgqueue.transition
where from_state in ('failed', 'cancelled') and to_state in ('pending', 'blocked')"""


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


class InBulk:
    """A verb on many jobs, by a connection that waits for no lock: it takes a batch, and then acts on it."""

    def __init__(self, app: App, conn: Conn, kind: str, ids: Sequence[int]) -> None:
        self._app, self._conn = app, conn
        chosen = (JobFilter if kind == "retry" else DeadFilter)(ids=list(ids))
        self._id = db.run(conn, QUERIES.operations.begin(kind, chosen, {}, "ann", "test"))
        conn.commit()
        self._steps: Steps[DoneBatch] | None = None
        self._step: Step | None = None

    def take(self) -> Batch:
        """Lock the next batch that has jobs."""
        while True:
            self._conn.execute("set local lock_timeout = '1ms'")
            operation = db.run(self._conn, QUERIES.operations.lock(self._id))
            assert operation is not None, "the operation has ended"
            self._steps = work_on(self._app, operation)
            step = next(self._steps)
            assert isinstance(step, Query)
            batch: Batch = db.run(self._conn, step)
            self._step = self._steps.send(batch)
            if batch.candidates or batch.locked:
                return batch
            self.act()

    def act(self) -> Operation:
        """Do with the batch what the verb does, and commit."""
        assert self._steps is not None
        done = follow(self._conn, self._steps, self._step)
        self._conn.commit()
        return done.operation

    def finish(self) -> Operation:
        """Do all that is left, and say how the operation has ended."""
        self._conn.execute("set lock_timeout = '1ms'")
        follow(self._conn, finish(self._app, self._id))
        self._conn.commit()
        (ended,) = db.run(self._conn, QUERIES.operations.list(1, self._id))
        assert ended.ended_at is not None
        return ended


def run_out(conn: Conn, dead: Collection[int]) -> None:
    """Run what is due until nothing is; jobs with these ids fail."""
    add_worker(conn)
    tidy(conn)
    while taken := claim(conn):
        end(conn, *((job, DEAD if job.id in dead else DONE) for job in taken.values()))
        tidy(conn)


def insert_two(conn: Conn) -> tuple[InsertedWorkflow, InsertedWorkflow]:
    """Two workflows of two jobs that are to fail, and one that is to be skipped for the first of them."""
    return insert(conn, graph(3, [(0, 2)])), insert(conn, graph(3, [(0, 2)]))


def failed_two(conn: Conn) -> tuple[InsertedWorkflow, InsertedWorkflow]:
    one, other = insert_two(conn)
    run_out(conn, {*one.jobs, *other.jobs})
    assert (states(conn, one), states(conn, other)) == ("ffc", "ffc")
    return one, other


def all_are_back_once(conn: Conn, *made: InsertedWorkflow) -> None:
    assert [states(conn, each) for each in made] == ["ppb"] * len(made)
    assert scalar(conn, BROUGHT_BACK) == 3 * len(made)


@pytest.mark.parametrize("kind", ["redrive", "retry"])
def test_of_two_verbs_with_letters_of_the_same_two_workflows_one_brings_both_back(
    app: App, conn: Conn, connect: Open, kind: str
) -> None:
    one, other = failed_two(conn)
    a = InBulk(app, connect(), kind, [one.jobs[0], other.jobs[0]])
    b = InBulk(app, connect(), kind, [one.jobs[1], other.jobs[1]])
    assert [job.id for job in a.take().candidates] == [one.jobs[0], other.jobs[0]]
    batch = b.take()
    assert (batch.candidates, batch.locked) == ([], [one.jobs[1], other.jobs[1]])
    assert b.act().locked == batch.locked
    assert a.act().done == 2
    assert b.finish().done == 0
    all_are_back_once(conn, one, other)


def test_two_verbs_that_have_one_of_two_workflows_each_wait_for_nothing(app: App, conn: Conn, connect: Open) -> None:
    one, other = failed_two(conn)
    a = InBulk(app, connect(), "redrive", [one.jobs[0], other.jobs[0]])
    b = InBulk(app, connect(), "redrive", [other.jobs[1]])
    b.take()
    batch = a.take()
    assert ([job.id for job in batch.candidates], batch.locked) == ([one.jobs[0]], [other.jobs[0]])
    assert a.act().done == 1
    assert b.act().done == 1
    assert a.finish().locked == []
    all_are_back_once(conn, one, other)


def test_verbs_that_took_letters_of_two_workflows_before_these_had_ended_wait_for_nothing(
    app: App, conn: Conn, connect: Open
) -> None:
    """What such a batch has taken is locked by nothing: the workflow is, once it has ended."""
    one, other = insert_two(conn)
    add_worker(conn)
    taken = claim(conn)
    end(conn, *((taken[made.jobs[0]], DEAD) for made in (one, other)))
    a = InBulk(app, connect(), "redrive", [one.jobs[0], other.jobs[0]])
    b = InBulk(app, connect(), "redrive", [one.jobs[0], other.jobs[0]])
    for each in (a, b):
        assert [job.id for job in each.take().candidates] == [one.jobs[0], other.jobs[0]]
    end(conn, *((taken[made.jobs[1]], DEAD) for made in (one, other)))
    tidy(conn)
    assert a.act().done == 2
    last = b.act()
    assert (last.done, last.skipped) == (0, 2)
    all_are_back_once(conn, one, other)


def test_verbs_that_took_jobs_cancelled_in_two_workflows_before_these_had_ended_wait_for_nothing(
    app: App, conn: Conn, connect: Open
) -> None:
    one, other = insert_two(conn)
    add_worker(conn)
    taken = claim(conn)
    end(conn, *((taken[made.jobs[0]], DEAD) for made in (one, other)))
    tidy(conn)
    skipped = [one.jobs[2], other.jobs[2]]
    a, b = (InBulk(app, connect(), "retry", skipped) for _ in range(2))
    for each in (a, b):
        assert [job.id for job in each.take().candidates] == skipped
    end(conn, *((taken[made.jobs[1]], DEAD) for made in (one, other)))
    tidy(conn)
    assert a.act().done == 2
    assert b.act().done == 0
    all_are_back_once(conn, one, other)


def test_a_verb_comes_back_to_a_workflow_of_which_somebody_edits_a_letter(app: App, conn: Conn, connect: Open) -> None:
    one, other = failed_two(conn)
    holder = connect()
    assert db.run(holder, QUERIES.dead.lock_dead(one.jobs[1]))
    a = InBulk(app, connect(), "redrive", [one.jobs[0], other.jobs[0]])
    a.take()
    first = a.act()
    assert (first.done, first.skipped, first.locked) == (1, 0, [one.jobs[0]])
    holder.commit()
    again = a.finish()
    assert (again.done, again.skipped, again.locked) == (2, 0, [])
    all_are_back_once(conn, one, other)


def test_a_verb_holds_up_no_end_in_a_workflow_whose_letters_it_skips(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(2))
    add_worker(conn)
    taken = claim(conn)
    end(conn, (taken[made.jobs[0]], DEAD))
    a, b = connect(), connect()
    assert db.run(a, QUERIES.workflows.lock_free_for_retry(made.id)) is None
    with at_once(b):
        assert end(b, (taken[made.jobs[1]], DONE)).unsettled


def test_of_two_who_retry_two_letters_of_a_workflow_one_is_told_that_it_runs(
    app: App, conn: Conn, connect: Open
) -> None:
    one, _ = failed_two(conn)
    a, b = connect(), connect()
    a.execute("select 1")  # so that the retry is part of a transaction that stays open
    assert app.using(a).retry(one.jobs[0]).state == "pending"
    b.execute("set local lock_timeout = '1ms'")
    with pytest.raises(WorkflowRunning):
        app.using(b).retry(one.jobs[1])
    a.commit()
    all_are_back_once(conn, one)


def with_callback(conn: Conn, how: str) -> tuple[InsertedWorkflow, int]:
    """A workflow that has failed, with a callback that has failed as well, or that was skipped."""
    when = "f" if how == "failed" else "s"
    made = insert(conn, Graph([new_job(), new_job()], [0, None], [Edge(-1, 1, when)], [Group("w")]))
    run_all(conn, made, {0, 1})
    assert (states(conn, made), workflow_state(conn, made.id)) == (f"f{how[0]}", "failed")
    return made, made.jobs[1]


def bring_back(conn: Conn, how: str, job: int) -> bool:
    """Bring a callback back alone, as verbs on one job do."""
    if how == "failed":
        return db.run(conn, QUERIES.dead.redrive(0, [job], "redriven", {})) == 1
    return db.run(conn, QUERIES.jobs.restore([job], "restored")) == [job]


CALLBACKS = pytest.mark.parametrize("how", ["failed", "cancelled"])


@CALLBACKS
def test_a_retry_that_waits_for_a_callback_which_comes_back_alone_finds_that_it_lives(
    conn: Conn, connect: Open, how: str
) -> None:
    made, callback = with_callback(conn, how)
    a, b = connect(), connect()
    assert bring_back(a, how, callback)
    revived = after_waiting(conn, a, b, lambda: retry(b, made.id))
    assert (revived.living, revived.revived) == (1, 0)
    assert (states(conn, made), workflow_state(conn, made.id)) == ("fp", "failed")


@CALLBACKS
def test_a_callback_whose_workflow_is_being_retried_waits_for_its_end(conn: Conn, connect: Open, how: str) -> None:
    made, callback = with_callback(conn, how)
    a, b = connect(), connect()
    locked = db.run(a, QUERIES.workflows.lock_for_retry(made.id))
    with at_once(b):
        assert not bring_back(b, how, callback)
    b.commit()
    assert locked is not None
    assert db.run(a, QUERIES.workflows.revive(locked, "retried")).revived == 2
    with at_once(b):
        assert not bring_back(b, how, callback)
    b.commit()
    a.commit()
    assert states(conn, made) == "pb"
    run_all(conn, made, {0})
    assert states(conn, made) == ("fs" if how == "failed" else "fc")


@CALLBACKS
def test_who_retries_a_callback_whose_workflow_is_being_retried_is_told(
    app: App, conn: Conn, connect: Open, how: str
) -> None:
    made, callback = with_callback(conn, how)
    a, b = connect(), connect()
    assert db.run(a, QUERIES.workflows.lock_for_retry(made.id)) is not None
    b.execute("set local lock_timeout = '1ms'")
    with pytest.raises(WorkflowRunning):
        app.using(b).retry(callback)


@CALLBACKS
def test_a_verb_comes_back_to_a_callback_whose_workflow_somebody_else_has(
    app: App, conn: Conn, connect: Open, how: str
) -> None:
    made, callback = with_callback(conn, how)
    a, b = connect(), InBulk(app, connect(), "retry", [callback])
    assert db.run(a, QUERIES.workflows.lock_for_retry(made.id)) is not None
    assert b.take().locked == [callback]
    assert b.act().locked == [callback]
    a.rollback()
    assert b.finish().done == 1
    assert states(conn, made) == "fp"


@CALLBACKS
def test_a_verb_leaves_a_workflow_of_which_a_callback_comes_back_alone(
    app: App, conn: Conn, connect: Open, how: str
) -> None:
    made, callback = with_callback(conn, how)
    a, b = connect(), InBulk(app, connect(), "redrive", [made.jobs[0]])
    assert bring_back(a, how, callback)
    assert b.take().locked == [made.jobs[0]]
    assert b.act().done == 0
    a.commit()
    last = b.finish()
    assert (last.done, last.skipped) == (0, 1)
    assert states(conn, made) == "fp"


def test_a_callback_of_a_group_that_comes_back_in_a_long_transaction_holds_up_no_end(conn: Conn, connect: Open) -> None:
    """Job 1 is in a group, and job 2 runs after that; the workflow ends with job 0."""
    nodes = [new_job() for _ in range(3)]
    made = insert(conn, Graph(nodes, [0, 1, None], [Edge(-2, 2)], [Group("w"), Group("g", parent=0)]))
    add_worker(conn)
    taken = claim(conn)
    end(conn, (taken[made.jobs[1]], DONE))
    tidy(conn)
    end(conn, (claim(conn)[made.jobs[2]], DEAD))
    a, b = connect(), connect()
    assert bring_back(a, "failed", made.jobs[2])
    with at_once(b):
        assert end(b, (taken[made.jobs[0]], DONE)).unsettled
        tidy(b)
    b.commit()
    assert workflow_state(conn, made.id) == "succeeded"
    assert scalar(conn, "select bool_and(settled) from pgqueue.workflow")
    a.commit()
    assert states(conn, made) == "ssp"
