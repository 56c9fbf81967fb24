"""A project for Celery is moved by docs/moving-from-celery.md alone, and then runs: checked, changed, worked."""

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import scalar
from tests.harness import COMMAND, ROOT, Conn, wait_for

PAGE = (ROOT / "docs" / "moving-from-celery.md").read_text()
BEFORE = Path(__file__).parent / "library_before"
USE = """
import os, psycopg
from library.celery import app
lent = []
app.bind(lambda: lent[-1] if lent else None)
from library.loans.tasks import borrow, inventory
with psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True) as conn:
    lent.append(conn)
    borrow(conn, "ann", "Emma")
    try:
        borrow(conn, "bob", "the catalogue")
    except PermissionError:
        pass
    print(inventory.delay().id)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(BEFORE, tmp_path / "project")
    return tmp_path / "project"


def findings(project: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*COMMAND, "check-celery", ".", "--json"], cwd=project, capture_output=True, text=True, check=False
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    assert done.returncode == int(any(each["kind"] == "change" for each in found))
    return found


def move(project: Path) -> None:
    """Do what the page says: take out what has no place, and change the import lines by its command."""
    lines = defaultdict[str, set[int]](set)
    for each in findings(project):
        if each["kind"] == "change":
            lines[each["path"]].add(each["line"])
    for path, numbers in lines.items():
        text = (project / path).read_text().splitlines(keepends=True)
        (project / path).write_text("".join(line for at, line in enumerate(text, 1) if at not in numbers))
    commands = re.findall(r"^   (find \. (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 1
    for command in commands:
        subprocess.run(command, shell=True, cwd=project, check=True)


def test_the_check_says_what_there_is_to_do(project: Path) -> None:
    found = {
        (Path(each["path"]).name, each["kind"], each["id"]) for each in findings(project) if each["kind"] != "moves"
    }
    assert found == {
        ("settings.py", "change", "import"), ("settings.py", "change", "setting"), ("settings.py", "change", "queues"),
        ("settings.py", "differs", "broker"), ("tasks.py", "differs", "rolled-back"),
    }  # fmt: skip


def test_the_project_is_moved_by_the_page_alone(project: Path, dsn: str, conn: Conn) -> None:
    conn.execute("create table public.loan (reader text, book text)")
    move(project)
    assert [each for each in findings(project) if each["kind"] == "change"] == []
    path = ":".join([str(project), str(ROOT)])
    environ = os.environ | {"PGQUEUE_DSN": dsn, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    used = subprocess.run(
        [COMMAND[0], "-c", USE], env=environ, capture_output=True, text=True, check=False, cwd=project
    )
    assert used.returncode == 0, used.stderr
    work = [*COMMAND, "work", "-A", "library.celery:app", "-Q", "mail,default", "--with-scheduler"]
    worker = subprocess.Popen(work, env=environ, cwd=project, stderr=subprocess.PIPE, text=True)
    try:
        done = "select count(*) = 5 from pgqueue.job where state = 'succeeded'"
        wait_for(lambda: scalar(conn, done), "the mail, the inventory, two counts and their report")
        wait_for(lambda: scalar(conn, "select count(*) = 2 from pgqueue.schedule"), "both schedules")
    finally:
        worker.terminate()
        worker.communicate(timeout=60)
    assert conn.execute("select reader, book from public.loan").fetchall() == [("ann", "Emma")]
    mails = conn.execute("select args, queue, attempt, result from pgqueue.job where task like '%send_mail'").fetchall()
    assert mails == [
        ({"args": ["ann"], "kwargs": {"subject": "You have borrowed Emma"}}, "mail", 2,
         {"to": ["ann"], "subject": "You have borrowed Emma"}),
    ]  # fmt: skip
    report = scalar(conn, "select result from pgqueue.job where task like '%write_report'")
    assert report == {"books": 5, "next": "2026-05-09", "by": "default"}
    plans = "select name, cron, timezone from pgqueue.schedule order by name"
    assert conn.execute(plans).fetchall() == [
        ("inventory", "0 6 * * 6#1", "Europe/Vienna"), ("reminders", "30 7 * * *", "Europe/Vienna"),
    ]  # fmt: skip
