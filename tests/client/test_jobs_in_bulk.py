"""Many jobs cancelled, retried, promoted and edited by a filter: operations that lose nothing and do nothing twice."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, DeadFilter, InvalidOption, JobFilter, Task, db
from pgqueue.client import operations
from pgqueue.client.operations import BATCH
from pgqueue.codecs import AESGCM
from pgqueue.events import WaitingJobCancelled
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.queries.operations import Operation
from pgqueue.worker.duties import operation_finisher
from tests.client.test_dead import add_dead, batch_on, begin, ids, one_batch
from tests.client.test_operator_verbs import OVER, finished_job, running_job
from tests.conftest import scalar, work
from tests.harness import QUERIES, Conn, InThread, claimed, wait_for

ADD = """insert into pgqueue.job_live (id, task, queue, args, tags, attempt, run_at, created_at)
    select i, %(task)s, %(queue)s, %(args)s, %(tags)s, %(attempt)s, now() + %(due)s::interval, now() - %(ago)s::interval
    from generate_series(%(first)s::bigint, %(last)s::bigint) as i"""


def add_jobs(conn: Conn, first: int, last: int | None = None, **columns: Any) -> None:
    """Insert jobs that wait, with these ids."""
    given: dict[str, Any] = {
        "task": "t", "queue": "default", "args": "{}", "tags": [], "attempt": 0, "due": "1 hour", "ago": "1 hour"
    }  # fmt: skip
    conn.execute(ADD, given | columns | {"first": first, "last": last or first})


FITS: list[tuple[dict[str, Any], list[int]]] = [
    ({"task": "t"}, [1, 2]),
    ({"task": "shop.*"}, [3, 4]),
    ({"task": "*"}, [1, 2, 3, 4]),
    ({"queue": "mail"}, [4]),
    ({"tag": "eu"}, [3]),
    ({"args": {"tenant": 7}}, [3, 4]),
    ({"ids": [1, 4, 99]}, [1, 4]),
    ({"since": timedelta(hours=3)}, [1, 3, 4]),
    ({"until": timedelta(hours=3)}, [2]),
    ({"state": "pending"}, [1, 2, 3, 4]),
    ({"state": "scheduled"}, [1, 2]),
    ({"state": "retrying"}, [3]),
    ({"task": "shop.*", "state": "retrying"}, [3]),
]


@pytest.mark.parametrize(("given", "expected"), FITS, ids=[str(given) for given, _ in FITS])
def test_a_list_a_preview_and_an_operation_mean_the_same_jobs(
    app: App, conn: Conn, given: dict[str, Any], expected: list[int]
) -> None:
    add_jobs(conn, 1)
    add_jobs(conn, 2, ago="5 hours")
    add_jobs(conn, 3, task="shop.send", args='{"tenant": 7, "x": [1, 2]}', tags=["eu", "vip"], attempt=1)
    add_jobs(conn, 4, task="shop.bill", queue="mail", args='{"tenant": 7}', due="-1 minute")
    moments = {name: datetime.now(UTC) - value for name, value in given.items() if isinstance(value, timedelta)}
    chosen = JobFilter(**given | moments)
    assert [job.id for job in app.jobs.preview("cancel", chosen)] == expected
    assert [job.id for job in app.jobs.list(chosen)] == expected[::-1]
    assert app.jobs.cancel(chosen).done == len(expected)
    assert ids(conn, "job_finished") == expected


def test_a_filter_that_fits_all_or_names_a_state_that_the_verb_never_takes_is_refused(app: App, conn: Conn) -> None:
    add_jobs(conn, 1)
    with pytest.raises(InvalidOption, match="every job"):
        app.jobs.cancel(JobFilter())
    with pytest.raises(InvalidOption, match="state"):
        JobFilter(state="dead")
    for verb, state in (("cancel", "failed"), ("retry", "running"), ("retry", "succeeded"), ("edit", "running")):
        with pytest.raises(InvalidOption, match=state):
            getattr(app.jobs, verb)(JobFilter(state=state), **({"priority": 1} if verb == "edit" else {}))
    assert scalar(conn, "select count(*) from pgqueue.operation") == 0


def test_waiting_jobs_end_and_running_ones_are_asked_to_stop(app: App, conn: Conn) -> None:
    seen: list[WaitingJobCancelled] = []
    app.on(WaitingJobCancelled)(seen.append)
    running = running_job(conn)
    add_jobs(conn, 500, 502)
    operation = app.jobs.cancel(JobFilter(task="t"), by="alice", limit=3)
    assert (operation.kind, operation.done, operation.skipped) == ("cancel", 3, 0)
    assert ids(conn, "job_finished") == [500, 501]
    assert app.get(500).reason == f"cancelled by alice (operation {operation.id})"
    assert app.get(running).cancel_requested_at is not None
    assert [event.job_id for event in seen] == [500, 501]
    assert app.jobs.cancel(JobFilter(task="t"), reason="tenant gone").done == 1  # it asks nobody twice
    assert app.get(502).reason == "tenant gone"


def test_a_retry_takes_what_waits_for_an_attempt_and_dead_letters_and_cancelled_jobs_only_if_they_are_named(
    app: App, conn: Conn
) -> None:
    def fill() -> None:
        conn.execute("truncate pgqueue.job_live, pgqueue.job_finished, pgqueue.dead_letter, pgqueue.operation")
        add_jobs(conn, 1)
        add_jobs(conn, 2, attempt=1)
        add_dead(conn, 3)
        finished_job(conn, 4)
        conn.execute("update pgqueue.job_finished set task = 't', created_at = now() - interval '1 hour'")
        finished_job(conn, 5, "succeeded")
        running_job(conn, id=6)

    due = "select array_agg(id order by id) from pgqueue.job_live where run_at <= now() and state = 'pending'"
    expected: list[tuple[JobFilter, list[int]]] = [
        (JobFilter(task="t"), [2, 3]), (JobFilter(state="retrying"), [2]), (JobFilter(state="failed"), [3]),
        (JobFilter(state="cancelled"), [4]), (JobFilter(ids=[1, 2, 3, 4, 5, 6]), [2, 3, 4]),
    ]  # fmt: skip
    for chosen, back in expected:
        fill()
        assert [job.id for job in app.jobs.preview("retry", chosen)] == back
        operation = app.jobs.retry(chosen, by="alice")
        assert (operation.done, operation.ended_at is not None) == (len(back), True)
        assert scalar(conn, due) == back


def test_a_retry_skips_what_the_task_no_longer_takes(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    add_dead(conn, 1, task="ship", args='{"n": "many"}')
    add_dead(conn, 2, task="ship", args='{"n": 1}')
    operation = app.jobs.retry(JobFilter(task="ship"))
    assert (operation.done, operation.skipped, ids(conn, "dead_letter")) == (1, 1, [1])


def test_a_promotion_makes_due_and_reorders(app: App, conn: Conn) -> None:
    add_jobs(conn, 1, 3)
    add_jobs(conn, 4, due="-1 hour")
    assert app.jobs.promote(JobFilter(task="t"), limit=2).done == 2
    due = "select array_agg(id order by id) from pgqueue.job_live where run_at <= now()"
    assert scalar(conn, due) == [1, 2, 4]
    assert [job.id for job in app.jobs.preview("promote", JobFilter(task="t"), priority=7)] == [1, 2, 3, 4]
    assert app.jobs.promote(JobFilter(task="t"), priority=7).done == 4
    assert scalar(conn, "select count(*) from pgqueue.job_live where priority = 7 and run_at <= now()") == 4


def test_an_edit_in_bulk_is_validated_job_by_job(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    add_jobs(conn, 1, task="ship", args='{"n": 1}')
    add_jobs(conn, 2, task="ship", args='{"n": 1, "old": 1}')
    operation = app.jobs.edit(JobFilter(task="ship"), {"n": 5}, queue="slow", run_at=OVER)
    assert (operation.done, operation.skipped) == (1, 1)
    assert operation.options == {"set": {"n": 5}, "queue": "slow", "run_at": OVER.isoformat()}
    rows = conn.execute("select args, queue, run_at from pgqueue.job_live order by id").fetchall()
    assert (rows[0], rows[1][:2]) == (({"n": 5}, "slow", OVER), ({"n": 1, "old": 1}, "default"))
    assert app.jobs.edit(JobFilter(task="ship"), priority=3).done == 2
    with pytest.raises(InvalidOption, match="nothing"):
        app.jobs.edit(JobFilter(task="ship"))


def test_an_edit_of_sealed_arguments_leaves_none_of_them_in_the_operation(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"k": b"0" * 32}))
    job = app.using(delay=3600).enqueue("t", {"card": "4711"})
    operation = app.jobs.edit(JobFilter(ids=[job.id]), {"card": "0815"})
    assert (operation.done, list(operation.options["set"])) == (1, ["$codec"])
    assert app.get(job.id).args == {"card": "0815"}
    assert "0815" not in str(conn.execute("select to_jsonb(o) from pgqueue.operation o").fetchall())
    app.close()


@pytest.mark.parametrize("verb", ["cancel", "retry", "promote", "edit"])
def test_an_operation_whose_client_was_killed_is_finished_by_a_worker_and_nothing_is_done_twice(
    app: App, conn: Conn, dsn: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_finisher, "ABANDONED", 0.0)
    add_jobs(conn, 1, 2 * BATCH + 7, attempt=1 if verb == "retry" else 0, queue="unserved")
    options = {"priority": 3} if verb == "edit" else {}
    operation = begin(conn, JobFilter(task="t"), verb, **options)
    one_batch(app, dsn)
    assert app.operations.get(operation).done == BATCH
    ended = "select ended_at is not null from pgqueue.operation"
    asyncio.run(work(app, lambda: scalar(conn, ended), queues=["default"]))
    assert app.operations.get(operation).done == 2 * BATCH + 7
    logged = "select count(*), count(distinct job_id) from pgqueue.transition"
    assert conn.execute(logged).fetchone() == (2 * BATCH + 7, 2 * BATCH + 7)


def test_jobs_enqueued_after_an_operation_began_are_left_alone(app: App, conn: Conn, dsn: str) -> None:
    add_jobs(conn, 1, BATCH)
    operation = begin(conn, JobFilter(task="t"), "cancel")
    add_jobs(conn, 9000, ago="-1 second")
    while one_batch(app, dsn) is not None:
        pass
    assert (app.operations.get(operation).done, ids(conn, "job_live")) == (BATCH, [9000])


def held(conn: Conn, first: int, last: int) -> None:
    """Lock jobs in a transaction, as an application does that forgets to commit."""
    conn.execute("select from pgqueue.job_live where id between %s and %s for update", (first, last))


def test_an_operation_does_not_wait_for_a_job_that_an_open_transaction_holds_and_comes_back_to_it(
    app: App, conn: Conn, dsn: str
) -> None:
    add_jobs(conn, 1, BATCH + 10)
    seen: list[tuple[int, list[int]]] = []
    with psycopg.connect(dsn) as other:
        held(other, 3, 4)

        def watch(operation: Operation) -> None:
            seen.append((operation.done, list(operation.locked)))

        call = InThread(lambda: app.jobs.cancel(JobFilter(task="t"), on_batch=watch))
        wait_for(lambda: seen and seen[-1][0] == BATCH + 8, "all but the two that are held")
        assert ids(conn, "job_live") == [3, 4]
        other.rollback()
        operation = call.result()
    assert (operation.done, operation.skipped, list(operation.locked)) == (BATCH + 10, 0, [])
    assert ids(conn, "job_live") == []
    assert seen[0][1] == [3, 4]


def test_a_client_gives_up_on_jobs_that_are_held_for_long_and_a_worker_does_them_later(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "PATIENCE", 0.1)
    monkeypatch.setattr(operations, "PAUSE", 0.05)
    monkeypatch.setattr(operation_finisher, "ABANDONED", 0.0)
    monkeypatch.setattr(operation_finisher, "INTERVAL", 0.01)
    add_jobs(conn, 1, 5)
    with psycopg.connect(dsn) as other:
        held(other, 3, 3)
        operation = app.jobs.cancel(JobFilter(task="t"))
        assert (operation.done, operation.state, operation.locked) == (4, "running", [3])
        looked = "select moved_at from pgqueue.operation"
        before = scalar(conn, looked)

        def released() -> bool:
            if scalar(conn, looked) > before:  # a worker has looked, and goes on with other things
                other.rollback()
            return bool(scalar(conn, "select ended_at is not null from pgqueue.operation"))

        asyncio.run(work(app, released))
    assert (app.operations.get(operation.id).done, ids(conn, "job_live")) == (5, [])


def test_a_job_that_changes_while_it_is_held_is_judged_as_it_is_then(app: App, conn: Conn, dsn: str) -> None:
    add_jobs(conn, 1, 3, queue="old")
    operation = begin(conn, JobFilter(queue="old"), "cancel")
    with psycopg.connect(dsn) as other:
        held(other, 2, 2)
        one_batch(app, dsn)
        assert app.operations.get(operation).locked == [2]
        other.execute("update pgqueue.job_live set queue = 'new' where id = 2")
        other.commit()
    one_batch(app, dsn)
    found = app.operations.get(operation)
    assert (found.done, found.ended_at is not None, ids(conn, "job_live")) == (2, True, [2])


def test_more_jobs_may_be_held_than_an_operation_remembers(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MOST_LOCKED", 3)
    monkeypatch.setattr(operations, "BATCH", 2)
    add_jobs(conn, 1, 20)
    operation = begin(conn, JobFilter(task="t"), "cancel")
    with psycopg.connect(dsn) as other:
        held(other, 1, 8)
        for _ in range(6):
            one_batch(app, dsn)
        found = app.operations.get(operation)
        assert (found.done, sorted(found.locked), found.reached) == (0, [1, 2, 3, 4], 4)
        other.rollback()
    while one_batch(app, dsn) is not None:
        pass
    assert (app.operations.get(operation).done, ids(conn, "job_live")) == (20, [])


def test_two_operations_on_one_job_do_it_once_each_in_turn(app: App, conn: Conn, dsn: str) -> None:
    add_jobs(conn, 1, 5)
    first, second = begin(conn, JobFilter(task="t"), "cancel"), begin(conn, JobFilter(task="t"), "promote")
    with psycopg.connect(dsn) as a, psycopg.connect(dsn) as b:
        batch_on(a, app, first)
        b.execute("set lock_timeout = '1ms'")
        assert batch_on(b, app, second) == second  # it does not wait
        b.commit()
        assert app.operations.get(second).locked == [1, 2, 3, 4, 5]
        a.commit()
        assert batch_on(b, app, second) is None
        b.commit()
    assert (app.operations.get(first).done, app.operations.get(second).done) == (5, 0)
    assert scalar(conn, "select count(*) from pgqueue.transition") == 5


def test_a_cancellation_in_bulk_leaves_a_job_that_is_being_resolved_and_then_finds_it_gone(
    app: App, conn: Conn, dsn: str
) -> None:
    job = running_job(conn)
    operation = begin(conn, JobFilter(task="t"), "cancel")
    with psycopg.connect(dsn) as worker:
        assert db.run(worker, QUERIES.jobs.resolve([(claimed(job, 1), PLAIN_SUCCESS)])) == {job}
        one_batch(app, dsn)
        assert app.operations.get(operation).locked == [job]
        worker.commit()
    one_batch(app, dsn)
    assert (app.operations.get(operation).done, app.get(job).state) == (0, "succeeded")


VERBS: dict[str, Callable[[App, Conn], Operation]] = {
    "redrive": lambda app, conn: app.dead.using(conn).redrive(DeadFilter(task="t"), limit=2),
    "discard": lambda app, conn: app.dead.using(conn).discard(DeadFilter(task="t"), reason="old", limit=2),
    "cancel": lambda app, conn: app.jobs.using(conn).cancel(JobFilter(task="t"), limit=2),
    "promote": lambda app, conn: app.jobs.using(conn).promote(JobFilter(task="t"), limit=2),
}


@pytest.mark.parametrize("verb", VERBS)
def test_in_the_callers_transaction_an_operation_is_part_of_it(app: App, conn: Conn, dsn: str, verb: str) -> None:
    def fill() -> None:
        add_dead(conn, 1, 5) if verb in ("redrive", "discard") else add_jobs(conn, 1, 5)

    fill()
    conn.execute("create table public.note (n int)")
    before = conn.execute("select id, state, run_at from pgqueue.job order by id").fetchall()
    with psycopg.connect(dsn) as borrowed:
        borrowed.execute("insert into public.note values (1)")
        assert VERBS[verb](app, borrowed).done == 2
        borrowed.rollback()
        assert conn.execute("select id, state, run_at from pgqueue.job order by id").fetchall() == before
        assert scalar(conn, "select count(*) from pgqueue.operation") == 0
        borrowed.execute("insert into public.note values (1)")
        operation = VERBS[verb](app, borrowed)
        borrowed.commit()
    assert (operation.done, operation.state, scalar(conn, "select count(*) from public.note")) == (2, "ended", 1)
    assert scalar(conn, "select count(*) from pgqueue.transition") == 2


def test_in_the_callers_transaction_a_limit_is_needed_and_what_others_hold_is_skipped(
    app: App, conn: Conn, dsn: str
) -> None:
    add_dead(conn, 1, 3)
    with psycopg.connect(dsn) as borrowed, psycopg.connect(dsn) as other:
        for limit in (None, 10_001):
            with pytest.raises(InvalidOption, match="limit=1 to 10000"):
                app.dead.using(borrowed).redrive(DeadFilter(task="t"), limit=limit)
        other.execute("select from pgqueue.dead_letter where id = 2 for update")
        operation = app.dead.using(borrowed).redrive(DeadFilter(task="t"), limit=10)
        borrowed.commit()
    assert (operation.done, operation.skipped, operation.ended_at is not None) == (2, 1, True)
    assert ids(conn, "dead_letter") == [2]


def test_the_async_twins_do_the_same(app: App, conn: Conn, dsn: str) -> None:
    add_jobs(conn, 1, 4)

    async def run() -> list[object]:
        chosen = JobFilter(task="t")
        done = [
            (await app.jobs.apromote(chosen, limit=1)).done,
            (await app.jobs.aedit(chosen, priority=2, limit=2)).done,
        ]
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            done.append((await app.jobs.using(conn).acancel(chosen, limit=3)).done)
        return [
            *done,
            len(await app.jobs.alist(chosen, 10)),
            (await app.jobs.aretry(JobFilter(state="cancelled"))).done,
        ]

    assert asyncio.run(run()) == [1, 2, 3, 4, 3]


def test_an_operation_of_a_kind_of_a_later_release_is_left_to_that(app: App, conn: Conn) -> None:
    conn.execute("alter table pgqueue.operation drop constraint operation_kind_check")
    conn.execute("insert into pgqueue.operation (kind, filter) values ('tidy', '{\"task\": \"t\"}')")
    assert db.run(conn, QUERIES.operations.find_abandoned(["cancel"], 0.0)) is None
    with pytest.raises(InvalidOption, match="no such kind"):
        app.operations.resume(1)
