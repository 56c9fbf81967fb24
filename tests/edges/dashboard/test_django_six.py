"""The dashboard in Django 6, which needs a newer Python than the suite runs in: a virtual environment of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edges.dashboard.paths import pages_of
from tests.edges.dashboard.scene import Shop
from tests.harness import Conn

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.browser  # slow, and it asks a package index


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=100, env=kept | environment, check=False
    )


def newer_python() -> str | None:
    """Return a Python 3.12 or newer that starts: this one, one of the path, or one that pyenv has."""
    if sys.version_info >= (3, 12):
        return sys.executable
    named = [found for name in ("python3.12", "python3.13", "python3.14") if (found := shutil.which(name))]
    own = [str(each) for each in sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python"))]
    return next((each for each in (*named, *own) if run(each, "-c", "").returncode == 0), None)


def test_every_page_answers_in_django_six(shop: Shop, kept_database: str, tmp_path: Path, conn: Conn) -> None:
    python = newer_python()
    if python is None:
        pytest.skip("no Python 3.12 or newer is there: Django 6 needs one")
    made = run(python, "-m", "venv", tmp_path / "venv")
    assert made.returncode == 0, made.stderr
    inside = tmp_path / "venv" / "bin" / "python"
    got = run(inside, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"{ROOT}[django]", "django>=6,<7")
    if got.returncode != 0:
        pytest.skip(f"Django 6 cannot be installed here: {got.stderr.strip().splitlines()[-1]:.200}")
    script = Path(__file__).with_name("django_alone.py")
    done = run(inside, "-I", "-W", "error::DeprecationWarning:pgqueue", script, kept_database, *pages_of(shop))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Django 6."), done.stdout
    paused = "select count(*) from pgqueue.operation where actor = 'six' and kind in ('pause', 'resume') and done = 1"
    row = conn.execute(paused).fetchone()
    assert row == (2,)
