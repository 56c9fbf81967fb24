"""`pgqueue check-celery`: each line of a code base that differs or must be changed is found, and no other."""

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pgqueue.celery.checking import Kind, project, review
from pgqueue.celery.exceptions import CeleryWarning
from pgqueue.cli import cli
from pgqueue.errors import ConfigError
from tests.harness import ROOT

SHOP = """
import celery
from celery import Celery, chain, shared_task
from celery import current_app  # change:import
from celery.contrib.abortable import AbortableTask  # change:import
from celery.schedules import crontab
from celery.schedules import solar  # change:import
from celery.signals import task_failure, task_received
from celery.utils.log import get_task_logger
from kombu import Queue  # change:import
import django_celery_beat  # change:import
from django.db import transaction
from .helpers import app as other_app

app = Celery("shop", broker="redis://localhost",  # differs:broker
             worker_concurrency=8)  # change:setting
app.conf.task_serializer = "pickle"  # change:serializer
app.conf.task_acks_late = True
app.conf.task_acks_late = False  # differs:late-acks
app.conf.task_time_limmit = 5  # change:setting
app.conf.update(task_track_started=True, task_default_exchange="x")  # change:setting
CELERY_TIMEZONE = "UTC"
CELERY_RESULT_BACKEND = "rpc://"  # differs:broker
first_monday = crontab(minute=0, hour=9, day_of_month="1-7", day_of_week=1)
CELERY_TASK_QUEUES = (Queue("a"),)  # change:queues
too_often = crontab(day_of_month=13, day_of_week=5)  # change:crontab


class Patient(celery.Task):
    max_retries = 5
    mine = object()
    rate_limit = "5/s"  # differs:global-limit


@shared_task(bind=True, max_retries=2, rate_limit="10/m")  # differs:global-limit
def mail(self, to):
    try:
        send(to)
    except OSError as exc:
        raise self.retry(exc=exc, max_retries=5)  # change:retry


@app.task(routing_key="x")  # change:option
def report(year):
    return mail.delay("boss").get()  # change:get-in-task


@app.task(time_limit=60, base=Patient)  # differs:child-process
async def other(*args, **kwargs):
    raise other.retry(args=(1,))  # change:retry


@app.task(acks_late=False, my_own=1)  # differs:late-acks change:option
def last(): ...


@task_failure.connect
def failed(sender=None, **kw): ...


@task_received.connect  # change:signal
def received(**kw): ...


def view(request, order):
    mail.delay(order.owner)
    with transaction.atomic():
        order.save()
        mail.delay(order.owner)  # differs:in-transaction
    with transaction.atomic():
        mail.delay("auditor")  # differs:rolled-back
        if not order.paid:
            raise ValueError
    transaction.on_commit(lambda: mail.delay(order.owner))
    mail.apply_async((order.owner,), countdown=5, task_id="a-1")
    mail.apply_async((order.owner,), priority=3)  # differs:priority
    mail.apply_async((order.owner,), exchange="x")  # change:option
    mail.apply_async((order.owner,), task_id="17")  # change:option
    report.delay({1, 2})  # change:argument
    report.apply_async(([x for x in range(3)],))
    report.apply_async((set(order.lines),))  # change:argument
    clock.delay({5})
    chain(mail.s(1), report.s()).delay()
    app.control.revoke("1")
    app.control.purge()  # change:control
    app.worker_main()  # change:app
    report.AsyncResult("1").forget()  # differs:result


@transaction.atomic
def signed_up(user):
    app.send_task("shop.mail", kwargs={"to": user.email})  # differs:in-transaction
"""


def expected(text: str) -> dict[int, set[str]]:
    lines = ((at, re.findall(r"(?:change|differs):[\w-]+", line)) for at, line in enumerate(text.splitlines(), 1))
    return {at: set(found) for at, found in lines if found}


def by_line(place: Path) -> dict[int, set[str]]:
    found = defaultdict[int, set[str]](set)
    for each in review(place).findings:
        if each.kind != Kind.MOVES:
            found[each.line].add(f"{each.kind}:{each.id}")
            assert each.remedy
    return found


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    for left_out in (".venv/lib", "node_modules"):
        (tmp_path / left_out).mkdir(parents=True)
        (tmp_path / left_out / "bad.py").write_text("from kombu import Queue")
    return tmp_path


def test_each_line_is_found_with_what_it_is(shop: Path) -> None:
    assert by_line(shop) == expected(SHOP)


def test_what_moves_is_listed_too(shop: Path) -> None:
    moves = {(each.id, each.what) for each in review(shop).of(Kind.MOVES)}
    wanted = {
        ("import", "from celery import Celery"),
        ("task", "task mail"),
        ("task", "class Patient of tasks"),
        ("on-commit", ".delay() after the commit"),
        ("call", ".delay()"),
        ("crontab", "a crontab"),
    }
    assert wanted <= moves


def test_nothing_is_run_and_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("raise SystemExit('it was run')\n")
    (tmp_path / "b.py").write_text("def broken(:\n")
    (tmp_path / "c.py").write_bytes(b"x = '\xff'\n")
    found = review(tmp_path)
    assert found.files == 3
    assert [(Path(each.path).name, each.id) for each in found.findings] == [
        ("b.py", "unreadable"),
        ("c.py", "unreadable"),
    ]
    with pytest.raises(ConfigError, match="no Python file"):
        review(tmp_path / "nowhere")


