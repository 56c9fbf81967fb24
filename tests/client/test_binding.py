"""Verbs that name no connection belong to the transaction of a request, where the app knows it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import copy_context
from typing import Annotated, Any

import httpx
import psycopg
import pytest
from fastapi import Depends, FastAPI
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pgqueue import OWN_CONNECTION, App, Context, NoTransaction, Task, UnsupportedConnection
from tests.conftest import scalar, work
from tests.harness import Conn

JOBS = "select count(*) from pgqueue.job"


def engine_on(dsn: str, create: Any = create_engine) -> Any:
    """A SQLAlchemy engine."""
    return create("postgresql+psycopg://", connect_args=conninfo_to_dict(dsn), poolclass=NullPool)


@pytest.fixture
def own(dsn: str) -> Any:
    """A connection of a request."""
    with psycopg.connect(dsn) as conn:
        yield conn
        conn.rollback()


def test_inside_a_block_verbs_run_on_its_connection(app: App, conn: Conn, ship: Task[[int], int], own: Any) -> None:
    with app.bound(own):
        ship.enqueue(1)
        app.enqueue("ship", {"n": 2})
        ship.enqueue_many([{"n": 3}])
        app.publish("order.paid", {})
        assert (scalar(own, JOBS), scalar(conn, JOBS)) == (3, 0)
    own.rollback()
    ship.enqueue(4)
    assert scalar(conn, JOBS) == 1


def test_a_block_is_of_one_app_alone(app: App, conn: Conn, dsn: str, ship: Task[[int], int], own: Any) -> None:
    other = App(dsn)
    with other.bound(own):
        ship.enqueue(1)
        assert scalar(conn, JOBS) == 1
    other.close()


def test_a_block_of_another_app_inside_a_block_ends_nothing(
    app: App, conn: Conn, dsn: str, ship: Task[[int], int], own: Any
) -> None:
    other = App(dsn)
    with app.bound(own), psycopg.connect(dsn) as its_own, other.bound(its_own):
        ship.enqueue(1)
        assert (scalar(own, JOBS), scalar(conn, JOBS)) == (1, 0)
    other.close()


def test_threads_with_a_copy_of_the_context_are_in_the_block(
    app: App, conn: Conn, ship: Task[[int], int], own: Any
) -> None:
    async def request() -> None:
        with app.bound(own):
            await asyncio.to_thread(ship.enqueue, 1)

    asyncio.run(request())
    assert (scalar(own, JOBS), scalar(conn, JOBS)) == (1, 0)


def test_what_outlives_a_block_commits_on_its_own(app: App, conn: Conn, ship: Task[[int], int], own: Any) -> None:
    with app.bound(own):
        later = copy_context()
    later.run(ship.enqueue, 1)
    assert scalar(conn, JOBS) == 1


def test_a_dependency_in_another_context_than_its_handler_is_told(app: App, ship: Task[[int], int], own: Any) -> None:
    api = FastAPI()

    def request_session() -> Iterator[Any]:  # FastAPI begins and ends it in threads with contexts of their own
        with app.bound(own):
            yield own

    @api.post("/")
    def handle(conn: Annotated[Any, Depends(request_session, scope="function")]) -> None: ...

    async def request() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://t") as client:
            with pytest.raises(NoTransaction, match="make what opens the block async def"):
                await client.post("/")

    asyncio.run(request())


Bound = tuple[Callable[[str], object], Callable[[], None]]  # execute, roll back


@contextmanager
def psycopg_bound(app: App, dsn: str) -> Iterator[Bound]:
    with closing(psycopg.connect(dsn)) as own:
        app.bind(lambda: own)
        yield own.execute, own.rollback


@contextmanager
def sessions_bound(app: App, dsn: str) -> Iterator[Bound]:
    sessions = scoped_session(sessionmaker(engine_on(dsn)))
    app.bind(sessions)
    yield lambda statement: sessions.execute(text(statement)), sessions.rollback
    sessions.remove()


@pytest.mark.parametrize("bind", [psycopg_bound, sessions_bound])
def test_a_verb_joins_the_transaction_of_a_request(
    app: App, conn: Conn, dsn: str, ship: Task[[int], int], bind: Any
) -> None:
    with bind(app, dsn) as (execute, rollback):
        ship.enqueue(1)  # the first statement of the transaction
        assert scalar(conn, JOBS) == 0
        rollback()
        execute("select 1")
        ship.enqueue(2)
        assert scalar(conn, JOBS) == 0
        ship.using(OWN_CONNECTION).enqueue(3)
        rollback()
        assert scalar(conn, JOBS) == 1


def test_a_session_commits_its_jobs(app: App, conn: Conn, dsn: str, ship: Task[[int], int]) -> None:
    with Session(engine_on(dsn)) as session:
        app.bind(lambda: session)
        ship.enqueue(1)
        assert scalar(conn, JOBS) == 0
        session.commit()
    assert scalar(conn, JOBS) == 1


def test_an_async_session(app: App, conn: Conn, dsn: str, ship: Task[[int], int]) -> None:
    async def request() -> None:
        engine = engine_on(dsn, create_async_engine)
        async with AsyncSession(engine) as session:
            app.bind(lambda: session)
            async with session.begin():
                await ship.aenqueue(2)
                with pytest.raises(UnsupportedConnection, match="goes with aenqueue"):
                    ship.enqueue(3)
                assert scalar(conn, JOBS) == 0
        assert scalar(conn, JOBS) == 1
        await engine.dispose()
        await app.aclose()

    asyncio.run(request())


def test_outside_of_a_request_there_is_none(app: App, conn: Conn, ship: Task[[int], int]) -> None:
    app.bind(lambda: None)
    ship.enqueue(1)
    assert scalar(conn, JOBS) == 1


def test_a_transaction_may_be_required(app: App, conn: Conn, ship: Task[[int], int], own: Any) -> None:
    request: list[Any] = [None]
    app.bind(lambda: request[0], required=True)
    for refused in (lambda: ship.enqueue(1), lambda: app.enqueue("ship", {"n": 1}), lambda: ship.enqueue_many([])):
        with pytest.raises(NoTransaction, match=r"give using\(conn\)"):
            refused()
    ship.using(OWN_CONNECTION).enqueue(1)
    assert scalar(conn, JOBS) == 1
    request[0] = own
    ship.enqueue(2)
    assert (scalar(own, JOBS), scalar(conn, JOBS)) == (2, 1)


def test_what_is_no_connection_is_refused_by_name(app: App, ship: Task[[int], int]) -> None:
    app.bind(object)
    with pytest.raises(UnsupportedConnection, match=r"cannot enqueue on a builtins\.object"):
        ship.enqueue(1)


def test_a_block_of_a_job_goes_before_the_request(app: App, conn: Conn, dsn: str, ship: Task[[int], int]) -> None:
    other = psycopg.connect(dsn)
    other.execute("select 1")
    app.bind(lambda: other)

    @app.task(name="parent")
    def parent(ctx: Context) -> None:
        with ctx.transaction():
            ship.enqueue(1)

    parent.using(OWN_CONNECTION).enqueue()
    other.rollback()
    asyncio.run(work(app, lambda: scalar(conn, "select count(*) from pgqueue.job_finished") == 2))
    other.close()
