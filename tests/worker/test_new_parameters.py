"""Arguments for parameters that a worker does not know: jobs wait for a release that does, in either order."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App, JobState, db
from pgqueue.queries.jobs.count import ParkedJobs
from tests.conftest import drain, scalar, work
from tests.harness import QUERIES, Conn, Process, insert_job

OLD = """
import pgqueue
app = pgqueue.App()

@app.task(name="ship")
def ship(order_id: int, to: str) -> str:
    return f"old {order_id} {to}"
"""
NEW = OLD.replace("to: str)", "to: str, gift: bool = False)").replace('"old {order_id} {to}"', '"new {to} {gift}"')
BEFORE = {"order_id": 1, "to": "a"}
AFTER = BEFORE | {"gift": True}


@pytest.fixture
def processes(tmp_path: Path, dsn: str) -> Iterator[Any]:
    """Start a worker of the old or of the new release."""
    (tmp_path / "old.py").write_text(OLD)
    (tmp_path / "new.py").write_text(NEW)
    with ExitStack() as stack:
        yield lambda release: stack.enter_context(
            Process(tmp_path, dsn, "work", "-A", f"{release}:app", "--poll", "0.1", "--lease", "5")
        )


def test_processes_of_two_releases_run_everything_in_either_order(processes: Any, app: App, conn: Conn) -> None:
    old = processes("old")
    jobs = [app.enqueue("ship", args).id for args in (AFTER, BEFORE, AFTER)]
    blocked = "select count(*) from pgqueue.job_live where state = 'blocked'"
    old.alive_until(lambda: scalar(conn, blocked) == 2 and app.get(jobs[1]).state == "succeeded", "two jobs wait")
    new = processes("new")
    new.alive_until(lambda: scalar(conn, "select count(*) from pgqueue.job_live") == 0, "all jobs have run")
    assert [app.get(job).result for job in jobs] == ["new a True", "old 1 a", "new a True"]
    assert [app.get(job).attempt for job in jobs] == [1, 1, 1]
    old.terminate()
    assert old.wait() == 0, old.log()
    later = [app.enqueue("ship", args).id for args in (BEFORE, AFTER)]  # a producer of the old release, and a new one
    new.alive_until(lambda: scalar(conn, "select count(*) from pgqueue.job_live") == 0, "all jobs have run")
    assert [app.get(job).result for job in later] == ["new a False", "new a True"]


@dataclass
class Address:
    street: str


@dataclass
class NewAddress:
    street: str
    floor: int = 0


def _releases(dsn: str) -> tuple[App, App]:
    old, new = App(dsn), App(dsn)
    for isolation in ("thread", "process"):

        @old.task(name=f"{isolation} ship", isolation=isolation, max_attempts=1)
        def ship(to: list[Address]) -> str:
            return "old"

        @new.task(name=f"{isolation} ship", isolation=isolation, max_attempts=1)
        def ship_gift(to: list[NewAddress], gift: bool = False, wrap: str = "") -> str:
            return f"{to[0].floor} {gift} {wrap}"

    return old, new


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_field_of_an_argument_is_waited_for_as_a_parameter_is(dsn: str, conn: Conn, isolation: str) -> None:
    old, new = _releases(dsn)
    args = {"to": [{"street": "a", "floor": 3}], "gift": True, "wrap": "red"}
    job = insert_job(conn, task=f"{isolation} ship", args=json.dumps(args), headers='{"team": "x"}', max_attempts=1)
    drain(old, conn)
    parked = old.get(job)
    assert (parked.state, parked.waits_for, parked.attempt) == (JobState.BLOCKED, "task", 0)
    assert parked.attempts[0].reason == "parameters not known here: gift, to.floor, wrap"
    assert scalar(conn, "select headers from pgqueue.job_live") == {"team": "x", "$version": "1+gift+to.floor+wrap"}
    asyncio.run(work(new, lambda: new.get(job).state == "succeeded", poll_seconds=0.05))
    assert new.get(job).result == "3 True red"
    old.close()
    new.close()


def test_a_release_that_knows_a_part_of_it_looks_at_the_job_no_more_than_once(dsn: str, conn: Conn) -> None:
    first, second, third = App(dsn), App(dsn), App(dsn)
    first.task(name="t")(lambda: None)

    @second.task(name="t")
    def with_gift(gift: int = 0) -> None: ...

    @third.task(name="t")
    def with_wrap(wrap: int = 0) -> None: ...

    job = insert_job(conn, task="t", args='{"gift": 1, "wrap": 2}')

    async def all_three() -> None:
        looks = 0
        for each in (first, second, third):
            original = each.queries.jobs.parked_labels

            def counted(tasks: Any, original: Any = original) -> Any:
                nonlocal looks
                looks += 1
                return original(tasks)

            each.queries.jobs.parked_labels = counted  # type: ignore[method-assign]
        await asyncio.gather(*(work(each, lambda: looks > 60, poll_seconds=0.01) for each in (first, second, third)))

    asyncio.run(all_three())
    assert third.get(job).state == "blocked"
    moves = scalar(conn, "select count(*) from pgqueue.transition where job_id = %s", job)
    assert moves <= 4  # claimed and parked, perhaps by one that knows half of it, and by another
    for each in (first, second, third):
        each.close()


def test_a_later_version_takes_what_waits_for_a_parameter_of_the_one_before(dsn: str, conn: Conn) -> None:
    old, new = App(dsn), App(dsn)
    old.task(name="t")(lambda: None)

    @new.task(name="t", version=2, upcasters={1: lambda args: {"wrap": args["gift"]}})
    def task(wrap: int) -> int:
        return wrap

    job = insert_job(conn, task="t", args='{"gift": 7}')
    drain(old, conn)
    asyncio.run(work(new, lambda: new.get(job).state.is_terminal, poll_seconds=0.05))
    assert new.get(job).result == 7
    old.close()
    new.close()


def test_a_retry_of_such_a_job_may_meet_the_old_release_again(dsn: str, conn: Conn) -> None:
    old, new = App(dsn), App(dsn)
    old.task(name="t")(lambda: None)

    @new.task(name="t", retry=[3600])
    def task(gift: int) -> None:
        raise LookupError

    job = insert_job(conn, task="t", args='{"gift": 7}')
    drain(old, conn)
    asyncio.run(work(new, lambda: new.get(job).attempt == 1 and new.get(job).state == "pending", poll_seconds=0.05))
    conn.execute("update pgqueue.job_live set run_at = now()")
    drain(old, conn)
    assert [(j.task, j.version, j.jobs, j.known_to_a_worker) for j in parked(conn)] == [("t", "1+gift", 1, False)]
    assert new.get(job).attempt == 1
    old.close()
    new.close()


def parked(conn: Conn) -> list[ParkedJobs]:
    """Return what `status` counts."""
    return db.run(conn, QUERIES.jobs.count_parked())


@pytest.mark.parametrize(
    "args",
    [f'{{"n": 1, "{name}": 1}}' for name in ("no name", "class", "x\\ny", "1", "")]
    + ['{"n": "many", "gift": 1}', '{"gift": 1}'],
)
def test_what_no_release_can_have_written_dies_at_once(app: App, conn: Conn, args: str) -> None:
    @app.task(name="t")
    def task(n: int) -> None: ...

    job = insert_job(conn, task="t", args=args)
    drain(app, conn)
    assert (app.get(job).state, app.get(job).reason, app.get(job).attempt) == ("failed", "invalid arguments", 1)


def test_a_label_fits_into_the_index_however_many_names_there_are(app: App, conn: Conn) -> None:
    app.task(name="t")(lambda: None)
    jobs = [insert_job(conn, task="t", args=json.dumps(dict.fromkeys(names))) for names in (
        ["é" * 199], [f"a{n:04}" for n in range(1000)], ["b" * 401, "c"],
    )]  # fmt: skip
    drain(app, conn)
    assert [app.get(job).state for job in jobs] == ["blocked", "blocked", "blocked"]
    assert max(len(p.version.encode()) for p in parked(conn)) == 400
