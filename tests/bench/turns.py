"""Metered jobs: what limits, rates and fair shares cost a drain, and how exactly and how fairly they are kept."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, LiteralString

import psycopg

from pgqueue import App, db
from pgqueue.jobs.flow import Flow
from pgqueue.queries import Queries

from . import track
from .by_hand import SETUP
from .database import BenchDatabase
from .drain import emptied, filled, quantile
from .results import Record
from .session import BenchSession

Fill = Callable[[BenchDatabase, int], None]
# Jobs as a caller enqueues them: the row and its transition. Lanes take turns in it, as tenants do.
METERED: LiteralString = """with made as (
    insert into pgqueue.job_live (task, queue, args, state, waits_for, lane, headers)
    select %(task)s, 'default', jsonb_build_object('i', %(first)s + g, 'email', 'user@example.com'), 'blocked', 'turn',
           (%(lanes)s::bigint[])[1 + g %% cardinality(%(lanes)s::bigint[])],
           (%(headers)s::jsonb[])[1 + g %% cardinality(%(lanes)s::bigint[])]
    from generate_series(0, %(n)s - 1) as g returning id)
insert into pgqueue.transition (job_id, to_state) select id, 'blocked' from made"""
TENANTS = 1000
SPAN: LiteralString = "select extract(epoch from max(claimed_at) - min(claimed_at)) from pgqueue.job_finished"
LONGEST: LiteralString = "select extract(epoch from max(finished_at) - min(claimed_at)) from pgqueue.job_finished"

RUNNING: LiteralString = "select extract(epoch from sum(finished_at - claimed_at)) from pgqueue.job_finished"


def metered(database: BenchDatabase, flows: Sequence[Flow], n: int, *, task: str = "noop", first: int = 0) -> None:
    """Insert `n` metered jobs, and make their buckets."""
    buckets = sorted({bucket for flow in flows for bucket in flow.buckets})
    db.run(database.conn, Queries("pgqueue").turns.make_buckets(buckets))
    headers = [json.dumps({"$flow": flow.header()}) for flow in flows]
    lanes = [flow.lane for flow in flows]
    database.conn.execute(METERED, {"task": task, "first": first, "n": n, "lanes": lanes, "headers": headers})


def rule(database: BenchDatabase, name: str, **columns: Any) -> None:
    """Insert a rule."""
    names = ", ".join(["name", *columns])
    holes = ", ".join(["%s"] * (1 + len(columns)))
    database.conn.execute(f"insert into pgqueue.limit_rule ({names}) values ({holes})", [name, *columns.values()])


def loose(database: BenchDatabase, n: int) -> None:
    """Fill with jobs of one limit that never binds."""
    rule(database, "loose", max_running=10_000)
    metered(database, [Flow(("loose",))], n)


def fair(database: BenchDatabase, n: int) -> None:
    """Fill with the jobs of a thousand tenants that share fairly."""
    rule(database, "fair", kind="fair")
    metered(database, [Flow(share=f"fair/{k}") for k in range(TENANTS)], n)


def tenants(database: BenchDatabase, n: int) -> None:
    """Fill with the jobs of a thousand tenants of which each may run five at a time."""
    rule(database, "tenant", max_running=5)
    metered(database, [Flow((f"tenant/{k}",)) for k in range(TENANTS)], n)


def own_buckets(database: BenchDatabase, n: int) -> None:
    """Fill with jobs of which each has a bucket of its own."""
    rule(database, "own", max_running=5)
    metered(database, [Flow((f"own/{k}",)) for k in range(n)], n)


def behind(database: BenchDatabase, n: int, waiting: int) -> None:
    """Put a million metered jobs behind a full bucket."""
    rule(database, "full", max_running=0)
    metered(database, [Flow(("full",))], waiting, first=10**9)


def against_plain(session: BenchSession, n: int, *, fill: Fill) -> Record:
    """Drain plain jobs, then these, these again and plain ones."""

    def metered_ones(database: BenchDatabase) -> None:
        fill(database, n)
        database.counts_metered = True

    return drained_in_turn(session, n, metered_ones)


def drained_in_turn(
    session: BenchSession, n: int, fill: Callable[[BenchDatabase], None],
    look: Callable[[BenchDatabase], None] = lambda database: None, *, processes: int = 1,
) -> Record:  # fmt: skip
    """Drain plain jobs, then those of `fill`, these again and plain ones: so a drift of the machine meets both alike.
    `look` sees the database after each drain of the latter."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    record: Record = {}
    for on in (False, True, True, False):
        database = session.fresh()
        if on:
            fill(database)
            with session.timed():
                database.settle()
        else:
            filled(session, database, "noop", n)
        with session.timed():
            record = emptied(session, database, n, session.options(processes=processes))
        if not record["ok"]:
            return record
        if on:
            look(database)
        rates[on].append(n / record["seconds"])
    return record | compared_rates(rates)


