"""The project of docs/django.md, as a user makes it: migrate, test, enqueue, work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import scalar
from tests.harness import DEADLINE, wait_for

ROOT = Path(__file__).parents[3]
MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
PLACE = (
    "from django.test import RequestFactory; from orders.views import place_order;"
    "print(place_order(RequestFactory().post('/', {'email': 'a@example.com'})).content.decode())"
)


class Site:
    """A Django project in a directory, on an empty database."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.directory = directory
        self.dsn = dsn
        text = (ROOT / "docs" / "django.md").read_text()
        files = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", text, re.M | re.S)
        assert [name for name, _ in files] == [
            "shop/settings.py", "shop/urls.py", "orders/models.py",
            "orders/tasks.py", "orders/views.py", "orders/tests.py",
        ]  # fmt: skip
        empty = [
            ("orders/migrations/__init__.py", ""),
            ("orders/__init__.py", ""),
        ]
        for name, code in [*files, *empty, ("manage.py", MANAGE)]:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(code)
        libpq = {"dbname": "PGDATABASE"} | {n: f"PG{n.upper()}" for n in ("host", "port", "user", "password")}
        own = {libpq[name]: str(value) for name, value in conninfo_to_dict(dsn).items() if name in libpq}
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")} | own
        self.environ["PYTHONPATH"] = str(ROOT)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of manage.py from another directory."""
        return subprocess.run(
            [sys.executable, "-W", "error", str(self.directory / "manage.py"), *arguments],
            capture_output=True, text=True, env=self.environ, cwd="/", timeout=DEADLINE, check=False,
        )  # fmt: skip

    def manage(self, *arguments: str) -> str:
        """Run a command of manage.py; return what it prints."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def settings(self, *lines: str) -> None:
        """Add lines to the settings."""
        file = self.directory / "shop" / "settings.py"
        file.write_text("\n".join([file.read_text(), *lines, ""]))

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start `manage.py pgqueue …`."""
        command = [sys.executable, str(self.directory / "manage.py"), "pgqueue", *arguments]
        return subprocess.Popen(
            command, env=self.environ, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


@pytest.fixture
def site(tmp_path: Path, empty_dsn: str) -> Site:
    site = Site(tmp_path, empty_dsn)
    site.manage("makemigrations", "orders")
    return site


def test_the_project_of_the_docs_runs(site: Site) -> None:
    site.manage("migrate")
    answer = json.loads(site.manage("shell", "--no-imports", "-c", PLACE))
    with psycopg.connect(site.dsn, autocommit=True) as conn:
        row = conn.execute("select id, queue, max_attempts, tags, args, task from pgqueue.job").fetchone()
        wanted = (int(answer["result"]), "email", 8, ["receipt"], {"order_id": answer["order"]})
        assert row == (*wanted, "orders.tasks.send_receipt")
        worker = site.start("work", "-Q", "default,email", "--settings", "shop.settings")
        try:
            wait_for(lambda: scalar(conn, "select state from pgqueue.job") == "succeeded", "the receipt")
            worker.terminate()
            assert worker.wait(DEADLINE) == 0
        finally:
            worker.kill()
            worker.wait()
        assert scalar(conn, "select receipts from orders_order") == 1
    shown = json.loads(site.manage("pgqueue", "jobs", "show", answer["result"], "--json"))
    assert (shown["state"], shown["task"]) == ("succeeded", "orders.tasks.send_receipt")


def test_the_test_of_the_docs_passes_in_a_test_database(site: Site) -> None:
    site.manage("test", "orders")


IF_IDLE = "where not exists (select from pgqueue.job_live)"
NOTED = """
from pgqueue.django import task

@task
def note():
    return {0!r}
