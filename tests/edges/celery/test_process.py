"""`pgqueue work -A module:app` takes an app in Celery's words, and its tasks are found by the command line."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import scalar
from tests.harness import COMMAND, Conn, wait_for

MODULE = """
from pgqueue.celery import Celery, shared_task
from pgqueue.celery.signals import worker_ready

app = Celery("shop")

@app.task(bind=True, max_retries=2)
def greet(self, name, *, loud=False):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return name.upper() if loud else name

@shared_task(time_limit=20)
def square(n):
    return n * n

@worker_ready.connect
def say(sender=None, **_):
    print("ready", sender.main, flush=True)

app.conf.beat_schedule = {"hourly": {"task": "shop.square", "schedule": 3600.0, "args": (3,)}}
"""


def test_the_command_line_runs_it(dsn: str, conn: Conn, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(MODULE)
    path = ":".join([str(tmp_path), str(Path(__file__).parents[3])])
    environ = os.environ | {"PGQUEUE_DSN": dsn, "PYTHONPATH": path}
    listed = subprocess.run(
        [*COMMAND, "tasks", "list", "-A", "shop", "--json"], env=environ, capture_output=True, check=True
    )
    assert {each["name"] for each in json.loads(listed.stdout)} >= {"shop.greet", "shop.square"}
    call = "import shop; print(shop.greet.delay('ann', loud=True).id, shop.square.delay(7).id)"
    made = subprocess.run([COMMAND[0], "-c", call], env=environ, capture_output=True, text=True, check=True)
    greeted, squared = (int(number) for number in made.stdout.split())
    worker = subprocess.Popen([*COMMAND, "work", "-A", "shop:app"], env=environ, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: scalar(conn, "select count(*) = 2 from pgqueue.job where state = 'succeeded'"), "both jobs")
    finally:
        worker.terminate()
        out, _ = worker.communicate(timeout=60)
    assert "ready shop" in out
    found = dict(conn.execute("select id, result from pgqueue.job").fetchall())
    assert found == {greeted: "ANN", squared: 49}


QUEUE = """
from pgqueue.celery import Celery
app = Celery("celshop", broker="redis://h", backend="rpc://")
@app.task
def greet(name): ...
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "celshop").mkdir()
    (tmp_path / "celshop" / "__init__.py").touch()
    (tmp_path / "celshop" / "celery.py").write_text(QUEUE)
    return tmp_path


def said(place: Path, dsn: str, *args: str) -> subprocess.CompletedProcess[str]:
    path = ":".join([str(place), str(Path(__file__).parents[3])])
    environ = os.environ | {"PGQUEUE_DSN": dsn, "PYTHONPATH": path}
    return subprocess.run([*COMMAND, *args], env=environ, cwd=place, capture_output=True, text=True, check=False)


@pytest.mark.servers
def test_the_app_of_a_package_is_found_in_its_module_celery(dsn: str, package: Path) -> None:
    for reference in ("celshop", "celshop.celery", "celshop.celery:app"):
        listed = said(package, dsn, "tasks", "list", "-A", reference, "--json")
        assert "celshop.celery.greet" in {each["name"] for each in json.loads(listed.stdout)}, listed.stderr
    refused = said(package, dsn, "tasks", "list", "-A", "celshop:app")
    assert refused.returncode == 78
    assert "-A celshop:app" in refused.stderr
    assert "try celshop.celery:app" in refused.stderr
    (package / "celshop" / "celery.py").write_text("")
    assert "there is none in celshop" in said(package, dsn, "tasks", "list", "-A", "celshop").stderr


@pytest.mark.servers
def test_short_commands_do_not_repeat_what_means_nothing_here(dsn: str, package: Path) -> None:
    for command in (["tasks", "list"], ["tasks", "show", "celshop.celery.greet"], ["status"], ["jobs", "list"]):
        done = said(package, dsn, *command, "-A", "celshop.celery:app")
        assert (done.returncode, done.stderr) == (0, ""), command
    warned = said(package, dsn, "schedule", "-A", "celshop.celery:app", "--metrics-port", "99999")
    assert warned.stderr.count("CeleryWarning: broker_url=redis:… is not used") == 1
    assert warned.stderr.count("CeleryWarning: result_backend is not used") == 1
