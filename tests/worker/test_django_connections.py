"""Where Django is set up, no task in a thread inherits a connection that another has left broken."""

import asyncio
import sys
from types import ModuleType
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections, transaction

from pgqueue.worker.running.threads import Threads
from tests.django_site import django_on
from tests.harness import Conn


def _backend() -> Any:
    with connections["default"].cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        return cursor.fetchone()[0]


def test_neither_an_open_block_nor_a_connection_that_was_cut_reaches_a_later_task(dsn: str, conn: Conn) -> None:
    def leave_a_block_open() -> Any:
        transaction.atomic().__enter__()
        return _backend()

    def be_cut() -> None:
        conn.execute("select pg_terminate_backend(%s::int)", [_backend()])
        _backend()

    def close() -> None:
        connections["default"].close()

    async def run() -> list[Any]:
        threads = Threads(1)
        try:
            return [
                await threads.run(task) for task in (_backend, _backend, leave_a_block_open, _backend, be_cut, _backend)
            ]
        finally:
            await threads.run(close)
            threads.close()

    with django_on(dsn) as site:
        site.settings_dict["CONN_MAX_AGE"] = None  # kept, unless it is broken
        try:
            first, second, left_open, after, cut, last = asyncio.run(run())
        finally:
            site.settings_dict["CONN_MAX_AGE"] = 0
    assert first == second == left_open, "one connection"
    assert after[1] is None
    assert after[0] != first[0], "the block went with its connection"
    assert isinstance(cut[1], (OperationalError, psycopg.OperationalError))
    assert last[1] is None
    assert last[0] != after[0]


def test_a_django_that_another_thread_is_importing_ends_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django.apps", ModuleType("django.apps"))  # without its names yet

    async def run() -> Any:
        threads = Threads(1)
        try:
            return await threads.run(lambda: "ran")
        finally:
            threads.close()

    assert asyncio.run(run()) == ("ran", None)