"""


@pytest.mark.servers
def test_dev_begins_anew_when_a_task_changes(site: Site) -> None:
    tasks = site.directory / "orders" / "tasks.py"
    first = tasks.read_text()
    tasks.write_text(first + NOTED.format("old"))
    site.manage("migrate")
    dev = site.start("dev", "--watch", str(site.directory), "--port", "0")
    enqueue, result = (
        "select pgqueue.enqueue('orders.tasks.note', '{}')",
        "select result from pgqueue.job where id = %s",
    )
    try:
        with psycopg.connect(site.dsn, autocommit=True) as conn:
            job = scalar(conn, enqueue)
            wait_for(lambda: scalar(conn, result, job) == "old", "the worker")
            fresh = tasks.with_suffix(".new")
            fresh.write_text(first + NOTED.format("new"))
            fresh.rename(tasks)
            wait_for(lambda: conn.execute(f"{enqueue} {IF_IDLE}") and _ran(conn, "new"), "the new code")
        dev.terminate()
        assert dev.wait(DEADLINE) == 0
    finally:
        dev.kill()
        dev.wait()


def _ran(conn: psycopg.Connection[tuple[object, ...]], wanted: str) -> bool:
    return bool(scalar(conn, "select count(*) > 0 from pgqueue.job where result = to_jsonb(%s::text)", wanted))


SQLITE = 'DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}'
NO_POSTGRES = 'DATABASES["default"] is sqlite, and pgqueue needs PostgreSQL'


@pytest.mark.parametrize(
    "command", [("check",), ("migrate",), ("migrate", "--skip-checks"), ("pgqueue", "work"), ("pgqueue", "status")]
)
def test_each_command_says_that_the_database_is_not_postgres(site: Site, command: tuple[str, ...]) -> None:
    site.settings(SQLITE)
    done = site.run(*command)
    assert done.returncode != 0
    assert NO_POSTGRES in done.stderr
    assert "django.db.backends.postgresql" in done.stderr
    assert "Traceback" not in done.stderr
    assert ("pgqueue.E002" in done.stderr) == (command in [("check",), ("migrate",)])


def test_the_database_that_pgqueue_s_own_setting_names_is_not_postgres(site: Site) -> None:
    (site.directory / "shop" / "urls.py").write_text("urlpatterns = []")  # those of the page import tasks
    site.settings(
        SQLITE, "TASKS = {}", 'from pgqueue import App; PGQUEUE = {"app": App("dbname=x"), "database": "default"}'
    )
    for command in (("check",), ("migrate", "--skip-checks")):
        done = site.run(*command)
        assert done.returncode == 1
        assert NO_POSTGRES in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.servers
def test_without_tables_the_remedy_is_that_of_django(site: Site) -> None:
    for command in (("pgqueue", "work"), ("pgqueue", "status")):
        done = site.run(*command)
        assert done.returncode == 78
        assert "run `python manage.py migrate`" in done.stderr
    code = "from orders.tasks import send_receipt; send_receipt.enqueue(1)"
    assert "run `python manage.py migrate`" in site.run("shell", "--no-imports", "-c", code).stderr
    site.settings('INSTALLED_APPS.remove("pgqueue.django")')
    assert "run `pgqueue migrate`" in site.run("shell", "--no-imports", "-c", code).stderr


@pytest.mark.servers
def test_check_says_that_nobody_knows_who_looks_at_the_dashboard(site: Site) -> None:
    assert "W002" not in site.run("check").stderr
    site.settings('MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]')
    said = site.run("check").stderr
    assert "pgqueue.W002" in said
    assert "lacks django.contrib.auth.middleware.AuthenticationMiddleware" in said
    site.settings('MIDDLEWARE += ["django.contrib.auth.middleware.AuthenticationMiddleware"]')
    assert "W002" not in site.run("check").stderr
    site.settings("MIDDLEWARE = []", 'PGQUEUE = {"access": "shop.staff:access"}')
    assert "W002" not in site.run("check").stderr


@pytest.mark.servers
def test_the_dashboard_of_the_docs_answers_strangers_with_404(site: Site) -> None:
    site.manage("migrate")
    get = "from django.test import Client; print(Client().get('/jobs/').status_code)"
    assert site.manage("shell", "--no-imports", "-c", get) == "404\n"


@pytest.mark.servers
def test_the_embedded_server_of_the_docs_is_there_for_each_command(site: Site) -> None:
    text = (ROOT / "docs" / "django.md").read_text()
    (block,) = re.findall(r"^```python\n# in place of DATABASES.*?\n(.*?)^```", text, re.M | re.S)
    site.settings(block)
    site.environ = {name: value for name, value in site.environ.items() if not name.startswith("PG")}
    site.manage("migrate")
    assert (site.directory / "pgdata" / "PG_VERSION").exists()
    placed = json.loads(site.manage("shell", "--no-imports", "-c", PLACE))
    shown = json.loads(site.manage("pgqueue", "jobs", "show", placed["result"], "--json"))
    assert (shown["state"], shown["task"]) == ("pending", "orders.tasks.send_receipt")
