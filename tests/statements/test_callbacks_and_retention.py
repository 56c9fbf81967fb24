"""What a callback reads stays until the callback has ended, although its workflow has ended before."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pgqueue import App, DeadFilter, Outcome, Results, WorkflowIncomplete, db, group
from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.retention import Sweep
from tests.conftest import drain, scalar, work
from tests.harness import QUERIES, Conn, add_worker
from tests.statements.graphs import DEAD, DONE, claim, end, graph, insert, tidy
from tests.statements.test_partitions import today
from tests.statements.test_retention import add_day, noon

OLD = "select count(*) from pgqueue.old_partition where partition = %s"


def ended_before_its_callback(conn: Conn, last: Any = DONE) -> tuple[Sweep, ClaimedJob]:
    """A workflow of two members that ended ten days ago, the sweep of its partition, and its callback, which runs."""
    made = insert(conn, graph(3, outside=[2], on_failure="stop"))
    add_worker(conn)
    taken = claim(conn)
    callback = taken.pop(made.jobs[2])
    end(conn, (taken[made.jobs[0]], DONE), (taken[made.jobs[1]], last))
    tidy(conn)
    assert scalar(conn, "select bool_and(settled) from pgqueue.workflow")
    return age(conn, 10), callback


def age(conn: Conn, days: int) -> Sweep:
    """Let all workflows and what has ended be so many days old; return the sweep of that day."""
    name = add_day(conn, days, "job_finished")
    day = noon(today(conn) - timedelta(days=days))
    conn.execute("update pgqueue.workflow set created_at = %s, ended_at = %s", (day, day))
    conn.execute("update pgqueue.job_finished set created_at = %s, finished_at = %s", (day, day))
    conn.execute("update pgqueue.dead_letter set failed_at = %s", (day,))
    start = day - timedelta(hours=12)
    return Sweep(f"job_finished_{name}", start, start + timedelta(days=1), timedelta(days=7), True, 0, 10, "h")


def test_a_sweep_leaves_the_members_until_the_callback_has_ended(conn: Conn) -> None:
    sweep, callback = ended_before_its_callback(conn)
    assert db.run(conn, QUERIES.retention.sweep(sweep))[0] == 0
    end(conn, (callback, DONE))
    assert db.run(conn, QUERIES.retention.sweep(sweep))[0] == 2


def test_a_dead_member_stays_until_the_callback_has_ended(conn: Conn) -> None:
    _, callback = ended_before_its_callback(conn, DEAD)
    conn.execute("insert into pgqueue.setting (name, value) values ('retention.failed', interval '1 hour')")
    assert db.run(conn, QUERIES.retention.prune_dead(10, None))[0] == 0
    end(conn, (callback, DONE))
    assert db.run(conn, QUERIES.retention.prune_dead(10, None))[0] == 1


@pytest.mark.parametrize("verb", ["empty_partition", "drop_partition"])
def test_a_partition_that_a_callback_may_need_is_not_old(conn: Conn, verb: str) -> None:
    sweep, callback = ended_before_its_callback(conn)
    if verb == "drop_partition":
        conn.execute(f"truncate pgqueue.{sweep.name}".encode())
    retire = getattr(QUERIES.retention, verb)(sweep.name)
    assert scalar(conn, OLD, sweep.name) == 0
    assert db.run(conn, retire) is False
    end(conn, (callback, DONE))
    assert scalar(conn, OLD, sweep.name) == 1
    assert db.run(conn, retire) is True


def test_a_partition_is_old_whatever_jobs_of_younger_workflows_live(conn: Conn) -> None:
    sweep, callback = ended_before_its_callback(conn)
    insert(conn, graph(2, [(0, 1)]))
    insert(conn, graph(2, [(0, 1)]))
    assert scalar(conn, OLD, sweep.name) == 0
    end(conn, (callback, DONE))
    assert scalar(conn, OLD, sweep.name) == 1


def test_live_workflows_are_walked_only_while_a_partition_is_beyond_its_age(conn: Conn) -> None:
    insert(conn, graph(2, outside=[1]))

    def walk() -> list[str]:
        plan = conn.execute("explain (analyze, costs off, timing off) select * from pgqueue.old_partition")
        return [line for (line,) in plan if "Scan using job_live_workflow" in line]

    assert all("never executed" in line for line in walk())
    add_day(conn, 10, "job_finished")
    assert not all("never executed" in line for line in walk())


def test_a_result_that_expires_stays_until_the_callback_has_ended(conn: Conn) -> None:
    _, callback = ended_before_its_callback(conn)
    conn.execute(
        "insert into pgqueue.result_expiry (job_id, finished_at, expires_at)"
        " select id, finished_at, now() from pgqueue.job_finished"
    )
    left = "select count(result) from pgqueue.job_finished where id <> %s"
    db.run(conn, QUERIES.jobs.drop_expired_results(10))
    assert scalar(conn, left, callback.id) == 2
    end(conn, (callback, DONE))
    conn.execute("update pgqueue.result_expiry set expires_at = now()")
    db.run(conn, QUERIES.jobs.drop_expired_results(10))
    assert scalar(conn, left, callback.id) == 0


@pytest.fixture
def got() -> list[int]:
    """What the callback has read."""
    return []


def callback_that_waits(app: App, conn: Conn, got: list[int], *, paged: bool) -> None:
    """Enqueue a group whose callback nobody serves, and run its members."""

    @app.task(name="one")
    def one(n: int) -> int:
        return n

    def read(numbers: Any) -> None:
        got.extend(numbers)

    read.__annotations__["numbers"] = Results[int] if paged else list[int]
    after = app.task(name="after", queue="later", max_attempts=1)(read)
    group(one.s(n) for n in range(70)).on_success(after.s()).enqueue()
    asyncio.run(work(app, settled(conn), queues=["default"]))


def settled(conn: Conn) -> Callable[[], bool]:
    return lambda: bool(scalar(conn, "select bool_and(settled) from pgqueue.workflow"))


@pytest.mark.parametrize("paged", [False, True], ids=["list", "paged"])
def test_a_callback_that_waited_for_long_gets_all_results(app: App, conn: Conn, got: list[int], paged: bool) -> None:
    callback_that_waits(app, conn, got, paged=paged)
    age(conn, 10)
    app.pruning.run()
    drain(app, conn, queues=["later"])
    assert got == [*range(70)]


@pytest.mark.parametrize("paged", [False, True], ids=["list", "paged"])
def test_a_callback_whose_results_are_gone_fails(app: App, conn: Conn, got: list[int], paged: bool) -> None:
    callback_that_waits(app, conn, got, paged=paged)
    conn.execute("delete from pgqueue.job_finished where result in ('3', '68')")
    drain(app, conn, queues=["later"])
    (message,) = conn.execute("select error ->> 'message' from pgqueue.dead_letter").fetchone() or ("",)
    assert message.startswith("2 of the results that are 'numbers' are gone")


def run_out(app: App, conn: Conn) -> None:
    """Run until no job is live, also none that is blocked."""
    asyncio.run(work(app, lambda: settled(conn)() and scalar(conn, "select count(*) = 0 from pgqueue.job_live")))


def test_a_dead_callback_comes_back_only_while_all_results_are_there(app: App, conn: Conn) -> None:
    one = app.task(name="one")(lambda n: n)
    seen: list[list[int]] = []

    @app.task(name="after", max_attempts=1)
    def after(numbers: list[int]) -> None:
        seen.append(numbers)
        raise RuntimeError

    group(one.s(n) for n in range(3)).on_success(after.s()).enqueue()
    run_out(app, conn)
    dead = scalar(conn, "select id from pgqueue.dead_letter")
    app.dead.redrive(DeadFilter(ids=[dead]))
    run_out(app, conn)
    assert seen == [[0, 1, 2]] * 2
    age(conn, 10)
    app.pruning.run()
    assert app.dead.redrive(DeadFilter(ids=[dead])).skipped == 1
    with pytest.raises(WorkflowIncomplete):
        app.retry(dead)
    assert app.get(dead).state == "failed"


def test_groups_within_a_group_are_no_results_of_it(app: App, conn: Conn, got: list[int]) -> None:
    one = app.task(name="one")(lambda n: n)

    @app.task(name="counted")
    def counted(numbers: list[int]) -> int:
        return len(numbers)

    @app.task(name="listed")
    def listed(ends: list[Outcome[int]]) -> None:
        got.append(len(ends))

    @app.task(name="read")
    def read(ends: Results[Outcome[int]]) -> None:
        got.append(len(list(ends)))

    for after in (listed, read):
        inner = group(one.s(n) for n in range(70)) | counted.s()
        group([one.s(7), inner, one.s(8)]).on_complete(after.s()).enqueue()
    run_out(app, conn)
    gates = "select count(*) from pgqueue.workflow where gate_id is not null"
    assert (scalar(conn, "select count(*) from pgqueue.dead_letter"), scalar(conn, gates)) == (0, 2)
    assert got == [3, 3]
