"""A weaver: enqueues random workflows and durable tasks, publishes events, and steers them all, at random.

It runs as a process of its own, so that it can be killed in the middle. Its journal says how each transaction ended for
it, and which acts it has performed.
"""

import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

import pgqueue

from . import growing_shop, woven_shop
from .finish import HELD, OPEN, release, send
from .journal import Journal, read
from .plans import SIZES, Size, plan
from .woven import KEY
from .woven_shop import CALLED, SAGAS, TOPICS

LOST = (psycopg.Error, pgqueue.PgqueueError, OSError)
REFUSED = (pgqueue.WorkflowEnded, pgqueue.UnknownWorkflow, pgqueue.InvalidWorkflow)
NOT_BACK = (pgqueue.WrongState, pgqueue.UnknownJob, pgqueue.WorkflowRunning)
BACKLOG = 250
# Who acts: the log says by whom a job was brought back.
WHOLE, ALONE, MANY, SAGA, TWO, BACK = "whole", "alone", "many", "saga", "two at once", "callback"
ROLLED_BACK = "roll back"
OUTSIDE = f"{KEY}o."  # keys of jobs that are added to a workflow by nobody of it
# Dead letters that their workflow has counted, and which has ended.
COUNTED = """
select d.id from pgqueue.dead_letter d join pgqueue.workflow w on w.id = d.workflow_id
where d.ties & 16 = 0 and w.state <> 'running' order by d.id desc limit 20"""
# Dead letters that come back without their workflow, with that.
CALLBACKS = """
select d.id, d.workflow_id from pgqueue.dead_letter d
where d.workflow_id is not null and d.ties is null order by d.id desc"""
SOME_WORKFLOW = """
select w.id from pgqueue.workflow w where w.id = w.root_id and (w.state = 'running') = %s
order by w.id desc limit 20"""
SOME_JOB = "select id from pgqueue.job_live where workflow_id is not null order by id desc limit 40"
SOME_SAGA = f"select id from pgqueue.job_live where task in {SAGAS} order by id desc limit 40"
SOME_CALLED = f"select id from pgqueue.job_live where task in {CALLED} order by id desc limit 40"
DEAD_SAGA = f"""
select id from pgqueue.dead_letter where task in {(*SAGAS, *CALLED)} and (ties is null or ties = 4)
order by id desc limit 20"""
# Workflows that grow and run, with whether they are open and a job of each.
SOME_GROWING = """
select w.id, w.sealed, (
    select j.id from (select id from pgqueue.job_live where workflow_id = w.id and gate_id is not null
                      union all select id from pgqueue.job_finished where workflow_id = w.id and gate_id is not null
                      order by id desc limit 20) as j order by random() limit 1)
from pgqueue.workflow w where w.id = w.root_id and w.state = 'running' and w.name ~ '^[gb][.]'
order by w.id desc limit 20"""
Act = Callable[[psycopg.Connection[Any]], bool]


