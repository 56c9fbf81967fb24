"""Retention: what goes when, what stays, and that neither readers nor writers wait for it."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from pgqueue import App, Keep, db
from pgqueue.client.pruning import prune, shortened
from pgqueue.client.steps import follow
from pgqueue.db.link import Link
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.worker.duties import pruner
from tests.conftest import scalar, work
from tests.harness import QUERIES, Conn, InThread, new_job, wait_blocked
from tests.statements.test_partitions import children, today
from tests.statements.test_races import at_once, claim

pytestmark = pytest.mark.usefixtures("same_day")

Open = Callable[[], Conn]


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def add_day(conn: Conn, days_ago: int, history: str = "", to: int | None = None) -> str:
    """Make the partitions of an old day, or of some days; return the part of their names that says it."""
    first = today(conn) - timedelta(days=days_ago)
    past = first + timedelta(days=1) if to is None else today(conn) - timedelta(days=to)
    name = f"{first:%Y%m%d}" + ("" if to is None else f"_{past:%Y%m%d}")
    for parent in [history] if history else ["job_finished", "transition", "activity"]:
        conn.execute(
            f"create table pgqueue.{parent}_{name} partition of pgqueue.{parent}"
            f" for values from ('{first} 00:00:00+00') to ('{past} 00:00:00+00')".encode()
        )
    return name


def add_job(conn: Conn, days_ago: float, **columns: Any) -> int:
    """Insert a finished job with its transitions, and return its id."""
    at = (
        noon(today(conn)) - timedelta(days=days_ago)
        if days_ago >= 1
        else scalar(conn, "select now() - make_interval(days => 0, secs => %s)", 86400 * days_ago)
    )
    given = {"task": "t", "queue": "default", "state": "succeeded", "finished_at": at, "created_at": at} | columns
    names = ", ".join(given)
    values = ", ".join(f"%({name})s" for name in given)
    job = scalar(conn, "select nextval('pgqueue.job_id')")
    conn.execute(f"insert into pgqueue.job_finished (id, {names}) values ({job}, {values})".encode(), given)
    log_moves(conn, job, at)
    return int(job)


def log_moves(conn: Conn, job: int, at: datetime) -> None:
    for before, after in ((None, "pending"), ("pending", "running"), ("running", "succeeded")):
        conn.execute(
            "insert into pgqueue.transition (job_id, from_state, to_state, at) values (%s, %s, %s, %s)",
            [job, before, after, at],
        )


def run(conn: Conn) -> list[str]:
    """Prune; return what went, in words."""
    done: list[str] = []
    follow(conn, prune(QUERIES, lambda p: done.append(f"{p.name} {p.how} {p.rows}"), lambda: True))
    return done


def jobs(conn: Conn) -> set[int]:
    return {row[0] for row in conn.execute("select id from pgqueue.job_finished").fetchall()}


def moves(conn: Conn) -> set[int]:
    return {row[0] for row in conn.execute("select job_id from pgqueue.transition").fetchall()}


def set_rule(conn: Conn, name: str, value: str | None, queue: str = "*", task: str = "*") -> None:
    conn.execute(
        "insert into pgqueue.setting (name, queue, task, value) values ('retention.' || %s, %s, %s, %s::text::interval)"
        " on conflict (name, queue, task, source) do update set value = excluded.value",
        [name, queue, task, value],
    )


def test_a_day_of_events_goes_when_all_of_it_is_older_than_retention_says(conn: Conn, app: App) -> None:
    old = [add_day(conn, days, "published_event") for days in (12, 9, 8, 4)]
    for days in (12, 9, 8, 4):
        event = "insert into pgqueue.published_event (id, at, topic, data) values (%s, %s, 't', '{}')"
        conn.execute(event.encode(), [days, noon(today(conn) - timedelta(days=days))])
    app.pruning.run()
    assert [name for name in old if name in children(conn, "published_event")] == old[3:]
    app.pruning.set("events", "2d")
    app.pruning.run()
    assert scalar(conn, "select count(*) from pgqueue.published_event") == 0
    app.pruning.set("events", "forever")
    assert {rule.name: rule.age for rule in app.pruning.rules()}["events"] is None


def test_by_default_a_day_of_jobs_and_transitions_goes_after_seven_days_and_activity_after_thirty(conn: Conn) -> None:
    for days in (31, 30, 9, 8, 7):
        add_day(conn, days)
    kept = {add_job(conn, 7), add_job(conn, 0.1)}
    for days in (31, 30, 9, 8):
        add_job(conn, days)
    assert run(conn)
    assert (jobs(conn), moves(conn)) == (kept, kept)
    gone = [f"{today(conn) - timedelta(days=days):%Y%m%d}" for days in (31, 30, 9, 8)]
    for history in ("job_finished", "transition"):
        assert not set(gone) & children(conn, history)
    assert set(gone) & children(conn, "activity") == set(gone[1:])
    assert run(conn) == []


def test_dead_letters_and_their_transitions_and_those_of_unfinished_jobs_stay(conn: Conn) -> None:
    name = add_day(conn, 20)
    at = noon(today(conn) - timedelta(days=20))
    add_job(conn, 20)
    conn.execute(
        "insert into pgqueue.dead_letter (id, task, queue, reason, failed_at) values (5001, 't', 'q', 'x', %s)", [at]
    )
    conn.execute("insert into pgqueue.job_live (id, task, queue, run_at) values (5002, 't', 'q', now() + '40 days')")
    for job in (5001, 5002):
        log_moves(conn, job, at)
    assert f"transition_{name} emptied" in " ".join(run(conn))
    assert (jobs(conn), moves(conn)) == (set(), {5001, 5002})
    assert scalar(conn, "select count(*) from pgqueue.transition") == 6
    assert name in children(conn, "transition") - children(conn, "job_finished")
    assert run(conn) == []  # it is looked at once a day
    conn.execute("delete from pgqueue.dead_letter")
    conn.execute("update pgqueue.pruned set at = at - interval '2 days'")
    run(conn)
    assert moves(conn) == {5002}
    set_rule(conn, "history", "15 days")
    conn.execute("update pgqueue.pruned set at = at - interval '2 days'")
    run(conn)
    assert moves(conn) == set()
    assert name not in children(conn, "transition")


def test_a_day_with_very_many_unfinished_jobs_keeps_all_its_transitions(conn: Conn) -> None:
    name = add_day(conn, 20, "transition")
    conn.execute(
        "insert into pgqueue.job_live (id, task, queue, run_at)"
        " select n, 't', 'q', now() + '40 days' from generate_series(1, 10001) as n"
    )
    conn.execute(
        "insert into pgqueue.transition (job_id, to_state, at)"
        " select n, 'pending', %s from generate_series(1, 10002) as n",
        [noon(today(conn) - timedelta(days=20))],
    )
    assert run(conn) == []
    assert scalar(conn, f"select count(*) from pgqueue.transition_{name}") == 10002


def test_a_partition_of_several_days_goes_when_the_last_of_them_is_old(conn: Conn) -> None:
    young, old = add_day(conn, 20, to=5), add_day(conn, 40, to=25)
    add_job(conn, 19), add_job(conn, 39)
    kept = add_job(conn, 6)  # at noon: 7 would be too old after noon
    run(conn)
    assert jobs(conn) == {kept}  # the old ones are deleted from it
    assert young in children(conn)
    assert old not in children(conn)


def test_rows_in_the_default_partition_get_days_of_their_own_and_then_go(conn: Conn) -> None:
    add_job(conn, 12)
    assert run(conn) == []
    db.run(conn, QUERIES.partitions.split_default())
    run(conn)
    assert (jobs(conn), moves(conn)) == (set(), set())


def test_a_rule_for_a_task_or_queue_replaces_the_general_one_and_the_longest_counts(conn: Conn) -> None:
    for days in (10, 40, 100):
        add_day(conn, days)
    set_rule(conn, "succeeded", "90 days", task="audit.*")
    set_rule(conn, "succeeded", "1 hour", queue="bulk")
    set_rule(conn, "cancelled", "2 hours")
    kept = {
        add_job(conn, 40, task="audit.login"),
        add_job(conn, 40, task="audit.login", queue="bulk"),
        add_job(conn, 0.02, queue="bulk"),
        add_job(conn, 0.05, state="cancelled"),
        add_job(conn, 0.2, queue="bulk_2"),
    }
    add_job(conn, 100, task="audit.login")
    add_job(conn, 40, task="auditXlogin")
    add_job(conn, 10)
    add_job(conn, 0.2, queue="bulk")
    add_job(conn, 0.2, state="cancelled")
    run(conn)
    assert (jobs(conn), moves(conn)) == (kept, kept)


@pytest.mark.parametrize("value", [None, "300 days"])
def test_what_is_kept_for_ever_or_longer_stays(conn: Conn, value: str | None) -> None:
    add_day(conn, 200)
    set_rule(conn, "succeeded", value)
    kept = add_job(conn, 200)
    add_job(conn, 200, state="cancelled")
    run(conn)
    assert (jobs(conn), moves(conn)) == ({kept}, {kept})


def test_a_sweep_goes_on_where_the_last_one_ended_and_begins_anew_under_other_rules(conn: Conn) -> None:
    add_day(conn, 2, "job_finished") if f"{today(conn) - timedelta(days=2):%Y%m%d}" not in children(
        conn, "job_finished"
    ) else None
    set_rule(conn, "cancelled", "1 hour")
    first = add_job(conn, 2)
    run(conn)
    assert jobs(conn) == {first}
    assert db.run(conn, QUERIES.retention.sweeps(True)) == []
    set_rule(conn, "succeeded", "1 hour", task="t")
    assert {sweep.block for sweep in db.run(conn, QUERIES.retention.sweeps(True))} == {0}
    run(conn)
    assert jobs(conn) == set()


def test_a_row_in_room_that_became_free_goes_when_its_day_is_over(conn: Conn) -> None:
    day = add_day(conn, 3, "job_finished")
    set_rule(conn, "succeeded", "1 hour", queue="bulk")
    kept = add_job(conn, 3)
    run(conn)
    conn.execute("update pgqueue.pruned set closed = false")  # as if the sweep had been within the day
    add_job(conn, 3, queue="bulk")
    run(conn)
    assert jobs(conn) == {kept}
    assert scalar(conn, "select bool_and(closed) from pgqueue.pruned where relation = %s", f"job_finished_{day}")


def test_ticks_and_operations_go_after_ninety_days_but_the_last_tick_of_each_schedule_stays(conn: Conn) -> None:
    for schedule, days, outcome in (
        ("often", 91, "missed"), ("often", 92, "missed"), ("often", 93, "queued"), ("often", 10, "missed"),
        ("yearly", 200, "missed"), ("yearly", 565, "missed"),
    ):  # fmt: skip
        conn.execute(
            "insert into pgqueue.schedule_fire (schedule, tick, outcome)"
            " values (%s, now() - make_interval(days => %s), %s)",
            [schedule, days, outcome],
        )
    for days in (None, 80, 100):
        conn.execute(
            "insert into pgqueue.operation (kind, filter, ended_at)"
            " values ('redrive', '{}', now() - make_interval(days => %s))",
            [days],
        )
    assert run(conn) == ["schedule_fire deleted 3", "operation deleted 1"]
    left = "select schedule, extract(day from now() - tick)::int from pgqueue.schedule_fire order by 1, 2"
    assert conn.execute(left).fetchall() == [("often", 10), ("often", 93), ("yearly", 200)]
    assert scalar(conn, "select count(*) from pgqueue.operation") == 2


def test_dead_letters_go_only_where_a_rule_says_so(conn: Conn) -> None:
    for job, days, task in ((1, 100, "a"), (2, 100, "b"), (3, 5, "b")):
        at = scalar(conn, "select now() - make_interval(days => %s)", days)
        conn.execute(
            "insert into pgqueue.dead_letter (id, task, queue, reason, failed_at, created_at)"
            " values (%s, %s, 'q', 'x', %s, %s)",
            [job, task, at, at],
        )
        log_moves(conn, job, at)
    assert run(conn) == []
    set_rule(conn, "failed", "30 days", task="b")
    assert run(conn) == ["dead_letter deleted 1"]
    assert {row[0] for row in conn.execute("select id from pgqueue.dead_letter").fetchall()} == {1, 3} == moves(conn)


def finish_one(conn: Conn) -> None:
    """Enqueue, claim and resolve a job, as a worker does."""
    db.run(conn, QUERIES.jobs.enqueue([new_job(run_at=datetime(2026, 1, 1, tzinfo=UTC))]))
    (job,) = claim(conn)
    assert db.run(conn, QUERIES.jobs.resolve([(job, Resolution("succeed"))])) == {job.id}


# Retention without the look at who holds locks.
BLIND = """create or replace function pgqueue.held_for_long(relations oid[]) returns boolean
    language sql as 'select false'"""


def waits_for_locks(conn: Conn) -> None:
    """Let retention wait for locks as long as a test needs to see it, and not look before whether it will get them."""
    for function in ("empty_partition", "drop_partition"):
        conn.execute(f"alter function pgqueue.{function} set lock_timeout = '20s'".encode())
    conn.execute(BLIND)


def test_a_reader_of_the_history_is_not_waited_for_and_the_day_goes_when_it_has_read(conn: Conn, connect: Open) -> None:
    name = add_day(conn, 20)
    add_job(conn, 20)
    reader = connect()
    reader.execute("set transaction isolation level repeatable read")
    assert scalar(reader, "select count(*) from pgqueue.job_finished") == 1
    with at_once(conn):
        done: list[str] = []
        assert not follow(conn, prune(QUERIES, lambda p: done.append(f"{p.name} {p.how}"), lambda: True))
    assert done == [f"transition_{name} emptied", f"transition_{name} dropped"]
    assert scalar(reader, "select count(*) from pgqueue.job_finished") == 1
    reader.rollback()
    assert run(conn)
    assert name not in children(conn, "job_finished")


def test_emptying_waits_for_a_reader_of_that_day_alone_and_no_insert_waits_for_it(
    conn: Conn, connect: Open, dsn: str
) -> None:
    name = add_day(conn, 20)
    add_job(conn, 20)
    waits_for_locks(conn)
    reader, writer = connect(), connect()
    reader.execute(f"select count(*) from pgqueue.job_finished_{name}".encode())
    with psycopg.connect(dsn, autocommit=True) as own:
        emptying = InThread(lambda: db.run(own, QUERIES.retention.empty_partition(f"job_finished_{name}")))
        wait_blocked(conn, own, reader)
        with at_once(writer):
            finish_one(writer)
        writer.commit()
        assert not emptying.done
        reader.rollback()
        assert emptying.result() is True


def test_dropping_waits_for_a_resolve_in_flight_and_deadlocks_with_none(conn: Conn, connect: Open, dsn: str) -> None:
    name = add_day(conn, 20)
    waits_for_locks(conn)
    first, second = connect(), connect()
    finish_one(first)
    with psycopg.connect(dsn, autocommit=True) as own:
        dropping = InThread(lambda: db.run(own, QUERIES.retention.drop_partition(f"job_finished_{name}")))
        wait_blocked(conn, own, first)
        finishing = InThread(lambda: finish_one(second))
        wait_blocked(conn, second, own)
        first.commit()
        assert dropping.result() is True
        finishing.result()
    second.commit()
    assert len(jobs(conn)) == 2


def test_dropping_gives_up_at_once_on_a_long_transaction_and_after_a_moment_on_one_that_it_did_not_see(
    conn: Conn, connect: Open
) -> None:
    name = add_day(conn, 20)
    holder = connect()
    finish_one(holder)
    drop = QUERIES.retention.drop_partition(f"job_finished_{name}")
    conn.execute("alter function pgqueue.drop_partition set lock_timeout = '20s'")
    with at_once(conn):
        assert db.run(conn, drop) is False
    conn.execute("alter function pgqueue.drop_partition set lock_timeout = '50ms'")
    conn.execute(BLIND)
    with at_once(conn):
        assert db.run(conn, drop) is False
    holder.commit()
    assert db.run(conn, drop) is True


def test_the_lock_of_a_history_is_tried_for_once_in_a_run(
    conn: Conn, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long report must not be met by one attempt for each of a hundred old days."""
    for days_ago in (20, 21, 22):
        add_day(conn, days_ago)
    tried: list[str] = []
    drop = type(QUERIES.retention).drop_partition
    monkeypatch.setattr(
        type(QUERIES.retention), "drop_partition", lambda self, name: (tried.append(name), drop(self, name))[1]
    )
    connect().execute("select from pgqueue.transition limit 1")
    assert follow(conn, prune(QUERIES, lambda _: None, lambda: True)) is False
    histories = [name.rsplit("_", 1)[0] for name in tried]
    assert {name: histories.count(name) for name in histories} == {"transition": 1, "job_finished": 3}


