"""Schedules that code declares: what an operator edited, what a release drops, and which of them decides."""

import asyncio

import pytest

from pgqueue import App
from tests.harness import Conn
from tests.scheduler.releases import Living, declared, release, states
from tests.scheduler.ticking import HOURLY, HOURLY_CRON, due, fire, next_tick, now, outcomes


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def test_what_an_operator_has_edited_is_not_overwritten_by_the_code(report: App, conn: Conn, dsn: str) -> None:
    first = release(dsn, "s", plan="0 5 * * *")
    declared(first, dsn)
    report.schedules.edit("s", "0 7 * * *", by="ann")
    for app in (first, release(dsn, "s", plan="0 6 * * *")):
        declared(app, dsn)
        said = report.schedules.get("s")
        assert (said.plan, said.edited_by, said.app) == ("0 7 * * *", "ann", "shop:app")
    assert report.schedules.revert("s").plan == "0 6 * * *"
    assert report.schedules.get("s").edited_by is None
    declared(release(dsn, "s", plan="0 8 * * *"), dsn)
    assert report.schedules.get("s").plan == "0 8 * * *"


def test_ticks_that_have_passed_are_told_when_the_code_changes_the_plan(conn: Conn, dsn: str) -> None:
    declared(release(dsn, "s", plan=HOURLY_CRON), dsn)
    due(conn, hours=1)
    declared(release(dsn, "s", plan="30 3 1 1 *"), dsn)
    assert outcomes(conn) == ["missed", "missed"]


def test_what_the_code_drops_is_disabled_shown_and_can_be_brought_back(report: App, conn: Conn, dsn: str) -> None:
    async def deploy() -> None:
        living = Living(dsn)
        old = living.start(release(dsn, "a", "b"))
        await old.step()
        new = living.start(release(dsn, "a", "c"))
        await new.step()
        assert await states(report) == {"a": "active", "b": "active", "c": "active"}  # the old one still lives
        await old.leave()
        await new.step()
        assert await states(report) == {"a": "active", "b": "disabled", "c": "active"}
        await report.schedules.aresume("b")
        await new.step()
        assert await states(report) == {"a": "active", "b": "active", "c": "active"}
        await living.close()
        await report.aclose()

    asyncio.run(deploy())


def test_the_newest_release_has_its_say_also_when_an_older_one_starts_again(report: App, dsn: str) -> None:
    async def deploy() -> None:
        living = Living(dsn)
        old = living.start(release(dsn, "s", plan="0 1 * * *"))
        await old.step()
        new = living.start(release(dsn, "s", plan="0 2 * * *"))
        for declarer in (new, living.start(release(dsn, "s", plan="0 1 * * *")), old, new):
            await declarer.step()
            assert (await report.schedules.aget("s")).plan == "0 2 * * *"
        await new.leave()
        await old.step()  # the deploy was rolled back
        assert (await report.schedules.aget("s")).plan == "0 1 * * *"
        await living.close()
        await report.aclose()

    asyncio.run(deploy())


def test_one_app_does_not_disable_what_another_declares(report: App, dsn: str) -> None:
    async def both() -> None:
        living = Living(dsn)
        for app in (release(dsn, "a"), release(dsn, "b", app="mail:app"), release(dsn, "c", app="")):
            await living.start(app).step()
        assert set((await states(report)).values()) == {"active"}
        await living.close()
        await report.aclose()

    asyncio.run(both())


@pytest.mark.parametrize("edited", [False, True])
def test_a_schedule_that_the_code_declares_again_goes_on_from_then(
    report: App, conn: Conn, dsn: str, edited: bool
) -> None:
    app = release(dsn, "s", plan="30 3 1 1 *" if edited else HOURLY_CRON)
    declared(app, dsn)
    if edited:
        report.schedules.edit("s", HOURLY_CRON)
    due(conn, hours=3)
    conn.execute("update pgqueue.schedule set disabled_at = now() - interval '4 hours'")
    assert fire(report, dsn) == 0
    declared(app, dsn)
    assert fire(report, dsn) == int(edited)  # an edit is planned anew by the scheduler
    assert next_tick(conn) == HOURLY.after(now(conn))
    assert outcomes(conn) == ["skipped"] * 4  # disabled time is rows


def test_a_process_that_declares_nothing_disables_nothing_and_says_what_it_found(
    report: App, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def deploy() -> None:
        living = Living(dsn)
        real = living.start(release(dsn, "s"))
        await real.step()
        await real.leave()
        empty = living.start(release(dsn))  # the modules with the tasks are not imported
        await empty.step()
        await empty.step()
        assert await states(report) == {"s": "active"}
        assert caplog.text.count("no schedule is declared here, and 1 rows of shop:app are as they were") == 1
        await living.close()
        await report.aclose()

    asyncio.run(deploy())


@pytest.mark.parametrize("edited", [False, True])
def test_the_ticks_of_disabled_time_are_rows(report: App, conn: Conn, dsn: str, edited: bool) -> None:
    declared(release(dsn, "s", plan=HOURLY_CRON), dsn)
    if edited:
        report.schedules.edit("s", priority=3)
    due(conn, hours=2)
    conn.execute("update pgqueue.schedule set disabled_at = now() - interval '100 minutes'")
    declared(release(dsn, "s", plan=HOURLY_CRON), dsn)
    assert outcomes(conn)[0] == "missed"
    assert set(outcomes(conn)[-1:]) == {"skipped"}
    assert len(outcomes(conn)) == 3
    reasons = {tick.reason for tick in report.schedules.ticks("s") if tick.outcome == "skipped"}
    assert reasons == {"disabled: no release of the app declared it"}
    assert report.schedules.get("s").state == "active"
    fire(report, dsn)
    assert next_tick(conn) > now(conn)
