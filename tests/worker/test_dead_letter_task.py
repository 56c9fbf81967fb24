"""`dead_letter_task=`: a job is enqueued in the transaction that writes the dead letter, whoever writes it."""

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, DeadFilter, InvalidOption, InvalidTask, db
from pgqueue.codecs import AESGCM
from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.scheduler import SchedulerSettings, Ticker, declare
from pgqueue.worker.duties.outcome_writer import OutcomeWriter
from tests.conftest import drain, scalar, shown, work
from tests.harness import QUERIES, WORKER, Conn, add_worker, claimed, insert_job
from tests.worker.test_crashes import crash

Told = list[dict[str, Any]]


def failing(app: App, name: str = "shop.send", **options: Any) -> Any:
    """A task that fails at once."""

    @app.task(name=name, **{"max_attempts": 1, "dead_letter_task": "ops.notify"} | options)
    async def fail(n: int = 0) -> None:
        raise TimeoutError("card reader 17")

    return fail


@pytest.fixture
def told(app: App) -> Told:
    """What the task `ops.notify` was called with."""
    told: Told = []

    @app.task(name="ops.notify", queue="ops", priority=7, max_attempts=3)
    async def notify(
        ctx: Context, job_id: int, task: str, queue: str, reason: str, error: str | None, fingerprint: str
    ) -> None:
        told.append(
            {"job_id": job_id, "task": task, "queue": queue, "reason": reason, "error": error}
            | {"fingerprint": fingerprint, "headers": ctx.headers}
        )

    return told


def run(app: App, conn: Conn, dead: int, **settings: Any) -> None:
    """Run a worker until there are so many dead letters."""
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) from pgqueue.dead_letter") == dead, **settings))


def named(job: int, task: str) -> ClaimedJob:
    """A job as its worker has it."""
    return replace(claimed(job, 1), task=task)


def waiting(conn: Conn) -> list[tuple[Any, ...]]:
    """The jobs of dead-letter tasks that wait."""
    return conn.execute(
        "select task, queue, priority, max_attempts, args ->> 'job_id' from pgqueue.job_live"
        " where headers ? '$dead_letter' order by id"
    ).fetchall()


def test_the_task_is_called_with_the_dead_letter_and_without_its_arguments(app: App, conn: Conn, told: Told) -> None:
    job = failing(app, queue="bulk").enqueue(4711)
    drain(app, conn, queues=["bulk", "ops"])
    fingerprint = scalar(conn, "select fingerprint from pgqueue.dead_letter")
    assert told == [
        {"job_id": job.id, "task": "shop.send", "queue": "bulk", "reason": "exhausted", "error": "TimeoutError",
         "fingerprint": fingerprint, "headers": {}}
    ]  # fmt: skip
    row = "select queue, priority, max_attempts, args::text from pgqueue.job_finished"
    queue, priority, attempts, args = conn.execute(row).fetchall()[0]
    assert (queue, priority, attempts) == ("ops", 7, 3)
    assert "4711" not in args
    assert "card reader" not in args
    moves = "select array_agg(to_state order by at) from pgqueue.transition where job_id > %s"
    assert scalar(conn, moves, job.id) == ["pending", "running", "succeeded"]


def test_the_app_has_a_dead_letter_task_for_all_its_tasks_but_those_that_want_none(dsn: str, conn: Conn) -> None:
    app = App(dsn, dead_letter_task="ops.notify", queue="mine")
    jobs = [failing(app, name, **options).enqueue().id for name, options in [
        ("a", {"dead_letter_task": None}), ("b", {"dead_letter_task": False}), ("c", {"dead_letter_task": "other"}),
    ]]  # fmt: skip
    run(app, conn, 3, queues=["mine"])
    assert sorted(waiting(conn)) == [
        ("ops.notify", "mine", 0, 20, str(jobs[0])),
        ("other", "mine", 0, 20, str(jobs[2])),
    ]
    app.close()


def test_the_name_may_be_known_to_other_apps_only(app: App, conn: Conn) -> None:
    failing(app).enqueue()
    run(app, conn, 1)
    assert [row[:2] for row in waiting(conn)] == [("ops.notify", "default")]


