"""The shipped package works: the wheel, built from the sdist and installed into an empty environment, migrates."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgqueue
from pgqueue import migrate
from tests.conftest import scalar

ROOT = Path(__file__).parents[2]


def _run(*command: str | Path, cwd: Path, **environ: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PGQUEUE_DSN")}
    done = subprocess.run(command, cwd=cwd, env=clean | environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the sdist, as pip does."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_migrations_the_demo_data_and_the_types_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"pgqueue/migrations/versions/0001_first_tables.py", "pgqueue/py.typed", "pgqueue/demo/orders.csv"} <= names
    assert any(name.startswith(f"pgqueue/migrations/versions/{migrate.head()}_") for name in names)
    assert not any("__pycache__" in name or name.startswith(("tests/", "migrations/")) for name in names)


def test_the_distribution_has_a_name_of_its_own_and_extras_that_it_lists(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        (metadata,) = [packed.read(name).decode() for name in packed.namelist() if name.endswith("/METADATA")]
    lines = metadata.splitlines()
    assert "Name: pgqueue-jobs" in lines  # `pgqueue` on the package index is another project
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "pgqueue").rglob("*.py")]
    named = re.findall(
        r"\b(pgqueue(?:-\w+)*)\[([\w,]+)\]", "\n".join([metadata, *(page.read_text() for page in pages)])
    )
    assert {extra for name, listed in named for extra in listed.split(",")} <= extras
    assert {name for name, _ in named} == {"pgqueue-jobs"}


def test_the_wheel_migrates_an_empty_database_from_an_empty_environment(
    wheel: Path, empty_dsn: str, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv")  # the pip of this environment installs into that one, which so is emptier
    binaries = tmp_path / "venv" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "--disable-pip-version-check")
    _run(*pip, "install", "-q", "--no-compile", wheel, cwd=tmp_path)  # most of what is installed is never imported
    _run(binaries / "pgqueue", "migrate", cwd=tmp_path, PGQUEUE_DSN=empty_dsn)
    _run(binaries / "pgqueue", "migrate", "--check", cwd=tmp_path, PGQUEUE_DSN=empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        assert scalar(conn, "select version_num from pgqueue.migration") == migrate.head()
    assert _run(binaries / "pgqueue", "--version", cwd=tmp_path) == f"pgqueue {wheel.name.split('-')[1]}\n"
    where = _run(binaries / "python", "-c", "import pgqueue; print(pgqueue.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where


def test_all_names_what_is_public() -> None:
    names: list[Any] = pgqueue.__all__
    assert len(names) == len(set(names))  # ruff checks their order: constants, classes, functions
    for name in names:
        assert getattr(pgqueue, name).__module__.split(".")[0] == "pgqueue", name
