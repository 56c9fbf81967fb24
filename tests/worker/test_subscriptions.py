"""Workers declare which tasks get events, side by side with other releases; under kills no event is lost or doubled."""

import asyncio
import json
import logging
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App, Event, db
from pgqueue.codecs import AESGCM
from pgqueue.db.link import Link
from pgqueue.process.subscriber import Subscriber
from pgqueue.scheduler import Scheduler
from pgqueue.tasks.subscription import subscriptions_of
from tests.conftest import drain, eventually, scalar, work
from tests.harness import QUERIES, Conn, Process, wait_for

ENABLED = "select array_agg(task order by task) from pgqueue.subscription where disabled_at is null"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    with psycopg.connect(emptied_dsn, autocommit=True) as conn:
        for table in ("published_event", "subscription", "subscription_release"):
            conn.execute(f"delete from pgqueue.{table}".encode())
    return emptied_dsn


def make_app(dsn: str, *tasks: str, name: str = "shop", **options: Any) -> App:
    """An app whose tasks get all events."""
    app = App(dsn, name=name)
    for task in tasks:
        app.task(name=task, on="#", **options)(lambda: None)
    return app


class Release:
    """A process of a release: each `step` is what its duty does every few seconds."""

    def __init__(self, dsn: str, *tasks: str, name: str = "shop", **options: Any) -> None:
        self.app = make_app(dsn, *tasks, name=name, **options)
        self.link = Link(self.app.database, "test")
        declared = subscriptions_of(self.app.tasks, self.app.queue, self.app.retention)
        self.duty = Subscriber(self.link, self.app.queries, name, declared)

    async def step(self) -> None:
        await self.duty.step()

    async def end(self) -> None:
        """Stop in order."""
        self.duty.stop()
        await self.duty.run()
        await self.link.close()


def test_a_worker_declares_its_subscriptions_when_it_starts(dsn: str, conn: Conn) -> None:
    app = make_app(dsn, "mail")
    asyncio.run(work(app, lambda: scalar(conn, ENABLED)))
    assert scalar(conn, "select array_agg((task, patterns, app)::text) from pgqueue.subscription") == [
        "(mail,{#},shop)"
    ]
    assert scalar(conn, "select count(*) from pgqueue.subscription_release") == 0  # it has stopped in order
    assert len(app.publish("order.paid", {}).jobs) == 1
    app.close()


def test_a_scheduler_declares_them_too(dsn: str, conn: Conn) -> None:
    app = make_app(dsn, "mail")

    async def run() -> None:
        scheduler = Scheduler(app)
        running = asyncio.create_task(scheduler.run())
        await eventually(lambda: scalar(conn, ENABLED))
        scheduler.stop()
        await running

    asyncio.run(run())
    app.close()


def test_a_worker_whose_app_has_none_writes_nothing(app: App, conn: Conn) -> None:
    db.run(conn, QUERIES.events.declare("", ['{"task": "x"}'[:-1] + _rest()]))
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) from pgqueue.worker where kind = 'worker'")))
    assert scalar(conn, ENABLED) == ["x"]
    assert scalar(conn, "select count(*) from pgqueue.subscription_release") == 0


def _rest() -> str:
    known = {
        "patterns": ["#"], "expressions": ["^"], "queue": "q", "priority": 0, "max_attempts": 1, "tags": [],
        "headers": {}, "history": True, "ttl": None, "takes": [], "whole_as": None, "rules": None,
        "matching": [{"anchor": "#", "pattern": "#", "expression": "^"}],
    }  # fmt: skip
    return f", {json.dumps(known)[1:]}"


