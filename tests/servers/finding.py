"""Servers of Postgres on this machine: Debian's packages, wheels, and those that PGQUEUE_TEST_SERVERS names."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import psycopg

NAMED = "PGQUEUE_TEST_SERVERS"
DEBIAN = Path("/usr/lib/postgresql")
NEEDED = ("initdb", "pg_ctl", "postgres")


class Server(NamedTuple):
    """A Postgres to test on: the directory of its programs, or the DSN of one that runs."""

    version: tuple[int, ...]
    place: str
    origin: str  # as the table names it

    @property
    def environment(self) -> dict[str, str]:
        """What tells the tests to use it. See tests/conftest.py."""
        return {"PGQUEUE_TEST_PROGRAMS" if Path(self.place).is_dir() else "PGQUEUE_TEST_DSN": self.place}

    @property
    def shown(self) -> str:
        """The version as Postgres writes it."""
        return ".".join(map(str, self.version))


def find(named: str, debian: Path = DEBIAN) -> list[Server]:
    """Return all that `named` names, a list with white space, and the newest other server of each major version."""
    chosen = [_named(place) for place in named.split()]
    others = {server.place: server for server in _installed(debian)}.values()
    for server in sorted(others, reverse=True):
        if server.version[0] not in {other.version[0] for other in chosen}:
            chosen.append(server)
    return sorted(chosen)


def _named(place: str) -> Server:
    if "=" in place or "://" in place:
        with psycopg.connect(place) as conn:
            number = conn.info.server_version
        return Server((number // 10_000, number % 10_000), place, "a DSN")
    if not _complete(Path(place)):
        raise SystemExit(f"{NAMED} names {place}, which is neither a DSN nor a directory with {', '.join(NEEDED)}")
    return Server(_version(Path(place)), str(Path(place).resolve()), "named")


def _installed(debian: Path) -> Iterator[Server]:
    path = shutil.which("initdb")
    places: Iterable[tuple[Path, str]] = [
        *([(Path(path).resolve().parent, "PATH")] if path else []),
        *((programs, "Debian") for programs in debian.glob("*/bin")),
        *_in_wheels(),
    ]
    for place, origin in places:
        if _complete(place):
            yield Server(_version(place), str(place.resolve()), origin)


def _in_wheels() -> Iterator[tuple[Path, str]]:
    for wheel in distributions():
        for file in wheel.files or []:
            if file.name == "initdb":
                yield Path(str(wheel.locate_file(file))).parent, f"{wheel.name} {wheel.version}"


def _complete(place: Path) -> bool:
    return all(os.access(place / program, os.X_OK) for program in NEEDED)


def _version(place: Path) -> tuple[int, ...]:
    said = subprocess.run([place / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", said)
    if found is None:
        raise SystemExit(f"{place / 'postgres'} does not say its version: {said!r}")
    return tuple(int(part) for part in found.groups() if part)
