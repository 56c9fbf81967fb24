"""The demo's checks: each with the SQL whose rows show it, and whether they are as they must be."""

import functools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: the SQL and its rows, what `holds` if they are right, and what is `wrong` if they are not."""

    title: str
    sql: str
    columns: list[str]
    rows: Rows
    holds: str
    wrong: str | None


@dataclass(frozen=True, slots=True)
class PlacedOrders:
    """The numbers of the orders that were placed, by fate, and where the receiver and the invoice task write."""

    committed: frozenset[int]
    declined: frozenset[int]
    poison: int
    webhook_log: Path
    invoice_directory: Path


JOBS = "select state, count(*) from pgqueue.job group by state order by state"
ATTEMPTS = """select reason, count(*), count(distinct job_id) as jobs
from pgqueue.transition where from_state = 'running' and to_state = 'pending' group by reason order by reason"""
DEAD = """select id, args->>'order_number' as order, attempt, reason, error->>'type' as error, task
from pgqueue.dead_letter"""
DEAD_ATTEMPTS = """select a.job_id, a.attempt, a.to_state, a.reason, a.error->>'type' as error,
       a.error->>'message' as message
from pgqueue.attempt a join pgqueue.dead_letter d on d.id = a.job_id order by a.job_id, a.attempt"""
ORDERS = """select (select count(*) from shop.orders) as orders,
       count(*) filter (where task = 'shop.deliver_webhook') as webhook_jobs,
       count(*) filter (where task = 'shop.render_invoice') as invoice_jobs,
       count(*) filter (where not exists (select from shop.orders o
           where o.number = (j.args->>'order_number')::int)) as jobs_without_order
from pgqueue.job j where j.args ? 'order_number'"""
TICKS = """select f.schedule, count(*) as ticks, count(distinct f.tick) as distinct_ticks,
       count(distinct f.job_id) as jobs,
       count(*) filter (where f.outcome <> 'fired') as missed,
       extract(epoch from max(f.tick) - min(f.tick))::int / 2 + 1 as expected
from pgqueue.schedule_fire f group by f.schedule"""


def check_everything(conn: psycopg.Connection[Any], placed: PlacedOrders) -> list[CheckResult]:
    """Read tables and files back and check them."""
    committed, poison = len(placed.committed), placed.poison
    check = functools.partial(_check, conn)
    return [
        check("jobs by state", JOBS, _check_states, "all jobs succeeded but one, which was made to fail"),
        check(
            "attempts that were followed by another one",
            ATTEMPTS,
            _check_attempts,
            "error: webhooks that got a 503 were tried again; rescued: the other worker ran the killed worker's jobs",
        ),
        check(
            "the dead letter",
            DEAD,
            lambda rows: _check_dead(rows, placed),
            f"order {poison} has a currency that does not exist, so its invoice can never be written",
        ),
        check("its attempts", DEAD_ATTEMPTS, _check_dead_attempts, "three attempts, each with its error"),
        check(
            "orders and their jobs",
            ORDERS,
            lambda rows: _check_orders(rows, placed),
            f"{committed} orders were committed, {len(placed.declined)} rolled back: no job without its order",
        ),
        check("ticks of the schedule", TICKS, _check_ticks, "two schedulers ran, each tick fired once"),
        _webhooks(placed),
        _invoices(placed),
    ]


def _check(
    conn: psycopg.Connection[Any], title: str, sql: str, find_wrong: Callable[[Rows], str | None], holds: str
) -> CheckResult:
    cursor = conn.execute(sql.encode())
    rows = cursor.fetchall()
    return CheckResult(title, sql, [column.name for column in cursor.description or []], rows, holds, find_wrong(rows))


def _check_states(rows: Rows) -> str | None:
    states: dict[str, int] = dict(rows)
    if set(states) != {"succeeded", "failed"} or states["failed"] != 1:
        return "every job must have succeeded but the one of the poison order"
    return None


def _check_attempts(rows: Rows) -> str | None:
    reasons = {row[0]: row[1] for row in rows}
    if not reasons.get("error"):
        return "some webhooks must have been retried after a 503"
    return None if reasons.get("rescued") else "the killed worker's jobs must have been rescued"


def _check_dead(rows: Rows, placed: PlacedOrders) -> str | None:
    if [int(row[1]) for row in rows] != [placed.poison]:
        return f"the invoice of order {placed.poison} must be the only dead letter"
    return None


def _check_dead_attempts(rows: Rows) -> str | None:
    if [row[1] for row in rows] != [1, 2, 3] or not all(row[4] for row in rows):
        return "each of its three attempts must be recorded with its error"
    return None


def _check_orders(rows: Rows, placed: PlacedOrders) -> str | None:
    orders, webhooks, invoices, without = rows[0]
    if without or not orders == webhooks == invoices == len(placed.committed):
        return f"each of the {len(placed.committed)} committed orders must have its two jobs, and no other order any"
    return None


def _check_ticks(rows: Rows) -> str | None:
    if len(rows) != 1:
        return "the schedule must have ticked"
    _, ticks, distinct, jobs, missed, wanted = rows[0]
    return None if ticks == distinct == jobs == wanted and not missed else "each tick must have fired exactly once"


def _webhooks(placed: PlacedOrders) -> CheckResult:
    lines = [json.loads(line) for line in placed.webhook_log.read_text().splitlines()]
    orders, keys = Counter(line["order"] for line in lines), {line["key"] for line in lines}
    wrong = None
    if orders.keys() != placed.committed:
        lost, ghosts = placed.committed - orders.keys(), orders.keys() - placed.committed
        wrong = f"webhooks must be exactly those of committed orders (lost {sorted(lost)}, ghosts {sorted(ghosts)})"
    elif len(keys) != len(placed.committed):
        wrong = "each order must come under one idempotency key"
    repeated = sum(count - 1 for count in orders.values())
    row = (len(placed.committed), len(orders), len(placed.declined & orders.keys()), repeated)
    columns = ["orders committed", "orders received", "of them rolled back", "received twice"]
    holds, source = "the receiver got exactly the committed orders", f"-- read from {placed.webhook_log.name}"
    return CheckResult("webhooks at the receiver", source, columns, [row], holds, wrong)


def _invoices(placed: PlacedOrders) -> CheckResult:
    files = {int(path.stem) for path in placed.invoice_directory.glob("*.html")}
    wanted = placed.committed - {placed.poison}
    wrong = None if files == wanted else "each committed order but the poison one must have its invoice"
    columns = ["invoices wanted", "invoices written"]
    holds = "one for each committed order but the one with the unknown currency"
    return CheckResult("invoices", "-- read from the directory", columns, [(len(wanted), len(files))], holds, wrong)