class Weaver:
    """Does one thing at a time, until stopped. Each act returns whether there was anything to do it to. `done`: acts
    that other weavers have performed before."""

    def __init__(self, name: str, seed: int, size: Size, journal: Journal, done: Collection[str] = ()) -> None:
        self._name, self._size, self._journal = name, size, journal
        self._rng = random.Random(seed)
        self._count, self._promises = 0, 0
        self._app = woven_shop.app
        self._conn: psycopg.Connection[Any] | None = None
        self.stopping = threading.Event()
        self._makes: list[tuple[Act, int]] = [
            (self._weave, 20), (self._begin_saga, 25), (self._publish, 20), (self._grow, 8), (self._stream, 6),
            (self._grow_alone, 6), (self._redrive_alone, 4), (self._redrive_many, 3),
            (self._redrive_twice, 4), (self._retry_callback, 4),
            (self._retry_workflow, 8), (self._add_block, 6),
        ]  # fmt: skip
        self._steers: list[tuple[Act, int]] = [
            (self._signal, 40), (self._cancel_job, 4), (self._cancel_workflow, 3), (self._retry_saga, 3),
            (self._tell_all, 4), (self._release_held, 6), (self._add, 24), (self._seal, 6),
            (self._unpublish, 2),
        ]  # fmt: skip
        self._new = {act for act, _ in (*self._makes, *self._steers) if _name(act) not in done}

    def run(self, pause: float) -> None:
        """Work until stopped; what is under way is finished."""
        while not self.stopping.wait(self._rng.expovariate(1 / pause)):
            try:
                conn = self._connection()
                act = self._choose(conn)
                if act(conn):
                    self._new.discard(act)
                    self._journal.write(type="act", act=_name(act))
            except LOST as error:
                if isinstance(error, pgqueue.PgqueueError):
                    self._journal.write(type="refused", act=_name(act), error=f"{type(error).__name__}: {error}")
                self._drop()
        self._app.close()
        self._drop()

    def _choose(self, conn: psycopg.Connection[Any]) -> Act:
        """Draw an act, each third time one that nobody has performed yet; while many jobs wait, no other that makes
        any."""
        row = conn.execute("select count(*) from pgqueue.job_live").fetchone()
        is_crowded = row is not None and row[0] > BACKLOG
        deck = self._steers if is_crowded else [*self._makes, *self._steers]
        if self._new and self._rng.random() < 0.3:
            return self._rng.choice(sorted(self._new, key=_name))
        acts, weights = zip(*deck, strict=True)
        return self._rng.choices(acts, weights)[0]

    def _connection(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            dsn = os.environ["PGQUEUE_DSN"]
            name = f"stress weaver {self._name}"
            self._conn = psycopg.connect(dsn, autocommit=True, connect_timeout=10, application_name=name)
        return self._conn

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def _weave(self, conn: psycopg.Connection[Any]) -> bool:
        """Enqueue a workflow, in a transaction that may be rolled back."""
        self._count += 1
        woven = plan(f"w.{self._size.name}.{self._name}_{self._count}")
        with self._promise(conn, woven.name):
            woven.flow.using(conn).enqueue()
        return True

    @contextmanager
    def _promise(self, conn: psycopg.Connection[Any], *names: str) -> Iterator[None]:
        """A transaction, of which each tenth is rolled back. The journal says how it ended for workflows or jobs of
        these names."""
        self._promises += 1
        for name in names:
            self._journal.write(type="weave", name=name)
        outcome = "fail"
        try:
            conn.execute("begin")
            try:
                yield
            except REFUSED:
                conn.execute("rollback")
                return
            if self._promises % 10 == 3:
                conn.execute("rollback")
                self._journal.write(type="act", act=ROLLED_BACK)
            else:
                outcome = "info"
                conn.execute("commit")
                outcome = "ok"
        finally:
            for name in names:
                self._journal.write(type="woven", name=name, outcome=outcome)

    def _named(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._name}_{self._count}"

    def _many(self, *counts: int) -> int:
        """Draw a number, 1 or one of these. More than 64 members of a group have several gates."""
        return self._rng.choice((1, *counts))

    def _grower(self, op: str, key: str) -> dict[str, Any]:
        return {"op": op, "n": self._count, "payload": growing_shop.drawn(key, self._rng)}

    def _over(self, name: str) -> Any:
        return growing_shop.over.si(op=name, n=0, payload={})

    def _grow(self, conn: psycopg.Connection[Any]) -> bool:
        """Enqueue a workflow to which others add, with a job or none."""
        sealed = self._rng.random() < 0.3
        name = self._named("g." if sealed else "g.o.")
        flow = pgqueue.Workflow(name, sealed=sealed, on_failure=self._rng.choice(["cancel", "stop"]))
        for number in range(self._rng.randint(1, 3)):
            flow.add(growing_shop.grower.s(**self._grower(name, f"{name}.{number}")))
        flow.on_complete(self._over(name))
        with self._promise(conn, name):
            flow.using(conn).enqueue()
        return True

    def _stream(self, conn: psycopg.Connection[Any]) -> bool:
        """Enqueue a batch, open or not, whose members go to the database by the block where it is open."""
        sealed = self._rng.random() < 0.4
        name = self._named("b." if sealed else "b.o.")
        batch = self._app.batch(on_complete=self._over(name), on_success=self._over(name), sealed=sealed)
        members = [self._grower(name, f"{name}.{n}") for n in range(self._many(2, 5, 30, 90))]
        with self._promise(conn, name), batch.using(conn, name=name):
            batch.add_many(growing_shop.grower, members)
        return True

    def _grow_alone(self, conn: psycopg.Connection[Any]) -> bool:
        """Enqueue jobs of no workflow that add to one, or let others run in their place."""
        key = self._named(KEY)
        task = self._rng.choice([growing_shop.grower, growing_shop.grower_async])
        with self._promise(conn, key):
            task.using(conn).enqueue(**self._grower(key, key))
        return True

    def _add(self, conn: psycopg.Connection[Any]) -> bool:
        """Add a job to a workflow that may end at this moment, after another job of it."""
        found = conn.execute(SOME_GROWING).fetchall()
        if not found:
            return False
        workflow, _, job = self._rng.choice(found)
        key = self._named(OUTSIDE)
        after = [job] if job is not None and self._rng.random() < 0.7 else []
        with self._promise(conn, key):
            call: Any = growing_shop.grower.s(**self._grower(key, key))
            self._app.workflows.using(conn).add(workflow, call, after=after)
        return True

    def _add_block(self, conn: psycopg.Connection[Any]) -> bool:
        """Add a block of jobs to a workflow that may end at this moment."""
        found = conn.execute(SOME_GROWING).fetchall()
        if not found:
            return False
        keys = [self._named(OUTSIDE) for _ in range(self._many(3, 80))]
        into = self._app.batch(into=self._rng.choice(found)[0])
        with self._promise(conn, *keys), into.using(conn) as batch:
            batch.add_many(growing_shop.grower, [self._grower(key, key) for key in keys])
        return True

    def _seal(self, conn: psycopg.Connection[Any]) -> bool:
        workflow = self._chosen(conn, OPEN)
        if workflow is not None:
            self._app.workflows.using(conn).seal(workflow)
        return workflow is not None

    def _begin_saga(self, conn: psycopg.Connection[Any]) -> bool:
        rng, self._count = self._rng, self._count + 1
        op = f"s-{self._name}-{self._count}"
        payload = {
            "script": list(woven_shop.scripts(rng)),
            "dies": rng.choices((0, 1, 99), (75, 15, 10))[0],
            "compensates": rng.random() < 0.1,
        }
        self._app.using(conn).enqueue(rng.choice(SAGAS), {"op": op, "n": self._count, "payload": payload})
        return True

    def _publish(self, conn: psycopg.Connection[Any]) -> bool:
        with conn.transaction():
            self._app.using(conn).publish(self._rng.choice([*TOPICS]), {"x": 1}, key=self._rng.choice("abc"))
        return True

    def _unpublish(self, conn: psycopg.Connection[Any]) -> bool:
        """Publish an event in a transaction that is rolled back: nobody hears of it."""
        with conn.transaction(force_rollback=True):
            return self._publish(conn)

    def _chosen(self, conn: psycopg.Connection[Any], statement: str, *params: Any) -> int | None:
        found = [row[0] for row in conn.execute(statement, params).fetchall()]
        return self._rng.choice(found) if found else None

    def _signal(self, conn: psycopg.Connection[Any]) -> bool:
        """Send a signal to a job that may wait for one by then, at the worst moment."""
        job = self._chosen(conn, SOME_SAGA)
        if job is not None:
            send(conn, self._app, job)
        return job is not None

    def _tell_all(self, conn: psycopg.Connection[Any]) -> bool:
        waits = "select waits, wait_key from pgqueue.step where kind = 'event' and not done limit 10"
        found = conn.execute(waits).fetchall()
        for name, key in found:
            self._app.using(conn).signal_event(name, key=key, data={"e": 1})
        return bool(found)

    def _cancel_job(self, conn: psycopg.Connection[Any]) -> bool:
        job = self._chosen(conn, self._rng.choice([SOME_JOB, SOME_SAGA, SOME_CALLED]))
        if job is not None:
            with suppress(pgqueue.UnknownJob):
                self._app.using(conn).cancel(job, "by hand")
        return job is not None

    def _cancel_workflow(self, conn: psycopg.Connection[Any]) -> bool:
        workflow = self._chosen(conn, SOME_WORKFLOW, True)
        if workflow is not None:
            self._app.workflows.using(conn).cancel(workflow, "all by hand")
        return workflow is not None

    def _retry_workflow(self, conn: psycopg.Connection[Any]) -> bool:
        workflow = self._chosen(conn, SOME_WORKFLOW, False)
        if workflow is not None:
            with suppress(pgqueue.WorkflowRunning):
                self._app.workflows.using(conn).retry(workflow, by=WHOLE)
        return workflow is not None

    def _retry_saga(self, conn: psycopg.Connection[Any]) -> bool:
        job = self._chosen(conn, DEAD_SAGA)
        if job is not None:
            with suppress(*NOT_BACK):
                self._app.using(conn).retry(job, by=SAGA)
        return job is not None

    def _redrive_alone(self, conn: psycopg.Connection[Any]) -> bool:
        """Redrive one dead letter of a workflow that has ended: it comes back with all that failed."""
        letter = self._chosen(conn, COUNTED)
        if letter is not None:
            with suppress(*NOT_BACK):
                self._app.using(conn).retry(letter, by=ALONE)
        return letter is not None

    def _redrive_many(self, conn: psycopg.Connection[Any]) -> bool:
        """Redrive dead letters in bulk, of any workflows and of none: in batches that commit, of which a kill leaves
        the rest to others, or in a transaction, which may be rolled back."""
        chosen = pgqueue.DeadFilter(task=self._rng.choice(["node*", "grower*", "called*", "saga*"]))
        redrive, limit = self._app.dead.using(conn).redrive, self._rng.choice([1, 5, 20])
        if self._rng.random() < 0.5:
            return redrive(chosen, limit=limit, by=MANY).done > 0
        with conn.transaction(force_rollback=self._rng.random() < 0.1):
            return redrive(chosen, limit=limit, by=MANY).done > 0

    def _redrive_twice(self, conn: psycopg.Connection[Any]) -> bool:
        """Redrive dead letters of the same workflows in bulk, by two connections at once."""
        letters = [row[0] for row in conn.execute(COUNTED).fetchall()]
        if len(letters) < 2:
            return False
        self._rng.shuffle(letters)
        one, other = (pgqueue.DeadFilter(ids=letters[half::2]) for half in (0, 1))
        with ThreadPoolExecutor(1) as beside:
            also = beside.submit(self._app.dead.redrive, other, by=TWO)
            done = self._app.dead.using(conn).redrive(one, by=TWO).done
            return also.result().done + done > 0

    def _retry_callback(self, conn: psycopg.Connection[Any]) -> bool:
        """Retry a callback that died, without its workflow; mostly while somebody retries that."""
        found = conn.execute(f"{CALLBACKS} limit 20").fetchall()
        if not found:
            return False
        callback, workflow = self._rng.choice(found)
        with ThreadPoolExecutor(1) as beside:
            also = beside.submit(self._retry_beside, workflow) if self._rng.random() < 0.7 else None
            with suppress(*NOT_BACK):
                self._app.using(conn).retry(callback, by=BACK)
            if also is not None:
                also.result()
        return True

    def _retry_beside(self, workflow: int) -> None:
        with suppress(pgqueue.WorkflowRunning):
            self._app.workflows.retry(workflow, by=WHOLE)

    def _release_held(self, conn: psycopg.Connection[Any]) -> bool:
        job = self._chosen(conn, HELD)
        if job is not None:
            release(conn, job, again=self._rng.random() < 0.5)
        return job is not None


def _name(act: Act) -> str:
    return act.__name__.strip("_").replace("_", " ")


def promised(directory: Path) -> dict[str, str]:
    """Read from the journals of weavers how the enqueueing of each workflow ended; info where the weaver was killed."""
    found: dict[str, str] = {}
    for line in _journals(directory):
        if "name" in line:
            found[line["name"]] = line.get("outcome", "info")
    return found


def performed(directory: Path) -> Counter[str]:
    """Count in the journals of weavers how often they have performed each act, as far as there was anything to do."""
    return Counter(line["act"] for line in _journals(directory) if line["type"] == "act")


def refused(directory: Path) -> list[str]:
    """Read from the journals of weavers which acts were refused that might not be."""
    return [f"{line['act']}: {line['error']}" for line in _journals(directory) if line["type"] == "refused"]


def _journals(directory: Path) -> list[dict[str, Any]]:
    return read(iter(sorted(directory.glob("weave-*.jsonl"))))


def main() -> None:
    """Weave: a name, a seed, a size and the mean seconds between two acts are the arguments."""
    name, seed, size, pause = sys.argv[1:]
    directory = Path(os.environ["STRESS_DIRECTORY"])
    done = performed(directory)
    weaver = Weaver(name, int(seed), SIZES[size], Journal(directory / f"weave-{name}.jsonl"), done)
    signal.signal(signal.SIGTERM, lambda *_: weaver.stopping.set())
    with suppress(*LOST):  # else a worker has declared the subscriptions
        woven_shop.app.events.declare()
    weaver.run(float(pause))


if __name__ == "__main__":
    main()
