"""A weaver: enqueues random workflows and durable tasks, publishes events, and steers them all, at random.

It runs as a process of its own, so that it can be killed in the middle. Its journal says how each transaction ended for
it. `finish` is for whoever waits until all has ended: it gives each job what it waits for.
"""

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

import pgqueue
from pgqueue import db
from pgqueue.queries import Queries

from . import growing_shop, woven_shop
from .journal import Journal, read
from .plans import SIZES, Size, plan
from .woven import KEY
from .woven_shop import CALLED, DEED, SAGAS, TOPICS

LOST = (psycopg.Error, pgqueue.PgqueueError, OSError)
REFUSED = (pgqueue.WorkflowEnded, pgqueue.UnknownWorkflow, pgqueue.InvalidWorkflow)
BACKLOG = 250
HELD = "select id from pgqueue.dead_letter where ties & 16 > 0"
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
OPEN = "select id from pgqueue.workflow where id = root_id and not sealed"
# Jobs whose open wait has no timeout and no letter in the mailbox, with how many signals they were sent.
UNSENT = """
select s.job_id, (select count(*) from stress.deed d where d.job_id = s.job_id and d.kind = 'sent')
from pgqueue.step s join pgqueue.job_live j on j.id = s.job_id
where s.kind = 'signal' and not s.done and s.wake_at is null
and not exists (select from pgqueue.signal g where g.job_id = s.job_id)"""
SENT = "select count(*) from stress.deed where job_id = %s and kind = 'sent'"
LIVING = f"""
select (select count(*) from pgqueue.job_live where task = any(%s))
     + (select count(*) from pgqueue.workflow where not settled)
     + ({HELD.replace("select id", "select count(*)")})"""


STILL = """
select 'job ' || id || ' (' || task || ') ' || state || coalesce(' for ' || waits_for, '') || ', due ' || run_at
from pgqueue.job_live where task = any(%s)
union all select 'workflow ' || id || ' ' || state || coalesce(' because ' || stop_reason, '') from pgqueue.workflow
where not settled limit 12"""