def beside_full(session: BenchSession, n: int, waiting: int) -> Record:
    """Drain plain jobs with and without a million metered ones behind a full bucket of the same queue."""

    def fill(database: BenchDatabase) -> None:
        behind(database, n, max(1, int(waiting * session.settings.scale)))
        filled(session, database, "noop", n)

    return drained_in_turn(session, n, fill)


def compared_rates(rates: dict[bool, list[float]]) -> Record:
    """Return the rate of these, that of plain jobs, and the ratio of both."""
    plain, these = (len(found) / sum(1 / rate for rate in found) for found in (rates[False], rates[True]))
    return {"jobs_s": round(these, 1), "jobs_s_plain": round(plain, 1), "ratio": round(these / plain, 3)}


def one_at_a_time(session: BenchSession, n: int) -> Record:
    """Drain empty jobs of which one may run at a time. `hand_p50_ms`: from the end of one to the claim of the next."""
    database = session.fresh()
    rule(database, "one", max_running=1)
    metered(database, [Flow(("one",))], n)
    database.counts_metered = True
    with session.timed():
        database.settle()
        record = emptied(session, database, n, session.options())
    gaps = """select coalesce(percentile_cont(0.5) within group (order by gap), 0) from (
        select extract(epoch from at - lag(at) over (order by at)) * 1000 as gap, to_state from pgqueue.transition
        where from_state = 'running' or to_state = 'running') as g where to_state = 'running'"""
    return record | {"hand_p50_ms": round(float(database.value(gaps)), 2), "most": _most(database)}


def at_a_rate(session: BenchSession, n: int, workers: int = 4) -> Record:
    """Let four workers start jobs at a rate of 100 a second, burst 10: what share of the 91 that it sustains they
    reach, and in how many windows of a second more than 100 start."""
    database = session.fresh()
    rule(database, "rate", rate_count=100, rate_seconds=1.0, rate_burst=10)
    metered(database, [Flow(("rate",))], n)
    database.counts_metered = True
    with session.timed(), ExitStack() as stack:
        database.settle()
        for _ in range(workers):
            stack.enter_context(session.working(["-c", "8"]))
        track.wait_for(session.track, n, n / 91 + 30)
        _wait_empty(database)
    seconds = float(database.value(SPAN))
    over = """select count(*) from (select count(*) over (order by claimed_at range between current row
        and interval '999999 microseconds' following) as n from pgqueue.job_finished) as w where n > 100"""
    sustained = (n - 10) / seconds / 91
    return {"jobs": n, "percent": round(100 * sustained, 1), "over": int(database.value(over)), "workers": workers,
            "ok": database.finished() == n}  # fmt: skip


def new_tenant(session: BenchSession, n: int, waiting: int = 1_000_000) -> Record:
    """Enqueue one job of a new tenant again and again, beside a million of another one that keeps all 20 slots busy
    with jobs of 50 ms; how long each waits until its body begins."""
    waiting = max(1000, int(waiting * session.settings.scale))
    database = session.fresh()
    rule(database, "fair", kind="fair")
    big = Flow(share="fair/big")
    metered(database, [big], waiting, task="rest", first=10**9)
    database.conn.execute("update pgqueue.job_live set args = args || '{\"ms\": 50}'")
    sent: list[float] = []
    with session.timed():
        database.settle()
        with session.working(["-c", "20"]), psycopg.connect(database.dsn, autocommit=True) as conn:
            track.wait_for(session.track, 100, 30)
            for number in range(n):
                small = Flow(share=f"fair/small{number}")
                headers = json.dumps({"$flow": small.header()})
                sent.append(time.time())
                conn.execute(
                    METERED, {"task": "rest", "first": number, "n": 1, "lanes": [small.lane], "headers": [headers]}
                )
                time.sleep(0.2)
            time.sleep(2.0)
    began = {record.i: record.at for record in track.read(session.track) if record.i < 10**9}
    waits = sorted(began[i] - at for i, at in enumerate(sent) if i in began)
    return {"jobs": n, "p50_ms": quantile(waits, 0.5), "p99_ms": quantile(waits, 0.99), "ok": len(waits) == n}


