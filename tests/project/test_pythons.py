"""The wheel works on each Python that it says: docs/start.md, followed to the letter in an empty environment."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from time import monotonic

import pytest

from tests.project.house import ROOT
from tests.project.releases import clean
from tests.project.start_pages import StartPage, Terminal

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSIONS = re.findall(r":: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
# Where interpreters stand that are not on the PATH under their version: those of pyenv.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"


def _interpreter(version: str) -> Path | None:
    """Return the directory of the Python of a version, on the PATH or of pyenv."""
    places = [*map(Path, os.environ["PATH"].split(os.pathsep)), *sorted(PYENV.glob(f"{version}.*/bin"))]
    for place in places:
        python = place / f"python{version}"
        if python.exists() and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it, as pip does."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(build, cwd=out, env=clean(), check=True, capture_output=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


def test_the_pythons_of_the_classifiers_are_those_of_the_page_of_versions() -> None:
    page = (ROOT / "docs" / "versions.md").read_text()
    (row,) = re.findall(r"^\| Python \| ((?:3\.\d+(?:, )?)+)", page, re.MULTILINE)
    assert row.split(", ") == VERSIONS
    assert PROJECT["requires-python"] == f">={VERSIONS[0]}"


@pytest.mark.servers
@pytest.mark.timeout(600)  # pip installs two dozen packages
@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_five_minutes_to_the_letter(version: str, wheel: Path, tmp_path: Path) -> None:
    python = _interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} is installed here")
    page = StartPage("start.md")
    install, prepare, work, look = page.commands
    install = install.replace("/path/to/checkout", str(wheel)).replace("python3 -m venv", f"{python} -m venv")
    exported = dict(re.findall(r"^export (\w+)=(\S+)$", install, re.MULTILINE))
    began = monotonic()
    page.write(tmp_path)
    Terminal(tmp_path).run(install)
    activated = Terminal(tmp_path, PATH=f"{tmp_path / '.venv' / 'bin'}:{os.environ['PATH']}", **exported)
    assert "jobs: 1" in activated.run(prepare).splitlines()
    with activated.running(work.strip()):
        waited, shown = (activated.run(command) for command in look.splitlines())
    assert waited == "receipt of order 1 sent to a@example.com\n"
    assert "succeeded" in shown
    assert activated.run("python --version").startswith(f"Python {version}.")
    print(f"Python {version}: {monotonic() - began:.0f} s")
