"""Names that live in the database, for the completion of the shell: of queues, tasks, schedules, workers.

Completion must never hang or print: it has a second, and without a database it offers nothing.
"""

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import psycopg
import typer

from pgqueue import db
from pgqueue.config import check_schema, find_dsn
from pgqueue.db.database import PLANNING
from pgqueue.jobs.job import JobState
from pgqueue.queries import Queries, Query

SECONDS = 1.0
OPTIONS = f"-c statement_timeout=800 -c default_transaction_read_only=on {PLANNING}"

Completer = Callable[[typer.Context, str], list[str]]


def _completer(offered: Callable[[Queries, str], Query[list[str]]]) -> Completer:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        names = _within(SECONDS, lambda: _read(ctx.params, lambda queries: offered(queries, incomplete)))
        return [name for name in names if name.isprintable()]

    return complete


def _within(seconds: float, read: Callable[[], Sequence[str]]) -> Sequence[str]:
    """Return what a thread reads; nothing if it fails, or is not done in time. Then it is left behind."""
    answers: SimpleQueue[Sequence[str]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put(read())
        except Exception:  # noqa: BLE001 - no database, no schema, no privilege: nothing to offer
            answers.put([])

    threading.Thread(target=run, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return []


def _read(given: dict[str, Any], query: Callable[[Queries], Query[list[str]]]) -> list[str]:
    dsn = find_dsn(given.get("dsn"))
    if dsn.startswith("embedded:"):  # to look would start the server
        return []
    queries = Queries(check_schema(given.get("schema") or "pgqueue"))
    with psycopg.connect(dsn, connect_timeout=2, options=OPTIONS) as conn:
        return db.run(conn, query(queries))


complete_queue = _completer(lambda queries, start: queries.names.queues(start))
complete_task = _completer(lambda queries, start: queries.names.tasks(start))
complete_schedule = _completer(lambda queries, start: queries.names.schedules(start))
complete_worker = _completer(lambda queries, start: queries.names.workers(start))


def complete_state(incomplete: str) -> list[str]:
    """Return the states of jobs, and the phases of pending ones."""
    names = {state.value for state in JobState} | {"scheduled", "sleeping", "waiting", "retrying"}
    return sorted(name for name in names if name.startswith(incomplete))
