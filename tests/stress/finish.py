"""How all that weavers have made comes to its end: each job is given what it waits for."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

import pgqueue
from pgqueue import db
from pgqueue.queries import Queries

from . import growing_shop
from .woven_shop import DEED

HELD = "select id from pgqueue.dead_letter where ties & 16 > 0"
OPERATIONS = "select id from pgqueue.operation where ended_at is null"
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
     + ({HELD.replace("select id", "select count(*)")})
     + ({OPERATIONS.replace("select id", "select count(*)")})"""
STILL = """
select 'job ' || id || ' (' || task || ') ' || state || coalesce(' for ' || waits_for, '') || ', due ' || run_at
from pgqueue.job_live where task = any(%s)
union all select 'workflow ' || id || ' ' || state || coalesce(' because ' || stop_reason, '') from pgqueue.workflow
where not settled
union all select 'operation ' || id || ' (' || kind || ')' from pgqueue.operation where ended_at is null limit 12"""


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
    for (operation,) in conn.execute(OPERATIONS).fetchall():  # whoever began it is gone
        app.operations.resume(operation)
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
