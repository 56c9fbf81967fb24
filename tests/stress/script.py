"""The script of a storm: a scene for each effect that a storm must have, played until that is there.

Weavers act at random, and may find nothing to act on. A scene makes what it needs: it draws workflows until one has
what is wanted. Others may come between, for it is played in the middle of the storm; then it begins anew.
"""

import json
import random
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

import pgqueue

from . import growing_shop
from .finish import HELD, release, send
from .oracle import FAILED, SKIPPED, Foreseen, Oracle
from .plans import Plan, plan
from .weaver import ALONE, BACK, CALLBACKS, MANY, OUTSIDE, SAGA, TWO, WHOLE
from .woven_shop import calls_of

Conn = psycopg.Connection[Any]
Fits = Callable[[Plan, Foreseen], bool]
SECONDS = 30.0  # after which a scene begins anew that has not come to its end
DRAWN = 2000  # workflows of which one has what a scene needs
ENDED = """
select state <> 'running' and settled and not exists (select from pgqueue.job_live where workflow_id = %(id)s)
from pgqueue.workflow where id = %(id)s"""
LETTERS = "select id from pgqueue.dead_letter where workflow_id = %s and ties & 16 = 0 order by id"
WAITING = "select id from pgqueue.job_live where workflow_id = %s and state in ('pending', 'blocked') order by id"
HELD_OF = f"{HELD} and workflow_id = %s"
OPEN_WAIT = "select wait_key from pgqueue.step where job_id = %s and kind = 'event' and not done"
ALIVE = "select from pgqueue.job_live where id = %s"
SAGA_SCRIPT = (
    ("tx", "tx0", None), ("undo", "undo1", None), ("undo", "undo2", None), ("sleep", "sleep3", 0.01),
    ("signal", "go", None),
)  # fmt: skip


def _fails(drawn: Plan, foreseen: Foreseen) -> bool:
    """Whether a workflow ends as failed, leaves out a job, and holds nowhere."""
    held = any(group.on_failure == "hold" for group in drawn.graph.groups)
    return not held and foreseen.groups[0] == FAILED and SKIPPED in foreseen.states


def _holds(drawn: Plan, foreseen: Foreseen) -> bool:
    """Whether a workflow holds, for a job that waits for nothing and dies."""
    return drawn.graph.groups[0].on_failure == "hold" and _dies_first(drawn)


def _stops(drawn: Plan, foreseen: Foreseen) -> bool:
    """Whether a workflow stops for a job that waits for nothing and dies, before others that must wait."""
    waiting = _in_first_group(drawn) - _first(drawn)
    return drawn.graph.groups[0].on_failure == "stop" and _dies_first(drawn) and len(waiting) > 3


def _expires(drawn: Plan, foreseen: Foreseen) -> bool:
    """Whether a job that waits for nothing expires if it does not begin in time."""
    jobs = drawn.graph.nodes
    return any(jobs[node].conditions is not None and jobs[node].flow is None for node in _first(drawn))


def _callback_fails(drawn: Plan, foreseen: Foreseen) -> bool:
    """Whether a callback that gets nothing dies after a workflow that fails, and holds nowhere."""
    given = {edge.child for edge in drawn.graph.edges if edge.argument is not None}
    outer = {edge.child for edge in drawn.graph.edges if edge.parent == -1} - given
    outer -= {edge.parent for edge in drawn.graph.edges}
    return _fails(drawn, foreseen) and any(foreseen.states[node] == FAILED for node in outer)


def _any(drawn: Plan, foreseen: Foreseen) -> bool:
    return True


def _dying(drawn: Plan) -> set[int]:
    payloads = [json.loads(job.args)["payload"] for job in drawn.graph.nodes]
    return {node for node, payload in enumerate(payloads) if payload["dies"]}


def _dies_first(drawn: Plan) -> bool:
    return bool(_dying(drawn) & _first(drawn) & _in_first_group(drawn))


def _first(drawn: Plan) -> set[int]:
    """The nodes that wait for nothing."""
    return set(range(len(drawn.graph.nodes))) - {edge.child for edge in drawn.graph.edges}


def _in_first_group(drawn: Plan) -> set[int]:
    return {node for node, group in enumerate(drawn.graph.group_of) if group == 0}


