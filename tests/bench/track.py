"""The side effect of every job: a record of 16 bytes, time and number, appended to one file.

The records count the jobs that really ran, show lost and repeated ones, and give the times at which bodies began. A
write with O_APPEND is atomic, so threads and processes share the file.
"""

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

VARIABLE = "BENCH_TRACK"
SIZE = 16
_open: dict[str, int] = {}


class BodyStart(NamedTuple):
    """The start of a job's body: when, and the number of the job."""

    at: float
    i: int


def record_start(i: int) -> None:
    """Append the record of job `i` with the current time."""
    file = _open.get("fd")
    if file is None:
        file = _open["fd"] = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, struct.pack("<dd", time.time(), i))


def count(path: Path) -> int:
    """Return how many bodies have begun."""
    try:
        return path.stat().st_size // SIZE
    except FileNotFoundError:
        return 0


def wait_for(path: Path, starts: int, seconds: float) -> None:
    """Wait until so many bodies have begun, at most for so many seconds."""
    end = time.time() + seconds
    while count(path) < starts and time.time() < end:
        time.sleep(0.02)


def read(path: Path) -> list[BodyStart]:
    """Return every record, the earliest first."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return sorted(BodyStart(at, int(i)) for at, i in struct.iter_unpack("<dd", data[: len(data) // SIZE * SIZE]))
