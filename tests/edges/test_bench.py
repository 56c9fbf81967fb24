"""`pgqueue bench`: every case gives sane numbers, and the bench leaves nothing in the database, however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App
from pgqueue.bench import process, schema
from pgqueue.bench.bench import Scale
from pgqueue.bench.cases import CASES
from pgqueue.bench.measure import BenchFailed, FinishedBatch, Measurement, percentile, ratio, steady_rate
from pgqueue.bench.run import run
from pgqueue.errors import ConfigError
from tests import starter
from tests.conftest import scalar
from tests.harness import Conn, Process, wait_for

TINY = ["--jobs", "2000", "--rounds", "1", "--seconds", "2"]
THERE = "select to_regnamespace('pgqueue_bench') is not null"
OUR_CONNECTIONS = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"


def _bench(dsn: str, *args: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}
    return starter.run("bench", "--dsn", dsn, *args, env=environ)


def _rows(conn: Conn) -> list[Any]:
    """Return every row of the real queue with its place on disk and the transaction that wrote it."""
    tables = ("job_live", "job_finished", "dead_letter", "transition", "worker", "queue", "schedule")
    return [conn.execute(f"select ctid, xmin, t.* from pgqueue.{table} t".encode()).fetchall() for table in tables]


def test_every_case_gives_sane_numbers_and_leaves_the_queue_alone(dsn: str, app: App, conn: Conn) -> None:
    app.enqueue("real", {"x": 1})
    before = _rows(conn)
    done = _bench(dsn, *TINY, "--rate", "40", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert _rows(conn) == before
    assert not scalar(conn, THERE)

    assert list(report["cases"]) == [case.name for case in CASES]
    for name, case in report["cases"].items():
        assert case["n"] > 0, name
        for value in case["values"].values():
            assert 0 < value["value"] < 10_000_000, (name, value)
            assert value["low"] is None or value["low"] <= value["value"] <= value["high"], (name, value)
    n = {name: case["n"] for name, case in report["cases"].items()}
    assert (n["enqueue"], n["bulk"], n["latency"]) == (100, 2000, 80)
    assert 500 <= n["drain"] <= 1800  # without the warm-up
    waited = {name: value["value"] for name, value in report["cases"]["latency"]["values"].items()}
    assert waited["p50"] <= waited["p95"] <= waited["p99"] < 10_000
    assert report["machine"]["fsync"] in ("on", "off")
    assert 0 < report["machine"]["round_trip_ms"] < 1000
    assert report["scale"] == {"jobs": 2000, "rounds": 1, "seconds": 2.0, "rate": 40.0}


def test_without_json_a_table_tells_the_same(dsn: str, conn: Conn) -> None:
    done = _bench(dsn, *TINY, "--only", "enqueue", "--only", "bulk", "--schema", "my_bench")
    assert done.returncode == 0, done.stderr
    assert re.search(r"enqueue one +rate +[\d,.]+ +jobs/s .* 100", done.stdout)
    assert "fsync" in done.stdout
    assert "drain" not in done.stdout
    assert "enqueue in bulk: rate" in done.stderr
    assert not scalar(conn, "select to_regnamespace('my_bench') is not null")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--schema", "shop"], 78, ["schema shop exists", "not made by pgqueue bench"]),
        (["--only", "speed"], 2, ["speed", "drain"]),
        (["--dsn", "postgresql://u:sesame@127.0.0.1:1/db"], 69, ["127.0.0.1", "refused"]),
    ],
)
def test_what_it_refuses(dsn: str, conn: Conn, args: list[str], code: int, words: list[str]) -> None:
    conn.execute("create schema shop")
    conn.execute("create table shop.orders ()")
    done = _bench(dsn, *args)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "sesame" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert scalar(conn, "select to_regclass('shop.orders') is not null")
    assert not scalar(conn, THERE)


@pytest.mark.parametrize("name", ["pgqueue", "No Good", "pg_catalog", "public"])
def test_it_takes_no_schema_that_is_not_its_own(dsn: str, conn: Conn, name: str) -> None:
    schemas = "select array_agg(nspname order by nspname) from pg_namespace where nspname !~ '^pg_(toast_)?temp'"
    before = scalar(conn, schemas)
    with pytest.raises(ConfigError, match=name):
        run(dsn, name, [], Scale(), as_json=True)
    assert scalar(conn, schemas) == before


def test_a_role_that_may_not_make_a_schema_is_told_so(dsn: str, conn: Conn) -> None:
    role = scalar(conn, "select 'r' || substr(md5(random()::text), 1, 8)")
    conn.execute(f"create role {role}".encode())
    try:
        done = _bench(make_conninfo(dsn, options=f"-c role={role}"), *TINY)
        assert done.returncode == 78, done.stderr
        assert "permission denied" in done.stderr
        assert "grant create on database" in done.stderr
    finally:
        conn.execute(f"drop role {role}".encode())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_and_nothing_is_left(
    dsn: str, conn: Conn, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    case = "pinned" if number == signal.SIGINT else "history"  # with a worker, and in the middle of a long statement
    with Process(tmp_path, dsn, "bench", "--dsn", dsn, "--only", case, "--jobs", "2000", "--seconds", "30") as bench:
        bench.alive_until(lambda: scalar(conn, THERE) and _finished(conn), "jobs to have run")
        bench.signal(number)
        assert bench.wait() == code, bench.log()
        assert f"stopped by {number.name}" in bench.log()
    assert not scalar(conn, THERE)
    wait_for(lambda: scalar(conn, OUR_CONNECTIONS) == 0, "all its connections to end")


def test_what_a_killed_bench_leaves_is_dropped_by_the_next_one(
    dsn: str, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the killed bench leaves its directory too
    with Process(tmp_path, dsn, "bench", "--dsn", dsn, "--only", "pinned") as bench:
        bench.alive_until(lambda: scalar(conn, THERE) and _finished(conn), "jobs to have run")
        with pytest.raises(BenchFailed, match="another pgqueue bench runs"):
            run(dsn, "pgqueue_bench", [], Scale(), as_json=True)
        bench.kill()
    wait_for(lambda: scalar(conn, OUR_CONNECTIONS) == 0, "its worker to stop by itself")
    assert scalar(conn, THERE)
    done = _bench(dsn, *TINY, "--only", "bulk")
    assert done.returncode == 0, done.stderr
    assert "left by an earlier bench" in done.stderr
    assert not scalar(conn, THERE)


def _finished(conn: Conn) -> bool:
    try:
        return bool(scalar(conn, "select count(*) from pgqueue_bench.job_finished"))
    except psycopg.errors.UndefinedTable:
        return False


def test_a_worker_that_dies_fails_the_bench_with_its_last_words(
    dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COMMAND", [sys.executable, "-c", "raise SystemExit('no such luck')"])
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(BenchFailed, match="no such luck"):
        run(dsn, "pgqueue_bench", ["drain"], Scale(jobs=200), as_json=True)
    assert not scalar(conn, THERE)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_schema_that_cannot_be_dropped_is_told_with_the_way_to_do_it(
    dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT", "50ms")
    said: list[str] = []
    with (
        psycopg.connect(dsn) as other,
        pytest.raises(BenchFailed, match="left behind"),
        schema.own_schema(dsn, "pgqueue_bench", said.append),
    ):
        other.execute("select * from pgqueue_bench.job_live")
    (line,) = said
    assert "could not be dropped" in line
    (by_hand,) = re.findall(r'psql -c "(.*)"', line)
    conn.execute(by_hand.encode())
    assert not scalar(conn, THERE)


def test_the_arithmetic() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2
    assert percentile([1, 2, 3, 4], 0.99) == 4
    assert percentile([7], 0.01) == 7
    # The clock starts with the batch in which the warm-up ends, so the jobs of that batch do not count.
    batches = [FinishedBatch(0, 10), FinishedBatch(1, 10), FinishedBatch(2, 10), FinishedBatch(4, 20)]
    assert steady_rate(batches, warm_up=15) == (10, 30)
    with pytest.raises(BenchFailed, match="--jobs"):
        steady_rate([FinishedBatch(0, 10)], warm_up=1)
    a, b = Measurement("a", 10, "x", 8, 12), Measurement("b", 20, "x", 16, 24)
    assert ratio("r", a, b) == Measurement("r", 0.5, "x", 8 / 24, 12 / 16)
