"""F24: the primary is killed under producers, workers and schedulers, and its standby is promoted.

Everybody has one DSN with both hosts, or the one of a PgBouncer that is led to the standby. The journal of producers
says what was acknowledged, a file what tasks did outside of the database, and a plain client how long Postgres needs.
"""

import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

import pgqueue

from .clusters import Cluster, clusters, until, worker
from .server import free_port

SHOP = """
import json, os
import pgqueue
app = pgqueue.App(pgbouncer=bool(os.environ.get("BOUNCED")))

@app.task(name="t", retry=0.1)
def t(ctx: pgqueue.Context, order: int) -> None:
    with open(os.environ["OUTSIDE"], "a") as file:
        file.write(json.dumps([ctx.idempotency_key, order]) + "\\n")
    with ctx.transaction() as conn:
        conn.execute("insert into effect values (%s, %s)", (ctx.job_id, order))

@app.schedule(1, name="second")
@app.task(name="tick")
def tick() -> None: ...
"""
TABLES = """
create table effect (job_id bigint, "order" int, at timestamptz default clock_timestamp());
create table plain (at timestamptz default clock_timestamp())"""
BOUNCER = """
[databases]
* = host=127.0.0.1 port={port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_login_retry = 0.1
ignore_startup_parameters = extra_float_digits
"""
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
RATIO = 2.0  # of the time for which Postgres itself took no writes; ticks are a second apart
TICKED = "select count(*) > 0 from pgqueue.schedule_fire where at > to_timestamp(%s)"
LSN = "select (pg_current_wal_{}_lsn() - '0/0')::bigint"


class Order(NamedTuple):
    """An acknowledged job: its id and order, and the position of the WAL before it and after its commit."""

    job: int
    order: int
    before: int
    after: int


class Producer(threading.Thread):
    """Places orders, one a transaction, until it is stopped; an error is followed by a new connection and order."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self._app = pgqueue.App(dsn)
        self._stopped = threading.Event()
        self.orders: list[Order] = []
        self.last = 0

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                with psycopg.connect(self._dsn, prepare_threshold=None) as conn:
                    while not self._stopped.wait(0.01):
                        self._place(conn)
            except psycopg.Error:
                time.sleep(0.02)

    def _place(self, conn: psycopg.Connection[Any]) -> None:
        self.last += 1
        order = self.last
        before = _number(conn, LSN.format("insert"))
        job = self._app.using(conn).enqueue("t", {"order": order}).id
        conn.commit()
        self.orders.append(Order(job, order, before, _number(conn, LSN.format("flush"))))
        conn.commit()

    def stop(self) -> list[Order]:
        """Stop it; return the orders that were acknowledged."""
        self._stopped.set()
        self.join(30)
        return self.orders


class Plain(threading.Thread):
    """A client that knows nothing of pgqueue: it connects and writes until that succeeds."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self.wrote_at = 0.0

    def run(self) -> None:
        while not self.wrote_at:
            try:
                with psycopg.connect(self._dsn, autocommit=True, prepare_threshold=None) as conn:
                    conn.execute("insert into plain default values")
                    self.wrote_at = time.time()
            except psycopg.Error:
                time.sleep(0.02)


