"""Short scenarios in one process, each of which shows a certain bug in workflows or steps if there is one.

A scenario makes rows in an empty database by pgqueue's own statements; the rows are checked afterwards.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pgqueue
from pgqueue import db
from pgqueue.client.canvas.calling import Caller
from pgqueue.client.steps import follow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.jobs.step import NewStep, Wakening
from pgqueue.tasks.journal import AlreadyRecorded, Call
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.harness import QUERIES, WORKER, Conn, add_worker, new_job
from tests.statements.graphs import claim, end, retry, tidy

from . import growing_shop
from .revival_scenarios import callback_beside_a_retry, redriven_twice
from .scene import DEAD, Scene, done, ending, nodes_of, number, plainly
from .woven_shop import DEED, app, calls_of

REPLACED = Resolution("replace", "stand-in", refund=True)
ASLEEP = Resolution("snooze", "asleep", 1e6, refund=True, wakening=Wakening(None, None))
STEP = "call0"


def shared_gates(scene: Scene, how: Callable[[ClaimedJob], Resolution] = done) -> None:
    """Batches with members of the same two workflows end at the same instant; either of them comes first once.

    While a third one holds the first gate, the batch that came first waits for it. If the other one begins with the
    second gate, it has that when it waits for the first, and each then waits for the other.
    """
    for turned in (False, True):
        scene.make(2, [])
        scene.make(2, [])
        a, b, c, d = scene.take()
        batches = [ending(a, c, how=how), ending(b, d, how=how)]
        first, second = reversed(batches) if turned else batches
        scene.at_once(first, second, "select from pgqueue.gate where remaining > 0 order by id limit 1 for update")
        tidy(scene.conn)


def shared_children(scene: Scene) -> None:
    """Both parents of the same two children end at the same instant; either of them comes first once.

    While a third one holds the first child, the parent that came first waits for it. If the other one begins with the
    second child, it has that when it waits for the first, and each then waits for the other.
    """
    for turned in (False, True):
        scene.make(4, [Edge(0, 2), Edge(1, 2), Edge(0, 3), Edge(1, 3)])
        ends = [ending(job) for job in scene.take()]
        first, second = reversed(ends) if turned else ends
        child = "select from pgqueue.job_live where state = 'blocked' order by id limit 1 for update"
        scene.at_once(first, second, child)
        scene.run()


def two_parents_at_once(scene: Scene) -> None:
    """Both parents of a job end at the same instant."""
    scene.make(3, [Edge(0, 2), Edge(1, 2)])
    first, second = scene.take()
    scene.at_once(ending(first), ending(second))
    scene.run()


def two_members_at_once(scene: Scene, how: Callable[[ClaimedJob], Resolution] = done) -> None:
    """The last two members of a workflow with a callback end at the same instant."""
    scene.make(3, [Edge(-1, 2, "e")], outside=1)
    first, second = scene.take()
    scene.at_once(ending(first, how=how), ending(second, how=how))
    tidy(scene.conn)
    scene.run()


def gates_shared_plainly(scene: Scene) -> None:
    """The same as `shared_gates` with members that return nothing."""
    shared_gates(scene, plainly)


def two_members_plainly(scene: Scene) -> None:
    """The same as `two_members_at_once` with members that return nothing."""
    two_members_at_once(scene, plainly)


def whole_workflow_plainly(scene: Scene) -> None:
    """A workflow runs whose jobs return nothing: some have children, and some are waited for by their gate alone."""
    scene.make(5, [Edge(0, 2), Edge(1, 2), Edge(2, 3)])
    while jobs := scene.take():
        for job in jobs:
            ending(job, how=plainly)(scene.conn)
        tidy(scene.conn)


def whole_workflow(scene: Scene) -> None:
    """A workflow runs whose third job gets the results of the first two."""
    scene.make(4, [Edge(0, 2, "s", "got", 0), Edge(1, 2, "s", "got", 1), Edge(2, 3)])
    scene.run()


def expired_member(scene: Scene) -> None:
    """A job that others wait for expires."""
    made = scene.make(3, [Edge(0, 1), Edge(1, 2, "e")])
    expire = "update pgqueue.job_live set expires_at = now() - interval '1 s' where id = %s"
    scene.conn.execute(expire, (made.jobs[1],))
    db.run(scene.conn, QUERIES.jobs.expire(10))
    scene.run()


def expired_together(scene: Scene) -> None:
    """One statement lets a job expire and the one that waits for it: the group of the second is cancelled."""
    groups = [Group("w"), Group("second", 0)]
    made = scene.insert(Graph(nodes_of(4, {}), [0, 0, 1, None], [Edge(0, 1), Edge(1, 2), Edge(-2, 3, "e")], groups))
    expire = "update pgqueue.job_live set expires_at = now() - interval '1 s' where id = any(%s)"
    scene.conn.execute(expire, (made.jobs[1:3],))
    db.run(scene.conn, QUERIES.jobs.expire(10))
    scene.run()


def one_parent_fails(scene: Scene) -> None:
    """A parent of a job dies, and then the other one succeeds before the job is skipped."""
    scene.make(3, [Edge(0, 2), Edge(1, 2)], dies={0: 9})
    first, second = scene.take()
    end(scene.conn, (first, DEAD))
    end(scene.conn, (second, done(second)))
    scene.run()


def retried(scene: Scene) -> None:
    """A workflow is retried after one of its jobs has died."""
    made = scene.make(4, [Edge(0, 2), Edge(1, 2), Edge(2, 3)], dies={1: 1})
    scene.run({1: 1})
    retry(scene.conn, made.id)
    scene.run()


def redriven(scene: Scene) -> None:
    """A dead letter of a workflow that has ended is redriven, and so is that of another one, in bulk."""
    for in_bulk in (False, True):
        made = scene.make(4, [Edge(0, 2), Edge(1, 2), Edge(2, 3)], dies={1: 1})
        scene.run({1: 1})
        if in_bulk:
            app.dead.using(scene.conn).redrive(pgqueue.DeadFilter(ids=[made.jobs[1]]))
        else:
            app.using(scene.conn).retry(made.jobs[1])
        scene.run()


def retried_groups(scene: Scene) -> None:
    """A workflow is retried with a group whose only job was cancelled before it could not run any more, and with one
    whose only job was skipped and fails this time; something waits for the success and the failure of each."""
    edges = [Edge(0, 1, "f"), Edge(-2, 2), Edge(-2, 3, "f"), Edge(4, 5), Edge(-3, 6, "f"), Edge(-3, 7)]
    groups = [Group("w"), Group("cancelled", 0), Group("skipped", 0)]
    made = scene.insert(Graph(nodes_of(8, {4: 1, 5: 1}), [0, 1, 0, None, 0, 2, None, None], edges, groups))
    jobs = scene.take()
    db.run(scene.conn, QUERIES.jobs.cancel([made.jobs[1]], "by hand"))
    end(scene.conn, *((job, DEAD if number(job) == 4 else done(job)) for job in jobs))
    tidy(scene.conn)
    scene.run()
    retry(scene.conn, made.id)
    tidy(scene.conn)
    scene.run({5: 1})


def cancelled_untold(scene: Scene) -> None:
    """A job is cancelled after the group for whose success it waits has failed, and before it was told: its own group
    is cancelled, and not successful as if the job was skipped."""
    groups = [Group("w"), Group("failed", 0), Group("cancelled", 0)]
    made = scene.insert(Graph(nodes_of(3, {0: 9}), [1, 2, 0], [Edge(-2, 1)], groups))
    jobs = scene.take()
    end(scene.conn, *((job, DEAD if number(job) == 0 else done(job)) for job in jobs))
    db.run(scene.conn, QUERIES.jobs.cancel([made.jobs[1]], "by hand"))
    tidy(scene.conn)


def stopped_beside_a_death(scene: Scene) -> None:
    """A member dies, and dooms another one, after the statement that stops their group has found that one, and before
    it has locked it: it is skipped, and its group is not cancelled."""
    groups = [Group("w"), Group("stopped", 0, "stop"), Group("within", 1)]
    scene.insert(Graph(nodes_of(3, {0: 9, 1: 9}), [1, 1, 2], [Edge(1, 2)], groups))
    first, second = scene.take()
    end(scene.conn, (first, DEAD))
    stops = partial(db.run, query=QUERIES.workflows.stop(500))
    scene.after_its_snapshot(stops, lambda conn: end(conn, (second, DEAD)))
    scene.run()


def cancelled_when_doomed(scene: Scene) -> None:
    """Two jobs come back that wait one for the other, and the first of them for the failure of one that has succeeded.
    The second is cancelled before both are skipped: the retry has doomed it, and its group is not cancelled."""
    groups = [Group("w"), Group("doomed", 0)]
    edges = [Edge(0, 1, "f"), Edge(1, 2)]
    made = scene.insert(Graph(nodes_of(4, {3: 1}), [0, 0, 1, 0], edges, groups))
    jobs = scene.take()
    for job in (made.jobs[2], made.jobs[1]):
        db.run(scene.conn, QUERIES.jobs.cancel([job], "by hand"))
    end(scene.conn, *((job, DEAD if number(job) == 3 else done(job)) for job in jobs))
    tidy(scene.conn)
    retry(scene.conn, made.id)
    db.run(scene.conn, QUERIES.jobs.cancel([made.jobs[2]], "by hand"))
    scene.run()


def skipped_together_later(scene: Scene) -> None:
    """A doomed job is cancelled after the one before it was skipped. After a retry one statement skips both: of the
    first time that says nothing."""
    groups = [Group("w"), Group("within", 0)]
    edges = [Edge(0, 1), Edge(1, 2), Edge(-2, 3)]
    made = scene.insert(Graph(nodes_of(4, {0: 9}), [0, 0, 1, 0], edges, groups))
    (job,) = scene.take()
    end(scene.conn, (job, DEAD))
    db.run(scene.conn, QUERIES.workflows.cascade(1))
    db.run(scene.conn, QUERIES.jobs.cancel([made.jobs[2]], "by hand"))
    tidy(scene.conn)
    scene.run()
    retry(scene.conn, made.id)
    scene.run({0: 9})


def _saga(scene: Scene) -> ClaimedJob:
    db.run(scene.conn, QUERIES.jobs.enqueue([new_job("saga")]))
    (job,) = claim(scene.conn).values()
    return job


def signalled_while_it_runs(scene: Scene) -> None:
    """A signal is delivered after a job has looked for it, and before the job falls asleep."""
    job, conn = _saga(scene), scene.conn
    db.run(conn, QUERIES.steps.record([(job, NewStep("go", "signal", waits="go"))]))
    db.run(conn, QUERIES.signals.take([(job, "go")]))
    db.run(conn, QUERIES.signals.send(job.id, "go", "1"))
    db.run(conn, QUERIES.signals.deliver(10))
    with conn.transaction():
        db.run(conn, QUERIES.jobs.resolve([(job, ASLEEP)]))
        db.run(conn, QUERIES.steps.put_to_sleep([(job, None)]))
    for job in claim(conn).values():
        db.run(conn, QUERIES.signals.take([(job, "go")]))
        end(conn, (job, Resolution("succeed")))


def recorded_beside_a_rescue(scene: Scene) -> None:
    """A worker that was declared lost records a step while another one rescues its job."""
    job = _saga(scene)
    scene.conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (WORKER,))

    def rescues(conn: Conn) -> None:
        assert db.run(conn, QUERIES.jobs.rescue(add_worker(scene.conn), max_crashes=9))
        time.sleep(0.01)

    scene.at_once(rescues, lambda c: db.run(c, QUERIES.steps.record([(job, NewStep("s", "value", "1"))])))


def recorded_twice(scene: Scene) -> None:
    """An attempt records a step that an earlier one has recorded."""
    job = _saga(scene)
    for value in "12":
        db.run(scene.conn, QUERIES.steps.record([(job, NewStep("s", "value", value))]))
    end(scene.conn, (job, Resolution("succeed")))


def _caller(scene: Scene) -> ClaimedJob:
    """A saga with a step that calls one job."""
    op = next(op for op in map(str, range(99)) if [call.kind for call in calls_of(op, STEP, 0)] == ["job"])
    args = json.dumps({"op": op, "n": 0, "payload": {}})
    db.run(scene.conn, QUERIES.jobs.enqueue([new_job("saga", args=args)]))
    (job,) = claim(scene.conn).values()
    return job


def _call(scene: Scene, caller: ClaimedJob) -> None:
    """Call what the step of a saga calls, unless it is recorded."""
    op = json.loads(caller.args)["op"]
    calls = tuple(call.signature(op, caller.id, STEP) for call in calls_of(op, STEP, 0))
    with suppress(AlreadyRecorded):
        follow(scene.conn, Caller(app, caller, Call(NewStep(STEP, "call"), calls, many=False)).steps())


def _sleep(scene: Scene, caller: ClaimedJob) -> None:
    with scene.conn.transaction():
        db.run(scene.conn, QUERIES.jobs.resolve([(caller, ASLEEP)]))
        db.run(scene.conn, QUERIES.steps.put_to_sleep([(caller, None)]))


def _collect(scene: Scene) -> None:
    """Let callers that are due take their answers, and end."""
    db.run(scene.conn, QUERIES.signals.deliver(10))
    for job in claim(scene.conn).values():
        db.run(scene.conn, QUERIES.calls.collect([(job, STEP)]))
        scene.conn.execute(DEED, (job.id, job.lease, "saw", STEP, json.dumps(0)))
        end(scene.conn, (job, Resolution("succeed")))


def called_twice(scene: Scene) -> None:
    """An attempt calls what an earlier one has called."""
    caller = _caller(scene)
    for _ in range(2):
        _call(scene, caller)
    _sleep(scene, caller)
    scene.run()
    _collect(scene)


def called_job_ends(scene: Scene) -> None:
    """A called job ends while its caller sleeps."""
    caller = _caller(scene)
    _call(scene, caller)
    _sleep(scene, caller)
    scene.run()
    _collect(scene)


def caller_is_held(scene: Scene) -> None:
    """An end is delivered while another transaction holds the row of the caller, and once more after that."""
    caller = _caller(scene)
    _call(scene, caller)
    _sleep(scene, caller)
    scene.run()
    holder = scene.open()
    holder.execute("select from pgqueue.job_live where id = %s for update", (caller.id,))
    db.run(scene.conn, QUERIES.signals.deliver(10))
    holder.close()
    _collect(scene)


def _added(key: str) -> Any:
    return growing_shop.grower.s(op=key, n=0, payload=growing_shop.simple(key))


def added_while_it_runs(scene: Scene) -> None:
    """A job is added while the only member of a workflow runs."""
    made = scene.make(1, [])
    del scene.graphs[made.id]
    (member,) = scene.take()
    app.workflows.using(scene.conn).add(made.id, _added("k.1"))
    end(scene.conn, (member, done(member)))
    scene.run()


def added_after_an_end(scene: Scene) -> None:
    """A job is added that waits for one which has ended."""
    made = scene.make(2, [])
    del scene.graphs[made.id]
    one, other = scene.take()
    end(scene.conn, (one, done(one)))
    app.workflows.using(scene.conn).add(made.id, _added("k.1"), after=one.id)
    end(scene.conn, (other, done(other)))
    scene.run()


def sealed(scene: Scene) -> None:
    """An open workflow is sealed while jobs that were added to it wait, and calls back when they have ended."""
    flow = pgqueue.Workflow("g.1", sealed=False)
    flow.add(_added("g.1.0"))
    flow.on_complete(growing_shop.over.si(op="g.1", n=0, payload={}))
    workflow = flow.using(scene.conn).enqueue().id
    assert workflow is not None
    scene.run()
    for key in ("k.1", "k.2"):
        app.workflows.using(scene.conn).add(workflow, _added(key))
    app.workflows.using(scene.conn).seal(workflow)
    scene.run()


def cancelled_while_replaced(scene: Scene) -> None:
    """A job is cancelled while another one runs in its place: its workflow ends without that, and calls back."""
    flow = pgqueue.Workflow("g.2")
    flow.add(_added("g.2.0"))
    flow.on_complete(growing_shop.over.si(op="g.2", n=0, payload={}))
    assert flow.using(scene.conn).enqueue().id is not None
    (member,) = scene.take()
    with scene.conn.transaction():
        db.run(scene.conn, QUERIES.jobs.resolve_tied([(member, REPLACED)]))
        entered = db.run(scene.conn, QUERIES.workflows.enter_replaced(member))
        assert entered is not None
        stand_in = Graph([_added("g.2.r0").job()], [0], [], [Group("in its place")], value=(0,))
        db.run(scene.conn, QUERIES.workflows.replace(member.id, entered.workflow, stand_in))
    running = scene.take()
    db.run(scene.conn, QUERIES.jobs.cancel([member.id], "by hand"))
    tidy(scene.conn)
    called_back = scene.take()
    end(scene.conn, *((job, done(job)) for job in called_back))
    end(scene.conn, *((job, done(job)) for job in running))
    scene.run()


SCENARIOS: dict[str, Callable[[Scene], None]] = {
    scenario.__name__: scenario
    for scenario in (
        shared_gates, shared_children, two_parents_at_once, two_members_at_once, whole_workflow, expired_member,
        gates_shared_plainly, two_members_plainly, whole_workflow_plainly, expired_together, one_parent_fails, retried,
        redriven, retried_groups, cancelled_untold, stopped_beside_a_death, cancelled_when_doomed,
        skipped_together_later, signalled_while_it_runs, recorded_beside_a_rescue, recorded_twice, called_twice,
        called_job_ends, caller_is_held, added_while_it_runs, added_after_an_end, sealed, cancelled_while_replaced,
        callback_beside_a_retry, redriven_twice,
    )
}  # fmt: skip
