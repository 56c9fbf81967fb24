"""What type checkers say about calls of tasks: the samples are checked by mypy --strict and by pyright."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgqueue.cli.init import init as write_start

SAMPLES = Path(__file__).parent / "typing_samples"


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def complaints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a type checker prints about the samples."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: pip install 'pgqueue-jobs[dev]'")
    started = tmp_path_factory.mktemp("started") / "started.py"
    write_start(started)
    files = [str(path) for path in (*sorted(SAMPLES.glob("*.py")), started)]
    command = [sys.executable, "-m", request.param]
    if request.param == "mypy":
        command += ["--strict", "--no-error-summary", "--hide-error-context", "--config-file="]
        command += ["--cache-dir", str(tmp_path_factory.mktemp("mypy"))]
    else:
        command += ["--pythonpath", sys.executable]
    # Else pyright would look for a newer version on the network.
    environ = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False, cwd=SAMPLES, env=environ)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def error_lines(complaints: str, sample: str) -> set[int]:
    """The lines of a sample with an error; mypy says `file:1: error:`, pyright `file:1:2 - error:`."""
    return {int(n) for n in re.findall(rf"^ *(?:.*/)?{sample}:(\d+)(?::\d+ -|:) error:", complaints, re.MULTILINE)}


def test_the_file_that_init_writes_is_accepted(complaints: str) -> None:
    assert error_lines(complaints, r"started\.py") == set(), complaints


def test_good_calls_are_accepted(complaints: str) -> None:
    assert error_lines(complaints, r"good\.py") == set(), complaints


def test_bad_calls_are_refused_on_exactly_their_lines(complaints: str) -> None:
    lines = (SAMPLES / "bad.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# ERROR" in line}
    assert len(marked) > 20
    assert error_lines(complaints, r"bad\.py") == marked, complaints


def test_nothing_but_the_bad_sample_has_errors(complaints: str) -> None:
    errors = [line for line in complaints.splitlines() if re.search(r"(:| -) error:", line)]
    elsewhere = [line for line in errors if "bad.py:" not in line]
    assert errors
    assert elsewhere == []
