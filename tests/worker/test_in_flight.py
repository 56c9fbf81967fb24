"""A limit that counts jobs which wait, at work: the next job begins when the one in flight has ended."""

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from pgqueue import App, Breaker, Context, InvalidOption, Job, JobState, Limit
from pgqueue.cli import cli
from pgqueue.worker.duties import limit_keeper
from tests.conftest import eventually
from tests.harness import Conn, add_worker, working

RUN: dict[str, Any] = {"concurrency": 4}


@pytest.fixture
def begun(app: App) -> list[str]:
    """What the task has begun and ended, by name."""
    begun: list[str] = []

    @app.task(name="call", limit=Limit(1, while_waiting=True), max_attempts=2)
    def call(ctx: Context, name: str) -> None:
        begun.append(name)
        ctx.wait_event("answer", key=name)
        begun.append(f"{name} ends")

    return begun


async def reaches(app: App, job: Job, phase: str) -> None:
    await eventually(lambda: app.get(job.id).phase == phase, f"the phase {phase} of job {job.id}")


def test_a_call_in_flight_has_its_place_until_it_ends(app: App, begun: list[str]) -> None:
    first, second = app.enqueue("call", {"name": "a"}), app.enqueue("call", {"name": "b"})

    async def main() -> None:
        async with working(app, **RUN):
            await reaches(app, first, "waiting")
            (status,) = app.limits.list("call")
            assert (status.running, status.held) == (1, 1)
            why = app.why(first.id)
            assert why.codes[:2] == ("in_flight", "waits_for_event")
            assert why.reasons[0].text == "It is in flight: it keeps its place in call while it waits."
            full = next(reason for reason in app.why(second.id).reasons if reason.code == "full")
            assert full.text == f"call is full: 1 of 1 are in flight, 1 of them waits (job {first.id})."
            assert begun == ["a"]

            app.signal_event("answer", key="a")
            await reaches(app, second, "waiting")
            assert begun == ["a", "a", "a ends", "b"]
            app.cancel(second.id)
            third = app.enqueue("call", {"name": "c"})
            await reaches(app, third, "waiting")

    asyncio.run(main())
    assert app.get(second.id).state == JobState.CANCELLED
    assert app.limits.get("call").running == 1  # a job that waits needs no worker, and keeps its place without one


