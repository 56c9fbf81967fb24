"""ctx.transaction(session): the writes of an ORM and the completion of the job commit together, or not at all."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from pgqueue import App, Context, JobState, UnsupportedConnection
from pgqueue.events import JobSucceeded, StaleWrite
from pgqueue.migrate import upgrade
from tests.conftest import scalar, work
from tests.django_site import django_on
from tests.harness import Conn, Process

EFFECTS = "select coalesce(string_agg(note, ' ' order by id), '') from public.effect"
STEAL = "update pgqueue.job_live set lease = lease + 1 where state = 'running'"
SYNC = ["Session", "scoped_session", "Connection", "psycopg", "django"]
ASYNC = ["AsyncSession", "async_scoped_session", "AsyncConnection", "asyncpg", "psycopg async"]


class Base(DeclarativeBase): ...


class Effect(Base):
    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]


@pytest.fixture
def effects(conn: Conn) -> Conn:
    conn.execute("create table public.effect (id bigint generated always as identity primary key, note text not null)")
    return conn


def engine_on(dsn: str) -> Engine:
    return create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(dsn), poolclass=NullPool)


@contextmanager
def own(kind: str, dsn: str) -> Iterator[tuple[Any, Callable[[str], None]]]:
    """Open a connection as a task has it; give it with a function that writes."""
    if kind == "django":
        with django_on(dsn) as wrapper:
            yield wrapper, lambda note: wrapper.cursor().execute("insert into effect (note) values (%s)", [note])
    elif kind == "psycopg":
        with psycopg.connect(dsn) as conn:
            yield conn, lambda note: conn.execute("insert into effect (note) values (%s)", [note]) and None
    elif kind == "Connection":
        with engine_on(dsn).connect() as plain:
            yield plain, lambda note: plain.execute(text("insert into effect (note) values (:n)"), {"n": note}) and None
    else:
        maker = sessionmaker(engine_on(dsn))
        held: Any = maker() if kind == "Session" else scoped_session(maker)
        try:
            yield held, lambda note: held.add(Effect(note=note))
        finally:
            held.close()


@asynccontextmanager
async def own_async(kind: str, dsn: str) -> AsyncIterator[tuple[Any, Callable[[str], Any]]]:
    """The async twin of `own`."""
    driver, parts = ("asyncpg", _of_asyncpg(dsn)) if kind == "asyncpg" else ("psycopg", conninfo_to_dict(dsn))
    engine = create_async_engine(f"postgresql+{driver}://", connect_args=parts, poolclass=NullPool)
    statement = text("insert into effect (note) values (:n)")
    if kind == "psycopg async":
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            yield conn, lambda note: conn.execute("insert into effect (note) values (%s)", [note])
    elif kind == "AsyncConnection":
        async with engine.connect() as plain:
            yield plain, lambda note: plain.execute(statement, {"n": note})
    else:
        maker = async_sessionmaker(engine)
        scoped = kind == "async_scoped_session"
        held: Any = async_scoped_session(maker, scopefunc=asyncio.current_task) if scoped else maker()

        async def add(note: str) -> None:
            held.add(Effect(note=note))

        try:
            yield held, add
        finally:
            await held.close()
    await engine.dispose()


def _of_asyncpg(dsn: str) -> dict[str, Any]:
    parts = conninfo_to_dict(dsn)
    return {"database": parts.pop("dbname"), **parts}


def run(app: App, kind: str, body: Callable[[Context, Any], None], **options: Any) -> JobState:
    """Run a job that writes one effect in its block, after `body`; return the state in which it ended."""
    dsn = app.dsn

    @app.task(name="sync", **options)
    def pay(ctx: Context) -> None:
        with own(kind, dsn) as (given, write), ctx.transaction(given, result={"paid": True}) as same:
            assert same is given
            write("paid")
            body(ctx, given)

    @app.task(name="async", **options)
    async def apay(ctx: Context) -> None:
        async with own_async(kind, dsn) as (given, write), ctx.transaction(given, result={"paid": True}) as same:
            assert same is given
            await write("paid")
            body(ctx, given)

    job = (pay if kind in SYNC else apay).enqueue()
    asyncio.run(work(app, lambda: app.get(job.id).finished_at))
    return app.get(job.id).state


@pytest.mark.parametrize("kind", SYNC + ASYNC)
def test_writes_and_completion_commit_together(app: App, effects: Conn, kind: str) -> None:
    states: list[Any] = []

    def look(ctx: Context, _: Any) -> None:
        states.append(scalar(effects, EFFECTS))
        assert not ended

    ended: list[JobSucceeded] = []
    app.on(JobSucceeded)(ended.append)
    assert run(app, kind, look) == "succeeded"
    assert [event.task for event in ended] == ["sync" if kind in SYNC else "async"]
    assert (states, scalar(effects, EFFECTS)) == ([""], "paid")
    with psycopg.connect(app.dsn) as reader:
        assert scalar(reader, "select result::text from pgqueue.job") == '{"paid": true}'
        assert scalar(reader, "select count(*) from pgqueue.transition where to_state = 'succeeded'") == 1


@pytest.mark.parametrize("kind", SYNC + ASYNC)
def test_an_error_in_the_block_leaves_nothing(app: App, effects: Conn, kind: str) -> None:
    def fail(*_: Any) -> None:
        raise ConnectionError("card reader")

    assert run(app, kind, fail, max_attempts=1) == "failed"
    assert scalar(effects, EFFECTS) == ""


@pytest.mark.parametrize("kind", SYNC + ASYNC)
def test_with_the_lease_lost_nothing_of_the_orm_remains(app: App, effects: Conn, kind: str) -> None:
    raised: list[str] = []

    @app.on_attempt_end
    def note(end: Any) -> None:
        raised.append(type(end.error).__name__)

    def steal(ctx: Context, _: Any) -> None:
        with psycopg.connect(app.dsn, autocommit=True) as thief:
            thief.execute(STEAL)

    dsn = app.dsn

    @app.task(name="sync")
    def pay(ctx: Context) -> None:
        with own(kind, dsn) as (given, write), ctx.transaction(given):
            write("paid")
            steal(ctx, given)

    @app.task(name="async")
    async def apay(ctx: Context) -> None:
        async with own_async(kind, dsn) as (given, write), ctx.transaction(given):
            await write("paid")
            steal(ctx, given)

    (pay if kind in SYNC else apay).enqueue()
    asyncio.run(work(app, lambda: raised))
    assert raised == ["LeaseLost"]
    assert scalar(effects, EFFECTS) == ""
    assert scalar(effects, "select count(*) from pgqueue.job where state = 'succeeded'") == 0


@pytest.mark.parametrize("kind", ["Session", "Connection", "django"])
def test_a_bare_enqueue_joins_the_block(app: App, effects: Conn, kind: str) -> None:
    following = "select count(*) from pgqueue.job where task = 'next'"

    def enqueue(ctx: Context, _: Any) -> None:
        app.using(queue="later").enqueue("next")
        assert scalar(effects, following) == 0
        raise ConnectionError("card reader")

    assert run(app, kind, enqueue, max_attempts=1) == "failed"
    assert scalar(effects, following) == 0


@pytest.mark.parametrize(
    "end",
    [
        lambda given: given.commit(),
        lambda given: given.rollback(),
        lambda given: given.close(),
        lambda given: given.execute(text("commit")),
        lambda given: given.connection().exec_driver_sql("/* now */ rollback"),
        lambda given: given.connection().connection.driver_connection.execute("rollback"),
    ],
    ids=["commit", "rollback", "close", "statement", "driver's statement", "past SQLAlchemy"],
)
def test_a_session_that_ends_its_transaction_completes_no_job(
    app: App, effects: Conn, end: Callable[[Any], Any]
) -> None:
    assert run(app, "Session", lambda _, given: end(given), max_attempts=1) == "failed"
    assert scalar(effects, EFFECTS) == ""
    assert "inside ctx.transaction()" in scalar(effects, "select error ->> 'message' from pgqueue.job") or (
        "inside its block" in scalar(effects, "select error ->> 'message' from pgqueue.job")
    )


@pytest.mark.parametrize(
    "end",
    [
        lambda given: given.commit(),
        lambda given: given.cursor().execute("commit"),
        lambda given: transaction.set_rollback(True),
        lambda given: given.connection.rollback(),
    ],
    ids=["commit", "statement", "set_rollback", "past Django"],
)
def test_a_django_block_that_does_not_commit_completes_no_job(
    app: App, effects: Conn, end: Callable[[Any], Any]
) -> None:
    assert run(app, "django", lambda _, given: end(given), max_attempts=1) == "failed"
    assert scalar(effects, EFFECTS) == ""


def test_savepoints_and_an_error_that_was_caught_in_one_are_no_end(app: App, effects: Conn) -> None:
    def nested(_: Context, given: Session) -> None:
        with contextlib.suppress(ValueError), given.begin_nested():
            given.add(Effect(note="undone"))
            given.flush()
            raise ValueError
        with given.begin_nested():
            given.add(Effect(note="kept"))

    assert run(app, "Session", nested) == "succeeded"
    assert scalar(effects, EFFECTS) == "paid kept"


def test_what_the_session_has_read_and_written_before_belongs_to_the_block(app: App, effects: Conn) -> None:
    dsn = app.dsn

    @app.task(name="pay", max_attempts=1)
    def pay(ctx: Context) -> None:
        with Session(engine_on(dsn)) as session, session.begin():
            session.add(Effect(note="before"))
            session.flush()
            with ctx.transaction(session):
                session.add(Effect(note="in"))

    job = pay.enqueue()
    asyncio.run(work(app, lambda: app.get(job.id).finished_at))
    assert (app.get(job.id).state, scalar(effects, EFFECTS)) == ("succeeded", "before in")


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_a_session_in_run_sync_on_asyncpg(app: App, effects: Conn, good: bool) -> None:
    dsn = app.dsn

    def inside(session: Session, ctx: Context) -> None:
        with ctx.transaction(session):
            session.add(Effect(note="paid"))
            if not good:
                raise ConnectionError("card reader")

    @app.task(name="pay", max_attempts=1)
    async def pay(ctx: Context) -> None:
        async with own_async("asyncpg", dsn) as (given, _):
            await given.run_sync(inside, ctx)

    job = pay.enqueue()
    asyncio.run(work(app, lambda: app.get(job.id).finished_at))
    assert (app.get(job.id).state, scalar(effects, EFFECTS)) == (("succeeded", "paid") if good else ("failed", ""))


def _refused(app: App, body: Callable[[Context], Any]) -> str:
    """Run a task that raises UnsupportedConnection; return its message."""

    @app.task(name="pay", no_retry_on=UnsupportedConnection)
    def pay(ctx: Context) -> None:
        body(ctx)

    job = pay.enqueue()
    asyncio.run(work(app, lambda: app.get(job.id).finished_at))
    error = app.get(job.id).error
    assert error is not None
    assert error.type.endswith("UnsupportedConnection"), error
    return error.message


@pytest.mark.parametrize("kind", ["result", "sqlite", "autocommit", "bound", "psycopg autocommit", "engine"])
def test_what_commits_nothing_is_refused_before_anything_is_written(app: App, effects: Conn, kind: str) -> None:
    wanted = {
        "result": "cannot commit on a dict: .*a result is given as result=",
        "sqlite": "a SQLAlchemy one on postgresql",
        "autocommit": "in autocommit",
        "bound": "bound to a connection",
        "psycopg autocommit": "in autocommit",
        "engine": "cannot commit on a sqlalchemy.engine.base.Engine",
    }
    engine = create_engine("sqlite://") if kind == "sqlite" else engine_on(app.dsn)

    def body(ctx: Context) -> None:
        with contextlib.ExitStack() as stack:
            given: Any
            if kind == "psycopg autocommit":
                given = stack.enter_context(psycopg.connect(app.dsn, autocommit=True))
            elif kind in ("engine", "result"):
                given = engine if kind == "engine" else {"a": 1}
            elif kind == "bound":
                given = Session(stack.enter_context(engine.connect()))
            elif kind == "autocommit":
                given = stack.enter_context(engine.execution_options(isolation_level="AUTOCOMMIT").connect())
            else:
                given = stack.enter_context(Session(engine))
            stack.enter_context(ctx.transaction(given))
            raise AssertionError("begun")

    assert re.search(wanted[kind], _refused(app, body))


def test_django_inside_atomic_is_refused(app: App, effects: Conn) -> None:
    with django_on(app.dsn):

        def nested(ctx: Context) -> None:
            with transaction.atomic(), ctx.transaction(using="default"):
                raise AssertionError("begun")

        assert "inside transaction.atomic()" in _refused(app, nested)


@pytest.mark.parametrize("kind", ["Session", "django"])
def test_another_database_is_refused(app: App, effects: Conn, empty_dsn: str, kind: str) -> None:
    def elsewhere(ctx: Context) -> None:
        with own(kind, empty_dsn) as (given, _), ctx.transaction(given):
            raise AssertionError("begun")

    assert "another database than the app's" in _refused(app, elsewhere)


def test_a_copy_of_the_job_in_another_database_is_not_completed(app: App, effects: Conn, empty_dsn: str) -> None:
    other = App(empty_dsn)
    upgrade(empty_dsn)
    raised: list[str] = []

    @app.on_attempt_end
    def note(end: Any) -> None:
        raised.append(f"{type(end.error).__name__}: {end.error}")

    @app.task(name="pay")
    def pay(ctx: Context) -> None:
        with psycopg.connect(empty_dsn, autocommit=True) as twin:
            other.enqueue("pay")
            twin.execute(
                "update pgqueue.job_live set id = %s, state = 'running', lease = 1, worker_id = gen_random_uuid(),"
                " claimed_at = now(), attempt = 1",
                [ctx.job_id],
            )
        with own("Session", empty_dsn) as (given, _), ctx.transaction(given):
            raise AssertionError("begun")

    pay.enqueue()
    asyncio.run(work(app, lambda: raised))
    other.close()
    assert "LeaseLost" in raised[0]
    assert "another database" in raised[0]


def test_a_hook_on_commit_that_raises_does_not_undo_the_completion(app: App, effects: Conn) -> None:
    stale: list[Any] = []
    app.on(StaleWrite)(stale.append)

    def hook() -> None:
        raise RuntimeError("mail server")

    assert run(app, "django", lambda *_: transaction.on_commit(hook)) == "succeeded"
    assert (scalar(effects, EFFECTS), stale) == ("paid", [])


def test_an_async_task_of_django_commits_in_sync_to_async(app: App, effects: Conn) -> None:
    with django_on(app.dsn):

        @app.task(name="pay", max_attempts=1)
        async def pay(ctx: Context) -> None:
            def inside() -> None:
                with ctx.transaction(using="default") as conn:
                    conn.cursor().execute("insert into effect (note) values ('paid')")
                connections.close_all()

            await sync_to_async(inside)()

        job = pay.enqueue()
        asyncio.run(work(app, lambda: app.get(job.id).finished_at))
    assert (app.get(job.id).state, scalar(effects, EFFECTS)) == ("succeeded", "paid")


def cut(given: Any, kind: str, admin: Conn, when: str) -> None:
    """Let the ORM's commit on this connection fail once: its server is killed before it gets that, or afterwards."""
    owner = given if kind == "django" else getattr(given, "sync_session", given).get_bind().dialect
    name = "_commit" if kind == "django" else "do_commit"
    commit = getattr(owner, name)

    def cut_off(*raw: Any) -> None:
        setattr(owner, name, commit)
        held = given.connection if kind == "django" else getattr(raw[0], "driver_connection", raw[0])
        pid = held.info.backend_pid
        if when == "after":
            commit(*raw)
        assert scalar(admin, "select pg_terminate_backend(%s, 10000)", pid)
        if when == "after":
            raise psycopg.OperationalError("the connection was cut before the answer came")
        commit(*raw)

    setattr(owner, name, cut_off)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["Session", "django", "AsyncSession"])
