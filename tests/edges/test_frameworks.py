"""The examples of docs/testing.md and docs/frameworks.md run as a user's test suite runs them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

ROOT = Path(__file__).parents[2]
SAMPLES = Path(__file__).parent / "framework_samples"


def _examples(page: str) -> dict[str, str]:
    """Return the Python blocks of a page that begin with the name of a file, by that name."""
    text = (ROOT / "docs" / page).read_text()
    return {name: code for code, name in re.findall(r"^```python\n(# (\S+\.py)\n.*?)^```", text, re.M | re.S)}


def test_the_examples_pass_and_leave_nothing(dsn: str, tmp_path: Path) -> None:
    examples = _examples("testing.md") | _examples("frameworks.md")
    assert len(examples) == 12
    for name, code in examples.items():
        (tmp_path / name).write_text(code)
    with (tmp_path / "conftest.py").open("a") as conftest:
        conftest.write((SAMPLES / "site.py").read_text())
    shutil.copy(SAMPLES / "urls.py", tmp_path)
    shutil.copy(SAMPLES / "frameworks.py", tmp_path / "test_frameworks.py")
    libpq = {"dbname": "PGDATABASE"} | {name: f"PG{name.upper()}" for name in ("host", "port", "user", "password")}
    environ = {libpq[name]: str(value) for name, value in conninfo_to_dict(dsn).items() if name in libpq}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", "."],
        cwd=tmp_path,
        env=os.environ | environ | {"PGQUEUE_DSN": dsn},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^24 passed", done.stdout, re.MULTILINE), done.stdout