def used_slots(session: BenchSession, n: int, workers: int = 4) -> Record:
    """Let four workers run jobs of 20 ms of one key of which ten may run.

    `percent`: how much of the ten slots the bodies use, by the 20 ms for which each asks to sleep. `held_percent`: for
    how much of the time jobs hold them, from claim to end.

    None may run until all four are up: the first one to come up has eight slots.
    """
    database = session.fresh()
    rule(database, "ten", max_running=0)
    metered(database, [Flow(("ten/k",))], n, task="rest")
    database.counts_metered = True
    with session.timed(), ExitStack() as stack:
        database.settle()
        for _ in range(workers):
            stack.enter_context(session.working(["-c", "8"]))
        _wait_for_workers(database, workers)
        database.conn.execute("update pgqueue.limit_rule set max_running = 10 where name = 'ten'")
        track.wait_for(session.track, n, 60)
        _wait_empty(database)
    seconds = float(database.value(LONGEST))
    running, most, ok = float(database.value(RUNNING)), _most(database), database.finished() == n
    percent, by_hand = 10 * n * 0.02 / seconds, _slots_by_hand(session, database, n)
    return {
        "jobs": n, "percent": round(percent, 1), "held_percent": round(10 * running / seconds, 1), "most": most,
        "hand_percent": round(by_hand, 1), "ratio": round(percent / by_hand, 3), "ok": ok,
    }  # fmt: skip


def _slots_by_hand(session: BenchSession, database: BenchDatabase, n: int) -> float:
    """Run `n` jobs of 20 ms by hand, in ten slots of four processes; return how much of these they use, in percent."""
    for statement in SETUP:
        database.conn.execute(statement, {"n": n} if "%(n)s" in statement else None)
    with session.timed(), session.producing(*(("slots", slots, 0.02) for slots in (3, 3, 2, 2))) as processes:
        for process in processes:
            process.go()
        answers = [process.answer() for process in processes]
    seconds = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
    return 10 * n * 0.02 / seconds


def pinned(session: BenchSession, n: int) -> Record:
    """Drain the jobs of one limited lane while a snapshot pins all dead rows; compare the last tenth and the first."""
    database = session.fresh()
    rule(database, "loose", max_running=200)
    metered(database, [Flow(("loose",))], n)
    database.counts_metered = True
    with session.timed():
        database.settle()
        with database.vacuumed(5.0), database.pinned("reader"):
            record = emptied(session, database, n, session.options(), caps=3)
    at = [entry.at for entry in track.read(session.track)]
    tenth = len(at) // 10
    first, last = tenth / (at[tenth] - at[0]), tenth / (at[-1] - at[-1 - tenth])
    return record | {"first_s": round(first, 1), "last_s": round(last, 1), "ratio": round(last / first, 3)}


def _wait_for_workers(database: BenchDatabase, workers: int) -> None:
    end = time.time() + 30
    while int(database.value("select count(*) from pgqueue.worker where waiting")) < workers:
        if time.time() > end:
            raise RuntimeError(f"not all of {workers} workers came up")
        time.sleep(0.05)


def _wait_empty(database: BenchDatabase) -> None:
    end = time.time() + 10
    while database.pending() and time.time() < end:
        time.sleep(0.05)


def _most(database: BenchDatabase) -> int:
    """The most jobs that ran at once, by the transitions."""
    return int(
        database.value("""select max(n) from (select sum(step) over (order by at, step) as n from (
        select at, 1 as step from pgqueue.transition where to_state = 'running'
        union all select at, -1 from pgqueue.transition where from_state = 'running') as t) as x""")
    )


def look(session: BenchSession, n: int) -> Record:
    """Ask why one of a million waiting metered jobs does not run; the median of 50 calls."""
    database = session.fresh()
    behind(database, 0, n)
    database.settle()
    job = int(database.value("select max(id) from pgqueue.job_live"))
    app, taken = App(database.dsn), []
    for _ in range(50):
        began = time.perf_counter()
        app.why(job)
        taken.append(time.perf_counter() - began)
    app.close()
    return {"jobs": n, "why_ms": round(statistics.median(taken) * 1000, 2), "ok": True}
