"""`pgqueue bench`: a schema of its own, the cases one after the other, a report, and nothing left behind."""

import dataclasses
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pgqueue.bench.cases import Case, chosen
from pgqueue.bench.machine import Machine, look
from pgqueue.bench.measure import Result
from pgqueue.bench.report import Board, print_json, print_table
from pgqueue.bench.schema import Connection, check_name, own_schema
from pgqueue.bench.setting import Scale, Setting
from pgqueue.bench.tasks import build
from pgqueue.config import describe, find_dsn
from pgqueue.db import embedded

STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal has asked the bench to end. Of this class, because psycopg then cancels the statement that runs."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(dsn: str | None, schema: str, only: Sequence[str], scale: Scale, *, as_json: bool) -> int:
    """Run the bench; return 0, or 128 and the number of the signal that stopped it.

    Without a DSN on an embedded server of its own: load goes only to a database that was named for it.
    """
    cases, schema, board = chosen(only), check_name(schema), Board()
    began = time.monotonic()
    try:
        with _stoppable(), _directory() as directory, _server(dsn, directory, board) as found:
            machine, results = _measure(found, schema, directory, cases, scale, board)
    except Stopped as stopped:
        board.say(f"stopped by {stopped}")
        return 128 + stopped.number
    took = round(time.monotonic() - began, 1)
    if as_json:
        print_json(machine, results, {"schema": schema, "seconds": took, "scale": dataclasses.asdict(scale)})
    else:
        print_table(machine, results)
        board.say(f"took {took:.0f} s; schema {schema} is dropped")
    return 0


def _measure(
    dsn: str, schema: str, directory: Path, cases: Sequence[Case], scale: Scale, board: Board
) -> tuple[Machine, list[Result]]:
    """Run the cases in a schema that is dropped afterwards."""
    with own_schema(dsn, schema, board.say) as conn, board.showing():
        return look(conn), _run_cases(dsn, schema, conn, directory, cases, scale, board)


def _run_cases(
    dsn: str, schema: str, conn: Connection, directory: Path, cases: Sequence[Case], scale: Scale, board: Board
) -> list[Result]:
    measured, results = build(dsn, schema), []
    setting = Setting(measured, conn, schema, directory, scale, lambda done, total: None)
    try:
        for case in cases:
            with board.case(case.name) as setting.tell:
                results.append(case.run(setting))
            board.ended(results[-1])
    finally:
        measured.app.close()
    return results


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the signals that end a process into an exception, so that the schema is dropped on the way out."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    heeded = [number for number in STOPPERS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores one
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory for the worker's log and, without a DSN, for the server."""
    directory = Path(tempfile.mkdtemp(prefix="pgqueue-bench-"))
    directory.chmod(0o755)  # the embedded server of root runs as another user
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _server(dsn: str | None, directory: Path, board: Board) -> Iterator[str]:
    """The database: the one named, or an embedded one that ends with the bench."""
    if dsn is not None and not dsn.startswith(embedded.PREFIX):
        found = find_dsn(dsn)
        board.say(f"measuring on {describe(found)}")
        yield found
        return
    path = dsn.removeprefix(embedded.PREFIX) if dsn else directory / "postgres"
    board.say("measuring on an embedded Postgres; --dsn names another database")
    server = embedded.start(path)
    try:
        yield server.dsn
    finally:
        server.stop()
