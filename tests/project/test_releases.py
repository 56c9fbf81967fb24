"""Releases beside each other: the last one's wheel works while the schema becomes this one's, and after it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import migrate
from pgqueue.errors import NotMigrated, ReleaseTooOld
from tests.conftest import scalar
from tests.harness import wait_for
from tests.project.releases import LAST_RELEASE, ROOT, clean, unpacked

Conn = psycopg.Connection[Any]

JOBS = 2000
SHOP = """
import asyncio
import pgqueue
app = pgqueue.App()

@app.task(name="t", max_attempts=3)
async def t(n: int) -> int:
    await asyncio.sleep(0.02)
    return n
"""


@pytest.fixture(scope="module")
def last_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("release"))


@pytest.fixture
def old_dsn(empty_dsn: str, last_release: Path, tmp_path: Path) -> str:
    """A database as the last release has migrated it, and a shop."""
    (tmp_path / "shop.py").write_text(SHOP)
    done = run(last_release, empty_dsn, tmp_path, "migrate")
    assert done.returncode == 0, done.stderr
    assert migrate.current(empty_dsn) == "0014"
    return empty_dsn


def run(release: Path, dsn: str, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run `pgqueue …` of a release."""
    environ = clean(PGQUEUE_DSN=dsn, PYTHONPATH=os.pathsep.join([str(folder), str(release)]))
    pgqueue = [sys.executable, "-m", "pgqueue", *command]
    return subprocess.run(pgqueue, env=environ, cwd=folder, capture_output=True, text=True, timeout=120)


@contextmanager
def worker(release: Path, dsn: str, folder: Path, name: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A worker of a release, and its log; stopped in order at the end."""
    environ = clean(PGQUEUE_DSN=dsn, PYTHONPATH=os.pathsep.join([str(folder), str(release)]))
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "pgqueue", "work", "-A", "shop:app", "-c", "4"]
        process = subprocess.Popen(command, env=environ, cwd=folder, stdout=output, stderr=output)
        try:
            yield process, log
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def enqueue(conn: Conn, first: int, last: int) -> None:
    """Enqueue by SQL, as any release's callers can."""
    conn.execute(
        "select pgqueue.enqueue('t', jsonb_build_object('n', i), max_attempts => 3)"
        " from generate_series(%s::int, %s) i",
        (first, last),
    )


def succeeded(conn: Conn) -> int:
    count: int = scalar(conn, "select count(*) from pgqueue.job_finished where state = 'succeeded'")
    return count


def test_workers_of_the_last_release_lose_nothing_while_the_schema_is_migrated_and_beside_new_ones(
    old_dsn: str, last_release: Path, tmp_path: Path
) -> None:
    with (
        psycopg.connect(old_dsn, autocommit=True) as conn,
        worker(last_release, old_dsn, tmp_path, "old 1") as (first, log1),
        worker(last_release, old_dsn, tmp_path, "old 2") as (second, log2),
    ):
        enqueue(conn, 1, JOBS)
        wait_for(lambda: succeeded(conn) > JOBS // 10, "the old workers to be busy")
        began, before = time.monotonic(), succeeded(conn)
        assert migrate.upgrade(old_dsn) == ("0014", migrate.head())
        took, during = time.monotonic() - began, succeeded(conn)
        assert during < JOBS, "the migrations were to run under load"
        wait_for(lambda: succeeded(conn) == JOBS, "the old workers to end all jobs")
        with worker(ROOT, old_dsn, tmp_path, "new") as (third, log3):
            waiting = "select count(*) from pgqueue.worker where waiting"
            wait_for(lambda: scalar(conn, waiting) == 3, "the new worker to be there")
            enqueue(conn, JOBS + 1, JOBS + 500)
            wait_for(lambda: succeeded(conn) == JOBS + 500, "old and new workers to end all jobs")
            attempts = conn.execute("select attempt, count(*) from pgqueue.job_finished group by 1").fetchall()
            by_worker = conn.execute(
                "select w.knows, count(*) from pgqueue.job_finished f join pgqueue.worker w on w.id = f.worker_id"
                " where f.id > (select min(id) + %s from pgqueue.job_finished) group by 1 order by 1", [JOBS - 1],
            ).fetchall()  # fmt: skip
            results = "select count(distinct (result)::int) from pgqueue.job_finished"
            assert scalar(conn, results) == JOBS + 500
            assert attempts == [(1, JOBS + 500)]
            assert scalar(conn, "select count(*) from pgqueue.dead_letter") == 0
            assert [process.poll() for process in (first, second, third)] == [None] * 3
            assert {knows for knows, _ in by_worker} == {migrate.head(), None}, "both releases were to take part"
    for log in (log1, log2, log3):
        assert "Traceback" not in log.read_text(), log.read_text()
    print(
        f"\n{JOBS} jobs, 2 workers of {LAST_RELEASE}: {before} had ended when the migrations 0014 to {migrate.head()} "
        f"began, {during} when they were done after {took:.1f} s; then {by_worker} of 500 by what the worker knows; "
        "nothing lost, nothing run twice"
    )


@pytest.mark.parametrize("command", [["work"], ["schedule"]])
def test_this_release_refuses_the_schema_of_the_last_one_in_a_line(
    old_dsn: str, tmp_path: Path, command: list[str]
) -> None:
    done = run(ROOT, old_dsn, tmp_path, *command, "-A", "shop:app")
    assert done.returncode == NotMigrated.exit_code == 78
    lines = [line for line in done.stderr.splitlines() if "pgqueue migrate" in line]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    print("\n" + lines[0])


@pytest.mark.parametrize("command", [["work"], ["schedule"]])
def test_a_release_that_a_contract_has_left_behind_refuses_to_start_in_a_line(
    dsn: str, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("insert into pgqueue.compat (revision, needs) values ('9001', '9000')")
        done = run(ROOT, dsn, tmp_path, *command, "-A", "shop:app")
        assert done.returncode == ReleaseTooOld.exit_code == 78
        lines = [line for line in done.stderr.splitlines() if "only releases work that know 9000" in line]
        assert len(lines) == 1, done.stderr
        assert scalar(conn, "select count(*) from pgqueue.worker") == 0
        print("\n" + lines[0])