class Weaver:
    """Does one thing at a time, until stopped."""

    def __init__(self, name: str, seed: int, size: Size, journal: Journal) -> None:
        self._name, self._size, self._journal = name, size, journal
        self._rng = random.Random(seed)
        self._count = 0
        self._app = woven_shop.app
        self._conn: psycopg.Connection[Any] | None = None
        self.stopping = threading.Event()
        self._verbs: list[tuple[Callable[[psycopg.Connection[Any]], None], int]] = [
            (self._weave, 20), (self._begin_saga, 25), (self._publish, 20), (self._signal, 40), (self._cancel_job, 4),
            (self._cancel_workflow, 3), (self._retry_workflow, 8), (self._retry_saga, 3), (self._tell_all, 4),
            (self._release_held, 6), (self._add, 30), (self._seal, 6), (self._grow, 8), (self._stream, 6),
            (self._grow_alone, 6),
        ]  # fmt: skip

    def run(self, pause: float) -> None:
        """Work until stopped; what is under way is finished."""
        while not self.stopping.wait(self._rng.expovariate(1 / pause)):
            try:
                conn = self._connection()
                row = conn.execute("select count(*) from pgqueue.job_live").fetchone()
                verbs, weights = zip(*self._verbs, strict=True)
                if row is not None and row[0] > BACKLOG:
                    verbs, weights = verbs[3:-3], weights[3:-3]
                self._rng.choices(verbs, weights)[0](conn)
            except LOST:
                self._drop()
        self._app.close()
        self._drop()

    def _connection(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            dsn = os.environ["PGQUEUE_DSN"]
            self._conn = psycopg.connect(dsn, autocommit=True, connect_timeout=10, application_name="stress weaver")
        return self._conn

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def _weave(self, conn: psycopg.Connection[Any]) -> None:
        """Enqueue a workflow, in a transaction that may be rolled back."""
        self._count += 1
        woven = plan(f"w.{self._size.name}.{self._name}_{self._count}")
        with self._promise(conn, woven.name):
            woven.flow.using(conn).enqueue()

    @contextmanager
    def _promise(self, conn: psycopg.Connection[Any], *names: str) -> Iterator[None]:
        """A transaction that may be rolled back. The journal says how it ended for workflows or jobs of these names."""
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
            if self._rng.random() < 0.1:
                conn.execute("rollback")
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

    def _grower(self, op: str, key: str) -> dict[str, Any]:
        return {"op": op, "n": self._count, "payload": growing_shop.drawn(key, self._rng)}

    def _over(self, name: str) -> Any:
        return growing_shop.over.si(op=name, n=0, payload={})

    def _grow(self, conn: psycopg.Connection[Any]) -> None:
        """Enqueue a workflow to which others add, with a job or none."""
        name = self._named("g.")
        flow = pgqueue.Workflow(name, sealed=self._rng.random() < 0.3, on_failure=self._rng.choice(["cancel", "stop"]))
        for number in range(self._rng.randint(1, 3)):
            flow.add(growing_shop.grower.s(**self._grower(name, f"{name}.{number}")))
        flow.on_complete(self._over(name))
        with self._promise(conn, name):
            flow.using(conn).enqueue()

    def _stream(self, conn: psycopg.Connection[Any]) -> None:
        """Enqueue a batch, open or not, whose members go to the database by the block where it is open."""
        name = self._named("b.")
        batch = self._app.batch(
            on_complete=self._over(name), on_success=self._over(name), sealed=self._rng.random() < 0.4
        )
        members = [self._grower(name, f"{name}.{n}") for n in range(self._rng.choice([1, 2, 5, 30, 90]))]
        with self._promise(conn, name), batch.using(conn, name=name):
            batch.add_many(growing_shop.grower, members)

    def _grow_alone(self, conn: psycopg.Connection[Any]) -> None:
        """Enqueue jobs of no workflow that add to one, or let others run in their place."""
        key = self._named(KEY)
        task = self._rng.choice([growing_shop.grower, growing_shop.grower_async])
        with self._promise(conn, key):
            task.using(conn).enqueue(**self._grower(key, key))

    def _add(self, conn: psycopg.Connection[Any]) -> None:
        """Add to a workflow that may end at this moment: a job after another one, or a block of jobs."""
        found = conn.execute(SOME_GROWING).fetchall()
        if not found:
            return
        workflow, _, job = self._rng.choice(found)
        if self._rng.random() < 0.2:
            keys = [self._named(KEY) for _ in range(self._rng.choice([1, 3, 80]))]
            with self._promise(conn, *keys), self._app.batch(into=workflow).using(conn) as batch:
                batch.add_many(growing_shop.grower, [self._grower(key, key) for key in keys])
            return
        key = self._named(KEY)
        after = [job] if job is not None and self._rng.random() < 0.7 else []
        with self._promise(conn, key):
            call: Any = growing_shop.grower.s(**self._grower(key, key))
            self._app.workflows.using(conn).add(workflow, call, after=after)

    def _seal(self, conn: psycopg.Connection[Any]) -> None:
        workflow = self._chosen(conn, OPEN)
        if workflow is not None:
            self._app.workflows.using(conn).seal(workflow)

    def _begin_saga(self, conn: psycopg.Connection[Any]) -> None:
        rng, self._count = self._rng, self._count + 1
        op = f"s-{self._name}-{self._count}"
        payload = {
            "script": list(woven_shop.scripts(rng)),
            "dies": rng.choices((0, 1, 99), (75, 15, 10))[0],
            "compensates": rng.random() < 0.1,
        }
        self._app.using(conn).enqueue(rng.choice(SAGAS), {"op": op, "n": self._count, "payload": payload})

    def _publish(self, conn: psycopg.Connection[Any]) -> None:
        """Publish an event, in a transaction that may be rolled back."""
        with conn.transaction():
            self._app.using(conn).publish(self._rng.choice([*TOPICS]), {"x": 1}, key=self._rng.choice("abc"))
            if self._rng.random() < 0.1:
                raise psycopg.Rollback

    def _chosen(self, conn: psycopg.Connection[Any], statement: str, *params: Any) -> int | None:
        found = [row[0] for row in conn.execute(statement, params).fetchall()]
        return self._rng.choice(found) if found else None

    def _signal(self, conn: psycopg.Connection[Any]) -> None:
        """Send a signal to a job that may wait for one by then, at the worst moment."""
        job = self._chosen(conn, SOME_SAGA)
        if job is not None:
            send(conn, self._app, job)

    def _tell_all(self, conn: psycopg.Connection[Any]) -> None:
        waits = "select waits, wait_key from pgqueue.step where kind = 'event' and not done limit 10"
        for name, key in conn.execute(waits).fetchall():
            self._app.using(conn).signal_event(name, key=key, data={"e": 1})

    def _cancel_job(self, conn: psycopg.Connection[Any]) -> None:
        job = self._chosen(conn, self._rng.choice([SOME_JOB, SOME_SAGA, SOME_CALLED]))
        if job is not None:
            with suppress(pgqueue.UnknownJob):
                self._app.using(conn).cancel(job, "by hand")

    def _cancel_workflow(self, conn: psycopg.Connection[Any]) -> None:
        workflow = self._chosen(conn, SOME_WORKFLOW, True)
        if workflow is not None:
            self._app.workflows.using(conn).cancel(workflow, "all by hand")

    def _retry_workflow(self, conn: psycopg.Connection[Any]) -> None:
        workflow = self._chosen(conn, SOME_WORKFLOW, False)
        if workflow is not None:
            with suppress(pgqueue.WorkflowRunning):
                self._app.workflows.using(conn).retry(workflow)

    def _retry_saga(self, conn: psycopg.Connection[Any]) -> None:
        job = self._chosen(conn, DEAD_SAGA)
        if job is not None:
            with suppress(pgqueue.WrongState, pgqueue.UnknownJob):
                self._app.using(conn).retry(job)

    def _release_held(self, conn: psycopg.Connection[Any]) -> None:
        job = self._chosen(conn, HELD)
        if job is not None:
            release(conn, job, again=self._rng.random() < 0.5)


def send(conn: psycopg.Connection[Any], app: pgqueue.App, job: int) -> None:
    """Send a job its next signal, if it still lives, and write that down in the same transaction."""
    with suppress(pgqueue.UnknownJob, pgqueue.WrongState), conn.transaction():
        conn.execute("select pg_advisory_xact_lock(4242, (%s %% 2147483647)::int)", (job,))
        row = conn.execute(SENT, (job,)).fetchone()
        number = row[0] if row else 0
        app.using(conn).signal(job, "go", number + 1)
        conn.execute(DEED, (job, 0, "sent", "go", Jsonb(number + 1)))


def release(conn: psycopg.Connection[Any], job: int, *, again: bool) -> None:
    """Redrive or discard a dead letter for which its workflow waits."""
    queries = Queries("pgqueue").dead
    if again:
        db.run(conn, queries.redrive(0, [job], "redriven", {}))
    else:
        db.run(conn, queries.discard([job], "discarded"))


@contextmanager
def woven_app(dsn: str) -> Iterator[tuple[pgqueue.App, psycopg.Connection[Any]]]:
    """An app with the tasks of the woven shop on a database, and a connection to it."""
    app = pgqueue.App(dsn)
    for spec in growing_shop.app.tasks:
        app.tasks.add(spec)
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10, application_name="stress finish") as conn:
        yield app, conn
    app.close()


