"""Waits that fail: the time is up, the job or the database cannot be reached, the arguments cannot be used."""

import asyncio
import logging
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, ConfigError, DatabaseUnreachable, InvalidOption, NotMigrated, WaitTimeout, db
from pgqueue.client import watched
from tests.client.waiting.looks import hub_of
from tests.conftest import DEADLINE, drain
from tests.harness import Conn, InThread, wait_for

NOWHERE = App("postgresql://127.0.0.1:1/x")


def test_time_is_up_and_the_job_goes_on(app: App, conn: Conn, add: Any) -> None:
    job = add.enqueue(1, 2)
    with pytest.raises(WaitTimeout, match=rf"job {job.id} has not ended within 0\.3 s: it was pending when last seen"):
        job.wait(0.3)
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):  # the error that callers catch
        asyncio.run(job.await_result(timedelta(milliseconds=100)))
    drain(app, conn)
    assert job.wait(DEADLINE) == 3


def test_a_database_that_does_not_answer_is_not_blamed_on_the_transaction(app: App, meddle: Any) -> None:
    job, silent = app.enqueue("t"), asyncio.Event()

    async def fall_silent(own: db.AsyncConnection) -> None:
        await silent.wait()

    meddle(b"left join lateral", fall_silent)
    with pytest.raises(WaitTimeout, match=r"within 0\.2 s: the database has not answered"):
        job.wait(0.2)
    hub_of(app)._loop.call_soon_threadsafe(silent.set)


def test_when_time_is_up_it_says_what_the_job_waits_for(app: App, conn: Conn, add: Any) -> None:
    job = add.using(delay=3600).enqueue(1, 2)
    with pytest.raises(WaitTimeout, match="it was scheduled for later"):
        job.wait(0.3)
    conn.execute("update pgqueue.job_live set attempt = 1")
    with pytest.raises(WaitTimeout, match="it was retrying when last seen, after attempt 1 "):
        job.wait(0.3)


def test_inside_the_transaction_it_says_what_it_waits_for(
    app: App, conn: Conn, dsn: str, add: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "MISSING_SECONDS", 0.0)
    with psycopg.connect(dsn) as borrowed:
        job = add.using(borrowed).enqueue(1, 2)
        message = "cannot be seen: the transaction that enqueued it has not committed"
        with caplog.at_level(logging.WARNING, "pgqueue.waits"), pytest.raises(WaitTimeout, match=message):
            job.wait(0.5)
        assert f"job {job.id} is waited for and cannot be seen" in caplog.text
        waiting = InThread(lambda: job.wait(DEADLINE))  # waits for the commit too
        wait_for(lambda: app.waits._hub and app.waits._hub._watched, "the wait")
        borrowed.commit()
    drain(app, conn)
    assert waiting.result() == 3


@pytest.mark.parametrize("wait", [lambda app: app.wait(1), lambda app: asyncio.run(app.await_result(1))])
def test_where_no_connection_can_be_made_it_says_so_at_once(empty_dsn: str, wait: Callable[[App], Any]) -> None:
    for dsn, error in (("postgresql://127.0.0.1:1/x", DatabaseUnreachable), (empty_dsn, NotMigrated)):
        app = App(dsn)
        with pytest.raises(error):
            wait(app)
        app.close()


@pytest.mark.parametrize("job_id", [0, -1, 2**63, "1", 1.0, True, None])
def test_what_is_no_id_is_refused(job_id: Any) -> None:
    with pytest.raises(InvalidOption, match="give the id of a job"):
        NOWHERE.wait(job_id, 1)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), timedelta(0), True, "1"])
def test_what_is_no_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidOption, match="cannot be used: give"):
        NOWHERE.wait(1, timeout)


def test_a_copy_of_a_job_does_not_know_its_app(app: App) -> None:
    job = app.enqueue("t")
    copy = pickle.loads(pickle.dumps(job))
    assert copy == job
    assert "handle" not in repr(copy)
    with pytest.raises(ConfigError, match=rf"use app\.wait\({job.id}\)"):
        copy.wait(1)
