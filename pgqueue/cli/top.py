"""`pgqueue top`: the status, looked at again and again, until somebody presses q."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import psycopg
import typer
from rich.console import Group, RenderableType
from rich.live import Live

from pgqueue import db
from pgqueue.cli import output
from pgqueue.cli.call import Call
from pgqueue.cli.status import Status, facts, queue_table, read_status
from pgqueue.cli.workers import workers_table
from pgqueue.client.troubles import sentence, troubles_of
from pgqueue.db.failures import brief
from pgqueue.errors import DatabaseNotReady
from pgqueue.queries.jobs.count import MOST_COUNTED

MOST_ROWS = 15  # of each table

Interval = Annotated[float, typer.Option(min=0.2, max=60.0, help="Seconds between two looks.")]


def top(call: Call, interval: Interval = 1.0) -> None:
    """Show queues and workers, a look each second, until q or Ctrl-C. Without a terminal: one look.

    The first line says whether something is wrong, as the sentence on top of the dashboard does.
    A look costs the same on any backlog, and takes one connection.
    """
    if not sys.stdout.isatty():
        output.console.print(frame(*_read(call)))
        return
    with _keys() as pressed, Live(console=output.console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(_look(call), refresh=True)
                if pressed(interval) in ("q", "Q"):
                    return
        except KeyboardInterrupt:
            return


def _look(call: Call) -> RenderableType:
    """Return a frame, or why there is none: the database may come back."""
    try:
        return frame(*_read(call))
    except (psycopg.Error, DatabaseNotReady) as error:
        return output.line(f"no answer from the database: {brief(error)}")


def _read(call: Call) -> tuple[Status, str]:
    """Read the status, and say in a sentence whether something is wrong."""
    queries = call.app.queries
    with call.app.backend.pools.connection() as conn, conn.transaction():
        db.run(conn, queries.jobs.prefer_indexes())
        queues, signs = db.run(conn, queries.queues.list()), db.run(conn, queries.dashboard.signs())
    return read_status(call.app, MOST_COUNTED), sentence(queues, troubles_of(queues, signs))


def frame(status: Status, headline: str) -> RenderableType:
    """Return one picture of the status: whether something is wrong, the fullest queues, the workers that run most, and
    what else is to be said."""
    busy = sorted(status.queues, key=lambda q: (q.pending + q.turn + q.running, q.scheduled + q.retrying), reverse=True)
    workers = sorted(status.workers, key=lambda w: (w.status != "lost", w.running), reverse=True)
    pending, running = sum(q.pending + q.turn for q in status.queues), sum(q.running for q in status.queues)
    ended = sum(rate.ended_per_second for rate in status.rates)
    parts: list[RenderableType] = [
        output.line(headline),
        output.line(f"{pending} pending, {running} running, {ended:.3g} ended/s   (q ends)"),
        queue_table(_title("queues", len(busy)), status, busy[:MOST_ROWS]),
        workers_table(_title("workers", len(workers)), workers[:MOST_ROWS]),
    ]
    return Group(*parts, *map(output.line, facts(status)))


def _title(name: str, rows: int) -> str:
    return f"{name}: the first {MOST_ROWS} of {rows}" if rows > MOST_ROWS else name


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Let keys be read at once, without Enter; yield a function that waits so many seconds for one."""
    try:
        import select
        import termios
        import tty
    except ImportError:  # Windows: only Ctrl-C ends it
        yield _sleep
        return
    if not sys.stdin.isatty():
        yield _sleep
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""