def test_a_reader_of_one_day_keeps_it_from_being_dropped_and_inserts_wait_for_nothing(
    conn: Conn, connect: Open
) -> None:
    name = add_day(conn, 20)
    waits_for_locks(conn)
    reader, writer = connect(), connect()
    reader.execute(f"select count(*) from only pgqueue.job_finished_{name}".encode())
    with at_once(conn):
        assert db.run(conn, QUERIES.retention.drop_partition(f"job_finished_{name}")) is False
    with at_once(writer):
        finish_one(writer)


@pytest.mark.parametrize("verb", ["empty_partition", "drop_partition"])
def test_retention_and_the_making_of_partitions_exclude_each_other(conn: Conn, connect: Open, verb: str) -> None:
    name = add_day(conn, 20)
    if verb == "empty_partition":
        add_job(conn, 20)
    maker, other = connect(), connect()
    retire = getattr(QUERIES.retention, verb)(f"job_finished_{name}")
    db.run(maker, QUERIES.partitions.make())
    with at_once(other):
        assert db.run(other, retire) is False
    other.rollback()
    maker.commit()
    assert db.run(other, retire) is True
    with at_once(maker):
        db.run(maker, QUERIES.partitions.make())
    maker.rollback()
    other.commit()


def test_a_sweep_leaves_what_another_transaction_has_locked_and_what_another_sweep_does(
    conn: Conn, connect: Open
) -> None:
    add_day(conn, 3)
    set_rule(conn, "succeeded", "1 hour", queue="bulk")
    locked, free = add_job(conn, 3, queue="bulk"), add_job(conn, 3, queue="bulk")
    other, sweeper = connect(), connect()
    other.execute("update pgqueue.job_finished set result = null where id = %s", [locked])
    (sweep,) = [s for s in db.run(conn, QUERIES.retention.sweeps(True)) if s.blocks]
    with at_once(sweeper):
        assert db.run(sweeper, QUERIES.retention.sweep(sweep)) == (1, True, True)
    with at_once(conn):
        assert db.run(conn, QUERIES.retention.sweep(sweep)) == (0, False, False)
    sweeper.commit()
    other.commit()
    assert (jobs(conn), free in moves(conn)) == ({locked}, False)


