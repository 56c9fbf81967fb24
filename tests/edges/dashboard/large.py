"""Measures each page of the dashboard on a large queue: `python -m tests.edges.dashboard.large`.

It fills a server of its own, or measures one that was filled before (`--dsn`): ten million finished jobs, a million
due, a hundred thousand dead letters, thirty days of activity. It prints a table, of which docs/dashboard.md has most
rows. The last two columns are measured while an old snapshot keeps all rows that end from being removed.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString, NamedTuple

import httpx
import psycopg

from pgqueue import chord, dashboard, db, migrate
from pgqueue.dashboard import Access
from tests.bench.server import StartedServer
from tests.edges.dashboard.scene import WORKERS, Shop, shop_of

FINISHED, DUE, DEAD, ENDED = 10_000_000, 1_000_000, 100_000, 200_000
DAYS, ACTIVE_DAYS, ROUNDS = 8, 30, 5
PARTITIONS: LiteralString = """
do $$ declare h text; d date; part text; begin
for h in values ('job_finished'), ('transition'), ('activity') loop
    for d in select generate_series((now() at time zone 'UTC')::date - 31, (now() at time zone 'UTC')::date, '1 day')
    loop
        part := h || to_char(d, '"_"YYYYMMDD');
        continue when to_regclass('pgqueue.' || part) is not null;
        execute format('create table pgqueue.%I partition of pgqueue.%I for values from (%L) to (%L)',
                       part, h, d || ' 00:00:00+00', d + 1 || ' 00:00:00+00');
    end loop;
end loop; end $$"""
TASKS = "('{shop.send_receipt,shop.charge_card,shop.render_invoice,media.transcode,crm.sync_tenant}'::text[])"
QUEUES = "('{email,critical,default,media,default}'::text[])"
TASK, QUEUE = f"{TASKS}[1 + mod(g, 5)::int]", f"{QUEUES}[1 + mod(g, 5)::int]"
FILL: tuple[str, ...] = (
    f"""insert into pgqueue.job_finished (id, task, queue, args, attempt, lease, worker_id, run_at, created_at,
        claimed_at, finished_at, state, result)
    select g, {TASK}, {QUEUE}, jsonb_build_object('order_id', g, 'to', 'ann@example.com'),
        1, 1, '00000000-0000-4000-8000-000000000001', t.at, t.at, t.at, t.at + interval '1 second',
        case when mod(g, 50) = 0 then 'cancelled' else 'succeeded' end, '{{"sent": true}}'
    from generate_series(1, %(finished)s::bigint) g
    cross join lateral (
        select now() - make_interval(secs => 86400.0 * %(days)s * (1 - g / (%(finished)s + 1.0))) as at) t""",
    """insert into pgqueue.transition (job_id, at, from_state, to_state, attempt, lease)
    select f.id, f.finished_at, m.from_state, m.to_state, m.attempt, m.attempt from pgqueue.job_finished f,
        (values (null, 'pending', 0), ('pending', 'running', 1), ('running', 'succeeded', 1))
        as m(from_state, to_state, attempt)""",
    f"""insert into pgqueue.dead_letter (id, task, queue, args, run_at, created_at, attempt, max_attempts, lease,
        reason, error, fingerprint, failed_at)
    select %(finished)s + g, {TASK}, {QUEUE}, jsonb_build_object('order_id', g), t.at, t.at, 3,
        3, 3, 'exhausted', jsonb_build_object('type', 'shop.Error' || mod(g, 40),
            'message', 'order ' || g || ' is refused',
            'traceback', repeat('  File "shop.py", line 1, in charge_card' || chr(10), 40)),
        'f' || mod(g, 40), t.at
    from generate_series(1, %(dead)s::bigint) g
    cross join lateral (
        select now() - make_interval(secs => 86400.0 * %(days)s * (1 - g / (%(dead)s + 1.0))) as at) t""",
    f"""insert into pgqueue.job_live (id, task, queue, priority, args, run_at, created_at)
    select %(finished)s + %(dead)s + g, {TASK}, {QUEUE}, mod(g, 3),
        jsonb_build_object('order_id', g, 'to', 'ann@example.com'), now() - make_interval(secs => 3600 * g / %(due)s),
        now() - make_interval(secs => 3600 * g / %(due)s)
    from generate_series(1, %(due)s::bigint) g""",
    """insert into pgqueue.transition (job_id, at, to_state)
    select id, created_at, 'pending' from pgqueue.job_live union all
    select id, failed_at, 'failed' from pgqueue.dead_letter""",
    "select setval('pgqueue.job_id', %(finished)s + %(dead)s + %(due)s + 1)",
    f"""insert into pgqueue.activity select now() - make_interval(secs => 10 * g), w.id, {TASKS}[t.n], {QUEUES}[t.n],
        case when mod(g + t.n, 40) = 0 then 'failed' when mod(g + t.n, 15) = 0 then 'retried' else 'succeeded' end,
        1 + mod(g, 9), 0.4 * (1 + mod(g, 9)), 0.2 * (1 + mod(g, 9)),
        ('[34:39]={{1,' || mod(g, 9) || ',3,0,1,1}}')::int[],
        ('[30:37]={{1,0,' || mod(g, 9) || ',3,0,1,1,1}}')::int[]
    from generate_series(0, 8640 * %(active_days)s::int) g, (select id from pgqueue.worker where kind = 'worker') w,
        generate_series(1, 5) as t(n)""",
    """insert into pgqueue.operation (kind, filter, actor, via, ended_at, done)
    select 'redrive', '{"task": "shop.*"}', 'alice', 'dashboard', now(), g
    from generate_series(1, 1000) g""",
)
END: LiteralString = """
with taken as (delete from pgqueue.job_live where id in (
    select id from pgqueue.job_live where state = 'pending' order by run_at, id limit %s) returning *)
