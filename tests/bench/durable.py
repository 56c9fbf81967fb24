"""Durable steps one by one: what it takes to record one, to replay many, and to go on after a signal."""

import statistics
import time
from typing import LiteralString

from . import track
from .database import BenchDatabase
from .drain import emptied, filled, quantile
from .results import Record
from .session import BenchSession

GAPS: LiteralString = """select extract(epoch from at - lag(at) over (partition by job_id order by at))::float8 * 1000
from pgqueue.step"""
ASLEEP: LiteralString = "select count(*) from pgqueue.step where kind = 'signal' and not done"
RUNNING: LiteralString = "select count(*) from pgqueue.job_live where state = 'running'"
HERTZ = 20


def one_by_one(session: BenchSession, n: int) -> Record:
    """Run jobs of a thousand steps, one job at a time. `step_ms`: from the record of a step to that of the next."""
    database = session.fresh()
    filled(session, database, "many_steps", n)
    with session.timed():
        record = emptied(session, database, n, ["-c", "1"])
    gaps = [row[0] for row in database.conn.execute(GAPS).fetchall() if row[0] is not None]
    return record | {"step_ms": round(statistics.median(gaps), 3), "ok": record["ok"] and len(gaps) == n * 999}


def replay(session: BenchSession, n: int) -> Record:
    """Let jobs record a thousand steps each and come back: how long the second attempt takes to get them all."""
    database = session.fresh()
    filled(session, database, "replayed", n)
    with session.timed():
        record = emptied(session, database, n, ["-c", "1"])
    _wait_until(database, 10, "select count(*) from pgqueue.job_live", 0)
    rows = database.conn.execute("select result::text::float8 from pgqueue.job_finished").fetchall()
    steps = int(database.value("select count(*) from pgqueue.step"))
    ok = record["ok"] and len(rows) == n and steps == 1000 * n
    return record | {"replay_ms": round(statistics.median(row[0] for row in rows), 2), "ok": ok}


def signalled(session: BenchSession, n: int) -> Record:
    """Send a signal to one job that waits for it after the other; how long until each goes on."""
    database = session.fresh()
    filled(session, database, "signalled", n)
    with session.timed(), session.working(session.options()):
        _wait_until(database, 30, ASLEEP, n)
        _wait_until(database, 30, RUNNING, 0)
        time.sleep(min(2.0, session.settings.warm))
        with session.producing(["signals", HERTZ]) as (sender,):
            sender.go()
            sent = {int(i): at for i, at in sender.answer()["sent"].items()}
        track.wait_for(session.track, n, 10)
    went_on = {record.i: record.at for record in track.read(session.track)}
    waits = sorted(went_on[i] - at for i, at in sent.items() if i in went_on)
    return {"jobs": n, "p50_ms": quantile(waits, 0.5), "p99_ms": quantile(waits, 0.99), "ok": len(waits) == n}


def _wait_until(database: BenchDatabase, seconds: float, count: LiteralString, wanted: int) -> None:
    end = time.time() + seconds
    while int(database.value(count)) != wanted:
        if time.time() > end:
            raise RuntimeError(f"{count} did not become {wanted}")
        time.sleep(0.02)
