"""The wheel works on each Python that it says: docs/start.md, followed to the letter in an empty environment."""

import ast
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
NEXT = ["3.14"]  # not in the classifiers until this test has run on one
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


# What Python 3.14 has removed, deprecates in use, or does by another default than before.
CHANGED_IN_3_14 = re.compile(
    r"\basyncio\.(get_event_loop_policy|set_event_loop_policy|\w*EventLoopPolicy|iscoroutinefunction|get_event_loop)\b"
    r"|\b\w*(ThreadedChildWatcher|SafeChildWatcher)\b|\bast\.(Num|Str|Bytes|NameConstant|Ellipsis)\b"
    r"|\bpkgutil\.(find|get)_loader\b|\bimport multiprocessing\b|\bfrom multiprocessing\b|\bProcessPoolExecutor\b"
    r"|\b__annotate__\b|\bfrom __future__ import annotations\b"
)


def leaves_finally(tree: ast.AST) -> list[int]:
    """The lines on which `return`, `break` or `continue` leaves a `finally`, of which Python 3.14 warns."""
    ends = [each for node in ast.walk(tree) if isinstance(node, (ast.Try, ast.TryStar)) for each in node.finalbody]
    leaving = (ast.Return, ast.Break, ast.Continue)
    return [node.lineno for end in ends for node in ast.walk(end) if isinstance(node, leaving)]


def test_the_code_uses_nothing_that_the_next_python_changes() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("pgqueue", "migrations")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in [
            *(at for at, text in enumerate(path.read_text().splitlines(), 1) if CHANGED_IN_3_14.search(text)),
            *leaves_finally(ast.parse(path.read_text())),
        ]
    ]
    assert found == []


@pytest.mark.parametrize("code", ["asyncio.get_event_loop_policy()", "ast.Num", "from multiprocessing import Queue"])
def test_what_the_next_python_changes_is_seen(code: str) -> None:
    assert CHANGED_IN_3_14.search(code)
    assert leaves_finally(ast.parse("def f():\n  try: g()\n  finally:\n    return 1")) == [4]


@pytest.mark.servers
@pytest.mark.timeout(600)  # pip installs two dozen packages
@pytest.mark.parametrize("version", [*VERSIONS, *NEXT])
def test_the_first_five_minutes_to_the_letter(version: str, wheel: Path, tmp_path: Path) -> None:
    python = _interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} is installed here: put python{version} on the PATH, or into pyenv")
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