class Bouncer:
    """A PgBouncer that leads to one server, and later to another."""

    def __init__(self, home: Path, user: str | None) -> None:
        self._config = home / "pgbouncer.ini"
        self._user = user
        self._listen = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def lead_to(self, server: Cluster) -> None:
        """Start it, or let it read its file anew, as whoever fails over does."""
        self._config.write_text(BOUNCER.format(port=server.port, listen=self._listen))
        self._config.chmod(0o644)
        if self._process is None:
            command = [str(PGBOUNCER), "-q", str(self._config)]
            self._process = subprocess.Popen(command, user=self._user, stderr=subprocess.DEVNULL, cwd="/")
        else:
            self._process.send_signal(signal.SIGHUP)

    def dsn(self) -> str:
        """Return the DSN that leads through it."""
        return psycopg.conninfo.make_conninfo(
            host="127.0.0.1", port=self._listen, user="postgres", dbname="postgres", connect_timeout=5
        )

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Scene:
    """A primary with its standby, and the way that clients take to whichever of them is the primary."""

    def __init__(self, primary: Cluster, standby: Cluster, bouncer: Bouncer | None) -> None:
        self.primary, self.standby, self._bouncer = primary, standby, bouncer
        ports = f"{primary.port},{standby.port}"
        both = primary.dsn(host="127.0.0.1,127.0.0.1", port=ports, target_session_attrs="read-write")
        self.dsn = bouncer.dsn() if bouncer else both

    def known(self) -> set[int]:
        """Return the orders that have succeeded, when the standby knows of them all."""
        with psycopg.connect(self.primary.dsn(), autocommit=True) as conn:
            orders = {row[0] for row in conn.execute('select "order" from effect').fetchall()}
            at = _number(conn, LSN.format("flush"))
        until(self.standby.dsn(), "select pg_last_wal_replay_lsn() - '0/0' >= %s", at)
        return orders

    def cut(self) -> int:
        """Cut the standby off; return what it has received."""
        with psycopg.connect(self.standby.dsn(), autocommit=True) as conn:
            conn.execute("alter system set primary_conninfo = ''")
            conn.execute("select pg_reload_conf()")
            until(self.standby.dsn(), "select count(*) = 0 from pg_stat_wal_receiver")
            return int(_number(conn, "select (pg_last_wal_receive_lsn() - '0/0')::bigint"))

    def promote(self) -> None:
        """Promote the standby, and lead PgBouncer to it."""
        self.standby.control("promote")
        if self._bouncer:
            self._bouncer.lead_to(self.standby)


@contextmanager
def scene(state: str, *, through_bouncer: bool = False) -> Iterator[Scene]:
    """Start a primary with pgqueue, and its standby: `state` is sync or async."""
    with clusters(2) as (primary, standby), ExitStack() as stack:
        primary.make().start("wal_level=replica")
        primary.migrate()
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            conn.execute(TABLES)
        standby.copy(primary).start()
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            if state == "sync":
                conn.execute("alter system set synchronous_standby_names = '*'")
                conn.execute("select pg_reload_conf()")
        until(primary.dsn(), "select bool_and(sync_state = %s) from pg_stat_replication", state)
        bouncer = None
        if through_bouncer:
            bouncer = Bouncer(primary.data.parent, primary._user)
            stack.callback(bouncer.stop)
            bouncer.lead_to(primary)
        yield Scene(primary, standby, bouncer)


class Seen(NamedTuple):
    """What became of a failover: what was acknowledged, lost, and done again outside of the database; for how long
    after the death of the primary no plain client could write, no job ended, and no tick fired."""

    acknowledged: int
    lost: int
    again: int
    ticks: int
    plain: float
    works: float
    ticked: float

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} acknowledged jobs, {self.lost} lost, {self.again} effects outside of the database "
            f"again; {self.ticks} ticks, none missing, none twice; after the death of the primary a plain client wrote "
            f"in {self.plain:.1f} s, the first job ended in {self.works:.1f} s, a tick fired in {self.ticked:.1f} s"
        )


def strike(place: Scene, *, cut: bool, down_seconds: float = 3.0) -> Seen:
    """Fail over while everybody works, and check what is there afterwards."""
    outside = Path(tempfile.mkdtemp(prefix="pgqueue-outside-"), "effects")
    given = {"shop": SHOP, "OUTSIDE": str(outside)} | ({"BOUNCED": "1"} if place._bouncer else {})
    try:
        with worker(place.dsn, **given), worker(place.dsn, "schedule", **given):
            producer, plain = Producer(place.dsn), Plain(place.dsn)
            producer.start()
            until(place.primary.dsn(), "select count(*) > 50 from effect")
            until(place.primary.dsn(), "select count(*) > 0 from pgqueue.schedule_fire")
            succeeded = place.known()
            received = place.cut() if cut else None
            known = len(producer.orders)
            _wait(lambda: len(producer.orders) > known + 50, "orders after the cut")
            place.primary.control("stop", "-m", "immediate")
            struck, killed = producer.last, time.time()
            plain.start()
            time.sleep(down_seconds)  # what watches over the primary takes its time
            place.promote()
            known = len(producer.orders)
            _wait(lambda: len(producer.orders) > known + 20, "orders after the failover")
            until(place.standby.dsn(), TICKED, killed)
            orders = producer.stop()
            until(place.standby.dsn(), "select count(*) = 0 from pgqueue.job_live")
        lost = _lost(place, [order for order in orders if order.order <= struck], received)
        again = _again(outside, succeeded)
        ticks = _ticks(place)
        seen = Seen(len(orders), lost, again, ticks, *_waited(place, plain, killed))
        assert max(seen.works, seen.ticked - 1.0) <= RATIO * seen.plain, f"work went on too late: {seen}"
        return seen
    finally:
        shutil.rmtree(outside.parent, ignore_errors=True)