def test_the_turn_is_taken_by_one_process_within_twenty_seconds(conn: Conn, connect: Open) -> None:
    turn = QUERIES.retention.take_turn(20.0)
    first, second = connect(), connect()
    assert [db.run(conn, turn), db.run(conn, turn)] == [True, False]
    conn.execute("update pgqueue.pruned set at = at - interval '21 seconds'")
    assert db.run(first, turn) is True
    with at_once(second):
        assert db.run(second, turn) is False
    second.rollback()
    first.commit()
    assert db.run(second, turn) is False


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "INTERVAL", "AGAIN", "TURN"):
        monkeypatch.setattr(pruner, name, 0.0)


def test_a_worker_without_the_turn_prunes_nothing(conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add_day(conn, 20)
    kept = add_job(conn, 20)
    app, (own, chores) = App(dsn), (Link(db.Database(dsn), f"pgqueue test {name}") for name in ("prune", "chores"))
    duty = pruner.Pruner(own, chores, SimpleNamespace(app=app, queries=app.queries))  # type: ignore[arg-type]
    db.run(conn, QUERIES.retention.take_turn(20.0))

    async def steps() -> None:
        await duty.step()  # it declares
        await duty.step()
        await chores.close()

    asyncio.run(steps())
    assert jobs(conn) == {kept}
    app.close()


def test_a_rule_that_counts_keeps_about_so_many_and_no_fewer(conn: Conn, dsn: str, soon: None) -> None:
    """Ten of each task ended an hour apart: three of each stay, and those of the time of a quarter more."""
    ended = (
        "insert into pgqueue.activity (at, worker_id, task, queue, outcome, jobs, run_seconds, wait_seconds,"
        " run_counts, wait_counts) values (now() - make_interval(hours => %s, secs => 30), gen_random_uuid(), %s,"
        " 'default', 'succeeded', 1, 0, 0, '{}', '{}')"
    )
    for task in ("counted.a", "counted_b", "other"):
        for hours in range(10):
            add_job(conn, (hours + 0.01) / 24, task=task)
            conn.execute(ended, (hours, task))
    few = {"succeeded": Keep(3, "5d")}
    app = App(
        dsn, name="shop:app", retention={"succeeded": "5d", "tasks": {"counted.*": few, "counted_b": few["succeeded"]}}
    )

    def left() -> dict[str, int]:
        found = conn.execute("select task, count(*) from pgqueue.job_finished group by task").fetchall()
        return {str(task): int(count) for task, count in found}

    asyncio.run(work(app, lambda: left().get("counted_b", 10) < 10 and left().get("counted.a", 10) < 10))
    assert left()["other"] == 10
    assert 3 <= left()["counted.a"] <= 4
    assert 3 <= left()["counted_b"] <= 4
    ages = {rule.task: rule.age for rule in app.pruning.rules() if rule.name == "succeeded"}
    assert ages["*"] == timedelta(days=5)
    assert timedelta(hours=2) < (ages["counted.*"] or timedelta()) < timedelta(hours=4)
    app.close()


def test_where_fewer_jobs_end_than_are_kept_their_age_counts(conn: Conn, dsn: str) -> None:
    rules = App(retention={"tasks": {"rare": Keep(5, "2h")}, "queues": {"q": Keep(1, "1d")}}).retention_rules
    assert follow(conn, shortened(QUERIES, rules)) == rules
    conn.execute(
        "insert into pgqueue.activity (at, worker_id, task, queue, outcome, jobs, run_seconds, wait_seconds,"
        " run_counts, wait_counts) values (now(), gen_random_uuid(), 'rare', 'q', 'expired', 1, 0, 0, '{}', '{}')"
    )
    found = {(rule.name, rule.queue, rule.task): rule.seconds for rule in follow(conn, shortened(QUERIES, rules))}
    assert found == {
        ("succeeded", "*", "rare"): 7200, ("cancelled", "*", "rare"): 7200, ("succeeded", "q", "*"): 86400,
        ("cancelled", "q", "*"): 60,
    }  # fmt: skip


def test_a_worker_prunes_and_declares_what_its_code_says(conn: Conn, dsn: str, soon: None) -> None:
    add_day(conn, 20)
    add_job(conn, 20)
    kept = add_job(conn, 20, task="audit.login")
    conn.execute("insert into pgqueue.setting (name, value) values ('retention.cancelled', '3 days')")
    app = App(dsn, name="shop:app", retention={"cancelled": "1d", "tasks": {"audit.*": "90d"}, "queues": {"b": 0}})
    asyncio.run(work(app, lambda: jobs(conn) == {kept}))
    rules = {(rule.name, rule.task): rule for rule in app.pruning.rules()}
    assert (rules["cancelled", "*"].age, rules["cancelled", "*"].set_by) == (
        timedelta(days=3),
        scalar(conn, "select session_user::text"),
    )
    audit, general = rules["succeeded", "audit.*"], rules["succeeded", "*"]
    assert (audit.age, audit.set_by) == (timedelta(days=90), "code of shop:app")
    assert (general.age, general.set_by) == (timedelta(days=7), "default")
    assert (app.pruning.unset("cancelled"), app.pruning.unset("cancelled")) == (True, False)
    ages = {(rule.name, rule.task): rule.age for rule in app.pruning.rules()}
    assert ages["cancelled", "*"] == timedelta(days=1)
    again = App(dsn, name="shop:app", retention={"succeeded": "forever"})
    asyncio.run(work(again, lambda: "audit.*" not in {rule.task for rule in again.pruning.rules()}))
    ages = {(rule.name, rule.task): rule.age for rule in again.pruning.rules()}
    assert (ages["cancelled", "*"], ages["succeeded", "*"]) == (timedelta(days=7), None)
    app.close(), again.close()


def test_a_role_that_owns_nothing_deletes_in_batches_and_says_nothing(
    conn: Conn, dsn: str, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    name = add_day(conn, 20)
    gone, kept = add_job(conn, 20), add_job(conn, 2)
    role = scalar(conn, "select 'r' || substr(md5(random()::text), 1, 8)")
    conn.execute(
        f"""create role {role} login; grant usage on schema pgqueue to {role};
        grant usage on sequence pgqueue.job_id to {role};
        grant select, insert, update, delete on all tables in schema pgqueue to {role}""".encode()
    )
    caplog.set_level(logging.WARNING, "pgqueue")
    app = App(psycopg.conninfo.make_conninfo(dsn, user=role, password="any"))
    asyncio.run(work(app, lambda: jobs(conn) == {kept}))
    app.close()
    assert (gone in moves(conn), name in children(conn)) == (False, True)
    assert [r.getMessage() for r in caplog.records if "prune" in r.getMessage()] == []
    conn.execute(f"drop owned by {role}; drop role {role}".encode())
    assert run(conn)
    assert name not in children(conn)
