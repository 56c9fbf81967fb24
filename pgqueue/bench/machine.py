"""The facts that the numbers depend on: this process, the server, and the round trip between them."""

import os
import platform
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import psycopg

from pgqueue.config import release

ROUND_TRIPS, WARM_UP = 50, 10


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about client and server. The report shows each under its name."""

    pgqueue: str
    python: str
    psycopg: str
    system: str
    cpus: int
    postgres: str
    fsync: str
    synchronous_commit: str
    full_page_writes: str
    shared_buffers: str
    round_trip_ms: float


def describe_machine(conn: psycopg.Connection[Any]) -> Machine:
    """Read the facts about this process and the server of a connection."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
    settings = conn.execute("select current_setting(name) from unnest(%s::text[]) as name", [list(names)])
    postgres, fsync, synchronous_commit, full_page_writes, shared_buffers = (str(value) for (value,) in settings)
    return Machine(
        pgqueue=release(),
        python=platform.python_version(),
        psycopg=f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        system=platform.platform(terse=True),
        cpus=_cpus(),
        postgres=postgres,
        fsync=fsync,
        synchronous_commit=synchronous_commit,
        full_page_writes=full_page_writes,
        shared_buffers=shared_buffers,
        round_trip_ms=round(_round_trip_ms(conn), 3),
    )


def _cpus() -> int:
    """Return how many CPUs this process may use. The server may run on others."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _round_trip_ms(conn: psycopg.Connection[Any]) -> float:
    took = []
    for _ in range(WARM_UP + ROUND_TRIPS):
        start = time.perf_counter()
        conn.execute("select 1")
        took.append(1000 * (time.perf_counter() - start))
    return median(took[WARM_UP:])
