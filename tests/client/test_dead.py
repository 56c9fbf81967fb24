"""Dead letters brought back, edited and discarded: by operations that lose nothing and do nothing twice."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import pytest
from pydantic import AfterValidator

from pgqueue import App, DeadFilter, InvalidArguments, InvalidOption, UnknownJob, db
from pgqueue.client.operations import BATCH, work_on
from pgqueue.client.steps import follow
from pgqueue.worker.duties import operation_finisher
from tests.conftest import DEADLINE, drain, eventually, scalar, work
from tests.harness import QUERIES, Conn, InThread, wait_blocked, working

ADD_DEAD = """insert into pgqueue.dead_letter (id, task, queue, args, tags, attempt, max_attempts, crash_count, lease,
    reason, error, fingerprint, failed_at)
    select i, %(task)s, %(queue)s, %(args)s, %(tags)s, 20, 20, 2, 20, 'exhausted',
    jsonb_build_object('type', %(error)s::text, 'message', 'no'), %(fingerprint)s, now() - %(ago)s::interval
    from generate_series(%(first)s::bigint, %(last)s::bigint) as i"""


def add_dead(conn: Conn, first: int, last: int | None = None, **columns: Any) -> None:
    """Insert dead letters with these ids."""
    given = {
        "task": "t", "queue": "default", "args": "{}", "tags": [], "error": "shop.CardRefused", "fingerprint": "f1",
        "ago": "1 hour",
    } | columns  # fmt: skip
    conn.execute(ADD_DEAD, given | {"first": first, "last": last or first})


def ids(conn: Conn, table: str) -> list[int]:
    return [row[0] for row in conn.execute(f"select id from pgqueue.{table} order by id".encode()).fetchall()]


@pytest.fixture
def done(app: App) -> list[int]:
    """The arguments with which the task `t` has run."""
    seen: list[int] = []

    @app.task(name="t", retry=[0.01])
    async def t(n: int = 0) -> None:
        seen.append(n)

    return seen


def test_a_job_that_comes_back_keeps_its_id_and_history_and_has_all_its_attempts(app: App, conn: Conn) -> None:
    failing = True

    @app.task(name="pay", max_attempts=2, retry=[0.01])
    async def pay(order: int) -> None:
        if failing:
            raise ConnectionError("card reader")

    job = pay.using(expires=60).enqueue(7)
    drain(app, conn)
    assert app.get(job.id).state == "failed"
    failing = False
    operation = app.dead.redrive(DeadFilter(error="ConnectionError"), by="alice")
    assert (operation.done, operation.skipped, operation.actor) == (1, 0, "alice")
    assert operation.ended_at is not None
    row = conn.execute(
        "select attempt, crash_count, lease, expires_at, unique_key, args from pgqueue.job_live"
    ).fetchone()
    assert row == (0, 0, 2, None, None, {"order": 7})
    drain(app, conn)
    ended = app.get(job.id)
    assert (ended.state, [attempt.state for attempt in ended.attempts]) == (
        "succeeded", ["pending", "failed", "succeeded"],
    )  # fmt: skip
    reason = "select reason from pgqueue.transition where from_state = 'failed'"
    assert scalar(conn, reason) == f"redriven by alice (operation {operation.id})"


def test_a_hook_that_raises_holds_up_no_redrive(
    app: App, conn: Conn, done: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    add_dead(conn, 1)

    def broken(*_: object) -> Any:
        raise LookupError("no tracer")

    app.operation_hooks += [broken, lambda: broken]
    assert app.dead.redrive(DeadFilter(task="t")).done == 1
    assert [record.message for record in caplog.records] == ["a hook around an operation raised LookupError"] * 2


FITS: list[tuple[dict[str, Any], list[int]]] = [
    ({"task": "t"}, [1, 2]),
    ({"task": "shop.*"}, [3, 4]),
    ({"task": "*end"}, [3]),
    ({"task": "t%"}, []),
    ({"task": "*"}, [1, 2, 3, 4]),
    ({"queue": "mail"}, [4]),
    ({"error": "CardRefused"}, [1, 3, 4]),
    ({"error": "shop.CardRefused"}, [1, 3, 4]),
    ({"error": "Refused"}, []),
    ({"group": "f2"}, [2]),
    ({"group": "class shop.CardRefused"}, [4]),
    ({"tag": "eu"}, [3]),
    ({"args": {"tenant": 7}}, [3, 4]),
    ({"args": {"tenant": 7, "x": [1]}}, [3]),
    ({"ids": [1, 4, 99]}, [1, 4]),
    ({"since": timedelta(hours=3)}, [1, 3, 4]),
    ({"until": timedelta(hours=3)}, [2]),
    ({"task": "shop.*", "queue": "mail", "error": "CardRefused"}, [4]),
]


@pytest.mark.parametrize(("given", "expected"), FITS, ids=[str(given) for given, _ in FITS])
def test_a_preview_and_an_operation_mean_the_same_dead_letters(
    app: App, conn: Conn, given: dict[str, Any], expected: list[int]
) -> None:
    add_dead(conn, 1)
    add_dead(conn, 2, error="KeyError", fingerprint="f2", ago="5 hours")
    add_dead(conn, 3, task="shop.send", args='{"tenant": 7, "x": [1, 2]}', tags=["eu", "vip"])
    add_dead(conn, 4, task="shop.bill", queue="mail", args='{"tenant": 7}', fingerprint=None)
    moments = {name: datetime.now(UTC) - value for name, value in given.items() if isinstance(value, timedelta)}
    chosen = DeadFilter(**given | moments)
    assert [dead.id for dead in app.dead.preview(chosen)] == expected
    assert [job.id for job in app.dead.list(chosen)] == expected[::-1]
    app.dead.redrive(chosen)
    assert ids(conn, "job_live") == expected


def test_a_filter_that_fits_all_is_refused(app: App, conn: Conn) -> None:
    add_dead(conn, 1)
    with pytest.raises(InvalidOption, match="every dead letter"):
        app.dead.redrive(DeadFilter())
    with pytest.raises(InvalidOption, match="timezone"):
        DeadFilter(since=datetime(2026, 1, 1))
    with pytest.raises(InvalidOption, match="ids"):
        DeadFilter(ids=["1"])  # type: ignore[list-item]
    with pytest.raises(InvalidOption, match="ids"):
        DeadFilter(ids=())
    assert scalar(conn, "select count(*) from pgqueue.operation") == 0


@pytest.mark.parametrize(
    "options",
    [{"rate": 0}, {"rate": -1}, {"rate": float("nan")}, {"attempts": 0}, {"limit": 0}, {"delay": -1}, {"queue": ""}],
)
def test_an_option_that_cannot_be_used_is_refused_before_anything_is_written(
    app: App, conn: Conn, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        app.dead.redrive(DeadFilter(task="t"), **options)
    assert scalar(conn, "select count(*) from pgqueue.operation") == 0


def test_what_the_task_no_longer_takes_is_skipped(app: App, conn: Conn, done: list[int]) -> None:
    add_dead(conn, 1, args='{"n": 1}')
    add_dead(conn, 2, args='{"n": "many"}')
    add_dead(conn, 3, args='{"old": 1}')
    add_dead(conn, 4, task="of another app", args='{"old": 1}')
    operation = app.dead.redrive(DeadFilter(task="*"))
    assert (operation.done, operation.skipped) == (3, 1)  # another release may know `old`: a job that waits for it
    assert (ids(conn, "job_live"), ids(conn, "dead_letter")) == ([1, 3, 4], [2])


def test_options_of_a_redrive(app: App, conn: Conn) -> None:
    add_dead(conn, 1, 5)
    app.dead.redrive(DeadFilter(task="t"), limit=3, attempts=2, delay=60, queue="slow")
    rows = conn.execute("select id, queue, max_attempts, extract(epoch from run_at - now())::int from pgqueue.job_live")
    assert sorted(rows.fetchall()) == [(n, "slow", 2, 60) for n in (1, 2, 3)]
    assert ids(conn, "dead_letter") == [4, 5]


def gaps(conn: Conn) -> list[float]:
    """Return the seconds between the times at which jobs are due."""
    rows = conn.execute(
        "select extract(epoch from run_at - lag(run_at) over (order by id))::float8 from pgqueue.job_live order by id"
    ).fetchall()
    return [round(row[0], 3) for row in rows[1:]]


def batch_on(conn: Conn, app: App, operation: int) -> int | None:
    """Do a batch of an operation in the transaction of a connection."""
    locked = db.run(conn, QUERIES.operations.lock(operation))
    if locked is None:
        return None
    return None if follow(conn, work_on(app, locked)).operation.ended_at else operation


def one_batch(app: App, dsn: str) -> int | None:
    """Do a batch of the newest operation in a transaction of its own."""
    with psycopg.connect(dsn) as own:
        newest = int(scalar(own, "select max(id) from pgqueue.operation"))
        return batch_on(own, app, newest)


def begin(conn: Conn, chosen: DeadFilter, kind: str = "redrive", **options: Any) -> int:
    """Insert an operation as a client does that then dies."""
    return db.run(conn, QUERIES.operations.begin(kind, chosen, options, "alice", "test"))


def test_with_a_rate_jobs_are_due_one_after_the_other_also_after_a_break(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1, BATCH + 4)
    begin(conn, DeadFilter(task="t"), rate=50.0)
    assert one_batch(app, dsn) is not None
    assert gaps(conn) == [0.02] * (BATCH - 1)
    assert one_batch(app, dsn) is None
    assert gaps(conn) == [0.02] * (BATCH + 3)  # the second batch goes on where the first ended
    add_dead(conn, 2000, 2000 + BATCH + 4)
    conn.execute("delete from pgqueue.job_live")
    begin(conn, DeadFilter(task="t"), rate=50.0)
    one_batch(app, dsn)
    conn.execute("update pgqueue.operation set next_run_at = now() - interval '1 hour'")  # nobody went on for an hour
    one_batch(app, dsn)
    late = "select count(*) from pgqueue.job_live where id >= %s and run_at < now() - interval '1 second'"
    assert scalar(conn, late, 2000 + BATCH) == 0
    assert gaps(conn)[-4:] == [0.02] * 4


def test_an_operation_whose_client_was_killed_is_finished_by_a_worker(
    app: App, conn: Conn, dsn: str, done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_finisher, "ABANDONED", 0.0)
    add_dead(conn, 1, 3 * BATCH + 7)
    operation = begin(conn, DeadFilter(task="t"))
    one_batch(app, dsn)
    assert scalar(conn, "select count(*) from pgqueue.job_live") == BATCH
    ended = "select ended_at is not null from pgqueue.operation"
    left = "select count(*) = 0 from pgqueue.job_live"
    asyncio.run(work(app, lambda: scalar(conn, ended) and scalar(conn, left)))
    assert len(done) == 3 * BATCH + 7
    found = app.operations.get(operation)
    assert (found.done, found.skipped) == (3 * BATCH + 7, 0)
    again = "select count(*) from pgqueue.transition where from_state = 'failed' group by job_id having count(*) > 1"
    assert conn.execute(again).fetchall() == []


def test_two_processes_share_an_operation_batch_by_batch(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1, 2 * BATCH)
    operation = begin(conn, DeadFilter(task="t"))
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        assert batch_on(first, app, operation) == operation
        waiting = InThread(lambda: batch_on(second, app, operation))
        wait_blocked(conn, second, first)
        first.commit()
        waiting.result()
        second.commit()
    assert one_batch(app, dsn) is None
    found = app.operations.get(operation)
    assert (found.done, ids(conn, "dead_letter")) == (2 * BATCH, [])


def test_a_batch_that_was_rolled_back_leaves_no_trace(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1, 3)
    operation = begin(conn, DeadFilter(task="t"))
    with psycopg.connect(dsn) as own:
        batch_on(own, app, operation)
        own.rollback()
    assert (ids(conn, "dead_letter"), app.operations.get(operation).done) == ([1, 2, 3], 0)


def test_a_job_that_dies_again_is_not_brought_back_by_the_same_operation(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1, BATCH)
    operation = begin(conn, DeadFilter(task="t"))
    add_dead(conn, 9000, ago="0")  # failed after the operation began
    while one_batch(app, dsn) is not None:
        pass
    assert app.operations.get(operation).done == BATCH
    assert ids(conn, "dead_letter") == [9000]


def test_few_that_fit_among_many_are_found_window_by_window(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.queries.chosen.WINDOW", 10)
    add_dead(conn, 1, 35, task="other")
    for rare in (40, 41, 77):
        add_dead(conn, rare, task="rare")
    begin(conn, DeadFilter(task="rare"))
    steps = 1
    while one_batch(app, dsn) is not None:
        steps += 1
    assert (steps, ids(conn, "job_live")) == (4, [40, 41, 77])


def test_discarded_jobs_end_as_cancelled_with_the_reason(app: App, conn: Conn) -> None:
    add_dead(conn, 1, 3)
    with pytest.raises(InvalidOption, match="reason"):
        app.dead.discard(DeadFilter(task="t"), reason=" ")
    operation = app.dead.discard(DeadFilter(ids=[1, 3]), reason="customer gone", by="bob")
    assert (operation.done, ids(conn, "dead_letter"), ids(conn, "job_finished")) == (2, [2], [1, 3])
    job = app.get(1)
    assert (job.state, job.reason) == ("cancelled", f"discarded by bob (operation {operation.id}): customer gone")


def test_an_edit_is_validated_and_logged(app: App, conn: Conn, done: list[int]) -> None:
    add_dead(conn, 1, args='{"n": 1}')
    with pytest.raises(InvalidArguments):
        app.dead.edit(1, {"n": "many"})
    with pytest.raises(InvalidArguments):
        app.dead.edit(1, {"m": 1})
    with pytest.raises(UnknownJob):
        app.dead.edit(99, {"n": 1})
    assert app.dead.edit(1, {"n": 2}, by="alice").args == {"n": 2}
    row = conn.execute("select from_state, to_state, reason, error from pgqueue.transition").fetchall()
    assert row == [("failed", "failed", "edited by alice", {"previous_args": {"n": 1}})]
    app.dead.redrive(DeadFilter(ids=[1]))
    drain(app, conn)
    assert done == [2]
    assert [attempt.state for attempt in app.get(1).attempts] == ["succeeded"]


def test_sql_asks_and_a_worker_does_it(app: App, conn: Conn, done: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    add_dead(conn, 1, 3)
    add_dead(conn, 4, queue="other")
    asked = "queue => 'default', error => 'CardRefused', since => '2 hours', rate => 100, by => 'alice'"
    operation = int(scalar(conn, f"select pgqueue.redrive({asked})"))
    ended = "select ended_at is not null from pgqueue.operation"
    asyncio.run(work(app, lambda: scalar(conn, ended) and len(done) == 3))
    found = app.operations.get(operation)
    assert (found.done, found.actor, found.via, found.filter["queue"]) == (3, "alice", "sql", "default")
    assert ids(conn, "dead_letter") == [4]


@pytest.mark.parametrize(
    "options",
    [
        "",
        "task => 't', since => '-1 hour'",
        "task => 't', rate => 0",
        "task => 't', rate => 'NaN'",
        "task => 't', attempts => 0",
        "task => ''",
        "tag => repeat('x', 1001)",
        "args => '{}'",
        "args => '[1]'",
        "args => 'null'",
        "ids => '{}'",
        "ids => '{1,null}'",
        "ids => '{0}'",
        "task => 't', since => 'infinity'",
        "task => 't', rate => 1e9",
        "task => 't', attempts => 2000000",
        "task => 't', by => ''",
        "task => 't', by => null",
    ],
)
def test_sql_that_makes_no_sense_is_refused(conn: Conn, options: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute(f"select pgqueue.redrive({options})".encode())
    assert scalar(conn, "select count(*) from pgqueue.operation") == 0


def test_a_null_in_the_arguments_is_kept_in_the_filter(app: App, conn: Conn, done: list[int]) -> None:
    add_dead(conn, 1, args='{"n": 1}')
    add_dead(conn, 2, args='{"n": null}', task="of another app")
    operation = int(scalar(conn, """select pgqueue.redrive(args => '{"n": null}')"""))
    assert app.operations.resume(operation).filter == {"args": {"n": None}}
    assert ids(conn, "job_live") == [2]


@pytest.mark.parametrize(
    ("chosen", "options"),
    [('{"colour": "red"}', "{}"), ('{"since": "yesterday"}', "{}"), ('{"task": "t"}', '{"rate": "fast"}'),
     ('{"ids": ["x"]}', "{}"), ("{}", "{}")],
)  # fmt: skip
def test_an_operation_that_cannot_be_read_ends_with_the_reason_and_holds_up_no_other(
    app: App, conn: Conn, done: list[int], chosen: str, options: str
) -> None:
    add_dead(conn, 1)
    conn.execute("insert into pgqueue.operation (kind, filter, options) values ('redrive', %s, %s)", [chosen, options])
    conn.execute("insert into pgqueue.operation (kind, filter) values ('redrive', '{\"task\": \"t\"}')")
    asyncio.run(work(app, lambda: len(done) == 1))
    broken, good = app.operations.list()[::-1]
    assert broken.error
    assert (broken.done, good.done) == (0, 1)


def test_a_batch_that_postgres_refuses_ends_its_operation_and_holds_up_no_other(
    app: App, conn: Conn, done: list[int]
) -> None:
    conn.execute("create function pgqueue.refuse() returns trigger language plpgsql as $$ begin"
                 " raise exception 'no' using errcode = 'check_violation'; end $$")  # fmt: skip
    conn.execute("create trigger refuse before insert on pgqueue.job_live for each row when (new.id = 2)"
                 " execute function pgqueue.refuse()")  # fmt: skip
    add_dead(conn, 1, 3)
    for chosen in ('{"task": "t"}', '{"ids": [3]}'):
        conn.execute("insert into pgqueue.operation (kind, filter) values ('redrive', %s)", [chosen])
    asyncio.run(work(app, lambda: len(done) == 1))
    good, broken = app.operations.list()
    assert (good.done, broken.done, ids(conn, "dead_letter")) == (1, 0, [1, 2])
    assert "CheckViolation" in str(broken.error)


def test_a_validator_that_takes_its_time_holds_up_no_job_of_the_worker(app: App, conn: Conn, done: list[int]) -> None:
    entered, ran = threading.Event(), threading.Event()

    def slow(value: str) -> str:
        entered.set()
        assert ran.wait(DEADLINE)
        return value

    @app.task(name="slow")
    async def takes_long(value: Annotated[str, AfterValidator(slow)]) -> None: ...

    add_dead(conn, 1, task="slow", args='{"value": "x"}')
    conn.execute("insert into pgqueue.operation (kind, filter) values ('redrive', '{\"task\": \"slow\"}')")

    async def run() -> None:
        async with working(app):
            await eventually(entered.is_set, "the validator")
            await asyncio.to_thread(app.enqueue, "t", {"n": 5})
            await eventually(lambda: done == [5], "another job")
            ran.set()
            await eventually(lambda: app.operations.list()[0].ended_at is not None, "the end of the operation")

    asyncio.run(run())
    assert app.operations.list()[0].done == 1


def test_an_operation_whose_batch_loses_its_connection_waits_for_its_next_turn(
    app: App, conn: Conn, done: list[int]
) -> None:
    def cut(value: str) -> str:
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgqueue'"
                     " and datname = current_database() and state = 'idle in transaction'")  # fmt: skip
        return value

    @app.task(name="slow")
    async def takes_long(value: Annotated[str, AfterValidator(cut)]) -> None: ...

    add_dead(conn, 1, task="slow", args='{"value": "x"}')
    add_dead(conn, 2)
    for task in ("slow", "t"):
        filters = "jsonb_build_object('task', %s::text)"
        conn.execute(f"insert into pgqueue.operation (kind, filter) values ('redrive', {filters})", [task])
    asyncio.run(work(app, lambda: done == [0]))
    good, cut_off = app.operations.list()
    assert (good.done, good.ended_at is not None) == (1, True)
    assert (cut_off.done, cut_off.ended_at, ids(conn, "dead_letter")) == (0, None, [1])


def test_ctrl_c_in_a_validator_ends_the_verb_and_skips_nothing(app: App, conn: Conn) -> None:
    def interrupted(value: str) -> str:
        raise KeyboardInterrupt

    @app.task(name="slow")
    async def takes_long(value: Annotated[str, AfterValidator(interrupted)]) -> None: ...

    add_dead(conn, 1, task="slow", args='{"value": "x"}')
    with pytest.raises(KeyboardInterrupt):
        app.dead.redrive(DeadFilter(task="slow"))
    (operation,) = app.operations.list()
    assert (operation.done, operation.skipped, operation.ended_at) == (0, 0, None)
    assert ids(conn, "dead_letter") == [1]


def test_an_operation_is_stopped_and_goes_on(app: App, conn: Conn, dsn: str) -> None:
    add_dead(conn, 1, BATCH + 1)
    operation = begin(conn, DeadFilter(task="t"))
    one_batch(app, dsn)
    assert app.operations.stop(operation).stopped_at is not None
    assert one_batch(app, dsn) is None
    assert ids(conn, "dead_letter") == [BATCH + 1]
    later = begin(conn, DeadFilter(task="nothing"))
    assert db.run(conn, QUERIES.operations.find_abandoned(["redrive"], 0.0)) == later  # the stopped one is in no way
    with pytest.raises(InvalidOption, match="stopped"):
        app.operations.stop(operation)
    assert app.operations.resume(operation).done == BATCH + 1
    with pytest.raises(InvalidOption, match="ended"):
        app.operations.stop(operation)
    with pytest.raises(UnknownJob):
        app.operations.get(99)


def test_groups_come_by_their_latest_failure(app: App, conn: Conn) -> None:
    add_dead(conn, 1, 3)
    add_dead(conn, 4, task="u", error="KeyError", fingerprint="f2", ago="1 minute")
    add_dead(conn, 5, task="u", fingerprint="f1", ago="2 hours")
    add_dead(conn, 6, fingerprint=None, ago="3 hours")
    groups = app.dead.groups()
    assert [(g.fingerprint, g.jobs, sorted(g.tasks), g.error, g.newest_id) for g in groups] == [
        ("f2", 1, ["u"], "KeyError", 4), ("f1", 4, ["t", "u"], "shop.CardRefused", 5),
        ("class shop.CardRefused", 1, ["t"], "shop.CardRefused", 6),
    ]  # fmt: skip


def test_a_failure_has_the_fingerprint_of_its_cause(app: App, conn: Conn) -> None:
    @app.task(name="pay", max_attempts=1)
    async def pay(order: int) -> None:
        if order == 9:
            raise KeyError(order)
        raise ValueError(f"order {order} is unknown")

    for order in (1, 2, 9):
        pay.enqueue(order)
    drain(app, conn)
    assert sorted(group.jobs for group in app.dead.groups()) == [1, 2]


def test_the_async_twins_do_the_same(app: App, conn: Conn) -> None:
    add_dead(conn, 1, 2)

    async def run() -> list[object]:
        found = await app.dead.aredrive(DeadFilter(ids=[1]))
        return [found.done, len(await app.dead.agroups()), (await app.operations.aget(found.id)).done]

    assert asyncio.run(run()) == [1, 1, 1]