def test_a_rule_that_changes_binds_jobs_that_wait(app: App, begun: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, it takes the places of those that wait; switched on, it counts those that wait from then on."""
    monkeypatch.setattr(limit_keeper, "RECONCILE_SECONDS", 0.2)
    first, second = app.enqueue("call", {"name": "a"}), app.enqueue("call", {"name": "b"})

    async def main() -> None:
        async with working(app, **RUN):
            await reaches(app, first, "waiting")
            off = app.limits.set("call", while_waiting=False)
            assert (off.while_waiting, off.while_waiting_since) == (False, None)
            await reaches(app, second, "waiting")  # its turn has come, and it keeps nothing
            assert app.limits.get("call").running == 0
            assert app.limits.set("call", while_waiting=True).while_waiting_since is not None
            app.signal_event("answer", key="a")
            await reaches(app, first, "succeeded")
            third = app.enqueue("call", {"name": "c"})
            await reaches(app, third, "waiting")
            await eventually(lambda: app.limits.get("call").held == 1)
            app.signal_event("answer", key="b")  # it waits for its turn now, behind the one in flight
            await eventually(lambda: "full" in app.why(second.id).codes)
            app.signal_event("answer", key="c")
            await reaches(app, second, "succeeded")

    asyncio.run(main())
    assert [name for name in begun if name.endswith("ends")] == ["a ends", "c ends", "b ends"]


def test_the_command_line_sets_and_shows_it(app: App, conn: Conn, dsn: str) -> None:
    app.limit("line", 2, while_waiting=True)
    worker = add_worker(conn)
    conn.execute("update pgqueue.worker set knows = '0046' where id = %s", (worker,))

    def limits(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["limits", *arguments, "--dsn", dsn])
        assert done.exit_code == 0, done.output
        return done.output

    app.limits.set("line", max_running=3)
    assert "counts jobs that wait once no process of an older release lives" in limits("list")
    conn.execute("update pgqueue.worker set knows = '0047'")
    limits("set", "line", "--not-while-waiting")
    assert "counts jobs" not in limits("list")
    limits("set", "line", "--while-waiting")
    (one,) = json.loads(limits("list", "--json"))
    assert (one["while_waiting"], one["held"], one["while_waiting_since"] is None) == (True, 0, False)


def test_bad_settings_are_refused(app: App) -> None:
    with pytest.raises(InvalidOption, match="goes with max_running"):
        Limit(None, rate="10/m", while_waiting=True)
    wrong: Any = "yes"
    with pytest.raises(InvalidOption, match="give True or False"):
        Limit(5, while_waiting=wrong)
    with pytest.raises(InvalidOption, match="cannot have a breaker: give breaker to the task, or to another limit"):
        Limit(5, while_waiting=True, breaker=Breaker(3))
    app.task(name="ship", ordered="order_id")(lambda order_id: None)
    app.limits.set("ship#order", max_running=1)
    with pytest.raises(InvalidOption, match="its kind is order"):
        app.limits.set("ship#order", while_waiting=True)


@pytest.mark.parametrize("known", [True, False])
def test_what_is_set_one_after_the_other_is_refused_as_if_given_at_once(app: App, known: bool) -> None:
    app.limit("counts", 2, while_waiting=True)
    app.limit("breaks", 2, breaker=Breaker(3))
    app.limit("paces", None, rate="10/m")
    if known:
        for name in ("counts", "breaks", "paces"):
            app.limits.set(name, on_full="wait")
    for name, changes, says in (
        ("counts", {"breaker": Breaker(3)}, "counts cannot have both while_waiting and a breaker: give breaker to"),
        ("breaks", {"while_waiting": True}, "breaks cannot have both while_waiting and a breaker"),
        ("paces", {"while_waiting": True, "breaker": Breaker(3)}, "paces cannot have both"),
        ("paces", {"while_waiting": True}, "while_waiting of paces goes with max_running: give both"),
        ("counts", {"max_running": None}, "while_waiting of counts goes with max_running"),
    ):
        with pytest.raises(InvalidOption, match=says):
            app.limits.set(name, **changes)  # type: ignore[arg-type]  # of several kinds
    app.limits.set("counts", breaker=Breaker(3), while_waiting=False)
    assert app.limits.set("breaks", breaker=None, while_waiting=True).while_waiting
    assert app.limits.set("paces", max_running=0, while_waiting=True).while_waiting


def test_the_breaker_of_a_task_is_a_limit_of_its_own_beside_one_that_counts_jobs_that_wait(app: App) -> None:
    app.task(name="call", limit=Limit(1, while_waiting=True), breaker=Breaker(3))(lambda: None)
    assert [(rule.name, rule.while_waiting, rule.breaker_failures) for rule in app.rules] == [
        ("call", True, None),
        ("call#2", False, 3),
    ]


def test_a_newer_job_ends_the_one_in_flight_where_the_rule_says_so(app: App) -> None:
    @app.task(name="latest", limit=Limit(1, while_waiting=True, on_full="cancel_running"))
    def latest(ctx: Context) -> None:
        ctx.wait_signal("go")

    first = app.enqueue("latest")

    async def main() -> None:
        async with working(app, **RUN):
            await reaches(app, first, "waiting")
            second = app.enqueue("latest")
            await reaches(app, second, "waiting")

    asyncio.run(main())
    assert (app.get(first.id).state, app.get(first.id).reason) == (
        JobState.CANCELLED,
        "cancelled: a newer job waits for latest",
    )