def test_a_connection_that_is_cut_in_the_commit_doubles_and_loses_nothing(
    app: App, effects: Conn, kind: str, when: str
) -> None:
    stale: list[StaleWrite] = []
    app.on(StaleWrite)(stale.append)

    def body(ctx: Context, given: Any) -> None:
        if ctx.attempt == 1:
            cut(given, kind, effects, when)

    assert run(app, kind, body, retry=[0.01]) == "succeeded"
    assert scalar(effects, EFFECTS) == "paid"
    assert scalar(effects, "select count(*) from pgqueue.transition where to_state = 'succeeded'") == 1
    assert scalar(effects, "select attempt from pgqueue.job") == (2 if when == "before" else 1)
    if when == "after":  # the worker takes the attempt for a failed one, and its lease is spent
        assert [event.attempt for event in stale] == [1]


KILLED = """
import os, signal
import pgqueue, psycopg
from sqlalchemy import NullPool, create_engine, event, text
from sqlalchemy.orm import Session

app = pgqueue.App()
engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(app.dsn), poolclass=NullPool)


@app.task(name="pay", isolation="process", retry=[0.01])
def pay(ctx: pgqueue.Context) -> None:
    with Session(engine) as session:
        if ctx.attempt == 1:  # after the completion was written, and before the commit
            event.listen(session, "before_commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        with ctx.transaction(session):
            session.execute(text("insert into effect (note) values (:n)"), {"n": f"attempt {ctx.attempt}"})
"""


def test_killed_between_completion_and_commit_neither_has_happened(app: App, effects: Conn, tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    job = app.enqueue("pay")
    with Process(tmp_path, app.dsn, "work", "-A", "killed:app") as worker:
        worker.alive_until(lambda: app.get(job.id).finished_at, "the second attempt")
    found = app.get(job.id)
    assert (found.state, [attempt.reason for attempt in found.attempts][-1]) == ("succeeded", None)
    assert [error.type for error in found.errors] == ["pgqueue.ChildDied"]
    assert scalar(effects, EFFECTS) == "attempt 2"
