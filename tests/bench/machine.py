"""The machine, the server and the versions that the figures belong to."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from pgqueue.config import release

from .processes import ROOT
from .server import BenchServer

SETTINGS = (
    "fsync", "synchronous_commit", "full_page_writes", "data_checksums", "wal_level", "shared_buffers", "max_wal_size",
    "max_connections", "autovacuum", "autovacuum_naptime",
)  # fmt: skip


def machine() -> dict[str, str]:
    """Return the facts about the machine that the system gives."""
    return {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
    }


def rested() -> float:
    """Return for how many seconds the cores were idle, added up; waiting for the disk counts as idle."""
    idle, waiting = Path("/proc/stat").read_text().split()[4:6]
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")


def versions() -> dict[str, str]:
    """Return the versions of pgqueue, Python and psycopg."""
    return {
        "pgqueue": f"{release()}{_commit()}",
        "python": platform.python_version() + (" (debug)" if hasattr(sys, "gettotalrefcount") else ""),
        "psycopg": f"{version('psycopg')} ({psycopg.pq.__impl__}, libpq {psycopg.pq.version()})",
    }


def postgres(server: BenchServer) -> dict[str, str]:
    """Return the version of the server and the settings that matter here."""
    with server.connect() as conn:
        rows = conn.execute(
            "select name, current_setting(name) from pg_settings where name = any(%s)", [list(SETTINGS)]
        )
        found = dict(rows.fetchall())
        row = conn.execute("show server_version").fetchone()
    return {"version": row[0].split()[0] if row else "?"} | {name: found[name] for name in SETTINGS if name in found}


def _line(file: str, key: str) -> str | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _commit() -> str:
    """Return the commit of the checkout, marked if files differ from it."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
        done: Any = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:
        return ""
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""