def test_a_dead_letter_of_the_task_itself_has_none(dsn: str, conn: Conn) -> None:
    app = App(dsn, dead_letter_task="ops.notify")
    failing(app)

    @app.task(name="ops.notify", max_attempts=1)
    async def notify(job_id: int, task: str, queue: str, reason: str, error: str | None, fingerprint: str) -> None:
        raise ConnectionError("mail")

    app.enqueue("shop.send")
    app.enqueue("ops.notify", dict.fromkeys(("task", "queue", "reason", "error", "fingerprint"), "x") | {"job_id": 1})
    run(app, conn, 3)
    assert sorted(r[0] for r in conn.execute("select task from pgqueue.dead_letter").fetchall()) == [
        "ops.notify", "ops.notify", "shop.send",
    ]  # fmt: skip
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0
    app.close()


def test_two_tasks_that_name_each_other_do_not_call_each_other_for_ever(app: App, conn: Conn) -> None:
    async def fail(job_id: int, task: str, queue: str, reason: str, error: str | None, fingerprint: str) -> None:
        raise ConnectionError("mail")

    for name, other in (("a", "b"), ("b", "a")):
        app.task(name=name, max_attempts=1, dead_letter_task=other)(fail)
    app.enqueue("a", dict.fromkeys(("task", "queue", "reason", "error", "fingerprint"), "x") | {"job_id": 1})
    run(app, conn, 2)
    assert sorted(r[0] for r in conn.execute("select task from pgqueue.dead_letter").fetchall()) == ["a", "b"]
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0


def test_the_worker_that_runs_a_job_goes_by_its_own_task_also_for_jobs_of_plain_sql(app: App, conn: Conn) -> None:
    failing(app, no_retry_on=TimeoutError)
    failing(app, "quiet", dead_letter_task=None)
    conn.execute("select pgqueue.enqueue('shop.send', '{}')")
    insert_job(conn, task="quiet", max_attempts=1, headers='{"$dead_letter_task": {"task": "x", "queue": "q"}}')
    run(app, conn, 2)
    assert [row[0] for row in waiting(conn)] == ["ops.notify"]


def test_a_job_that_comes_back_and_fails_again_is_told_of_again(app: App, conn: Conn, told: Told) -> None:
    job = failing(app).enqueue()
    drain(app, conn, queues=["default", "ops"])
    app.dead.redrive(DeadFilter(ids=[job.id]))
    drain(app, conn, queues=["default", "ops"])
    assert [one["job_id"] for one in told] == [job.id] * 2


def test_an_outcome_that_is_written_twice_is_told_of_once(app: App, conn: Conn) -> None:
    """The answer of the first commit was lost: the same outcome is written again, and the fence refuses it."""
    failing(app)
    columns: dict[str, Any] = {"state": "running", "worker_id": WORKER, "lease": 1, "attempt": 1}
    job = insert_job(conn, task="shop.send", claimed_at="2026-01-01Z", **columns)
    outcome = (named(job, "shop.send"), Resolution("dead_letter", "exhausted"))

    async def body() -> list[set[int]]:
        link, writer = Link(app.database, "test"), OutcomeWriter(app)
        written = [await writer.write(link, [outcome]) for _ in range(2)]
        await link.close()
        return written

    assert asyncio.run(body()) == [{job}, set()]
    assert len(waiting(conn)) == 1


def test_the_job_and_the_dead_letter_are_written_together_or_not_at_all(app: App, conn: Conn) -> None:
    failing(app)
    columns: dict[str, Any] = {"state": "running", "worker_id": WORKER, "lease": 1, "attempt": 1}
    job = insert_job(conn, task="shop.send", claimed_at="2026-01-01Z", **columns)
    conn.execute("alter table pgqueue.job_live add constraint no_more check (task <> 'ops.notify')")

    async def body() -> None:
        link = Link(app.database, "test")
        try:
            await OutcomeWriter(app).write(link, [(named(job, "shop.send"), Resolution("dead_letter", "exhausted"))])
        finally:
            await link.close()

    with pytest.raises(psycopg.errors.CheckViolation, match="no_more"):
        asyncio.run(body())
    assert scalar(conn, "select state from pgqueue.job where id = %s", job) == "running"


def test_a_worker_of_another_app_enqueues_the_job_when_it_rescues(app: App, conn: Conn, told: Told) -> None:
    send = failing(app, max_crashes=1)
    jobs = [
        send.enqueue().id,
        *send.enqueue_many([{"n": 1}]),
        send.using(idempotency_key="a").enqueue(n=2).id,
        send.using(expires=60).enqueue(n=3).id,
        *send.using(idempotency_key=lambda n: str(n)).enqueue_many([{"n": 4}, {"n": 5}]),
        *send.using(unique_key="u").enqueue_many([{"n": 6}]),
    ]
    worker = add_worker(conn, lost=True)
    conn.execute(
        "update pgqueue.job_live set state = 'running', worker_id = %s, claimed_at = now(), lease = 1, attempt = 1",
        (worker,),
    )
    asyncio.run(work(App(app.dsn), lambda: scalar(conn, "select count(*) from pgqueue.dead_letter") == len(jobs)))
    assert waiting(conn) == [("ops.notify", "ops", 7, 3, str(job)) for job in sorted(jobs)]
    drain(app, conn, queues=["ops"])
    assert {(one["reason"], one["error"], one["fingerprint"]) for one in told} == {
        ("crashed", "pgqueue.WorkerLost", "crashed shop.send")
    }


