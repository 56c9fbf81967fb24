"""Nothing of one schedule, whatever SQL has put into its row, ends a scheduler or holds up other schedules."""

import asyncio
import json
import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, db
from pgqueue.db.link import Link
from pgqueue.errors import InvalidPlan
from pgqueue.process.duty import Duty
from pgqueue.scheduler import ticker
from pgqueue.scheduler.computing import compute_each
from tests.conftest import scalar
from tests.scheduler.ticking import HOURLY, declare, fire, last_hour, outcomes, run_scheduler, ticks

Conn = psycopg.Connection[Any]
DEEP = '{"a":' * 1200 + "1" + "}" * 1200
LONG = '{"a": 1' + "0" * 5000 + "}"
ENDLESS = {"rrule": "FREQ=DAILY;INTERVAL=0", "anchor": "2026-01-01T00:00:00Z"}
NEVER = {"rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "anchor": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("plan", [ENDLESS, NEVER, {"cron": "0 0 30 2 *"}, {"every_seconds": 60, "timezone": "Nowhere"}])
def test_a_plan_that_never_ticks_is_shown_as_broken_and_holds_up_no_other(
    app: App, conn: Conn, dsn: str, plan: dict[str, Any]
) -> None:
    tick = last_hour(conn)
    declare(conn, "s", HOURLY, tick)
    conn.execute("select pgqueue.schedule_create('broken', 't', %s::jsonb)", (json.dumps(plan),))
    run_scheduler(app, lambda: app.schedules.get("broken").error and ticks(conn))
    assert ticks(conn) == [(tick, "fired", True)]
    assert app.schedules.get("broken").state == "broken"


@pytest.mark.parametrize("json_text", [DEEP, LONG], ids=["deep", "long"])
def test_an_edit_that_python_cannot_read_is_dropped_and_shown(app: App, conn: Conn, dsn: str, json_text: str) -> None:
    tick = last_hour(conn)
    for name in ("broken", "s"):
        declare(conn, name, HOURLY, tick)
    conn.execute("select pgqueue.schedule_edit('broken', jsonb_build_object('args', %s::jsonb))", (json_text,))
    run_scheduler(app, lambda: ticks(conn) and ticks(conn, "broken"))
    assert ticks(conn) == ticks(conn, "broken") == [(tick, "fired", True)]
    assert scalar(conn, "select edit_error from pgqueue.schedule where name = 'broken'")


@pytest.mark.parametrize("json_text", [DEEP, LONG], ids=["deep", "long"])
def test_options_that_python_cannot_read_break_their_schedule_alone(
    app: App, conn: Conn, dsn: str, json_text: str
) -> None:
    tick = last_hour(conn)
    declare(conn, "s", HOURLY, tick)
    conn.execute(
        "select pgqueue.schedule_create('broken', 't', jsonb_build_object('every_seconds', 60, 'options', %s::jsonb))",
        (json_text,),
    )
    fire(app, dsn)
    assert ticks(conn) == [(tick, "fired", True)]
    assert app.schedules.get("broken").state == "broken"
    conn.execute("""select pgqueue.schedule_edit('broken', '{"options": {}}')""")
    fire(app, dsn)
    assert app.schedules.get("broken").state == "active"


def test_a_codec_that_fails_for_one_schedule_holds_up_no_other(conn: Conn, dsn: str) -> None:
    class Codec:
        def seal(self, plain: bytes, about: bytes) -> str:
            if b"bad" in plain:
                raise OSError("the key store is away")
            return plain.hex()

        def open(self, sealed: str, about: bytes) -> bytes:
            return bytes.fromhex(sealed)

    tick = last_hour(conn)
    for name in ("broken", "s"):
        declare(conn, name, HOURLY, tick)
    conn.execute("""update pgqueue.schedule set args = '{"bad": 1}' where name = 'broken'""")
    app = App(dsn, codec=Codec())
    fire(app, dsn)
    assert "key store" in (app.schedules.get("broken").error or "")
    app.close()
    assert ticks(conn) == [(tick, "fired", True)]


def test_a_refused_edit_logs_no_arguments(app: App, conn: Conn, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    app.schedules.create("s", "t", 3600.0, args={"card": "4111-1111"})
    conn.execute("""select pgqueue.schedule_edit('s', '{"priority": 1000}')""")
    fire(app, dsn)
    assert "cannot be edited here" in caplog.text
    assert "4111" not in caplog.text
    assert "4111" not in scalar(conn, "select edit_error from pgqueue.schedule")


def test_runs_without_number_are_fired_in_shares_and_hold_up_no_other(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticker, "MOST_RUNS", 10)
    tick = last_hour(conn)
    for name in ("many", "s"):
        declare(conn, name, HOURLY, tick if name == "s" else tick + timedelta(hours=2))
    conn.execute(
        "insert into pgqueue.schedule_fire (schedule, tick, outcome, by)"
        " select 'many', now() - n * interval '1 ms', 'queued', 'ann' from generate_series(1, 25) n"
    )
    conn.execute("update pgqueue.schedule set look_at = now() - interval '1 day' where name = 'many'")
    fire(app, dsn)
    assert ticks(conn) == [(tick, "fired", True)]
    assert sorted(outcomes(conn, "many")) == ["fired"] * 10 + ["queued"] * 15
    assert fire(app, dsn) == fire(app, dsn) == 1  # due at once, not after a pause
    assert set(outcomes(conn, "many")) == {"fired"}
    assert fire(app, dsn) == 0


def test_an_item_that_takes_too_long_is_given_up_and_the_others_are_computed() -> None:
    ended = threading.Event()

    def compute(item: int) -> int:
        if item == 1:
            try:
                while True:
                    pass
            finally:
                ended.set()
        return 10 // item

    first, slow, wrong, last = asyncio.run(compute_each(compute, [2, 1, 0, 5], 0.2))
    assert (first, last) == (5, 2)
    assert isinstance(slow, InvalidPlan)
    assert isinstance(wrong, ZeroDivisionError)
    assert ended.wait(10)  # the thread does not go on for ever


def test_computing_leaves_the_event_loop_free() -> None:
    async def body() -> None:
        at_work, go_on = threading.Event(), threading.Event()

        def compute(item: int) -> bool:
            at_work.set()
            return go_on.wait(10)

        computing = asyncio.create_task(compute_each(compute, [1]))
        while not at_work.is_set():
            await asyncio.sleep(0)
        go_on.set()  # the loop runs while the thread waits
        assert await computing == [True]

    asyncio.run(body())


def test_a_fault_in_a_duty_ends_neither_it_nor_the_process(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Duty):
        name = "faulty"
        steps = 0

        async def step(self) -> float:
            self.steps += 1
            if self.steps < 3:
                raise KeyError("card 4111")
            self.stop()
            return 0.0

    duty = Faulty(Link(db.Database(dsn), "test"))
    asyncio.run(duty.run())
    assert duty.steps == 3
    assert caplog.text.count("faulty failed, trying again") == 1
    assert "faulty works again" in caplog.text or caplog.text.count("faulty has a fault") == 1