def test_the_command_says_it_and_its_exit_code_what_is_left_to_do(
    shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    done = CliRunner().invoke(cli, ["check-celery", str(shop)])
    assert done.exit_code == 1
    assert f"{shop / 'shop.py'}:10: import: from kombu import Queue" in done.stdout
    assert "moves as it is" not in done.stdout
    assert "moves as it is" in CliRunner().invoke(cli, ["check-celery", str(shop), "--all"]).stdout
    data = json.loads(CliRunner().invoke(cli, ["check-celery", str(shop), "--json"]).stdout)
    assert data["files"] == 1
    assert {"path", "line", "kind", "id", "what", "remedy"} == set(data["findings"][0])
    clean = tmp_path_factory.mktemp("clean")
    (clean / "a.py").write_text(
        "from celery import Celery\napp = Celery('a')\n@app.task(rate_limit='1/s')\ndef f(): ...\n"
    )
    assert CliRunner().invoke(cli, ["check-celery", str(clean)]).exit_code == 0
    assert CliRunner().invoke(cli, ["check-celery", str(clean), "--exit-code", "differs"]).exit_code == 1


def change_the_imports(place: Path) -> None:
    """Run what the page says below its step 2."""
    page = (ROOT / "docs" / "moving-from-celery.md").read_text()
    commands = re.findall(r"^   (find \. (?:.*\\\n)*.*)$", page, re.MULTILINE)
    assert commands
    for command in commands:
        subprocess.run(["bash", "-c", command], cwd=place, check=True)


def left_to_do(place: Path) -> list[tuple[str, int, str]]:
    return [(str(each.kind), each.line, each.id) for each in review(place).findings if each.kind != Kind.MOVES]


def test_with_the_imports_changed_all_the_rest_is_still_found(shop: Path) -> None:
    before = left_to_do(shop)
    change_the_imports(shop)
    assert "import Celery, chain, shared_task" in (shop / "shop.py").read_text()
    assert "from celery import" not in (shop / "shop.py").read_text()
    assert left_to_do(shop) == before


@pytest.mark.parametrize(
    ("imports", "name"),
    [
        ("from pgqueue.celery import Celery, signals", ""),
        ("from pgqueue import celery", "celery."),
        ("import pgqueue.celery", "pgqueue.celery."),
        ("import pgqueue.celery as words", "words."),
    ],
)
def test_names_are_found_under_the_new_name_too(tmp_path: Path, imports: str, name: str) -> None:
    app = f'app = {name}Celery("x", broker="redis://h", backend="rpc://")'
    (tmp_path / "a.py").write_text(f"{imports}\n{app}\n@{name}signals.task_received.connect\ndef heard(**_): ...\n")
    found = [("differs", 2, "broker"), ("differs", 2, "broker"), ("change", 3, "signal")]
    assert left_to_do(tmp_path) == found


WAYS = """
import celery
import celery  # the queue
import celery as queue
from celery import Celery, shared_task
from celery.app import shared_task as shared
from celery.task import Task
from celery.utils.log import get_task_logger
from celery.exceptions import Ignore
import os, celery  # change:import
import celery.signals  # change:import
import celery.schedules as plans  # change:import
from os import path; from celery import chain  # change:import
if path: import celery  # change:import
try:
\timport celery
\tfrom celery import group
except ImportError: from celery import chord  # change:import

@celery.shared_task
def a(): ...

app = celery.Celery("x", broker="redis://h")  # differs:broker
nine = celery.schedules.crontab(hour=9)
class Mine(queue.Task): ...
log = celery.utils.log.get_task_logger("x")  # change:import
here = celery.current_app.conf  # change:import
states = celery.states.SUCCESS, celery.result.AsyncResult, celery.exceptions.Retry
sun = celery.schedules.solar("sunset", 1, 2)  # change:import

@celery.signals.task_received.connect  # change:signal
def heard(**_): ...
"""


def test_what_the_lines_of_the_page_leave_has_been_named(tmp_path: Path) -> None:
    place = tmp_path / "a.py"
    place.write_text(WAYS)
    assert by_line(tmp_path) == expected(WAYS)
    change_the_imports(tmp_path)
    lines = place.read_text().splitlines()
    left = {at for at, line in enumerate(lines, 1) if re.search(r"\b(import|from) (os, )?celery\b", line)}
    assert left
    assert left <= {at for at, kinds in expected(WAYS).items() if "change:import" in kinds}
    assert by_line(tmp_path) == expected(WAYS)
    rest = "\n".join(line for line in lines if "change:" not in line and "except" not in line)
    with pytest.warns(CeleryWarning, match="broker_url"):
        exec(compile(rest.replace("try:", "if True:"), "moved", "exec"), {"__name__": "moved", "path": None})


def test_a_variable_of_that_name_is_an_app(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from celery import Celery\ncelery = Celery('a')\ncelery.autodiscover_tasks()\n@celery.task\ndef f(): ...\n"
    )
    assert left_to_do(tmp_path) == []


def test_the_lines_of_the_page_leave_out_what_the_check_leaves_out(tmp_path: Path) -> None:
    skipped = [".venv/lib", "mine/lib/site-packages/x", *sorted(project.LEFT_OUT)]
    for name in [*skipped, "shop"]:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.py").write_text("from celery import Celery\n")
    assert {Path(each.path).parent.name for each in review(tmp_path).findings} == {"shop"}
    change_the_imports(tmp_path)
    assert "pgqueue" in (tmp_path / "shop" / "a.py").read_text()
    assert [name for name in skipped if "pgqueue" in (tmp_path / name / "a.py").read_text()] == []
