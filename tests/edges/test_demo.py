"""`pgqueue demo` runs on an embedded Postgres, and its checks hold."""

import subprocess
import sys

import psycopg
import pytest

from pgqueue.demo import shop
from pgqueue.demo.report import JOBS, PlacedOrders, check_everything
from tests.conftest import scalar


def test_the_demo_holds() -> None:
    done = subprocess.run([sys.executable, "-m", "pgqueue", "demo"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything holds" in done.stdout
    assert JOBS in done.stdout


def test_the_demo_fails_when_something_does_not_hold(dsn: str, tmp_path: pytest.TempPathFactory) -> None:
    from pathlib import Path

    directory = Path(str(tmp_path))
    (directory / "received.jsonl").write_text('{"order": 2, "key": "job-1"}\n')
    placed = PlacedOrders(frozenset({1}), frozenset({2}), 3, directory / "received.jsonl", directory)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(shop.TABLES.encode())
        assert scalar(conn, "select count(*) from shop.orders") == 0
        results = check_everything(conn, placed)
    assert all(check.wrong for check in results)
    webhooks = next(check for check in results if check.title.startswith("webhooks"))
    assert "lost [1], ghosts [2]" in (webhooks.wrong or "")
