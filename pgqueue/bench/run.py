"""`pgqueue bench`: creates its schema, runs the cases one after the other, drops the schema and prints a report."""

import dataclasses
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pgqueue.bench.bench import Bench, Scale
from pgqueue.bench.cases import BenchCase, choose_cases
from pgqueue.bench.machine import Machine, describe_machine
from pgqueue.bench.measure import CaseResult
from pgqueue.bench.report import ProgressDisplay, print_json, print_table
from pgqueue.bench.schema import check_name, own_schema
from pgqueue.bench.tasks import build_tasks
from pgqueue.config import describe_dsn, find_dsn
from pgqueue.db import embedded

STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asks the bench to end. A KeyboardInterrupt, because psycopg then cancels the statement that runs."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(dsn: str | None, schema: str, only: Sequence[str], scale: Scale, *, as_json: bool) -> int:
    """Run the bench; return 0, or 128 plus the number of the signal that stopped it.

    Without a DSN it runs on an embedded Postgres of its own: it puts load only on a database that is named for it.
    """
    cases, schema, display = choose_cases(only), check_name(schema), ProgressDisplay()
    began = time.monotonic()
    try:
        with _stoppable(), _directory() as directory, _server(dsn, directory, display) as found:
            machine, results = _measure(found, schema, directory, cases, scale, display)
    except Stopped as stopped:
        display.say(f"stopped by {stopped}")
        return 128 + stopped.number
    took = round(time.monotonic() - began, 1)
    if as_json:
        print_json(machine, results, {"schema": schema, "seconds": took, "scale": dataclasses.asdict(scale)})
    else:
        print_table(machine, results)
        display.say(f"took {took:.0f} s; schema {schema} is dropped")
    return 0


def _measure(
    dsn: str, schema: str, directory: Path, cases: Sequence[BenchCase], scale: Scale, display: ProgressDisplay
) -> tuple[Machine, list[CaseResult]]:
    """Run the cases in a schema that is dropped afterwards."""
    with own_schema(dsn, schema, display.say) as conn, display.showing():
        bench = Bench(build_tasks(dsn, schema), conn, schema, directory, scale)
        try:
            return describe_machine(conn), _run_cases(bench, cases, display)
        finally:
            bench.tasks.app.close()


def _run_cases(bench: Bench, cases: Sequence[BenchCase], display: ProgressDisplay) -> list[CaseResult]:
    results = []
    for case in cases:
        with display.case(case.name) as bench.show_progress:
            results.append(case.run(bench))
        display.ended(results[-1])
    return results


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the signals that end a process into an exception, so that the schema is dropped on the way out."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    caught = [number for number in STOPPERS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, stop) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _directory() -> Iterator[Path]:
    """Yield a directory for the worker's log and, without a DSN, for the server; remove it at the end."""
    directory = Path(tempfile.mkdtemp(prefix="pgqueue-bench-"))
    directory.chmod(0o755)  # if root starts the embedded server, it runs as another user
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _server(dsn: str | None, directory: Path, display: ProgressDisplay) -> Iterator[str]:
    """Yield the DSN of the named database, or of an embedded Postgres that is stopped at the end."""
    if dsn is not None and not dsn.startswith(embedded.PREFIX):
        found = find_dsn(dsn)
        display.say(f"measuring on {describe_dsn(found)}")
        yield found
        return
    path = dsn.removeprefix(embedded.PREFIX) if dsn else directory / "postgres"
    display.say("measuring on an embedded Postgres; --dsn names another database")
    server = embedded.start(path)
    try:
        yield server.dsn
    finally:
        server.stop()