def test_what_left_the_code_stays_until_the_last_process_of_the_old_release_has_ended(
    dsn: str, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    async def deploy() -> None:
        old = Release(dsn, "mail", "audit", queue="old")
        await old.step()
        new = Release(dsn, "mail", "report", queue="new")
        await new.step()
        assert scalar(conn, ENABLED) == ["audit", "mail", "report"]
        await old.step()  # it declares nothing any more: the newer release counts
        assert scalar(conn, "select queue from pgqueue.subscription where task = 'mail'") == "new"
        await new.step()
        assert scalar(conn, ENABLED) == ["audit", "mail", "report"]
        await old.end()
        await new.step()
        assert scalar(conn, ENABLED) == ["mail", "report"]
        await new.end()

    with caplog.at_level(logging.WARNING):
        asyncio.run(deploy())
    assert "task audit gets no events any more: the code declares it no longer" in caplog.text
    app = App(dsn)
    assert len(app.publish("order.paid", {}).jobs) == 2
    app.close()


def test_a_release_that_comes_back_declares_what_it_had_and_can_replay_what_it_missed(dsn: str, conn: Conn) -> None:
    async def roll_back() -> None:
        old, new = Release(dsn, "mail", "audit"), Release(dsn, "mail")
        await old.step()
        await old.end()
        await new.step()
        assert scalar(conn, ENABLED) == ["mail"]
        published = await new.app.apublish("order.paid", {})
        assert len(published.jobs) == 1
        await new.end()
        again = Release(dsn, "mail", "audit")
        await again.step()
        assert scalar(conn, ENABLED) == ["audit", "mail"]
        assert (await again.app.events.areplay("audit")).jobs == 1
        assert (await again.app.events.areplay("mail")).jobs == 0
        await again.end()
        for release in (new, again):
            await release.app.aclose()

    asyncio.run(roll_back())


def test_where_no_process_lives_events_still_make_jobs(dsn: str, conn: Conn) -> None:
    async def night() -> None:
        release = Release(dsn, "mail")
        await release.step()
        await release.end()

    asyncio.run(night())
    app = App(dsn)
    assert len(app.publish("order.paid", {}).jobs) == 1
    app.close()


def test_a_process_that_was_killed_counts_until_it_was_not_seen_for_half_a_minute(dsn: str, conn: Conn) -> None:
    async def crash() -> None:
        old, new = Release(dsn, "mail", "audit"), Release(dsn, "mail")
        await old.step()
        await old.link.close()
        await new.step()
        assert scalar(conn, ENABLED) == ["audit", "mail"]
        conn.execute(
            "update pgqueue.subscription_release set seen_at = now() - interval '31 s' where 'audit' = any(names)"
        )
        await new.step()
        assert scalar(conn, ENABLED) == ["mail"]
        await new.end()

    asyncio.run(crash())


def test_another_app_and_one_without_a_name_disable_nothing(dsn: str, conn: Conn) -> None:
    async def others() -> None:
        releases = [Release(dsn, "mail"), Release(dsn, "report", name="other"), Release(dsn, "audit", name="")]
        for release in (*releases, *reversed(releases)):
            await release.step()
        for release in releases:
            await release.end()

    asyncio.run(others())
    assert scalar(conn, ENABLED) == ["audit", "mail", "report"]


def test_a_subscriber_whose_task_no_worker_knows_parks_as_unknown_tasks_do(dsn: str, conn: Conn) -> None:
    known = make_app(dsn, "mail")
    known.events.declare()
    (job,) = known.publish("order.paid", {}).jobs
    other = App(dsn)
    parked = "select state, waits_for from pgqueue.job_live where id = %s and waits_for = 'task'"
    asyncio.run(work(other, lambda: conn.execute(parked.encode(), [job]).fetchall()))
    drain(known, conn)
    wait = "select state from pgqueue.job where id = %s"
    asyncio.run(work(known, lambda: scalar(conn, wait, job) == "succeeded"))
    known.close()
    other.close()


def test_sealed_events_reach_their_subscribers_and_are_read_by_nobody_else(dsn: str, conn: Conn) -> None:
    app, got = App(dsn, name="shop", codec=AESGCM({"k": bytes(32)}, "k")), list[Any]()

    @app.task(name="fields", on="#")
    def fields(card: str, note: str = "none") -> None:
        got.append((card, note))

    @app.task(name="whole", on="#", ordered="event.key")
    def whole(event: Event, card: str) -> None:
        got.append((event.topic, event.key, event.data, card))

    app.events.declare()
    published = app.publish("card.added", {"card": "4242", "more": 1}, key=7)
    for table, column in (("published_event", "data"), ("job_live", "args")):
        assert "4242" not in str(scalar(conn, f"select json_agg({column}) from pgqueue.{table}"))
    assert app.events.get(published.id).data == {"card": "4242", "more": 1}
    assert app.get(published.jobs[0]).args == {"card": "4242"}
    asyncio.run(work(app, lambda: len(got) == 2))
    assert sorted(got, key=len) == [("4242", "none"), ("card.added", "7", {"card": "4242", "more": 1}, "4242")]
    app.close()


SUBSCRIBERS = """
import pgqueue

app = pgqueue.App(name="shop")


def note(ctx, subscriber, n):
    with ctx.transaction() as conn:
        conn.execute("insert into public.effect values (%s, %s)", (subscriber, n))


@app.task(name="mail", on="order.*")
def mail(ctx: pgqueue.Context, n: int) -> None:
    note(ctx, "mail", n)


@app.task(name="stock", on=["#.paid", "stock.#"])
def stock(ctx: pgqueue.Context, event: pgqueue.Event) -> None:
    note(ctx, "stock", event.data["n"])


@app.task(name="ledger", on="#", ordered="event.key")
def ledger(ctx: pgqueue.Context, n: int, event: pgqueue.Event) -> None:
    note(ctx, "ledger", n)
"""


def run_under_kills(directory: Path, dsn: str, conn: Conn, events: int, seed: int) -> None:
    """Publish events while workers are killed, some in transactions that are rolled back; each reaches three
    subscribers once by effect."""
    (directory / "subscribers.py").write_text(SUBSCRIBERS)
    conn.execute("create table public.effect (subscriber text, n int)")
    chance, committed, app = random.Random(seed), list[int](), App(dsn)
    with ExitStack() as stack:

        def start() -> Process:
            arguments = ("work", "-A", "subscribers:app", "--lease", "2", "--poll", "0.2", "-c", "4")
            return stack.enter_context(Process(directory, dsn, *arguments))

        workers = [start(), start()]
        wait_for(lambda: scalar(conn, "select count(*) = 3 from pgqueue.subscription"), "the subscriptions")
        killed, rolled_back, due, n = 0, 0, time.monotonic() + 0.3, 0
        with psycopg.connect(dsn) as business:
            while n < events:
                chosen = range(n, min(n + chance.randint(1, 50), events))
                app.using(business).publish_many([("order.paid", {"n": one}, one % 7) for one in chosen])
                if not rolled_back or chance.random() < 0.1:  # they are published anew: who hears of them hears twice
                    business.rollback()
                    rolled_back += 1
                    continue
                business.commit()
                committed += chosen
                n = chosen.stop
                if time.monotonic() >= due:
                    victim = chance.randrange(2)
                    workers[victim].signal(signal.SIGKILL)
                    workers[victim] = start()
                    killed, due = killed + 1, time.monotonic() + chance.uniform(0.5, 1.5)
        while scalar(conn, "select count(*) from public.effect") < 3 * events:
            if killed < 2:  # also while the rest is run
                workers[0].signal(signal.SIGKILL)
                workers[0] = start()
                killed += 1
            assert any(worker.running for worker in workers)
            time.sleep(0.2)
        assert killed >= 2
        for worker in workers:
            worker.terminate()
            worker.wait()
    app.close()
    assert committed == list(range(events))
    effects = conn.execute("select subscriber, count(*), count(distinct n) from public.effect group by 1 order by 1")
    assert effects.fetchall() == [(one, events, events) for one in ("ledger", "mail", "stock")]
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    assert scalar(conn, "select count(*) from pgqueue.dead_letter") == 0


def test_events_reach_three_subscribers_once_each_by_effect_while_workers_are_killed(
    tmp_path: Path, dsn: str, conn: Conn
) -> None:
    run_under_kills(tmp_path, dsn, conn, 300, 5)


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_ten_thousand_events_reach_three_subscribers_once_each_by_effect_under_kills(
    tmp_path: Path, dsn: str, conn: Conn
) -> None:
    run_under_kills(tmp_path, dsn, conn, 10_000, 7)