def test_a_worker_that_knows_the_task_rescues_by_its_own_setting(app: App, conn: Conn) -> None:
    jobs = [crash(conn, task=t, headers='{"$max_crashes": 1, "$dead_letter_task": {"task": "x"}}') for t in ("t", "u")]
    db.run(conn, QUERIES.jobs.rescue(WORKER))
    assert db.run(conn, QUERIES.jobs.enqueue_dead_letter_tasks(jobs, {"t": None})) == 1
    assert [row[-1] for row in waiting(conn)] == [str(jobs[1])]


@pytest.mark.parametrize(
    "said",
    ['"x"', "null", "[1]", "7", "{}", '{"task": ""}', '{"task": 7, "queue": ""}', '{"task": "x", "queue": [1]}',
     '{"task": "x", "priority": "1e9", "max_attempts": -1}', '{"task": "%s"}' % ("x" * 300)],
    ids=shown,
)  # fmt: skip
def test_a_header_that_sql_wrote_breaks_no_rescue(conn: Conn, said: str) -> None:
    job = crash(conn, headers=f'{{"$max_crashes": 1, "$dead_letter_task": {said}}}')
    db.run(conn, QUERIES.jobs.rescue(WORKER))
    db.run(conn, QUERIES.jobs.enqueue_dead_letter_tasks([job], {}))
    assert scalar(conn, "select state from pgqueue.job where id = %s", job) == "failed"
    assert all((row[2], row[3]) == (0, 20) for row in waiting(conn))


def test_a_schedule_gives_its_jobs_the_dead_letter_task(app: App, conn: Conn, told: Told) -> None:
    app.schedule(3600)(failing(app))

    async def fire() -> None:
        link = Link(app.database, "test")
        await declare(app, link)
        conn.execute("update pgqueue.schedule set next_tick = '2026-01-01Z'")
        assert await Ticker(App(app.dsn), link, SchedulerSettings()).fire() == 1
        await link.close()

    asyncio.run(fire())
    header = scalar(conn, "select headers -> '$dead_letter_task' from pgqueue.job_live")
    assert header == {"task": "ops.notify", "queue": "ops", "priority": 7, "max_attempts": 3}


def test_a_codec_keeps_messages_out_of_the_job(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"k": b"0" * 32}))
    failing(app).enqueue()
    run(app, conn, 1)
    assert scalar(conn, "select args ->> 'error' from pgqueue.job_live") in (None, "TimeoutError")
    assert "card reader" not in scalar(conn, "select args::text from pgqueue.job_live")
    app.close()


def test_a_task_without_one_costs_no_transaction_and_no_header(app: App, conn: Conn) -> None:
    plain = failing(app, "plain", dead_letter_task=None).enqueue()
    assert scalar(conn, "select headers from pgqueue.job_live where id = %s", plain.id) == {}
    writer = OutcomeWriter(app)
    batch = [(named(plain.id, "plain"), Resolution("dead_letter", "exhausted"))]
    assert (writer._with_target, writer._dead_of(batch)) == (set(), set())


def test_a_task_that_cannot_take_what_it_gets_is_refused_whichever_comes_first(app: App) -> None:
    def notify(job_id: int) -> None: ...

    failing(app, "a")
    with pytest.raises(InvalidTask, match=r"task ops.notify is the dead_letter_task of a and takes \(job_id: int\)"):
        app.task(name="ops.notify")(notify)
    app.task(name="late")(notify)
    with pytest.raises(InvalidTask, match="let it take job_id, task, queue, reason, error, fingerprint"):
        failing(app, "b", dead_letter_task="late")
    assert app.tasks.get("b") is None


@pytest.mark.parametrize("given", [True, 7, "", "a\nb"], ids=shown)
def test_a_dead_letter_task_is_the_name_of_a_task(app: App, given: Any) -> None:
    with pytest.raises(InvalidOption, match="cannot be used"):
        app.task(dead_letter_task=given)
    with pytest.raises(InvalidOption, match="cannot be used"):
        App(dead_letter_task=given)
