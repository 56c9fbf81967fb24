"""What a type checker says about calls of tasks: the samples are checked by mypy --strict."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent / "typing_samples"


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What mypy prints about the samples."""
    files = [str(path) for path in sorted(SAMPLES.glob("*.py"))]
    cache = str(tmp_path_factory.mktemp("mypy"))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context",
               "--config-file=", "--cache-dir", cache, *files]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SAMPLES)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def error_lines(complaints: str, sample: str) -> set[int]:
    """The lines of a sample with an error."""
    return {int(number) for number in re.findall(rf"^(?:.*/)?{sample}:(\d+): error:", complaints, re.MULTILINE)}


def test_good_calls_are_accepted(complaints: str) -> None:
    assert error_lines(complaints, r"good\.py") == set(), complaints


def test_bad_calls_are_refused_on_exactly_their_lines(complaints: str) -> None:
    lines = (SAMPLES / "bad.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# ERROR" in line}
    assert len(marked) > 20
    assert error_lines(complaints, r"bad\.py") == marked, complaints


def test_nothing_but_the_bad_sample_has_errors(complaints: str) -> None:
    elsewhere = [line for line in complaints.splitlines() if ": error:" in line and "bad.py:" not in line]
    assert elsewhere == []