insert into pgqueue.job_finished (id, task, queue, priority, args, attempt, lease, state)
select id, task, queue, priority, args, 1, 1, 'succeeded' from taken"""
REFILL = f"""
insert into pgqueue.job_live (task, queue, priority, args, run_at, created_at)
select {TASK}, {QUEUE}, mod(g, 3), jsonb_build_object('order_id', g, 'to', 'ann@example.com'),
    now() - make_interval(secs => g / 300.0), now() - make_interval(secs => g / 300.0)
from generate_series(1, %s - (select count(*) from pgqueue.job_live where state = 'pending')) g"""
RUN: LiteralString = """
update pgqueue.job_live j set state = 'running', attempt = 1, lease = 1, claimed_at = now(), worker_id = w.id
from (select array_agg(id) as ids from pgqueue.worker where kind = 'worker' and host = 'app-1') x,
    lateral (select x.ids[1] as id) w
where j.id in (select id from pgqueue.job_live where state = 'pending' order by id desc limit 24)"""


class Found(NamedTuple):
    """How long a page took, in milliseconds at the server, and by how many statements it was read."""

    first: float
    usual: float
    statements: int


def paths_of(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Return each page, by what it is called."""
    dead = conn.execute("select min(id), max(fingerprint) from pgqueue.dead_letter").fetchone()
    done = conn.execute("select id from pgqueue.job_finished order by id desc limit 1").fetchone()
    due = conn.execute("select min(id) from pgqueue.job_live where state = 'pending'").fetchone()
    workflow = conn.execute("select max(id) from pgqueue.workflow where root_id = id").fetchone()
    assert dead
    assert done
    assert due
    assert workflow
    return {
        "Now": "", "Now, 24 h": "?span=24h", "Now, 7 d": "?span=7d", "Queues": "queues", "a queue": "queues/default",
        "drain of a queue": "queues/default/drain",
        "a queue, 7 d": "queues/default?span=7d", "a queue, 30 d": "queues/default?span=30d",
        "Jobs": "jobs", "Jobs that run": "jobs?state=running",
        "Jobs of a task": "jobs?task=media.*", "Jobs by an argument": "jobs?arg.order_id=8",
        "Jobs that succeeded": "jobs?state=succeeded", "a job that is due": f"jobs/{due[0]}",
        "a job that succeeded": f"jobs/{done[0]}", "a dead letter": f"jobs/{dead[0]}", "Failures": "failures",
        "a group of failures": f"failures/{dead[1]}", "preview of a redrive": f"preview/redrive?group={dead[1]}",
        "preview of a cancel": "preview/cancel?queue=media", "Tasks": "tasks", "a task": "tasks/shop.send_receipt",
        "a task, 7 d": "tasks/shop.send_receipt?span=7d", "Schedules": "schedules", "a schedule": "schedules/s~207",
        "pause of a schedule": "schedules/s~207/pause?until=7d",
        "Workers": "workers", "Workflows": "workflows", "a workflow": f"workflows/{workflow[0]}",
        "Limits": "limits", "Database": "database", "Operations": "operations",
    }  # fmt: skip