def finish(conn: psycopg.Connection[Any], app: pgqueue.App) -> bool:
    """Give jobs what they wait for; return whether all that weavers have made has ended."""
    for (job,) in conn.execute(HELD).fetchall():
        release(conn, job, again=False)
    for (workflow,) in conn.execute(OPEN).fetchall():
        app.workflows.using(conn).seal(workflow)
    for job, _ in conn.execute(UNSENT).fetchall():
        send(conn, app, job)
    row = conn.execute(LIVING, (list(growing_shop.TASKS),)).fetchone()
    return row == (0,)


def living(conn: psycopg.Connection[Any]) -> str:
    """Tell what of that has not ended."""
    return "; ".join(row[0] for row in conn.execute(STILL, (list(growing_shop.TASKS),)).fetchall())


def promised(directory: Path) -> dict[str, str]:
    """Read from the journals of weavers how the enqueueing of each workflow ended; info where the weaver was killed."""
    found: dict[str, str] = {}
    for line in read(iter(sorted(directory.glob("weave-*.jsonl")))):
        found[line["name"]] = line.get("outcome", "info")
    return found


def main() -> None:
    """Weave: a name, a seed, a size and the mean seconds between two acts are the arguments."""
    name, seed, size, pause = sys.argv[1:]
    journal = Journal(Path(os.environ["STRESS_DIRECTORY"]) / f"weave-{name}.jsonl")
    weaver = Weaver(name, int(seed), SIZES[size], journal)
    signal.signal(signal.SIGTERM, lambda *_: weaver.stopping.set())
    with suppress(*LOST):  # else a worker has declared the subscriptions
        woven_shop.app.events.declare()
    weaver.run(float(pause))


if __name__ == "__main__":
    main()
