"""`pgqueue init`: the file that it writes is right, runs, and replaces none."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pgqueue import InvalidOption, JobFilter
from pgqueue.cli import cli
from pgqueue.cli.load import load_app
from tests.conftest import drain
from tests.harness import Conn


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_commands_in_the_file_run_its_task(dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    written = CliRunner().invoke(cli, ["init", "first_jobs.py"])
    assert written.exit_code == 0, written.output
    text = Path("first_jobs.py").read_text()
    assert text.index("export PGQUEUE_DSN=") < text.index("pgqueue enqueue")  # without it the command finds no database
    enqueue = ["enqueue", "first_jobs.welcome", '{"email": "ann@example.com"}', "-A", "first_jobs:app"]
    assert f"pgqueue enqueue first_jobs.welcome '{enqueue[2]}' -A first_jobs:app" in text
    result = CliRunner().invoke(cli, enqueue)
    assert result.exit_code == 0, result.output
    app = load_app("first_jobs:app", None)
    drain(app, conn)
    (job,) = app.jobs.list(JobFilter())
    assert (job.task, job.state, job.result) == ("first_jobs.welcome", "succeeded", "welcomed ann@example.com")
    assert [each.name for each in app.schedules.values()] == ["first_jobs.every_morning"]
    app.close()


def test_the_file_is_as_ruff_wants_it() -> None:
    assert CliRunner().invoke(cli, ["init"]).exit_code == 0
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "jobs.py"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_a_file_that_exists_is_left_as_it_is() -> None:
    Path("jobs.py").write_text("mine = 1\n")
    refused = CliRunner().invoke(cli, ["init"])
    assert refused.exit_code != 0
    assert "stays as it is" in str(refused.exception)
    assert Path("jobs.py").read_text() == "mine = 1\n"


@pytest.mark.parametrize("name", ["jobs.txt", "my-jobs.py", "nowhere/jobs.py"])
def test_a_name_that_no_module_can_have_is_refused(name: str) -> None:
    refused = CliRunner().invoke(cli, ["init", name])
    assert refused.exit_code != 0
    assert not Path(name).exists()


@pytest.mark.parametrize("name", ["class.py", "pgqueue.py", "logging.py", "/proc/jobs.py"])
def test_a_file_that_breaks_what_it_imports_or_cannot_be_is_refused_in_words(name: str) -> None:
    refused = CliRunner().invoke(cli, ["init", name])
    assert isinstance(refused.exception, InvalidOption)
    assert name in str(refused.exception)
    assert not Path(name).exists()
