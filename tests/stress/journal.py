"""Journals: JSON lines that survive the death of their writer."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends lines, each on disk before the next thing happens."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)

    def write(self, **entry: Any) -> None:
        """Append one line and wait for the disk."""
        line = json.dumps(entry | {"pid": os.getpid(), "at": time.time()}) + "\n"
        os.write(self._file, line.encode())
        os.fsync(self._file)


def read(paths: Iterator[Path]) -> list[dict[str, Any]]:
    """Read journals. A last line that a kill cut off is left out: nothing relied on it yet."""
    entries: list[dict[str, Any]] = []
    for path in paths:
        lines = path.read_bytes().splitlines(keepends=True)
        entries += [json.loads(line) for line in lines if line.endswith(b"\n")]
    return entries


def digest(value: Any) -> str:
    """Return a fingerprint of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