def _lost(place: Scene, orders: list[Order], received: int | None) -> int:
    """Return how many jobs that the old primary acknowledged are gone.

    Fails unless they are those that the standby had not received.
    """
    with psycopg.connect(place.standby.dsn()) as conn:
        rows = conn.execute('select job_id, "order", count(*) from effect group by job_id, "order"').fetchall()
    there = {order for _, order, _ in rows}
    doubled = [row for row in rows if row[2] != 1] or [
        order for order, n in Counter(r[1] for r in rows).items() if n > 1
    ]
    assert not doubled, f"effects in the database that did not happen once: {doubled}"
    lost = [order for order in orders if order.order not in there]
    if received is None:
        assert not lost, f"lost behind a synchronous standby: {lost}"
        return 0
    had = [order for order in lost if order.after <= received]
    assert not had, f"lost, and the standby had received them: {had}"
    last = max(order.after for order in lost) if lost else 0
    kept = [order for order in orders if received < order.before and order.after <= last and order not in lost]
    assert not kept, f"there, and the standby had not received them: {kept}"
    assert lost, "nothing was lost: the failover proved nothing"
    return len(lost)


def _again(outside: Path, succeeded: set[int]) -> int:
    """Return how many jobs had their effect outside of the database more than once.

    Fails where the standby knew that one had succeeded, and where two orders had one key: ids come again, keys do not.
    """
    lines = [json.loads(line) for line in outside.read_text().splitlines()]
    owners: dict[str, set[int]] = {}
    for key, order in lines:
        owners.setdefault(key, set()).add(order)
    shared = {key: numbers for key, numbers in owners.items() if len(numbers) > 1}
    assert not shared, f"one idempotency key of several orders: {shared}"
    again = {order for order, count in Counter(order for _, order in lines).items() if count > 1}
    assert not again & succeeded, f"ran again although the standby knew that they had succeeded: {again & succeeded}"
    return len(again)


def _ticks(place: Scene) -> int:
    """Return how many ticks there are; fail unless there is one for each second."""
    with psycopg.connect(place.standby.dsn()) as conn:
        row = conn.execute(
            "select count(*), extract(epoch from max(tick) - min(tick))::int + 1, count(distinct job_id),"
            " count(*) filter (where outcome = 'fired') from pgqueue.schedule_fire"
        ).fetchone()
    assert row is not None
    assert row[0] == row[1], f"{row[0]} ticks in {row[1]} s"
    assert row[2] == row[3], f"{row[3]} ticks fired, {row[2]} jobs of them"
    return int(row[0])


def _waited(place: Scene, plain: Plain, killed: float) -> tuple[float, float, float]:
    """Return how long after the death of the primary a plain client wrote, a job ended, and a tick fired."""
    plain.join(30)
    assert plain.wrote_at, "the plain client could not write"
    first = "select extract(epoch from min(at))::float8 from {} where at > to_timestamp({!r})"
    with psycopg.connect(place.standby.dsn(), autocommit=True) as conn:
        ended, ticked = (_number(conn, first.format(table, killed)) for table in ("effect", "pgqueue.schedule_fire"))
    return plain.wrote_at - killed, ended - killed, ticked - killed


def _number(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _wait(condition: Callable[[], bool], what: str) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 60, f"{what} did not come"
        time.sleep(0.02)


def synchronous() -> str:
    """The standby is synchronous: nothing is lost."""
    with scene("sync") as place:
        return str(strike(place, cut=False))


def asynchronous() -> str:
    """The standby is asynchronous and was cut off: what it had not received is lost, and no more."""
    with scene("async") as place:
        return str(strike(place, cut=True))


def bounced() -> str:
    """The standby is synchronous, and everybody goes through PgBouncer, which is led to it."""
    if PGBOUNCER is None:
        return "not provoked: needs PgBouncer"
    with scene("sync", through_bouncer=True) as place:
        return str(strike(place, cut=False))
