"""`pgqueue demo`: runs the shop, then checks tables and files and shows what they say."""

import csv
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pgqueue import migrate
from pgqueue.app import App
from pgqueue.db import embedded
from pgqueue.demo import shop
from pgqueue.demo.processes import SCHEDULE, WORK, Processes
from pgqueue.demo.report import CheckResult, PlacedOrders, check_everything

DEADLINE = 90.0
PACE = 0.06  # seconds between orders, so that one can watch
LIVE = "select count(*) filter (where state = 'running'), count(*) from pgqueue.job_live"
DONE = "select (select count(*) from pgqueue.job_finished) + (select count(*) from pgqueue.dead_letter)"
RUNNING_OF = """select count(*) from pgqueue.job_live j join pgqueue.worker w on w.id = j.worker_id
where j.state = 'running' and w.pid = %s"""


Look = Callable[[App], object]


class DemoFailed(Exception):
    """The demo could not be run to its end."""


def run(*, keep: bool = False, look: Look | None = None) -> int:
    """Run the demo; return 0 if every check holds, else 1. `look` is called at the end, while the shop works on."""
    console = Console()
    directory = Path(tempfile.mkdtemp(prefix="pgqueue-demo-"))
    directory.chmod(0o755)
    server = None
    try:
        console.print(f"[bold]pgqueue demo[/] in {directory}")
        server = embedded.start(directory / "postgres", keep=keep)
        os.environ["PGQUEUE_DSN"] = server.dsn
        migrate.upgrade(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(shop.TABLES.encode())
            placed = _run_shop(console, conn, directory)
            results = check_everything(conn, placed)
        wrong = _show(console, results, hint=look is None)
        if look is not None:
            _keep_open(directory, look)
        if keep:
            console.print(f"kept in {directory}, with its Postgres running:\n  psql {server.dsn!r}", soft_wrap=True)
        return 1 if wrong else 0
    except DemoFailed as error:
        console.print(f"[bold red]the demo failed:[/] {error}; logs are in {directory}")
        keep = True
        return 1
    finally:
        if server is not None and not keep:
            server.stop()
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _keep_open(directory: Path, look: Look) -> None:
    """Let the shop work, so that what is done on its pages has an effect, until whoever looks at it has seen enough."""
    with _processes(directory) as processes:
        os.environ["SHOP_WEBHOOK_URL"] = processes.start_receiver()
        processes.start("scheduler", SCHEDULE)
        processes.start("worker", WORK)
        look(shop.app)
        processes.stop("scheduler", "worker")


def _run_shop(console: Console, conn: psycopg.Connection[Any], directory: Path) -> PlacedOrders:
    """Run all processes, place all orders, kill a worker half-way, wait until no job is left."""
    invoices = directory / "invoices"
    invoices.mkdir()
    os.environ["SHOP_INVOICES"] = str(invoices)
    orders = list(_orders())
    with _processes(directory) as processes:
        os.environ["SHOP_WEBHOOK_URL"] = processes.start_receiver()
        for name in ("scheduler-1", "scheduler-2"):
            processes.start(name, SCHEDULE)
        victim = processes.start("worker-1", WORK)
        processes.start("worker-2", WORK)
        with _progress(console) as progress:
            _place_orders(conn, orders, progress, processes, victim)
            processes.stop("scheduler-1", "scheduler-2")
            _wait_until_done(conn, progress, processes)
        processes.stop("worker-2")
    committed = {order.number for order, card in orders if card != "declined"}
    declined = {order.number for order, card in orders if card == "declined"}
    poison = next(order.number for order, _ in orders if order.currency not in shop.CURRENCIES)
    return PlacedOrders(frozenset(committed), frozenset(declined), poison, directory / "received.jsonl", invoices)


def _orders() -> Iterator[tuple[shop.Order, str]]:
    text = files("pgqueue.demo").joinpath("orders.csv").read_text(encoding="utf-8")
    for line in csv.DictReader(text.splitlines()):
        card = line.pop("card")
        numbers = {name: int(line.pop(name)) for name in ("number", "quantity", "unit_cents")}
        yield shop.Order(**numbers, **line), card  # type: ignore[arg-type]  # the columns of the file are its fields


@contextmanager
def _processes(directory: Path) -> Iterator[Processes]:
    processes = Processes(directory)
    try:
        yield processes
    finally:
        processes.stop_all()


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(SpinnerColumn(), *columns, TextColumn("{task.fields[note]}"), console=console)


def _place_orders(
    conn: psycopg.Connection[Any],
    orders: list[tuple[shop.Order, str]],
    progress: Progress,
    processes: Processes,
    victim: int,
) -> None:
    placing = progress.add_task("orders placed", total=len(orders), note="")
    working = progress.add_task("jobs done", total=0, note="")
    start, killed, declined = time.monotonic(), False, 0
    with psycopg.connect(shop.app.dsn, autocommit=True) as customer:
        for number, (order, card) in enumerate(orders, 1):
            try:
                shop.place_order(customer, order, card)
            except shop.PaymentDeclined:
                declined += 1
                progress.update(placing, note=f"{declined} rolled back, their cards were declined")
            if number >= len(orders) // 2 and not killed:
                killed = _kill_while_it_works(conn, processes, victim, progress)
            progress.advance(placing)
            _show_jobs(conn, progress, working)
            time.sleep(max(0.0, start + number * PACE - time.monotonic()))
        while not killed and _show_jobs(conn, progress, working):  # on a busy machine it may have begun late
            killed = _kill_while_it_works(conn, processes, victim, progress)
            time.sleep(PACE)


def _kill_while_it_works(conn: psycopg.Connection[Any], processes: Processes, pid: int, progress: Progress) -> bool:
    """Kill worker-1 if it runs jobs. It is frozen while the database is asked, so that the answer stays true."""
    processes.pause("worker-1")
    time.sleep(0.03)  # statements that it sent before it froze arrive
    row = conn.execute(RUNNING_OF, [pid]).fetchone()
    if row and row[0]:
        processes.kill("worker-1")
        progress.console.print(f"worker-1 (pid {pid}) was killed with SIGKILL while it ran jobs")
        return True
    processes.resume("worker-1")
    return False


def _wait_until_done(conn: psycopg.Connection[Any], progress: Progress, processes: Processes) -> None:
    working = progress.task_ids[-1]
    for _ in _until_deadline("all jobs to end"):
        if died := processes.died():
            raise DemoFailed(f"{', '.join(died)} died")
        if _show_jobs(conn, progress, working) == 0:
            return
        time.sleep(0.1)


def _show_jobs(conn: psycopg.Connection[Any], progress: Progress, bar: Any) -> int:
    running, live = conn.execute(LIVE).fetchone() or (0, 0)
    (done,) = conn.execute(DONE).fetchone() or (0,)
    progress.update(bar, completed=done, total=done + live, note=f"{running} running")
    return int(live)


def _until_deadline(what: str) -> Iterator[int]:
    end = time.monotonic() + DEADLINE
    for turn in count():
        if time.monotonic() > end:
            raise DemoFailed(f"waited {DEADLINE:g} s for {what}")
        yield turn


def _show(console: Console, results: list[CheckResult], *, hint: bool) -> list[str]:
    """Print every check, and how to look around; return the titles of those that do not hold."""
    for result in results:
        console.rule(f"[bold]{result.title}", align="left")
        console.print(result.sql, style="cyan", markup=False, highlight=False, soft_wrap=True)
        table = Table(*result.columns)
        for row in result.rows:
            table.add_row(*("" if value is None else str(value) for value in row))
        console.print(table)
        console.print(f"[bold red]✗ {result.wrong}" if result.wrong else f"[green]✓ {result.holds}")
    wrong = [result.title for result in results if result.wrong]
    console.rule()
    if wrong:
        console.print(f"[bold red]does not hold: {', '.join(wrong)}")
    else:
        console.print(
            "[bold green]Everything holds:[/] a worker was killed, orders were rolled back, nothing was lost."
        )
    if hint and not wrong:
        console.print("To look around yourself: pgqueue demo --web, or in the tables: pgqueue demo --keep")
    return wrong
