"""The pages for beginners, taken apart: the files that they say to write, and the commands that they say to run."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import DEADLINE
from tests.project.house import ROOT
from tests.project.releases import clean


class StartPage:
    """One page: its files by name, and its blocks of commands in order."""

    def __init__(self, name: str) -> None:
        text = (ROOT / "docs" / name).read_text()
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self.files = {
            code.split("\n", 1)[0].removeprefix("# "): code for language, code in blocks if language == "python"
        }
        self.commands = [code for language, code in blocks if language == ""]

    def write(self, place: Path, *, added: str = "") -> None:
        """Write the files; what the page says to add to the file `added` goes to its end."""
        for name, code in self.files.items():
            with (place / name).open("a" if name == added else "w") as file:
                file.write(code)


class Terminal:
    """Runs commands of a page in a directory of its own."""

    def __init__(self, place: Path, **environ: str) -> None:
        self.place = place
        self.environ = clean(**environ)

    def run(self, commands: str) -> str:
        """Run commands; return what they print."""
        done = subprocess.run(
            ["bash", "-euc", commands], cwd=self.place, env=self.environ, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, commands + done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Run a command beside the others, until the end of the block."""
        process = subprocess.Popen(["bash", "-euc", f"exec {command}"], cwd=self.place, env=self.environ)
        try:
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE)