class Script:
    """The scenes of one storm."""

    def __init__(self, app: pgqueue.App, seed: int) -> None:
        self._app = app
        self._rng = random.Random(f"script {seed}")
        self._name = f"script{seed}"
        self._count = 0
        self._playing: dict[str, tuple[Iterator[None], float]] = {}
        self.played = 0

    def play(self, conn: Conn, wanted: Collection[str]) -> None:
        """Go on with each scene that is played, and begin those for effects that are still wanted."""
        for name in dict.fromkeys(SCENES[effect] for effect in wanted if effect in SCENES):
            if name not in self._playing:
                self._playing[name] = getattr(self, name)(conn), time.monotonic() + SECONDS
                self.played += 1
        for name, (scene, ends) in list(self._playing.items()):
            try:
                over = next(scene, self) is self or time.monotonic() > ends
            except pgqueue.PgqueueError:  # others came between
                over = True
            if over:
                del self._playing[name]

    def _draw(self, fits: Fits) -> Plan:
        for _ in range(DRAWN):
            self._count += 1
            drawn = plan(f"w.small.{self._name}_{self._count}")
            if fits(drawn, Oracle(drawn.graph).foresee(_dying(drawn))):
                return drawn
        raise LookupError(f"no workflow of {DRAWN} is as it must be: {fits.__doc__}")

    def _weave(self, conn: Conn, fits: Fits) -> int:
        run = self._draw(fits).flow.using(conn).enqueue()
        assert run.id is not None
        return run.id

    def _run(self, conn: Conn, fits: Fits) -> Generator[None, None, int]:
        """Enqueue a workflow, and wait until it has ended; return its id."""
        workflow = self._weave(conn, fits)
        yield from self._end(conn, workflow)
        return workflow

    def _end(self, conn: Conn, workflow: int) -> Iterator[None]:
        while conn.execute(ENDED, {"id": workflow}).fetchone() != (True,):
            yield

    def cancelled(self, conn: Conn) -> Iterator[None]:
        """A job of a workflow is cancelled before anybody can claim it."""
        with conn.transaction():
            found = conn.execute(WAITING, (self._weave(conn, _any),)).fetchall()
            self._app.using(conn).cancel(self._rng.choice(found)[0], "by hand")
        yield

    def all_cancelled(self, conn: Conn) -> Iterator[None]:
        """A workflow is cancelled before anybody can claim a job of it."""
        with conn.transaction():
            self._app.workflows.using(conn).cancel(self._weave(conn, _any), "all by hand")
        yield

    def expired(self, conn: Conn) -> Iterator[None]:
        """A workflow is committed when one of its jobs has expired already."""
        with conn.transaction():
            self._weave(conn, _expires)
            conn.execute("select pg_sleep(0.45)")
        yield

    def stopped(self, conn: Conn) -> Iterator[None]:
        """A job dies, and its workflow stops the others."""
        yield from self._run(conn, _stops)

    def retried(self, conn: Conn) -> Iterator[None]:
        """A workflow that has failed is retried."""
        workflow = yield from self._run(conn, _fails)
        self._app.workflows.using(conn).retry(workflow, by=WHOLE)

    def redriven_alone(self, conn: Conn) -> Iterator[None]:
        """A dead letter of a workflow that has ended is redriven."""
        workflow = yield from self._run(conn, _fails)
        for (letter,) in conn.execute(LETTERS, (workflow,)).fetchall()[:1]:
            self._app.using(conn).retry(letter, by=ALONE)

    def redriven_in_bulk(self, conn: Conn) -> Iterator[None]:
        """The dead letters of a workflow that has ended are redriven in bulk."""
        workflow = yield from self._run(conn, _fails)
        letters = [letter for (letter,) in conn.execute(LETTERS, (workflow,)).fetchall()]
        if letters:
            self._app.dead.redrive(pgqueue.DeadFilter(ids=letters), by=MANY)

    def redriven_twice(self, conn: Conn) -> Iterator[None]:
        """The dead letters of a workflow that has ended are redriven in bulk, by two at once."""
        workflow = yield from self._run(conn, _fails)
        letters = [letter for (letter,) in conn.execute(LETTERS, (workflow,)).fetchall()]
        if letters:
            chosen = pgqueue.DeadFilter(ids=letters)
            with ThreadPoolExecutor(1) as beside:
                also = beside.submit(self._app.dead.redrive, chosen, by=TWO)
                self._app.dead.using(conn).redrive(chosen, by=TWO)
                also.result()

    def called_back(self, conn: Conn) -> Iterator[None]:
        """A callback that has died is retried alone: that of a workflow that fails, where there is no other."""
        if not (found := conn.execute(CALLBACKS).fetchall()):
            yield from self._run(conn, _callback_fails)
            found = conn.execute(CALLBACKS).fetchall()
        for letter, _ in found[:1]:
            self._app.using(conn).retry(letter, by=BACK)

    def held_redriven(self, conn: Conn) -> Iterator[None]:
        """A dead letter for which its workflow waits is redriven."""
        yield from self._held(conn, again=True)

    def held_discarded(self, conn: Conn) -> Iterator[None]:
        """A dead letter for which its workflow waits is discarded."""
        yield from self._held(conn, again=False)

    def _held(self, conn: Conn, *, again: bool) -> Iterator[None]:
        workflow = self._weave(conn, _holds)
        while conn.execute(ENDED, {"id": workflow}).fetchone() != (True,):
            for (letter,) in conn.execute(HELD_OF, (workflow,)).fetchall()[:1]:
                release(conn, letter, again=again)
                return
            yield

    def saga(self, conn: Conn) -> Iterator[None]:
        """A saga with several steps dies, and its steps are undone."""
        job = self._begin_saga(conn, next(self._ops()), SAGA_SCRIPT)
        send(conn, self._app, job)
        yield from self._await_end(conn, job)

    def called(self, conn: Conn) -> Iterator[None]:
        """A saga calls a job, and is answered."""
        op = next(op for op in self._ops() if [call.kind for call in calls_of(op, "call0", 0)] == ["job"])
        yield from self._await_end(conn, self._begin_saga(conn, op, [("call", "call0", None)]))

    def told(self, conn: Conn) -> Iterator[None]:
        """A saga is told of the event for which it waits."""
        job = self._begin_saga(conn, next(self._ops()), [("event", "event0", 2.0)])
        while conn.execute(ALIVE, (job,)).fetchone() is not None:
            for (key,) in conn.execute(OPEN_WAIT, (job,)).fetchall():
                self._app.using(conn).signal_event("event0", key=key, data={"e": 1})
            yield

    def timed_out(self, conn: Conn) -> Iterator[None]:
        """A saga waits for signals that nobody sends."""
        waits = [("signal", "go" if not number else f"go#{number + 1}", 0.2) for number in range(3)]
        yield from self._await_end(conn, self._begin_saga(conn, next(self._ops()), waits))

    def saga_redriven(self, conn: Conn) -> Iterator[None]:
        """A saga dies, and is redriven."""
        job = self._begin_saga(conn, next(self._ops()), ())
        yield from self._await_end(conn, job)
        self._app.using(conn).retry(job, by=SAGA)

    def _begin_saga(self, conn: Conn, op: str, script: Sequence[tuple[str, str, float | None]]) -> int:
        payload = {"script": [list(step) for step in script], "dies": 99, "compensates": False}
        job = self._app.using(conn).enqueue("saga", {"op": op, "n": self._count, "payload": payload}).id
        assert job is not None
        return job

    def _await_end(self, conn: Conn, job: int) -> Iterator[None]:
        while conn.execute(ALIVE, (job,)).fetchone() is not None:
            yield

    def _ops(self) -> Iterator[str]:
        while True:
            self._count += 1
            yield f"s-{self._name}-{self._count}"

    def grown(self, conn: Conn) -> Iterator[None]:
        """A job of an open workflow adds another one and lets others run in its place, somebody adds two more and seals
        it, and it calls back."""
        self._count += 1
        name = f"g.o.{self._name}_{self._count}"
        keys = [f"{OUTSIDE}{self._name}_{self._count}.{number}" for number in range(2)]
        flow = pgqueue.Workflow(name, sealed=False)
        payload = growing_shop.simple(f"{name}.0")
        payload |= {"adds": [("a0", "at once", growing_shop.simple(""))], "instead": 2}
        flow.add(growing_shop.grower.s(op=name, n=0, payload=payload))
        flow.on_complete(growing_shop.over.si(op=name, n=0, payload={}))
        with conn.transaction():
            run = flow.using(conn).enqueue()
        assert run.id is not None
        yield
        added: list[Any] = [growing_shop.grower.s(op=name, n=0, payload=growing_shop.simple(key)) for key in keys]
        workflows = self._app.workflows.using(conn)
        before = workflows.add(run.id, added[0])
        workflows.add(run.id, added[1], after=[before.id])
        yield
        workflows.seal(run.id)
        yield from self._end(conn, run.id)

    def published(self, conn: Conn) -> Iterator[None]:
        """An event is published, of which three subscribers hear."""
        with conn.transaction():
            self._app.using(conn).publish("woven.paid", {"x": 1}, key="a")
        yield


SCENES = {
    "jobs cancelled by hand": "cancelled",
    "jobs of workflows cancelled by hand": "all_cancelled",
    "jobs expired": "expired",
    "jobs skipped": "retried",
    "jobs stopped by a failure": "stopped",
    "jobs of retried workflows back": "retried",
    "jobs back with one letter": "redriven_alone",
    "jobs back in bulk": "redriven_in_bulk",
    "jobs back by one of two": "redriven_twice",
    "callbacks back alone": "called_back",
    "sagas redriven": "saga_redriven",
    "held letters redriven": "held_redriven",
    "held letters discarded": "held_discarded",
    "jobs that fell asleep": "saga",
    "jobs added by jobs": "grown",
    "jobs added from outside ran": "grown",
    "workflows that grew called back": "grown",
    "events heard": "published",
    "steps in transactions": "saga",
    "signals sent": "saga",
    "signals taken": "saga",
    "timeouts recorded": "timed_out",
    "events taken": "told",
    "calls answered": "called",
    "steps undone": "saga",
    "jobs replaced": "grown",
    "open workflows sealed": "grown",
}