def fill(dsn: str) -> None:
    """Make the tables large."""
    migrate.upgrade(dsn)
    shop = shop_of(dsn)
    with psycopg.connect(dsn, autocommit=True, options="-c search_path= -c synchronous_commit=off") as conn:
        conn.execute("alter system set max_wal_size = '2GB'")
        conn.execute("select pg_catalog.pg_reload_conf()")
        conn.execute(PARTITIONS)
        conn.execute(WORKERS)
        conn.execute("update pgqueue.worker set heartbeat_at = now() + interval '3 hours' where lost_at is null")
        sizes = {"finished": FINISHED, "due": DUE, "dead": DEAD, "days": DAYS, "active_days": ACTIVE_DAYS}
        for statement in FILL:
            began = time.monotonic()
            conn.execute(statement, sizes)
            print(f"{time.monotonic() - began:6.1f} s  {' '.join(statement.split())[:70]}", flush=True)
        for number in range(100):
            shop.app.schedules.create(f"s {number}", "shop.daily_report", f"{number % 60} */2 * * *")
        for number in range(200):
            shop.app.enqueue("crm.sync_tenant", {"tenant": f"t{number}"})
        conn.execute(RUN)
        chord([shop.transcode.si(video=f"v{number}") for number in range(118)], shop.publish.s(to="cdn")).enqueue()
        conn.execute("vacuum (analyze)")
    shop.app.close()


@contextmanager
def pinned(dsn: str) -> Iterator[None]:
    """Hold a snapshot, as a forgotten transaction does, and end jobs: their rows stay where claims and pages look."""
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True, options="-c search_path=") as conn:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select from pgqueue.job_live limit 1")
        conn.execute(END, [ENDED])
        conn.execute("analyze pgqueue.job_live")
        yield


@contextmanager
def browsing(shop: Shop) -> Iterator[httpx.Client]:
    """Yield a client of a dashboard that has kept nothing yet."""
    may = Access.operate("alice")
    transport = httpx.WSGITransport(dashboard.wsgi(shop.app, access=lambda _: may))
    with httpx.Client(transport=transport, base_url="http://shop.example") as browser:
        yield browser


def read_sentence(shop: Shop) -> Found:
    """Read what the sentence on top of all pages is made of, which one process does every two seconds."""
    times = list[float]()
    for _ in range(1 + ROUNDS):
        with browsing(shop) as browser, counted() as asked:
            began = time.perf_counter()
            assert browser.get("/-/stale").status_code == 200
            times.append(1000 * (time.perf_counter() - began))
    return Found(times[0], statistics.median(times[1:]), len(asked))


def measure(shop: Shop, path: str) -> Found:
    """Get a page again and again. The first time the process has kept nothing of what it reads; but for the sentence on
    top, which all pages share, and the doctor's examination."""
    times, statements = list[float](), 0
    with browsing(shop) as browser:
        if path == "database":
            browser.get("/database")
        for _ in range(1 + ROUNDS):
            assert browser.get("/-/stale").status_code == 200
            with counted() as asked:
                began = time.perf_counter()
                answer = browser.get(f"/{path}")
                times.append(1000 * (time.perf_counter() - began))
            assert answer.status_code == 200, (path, answer.text[-500:])
            assert "took too long" not in answer.text, path
            statements = max(statements, len(asked))
    return Found(times[0], statistics.median(times[1:]), statements)


@contextmanager
def counted() -> Iterator[list[float]]:
    """Yield a list to which each statement of a page adds its milliseconds; but for the settings of the look, and for
    what threads beside the page read."""
    asked: list[float] = []
    run, mine = db.connection.run, threading.get_ident()

    def counting(conn: Any, query: Any) -> Any:
        began = time.perf_counter()
        found = run(conn, query)
        if b"set_config" not in query.sql and threading.get_ident() == mine:
            asked.append(1000 * (time.perf_counter() - began))
        return found

    db.run = counting
    try:
        yield asked
    finally:
        db.run = run


def measured(shop: Shop, paths: Mapping[str, str]) -> dict[str, Found]:
    """Measure each page."""
    return {"the sentence": read_sentence(shop)} | {name: measure(shop, path) for name, path in paths.items()}


def report(dsn: str) -> None:
    """Measure each page, and print the table."""
    shop = shop_of(dsn)
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=") as conn:
        conn.execute(REFILL, [DUE])
        conn.execute("vacuum (analyze) pgqueue.job_live")
        paths = paths_of(conn)
    free = measured(shop, paths)
    with pinned(dsn):
        old = measured(shop, paths)
    shop.app.close()
    print("| page | statements | first | later | first, beside an old snapshot | later |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, found in free.items():
        times = (found.first, found.usual, old[name].first, old[name].usual)
        print(f"| {name} | {found.statements} | {' | '.join(f'{each:.0f}' for each in times)} |")


def main() -> None:
    """Fill a server, or take one that was filled; measure the pages on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="measure this database, which was filled before")
    parser.add_argument("--keep", action="store_true", help="fill, print the DSN, wait for Enter, and measure nothing")
    given = parser.parse_args()
    if given.dsn:
        report(given.dsn)
        return
    server = StartedServer()
    try:
        fill(server.dsn())
        if given.keep:
            input(f"{server.dsn()}\n")
        else:
            report(server.dsn())
    finally:
        server.stop()


if __name__ == "__main__":
    main()
