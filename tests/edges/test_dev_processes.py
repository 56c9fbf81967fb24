"""The processes of `pgqueue dev`, with programs in their places that end only when they are told to twice."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgqueue.cli.dev.changes import Changes
from pgqueue.cli.dev.processes import Commands, DevProcesses
from pgqueue.cli.dev.site import Site
from tests.conftest import DEADLINE, eventually

NOTHING = [sys.executable, "-c", ""]
HERE = "postgresql:///nobody-connects"
STUBBORN = """
import os, pathlib, signal
told = []

def on_term(*_):
    told.append(1)
    pathlib.Path(f"{len(told)}-{os.getpid()}").touch()

signal.signal(signal.SIGTERM, on_term)
pathlib.Path(f"0-{os.getpid()}").touch()
while len(told) < 2:
    signal.pause()
"""


class ByHand(Changes):
    """Changes that the test tells."""

    async def watch(self, tell: Callable[[list[str]], object]) -> None:
        self.tell = tell
        await asyncio.Event().wait()


@pytest.fixture
def changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ByHand:
    monkeypatch.chdir(tmp_path)
    return ByHand([tmp_path])


@pytest.fixture
def site() -> Iterator[Site]:
    with Path("/dev/null").open() as null:
        yield Site(null.fileno(), "http://nowhere/", "token")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that cannot be started until it is made."""
    return tmp_path / "program"


def make(program: Path) -> None:
    program.write_text(f"#!{sys.executable}\n{STUBBORN}")
    program.chmod(0o755)


def told(times: int) -> set[int]:
    """The pids of the programs that have been told so often to end."""
    return {int(file.name.partition("-")[2]) for file in Path.cwd().glob(f"{times}-*")}


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_dashboard_that_was_replaced_is_waited_for_and_hears_a_second_stop(changes: ByHand, site: Site) -> None:
    async def main() -> None:
        commands = Commands(
            NOTHING, NOTHING, [sys.executable, "-c", "import signal; signal.pause()"], [sys.executable, "-c", STUBBORN]
        )
        processes = DevProcesses(commands, changes, site, HERE, Path("nowhere"))
        running = asyncio.create_task(processes.run())
        await eventually(lambda: len(told(0)) == 1, "the first dashboard")
        (first,) = told(0)
        changes.tell(["shop.py"])
        await eventually(
            lambda: len(told(0)) == 2 and told(1), "the second dashboard, and the end of the first to begin"
        )
        assert told(1) == {first}
        processes.stop()
        await eventually(lambda: told(1) == told(0), "both to be told")
        assert told(2) == set()
        processes.stop()
        assert await asyncio.wait_for(running, DEADLINE)
        assert told(2) == told(0)
        assert not any(map(lives, told(0)))

    asyncio.run(main())


def test_a_process_that_cannot_be_started_is_seen(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        commands = Commands(NOTHING, NOTHING, [str(program)], None)
        processes = DevProcesses(commands, None, None, HERE, Path("nowhere"))
        assert not await asyncio.wait_for(processes.run(), DEADLINE)
        assert processes.exit_code == 1
        assert "worker and scheduler: it cannot run: FileNotFoundError" in " ".join(capsys.readouterr().err.split())

    asyncio.run(main())


def test_where_changes_are_awaited_one_mends_a_process_that_could_not_be_started(
    changes: ByHand, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        commands = Commands(NOTHING, NOTHING, [str(program)], None)
        processes = DevProcesses(commands, changes, None, HERE, Path("nowhere"))
        running = asyncio.create_task(processes.run())
        said = ""

        def waits() -> bool:
            nonlocal said
            said += capsys.readouterr().err
            return "waiting for the next change" in said

        await eventually(waits, "the word of it")
        make(program)
        changes.tell(["program"])
        await eventually(lambda: told(0), "the program to run")
        processes.stop()
        await eventually(lambda: told(1), "it to be told")
        processes.stop()
        assert await asyncio.wait_for(running, DEADLINE)
        assert processes.exit_code == 0

    asyncio.run(main())
