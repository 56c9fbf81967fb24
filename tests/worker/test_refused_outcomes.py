"""Outcomes that Postgres refuses: less of them is written, and a job that cannot be recorded runs no second time."""

import asyncio
from typing import Any

import pytest

from pgqueue import App, db
from pgqueue.db.link import Link
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.worker.duties.resolver import Resolver
from pgqueue.worker.signals import WorkerSignals
from tests.conftest import scalar, work
from tests.harness import WORKER, Conn

REFUSE = """
create function public.refuse() returns trigger language plpgsql as $$
begin if new.task = 'refused' then raise exception 'not this one'; end if; return new; end $$"""
REFUSING = "create trigger refuse before insert on pgqueue.{} for each row execute function public.refuse()"


@pytest.fixture
def runs(app: App) -> list[int]:
    """The jobs that have run, among tasks whose outcome may be refused and one whose is not."""
    began: list[int] = []

    @app.task(name="refused", retry=[0.01])
    def refused(n: int) -> None:
        began.append(n)

    @app.task(name="fine")
    def fine(n: int) -> None: ...

    return began


def test_an_outcome_that_is_refused_makes_a_dead_letter_that_says_so(app: App, conn: Conn, runs: list[int]) -> None:
    conn.execute(REFUSE)
    conn.execute(REFUSING.format("job_finished"))
    job, fine = app.enqueue("refused", {"n": 1}), app.enqueue("fine", {"n": 1})
    ended = "select count(*) = 0 from pgqueue.job_live"
    asyncio.run(work(app, lambda: scalar(conn, ended)))
    dead = app.get(job.id)
    assert (dead.state, dead.reason, dead.attempt) == ("failed", "outcome refused", 1)
    assert dead.errors[0].message == "the outcome (succeed) could not be stored: RaiseException"
    assert app.get(fine.id).state == "succeeded"
    assert runs == [1]


def test_a_trigger_that_does_not_find_its_table_is_no_missing_migration(
    app: App, conn: Conn, runs: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """The worker stopped, said "run `pgqueue migrate`", and left the job running."""
    conn.execute("create table public.audit (job_id bigint)")
    conn.execute(
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin if new.task = 'refused' then insert into audit values (new.id); end if; return new; end $$"
    )
    conn.execute(REFUSING.format("job_finished"))
    job, fine = app.enqueue("refused", {"n": 1}), app.enqueue("fine", {"n": 1})
    ended = "select count(*) = 0 from pgqueue.job_live"
    asyncio.run(work(app, lambda: scalar(conn, ended)))
    assert (app.get(job.id).reason, app.get(fine.id).state) == ("outcome refused", "succeeded")
    assert 'relation "audit" does not exist' in caplog.text
    assert "migrate" not in caplog.text


def test_a_job_that_cannot_be_recorded_stays_with_its_worker(
    app: App, conn: Conn, runs: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker gave it back, uncharged, with the next search for strays, and ran it again, for ever."""
    conn.execute(REFUSE)
    for table in ("job_finished", "dead_letter"):
        conn.execute(REFUSING.format(table))
    job = app.enqueue("refused", {"n": 1})
    searches = 0
    original = app.queries.jobs.release_strays

    def counted(*args: Any) -> Any:
        nonlocal searches
        searches += 1
        return original(*args)

    monkeypatch.setattr(app.queries.jobs, "release_strays", counted)
    said = "cannot be recorded, as an outcome or as a dead letter: RaiseException: not this one"

    def searched() -> bool:
        nonlocal searches
        if said not in caplog.text:
            searches = 0
        return searches >= 3

    asyncio.run(work(app, searched, lease_seconds=1.0, poll_seconds=0.05))
    assert runs == [1]
    held = app.get(job.id)
    assert (held.state, held.attempt) == ("running", 1)
    for table in ("job_finished", "dead_letter"):
        conn.execute(f"drop trigger refuse on pgqueue.{table}")
    asyncio.run(work(app, lambda: app.get(job.id).state == "succeeded", lease_seconds=1.0, poll_seconds=0.05))
    assert (app.get(job.id).crash_count, runs) == (1, [1, 1])


def test_one_of_the_outcomes_that_were_set_aside_may_be_refused(app: App, conn: Conn, runs: list[int]) -> None:
    """The step failed again and again, and none of the outcomes whose rows had been locked was written."""
    conn.execute(REFUSE)
    conn.execute(REFUSING.format("job_finished"))
    app.enqueue("refused", {"n": 1})
    app.enqueue("fine", {"n": 1})
    jobs = db.run(conn, app.queries.jobs.claim(WORKER, {"default": 2}, 2))

    async def write() -> None:
        link = Link(app.database, "test")
        resolver = Resolver(link, app, WorkerSignals())
        resolver._locked = {(job.id, job.lease): (job, PLAIN_SUCCESS) for job in jobs}
        while resolver.held_jobs():
            await resolver.step()
        await link.close()

    asyncio.run(write())
    assert scalar(conn, "select task from pgqueue.job_finished") == "fine"
    assert scalar(conn, "select reason from pgqueue.dead_letter") == "outcome refused"
