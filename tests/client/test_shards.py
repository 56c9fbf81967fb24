"""`app.on(schema)` and `app.shard(key)`: one app in several schemas, with the same tasks."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, migrate
from pgqueue.errors import ConfigError, InvalidArguments, InvalidOption, UnknownShard
from pgqueue.events import JobSucceeded
from pgqueue.jobs.job_filter import JobFilter
from tests.conftest import Databases, scalar
from tests.harness import Conn


@pytest.fixture(scope="module")
def sharded(server_dsn: str, template: str) -> Iterator[str]:
    """A database with the schemas pgqueue, acme and globex."""
    databases = Databases(server_dsn)
    dsn = databases.make(template)
    for schema in ("acme", "globex"):
        migrate.upgrade(dsn, schema)
    yield dsn
    databases.drop_all()


@pytest.fixture
def dsn(sharded: str) -> str:
    with psycopg.connect(sharded, autocommit=True) as conn:
        for schema in ("pgqueue", "acme", "globex"):
            conn.execute(f"delete from {schema}.job_live; delete from {schema}.queue".encode())
    return sharded


def jobs_in(conn: Conn) -> dict[str, int]:
    """Return how many jobs lie in each schema, without those that have none."""
    counts = {name: scalar(conn, f"select count(*) from {name}.job_live") for name in ("pgqueue", "acme", "globex")}
    return {name: count for name, count in counts.items() if count}


def test_a_view_has_the_tasks_of_its_app_and_enqueues_into_its_own_schema(app: App, conn: Conn) -> None:
    view = app.on("acme")

    @app.task(name="bill", queue="bills")
    def bill(n: int) -> None: ...

    assert app.on("acme") is view
    assert view.on("acme") is view
    assert view.enqueue(bill, 1).queue == "bills"
    view.enqueue("bill", {"n": 2})
    app.on("globex").enqueue(bill, n=3)
    bill.enqueue(4)
    assert jobs_in(conn) == {"pgqueue": 1, "acme": 2, "globex": 1}
    with pytest.raises(InvalidArguments):
        view.enqueue("bill", {"n": "many"})
    assert [job.task for job in view.jobs.list(JobFilter(task="bill"))] == ["bill", "bill"]


def test_a_job_on_the_callers_connection_exists_if_the_caller_commits(app: App, dsn: str, conn: Conn) -> None:
    with psycopg.connect(dsn) as caller:
        app.on("acme").using(caller).enqueue("bill", {"n": 1})
        app.on("globex").using(caller).enqueue("bill", {"n": 1})
        assert jobs_in(conn) == {}
        caller.rollback()
        assert jobs_in(conn) == {}
        app.on("acme").using(caller).enqueue("bill", {"n": 2})
        app.using(caller).enqueue("bill", {"n": 2})
        caller.commit()
    assert jobs_in(conn) == {"acme": 1, "pgqueue": 1}


def test_views_in_one_database_join_the_transaction_that_the_app_is_bound_to(app: App, dsn: str, conn: Conn) -> None:
    view = app.on("acme")
    with psycopg.connect(dsn) as request:
        with app.bound(request):
            view.enqueue("bill", {"n": 1})
        app.bind(lambda: request)
        view.enqueue("bill", {"n": 2})
        assert jobs_in(conn) == {}
        request.commit()
    assert jobs_in(conn) == {"acme": 2}


def test_a_batch_of_a_view_lies_in_its_schema(app: App, conn: Conn) -> None:
    @app.task(name="bill")
    def bill(n: int) -> None: ...

    with app.on("acme").batch() as batch:
        batch.add(bill.s(1))
        batch.add_many(bill, [{"n": 2}])
    assert jobs_in(conn) == {"acme": 2}


def test_the_app_stands_for_a_view_inside_its_block_and_nowhere_else(app: App, conn: Conn) -> None:
    @app.task(name="bill")
    def bill(n: int) -> None: ...

    async def elsewhere() -> None:
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def tenant() -> None:
            with app.on("acme").current():
                inside.set()
                await go_on.wait()
                await bill.aenqueue(1)
                with app.on("globex").current():
                    await bill.aenqueue(2)
                assert app.schema == "acme"
                assert app.on("pgqueue").schema == "pgqueue"

        beside = asyncio.create_task(tenant())
        await inside.wait()
        await bill.aenqueue(3)  # another asyncio task, while the block is open
        go_on.set()
        await beside
        await app.aclose()

    asyncio.run(elsewhere())
    assert jobs_in(conn) == {"acme": 1, "globex": 1, "pgqueue": 1}
    assert app.schema == "pgqueue"


def test_a_view_uses_the_connections_of_its_app(app: App, conn: Conn) -> None:
    for schema in ("acme", "globex", "acme", "pgqueue"):
        app.on(schema).enqueue("bill", {"n": 1})
    connections = scalar(
        conn,
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'pgqueue'",
    )
    assert connections == 1


def test_a_shard_may_lie_in_another_database(dsn: str, server_dsn: str, template: str, conn: Conn) -> None:
    databases = Databases(server_dsn)
    other = databases.make(template)
    migrate.upgrade(other, "initech")
    app = App(dsn, shards={"acme": None, "initech": other})
    try:
        with psycopg.connect(dsn) as request:
            app.bind(lambda: request)  # before there is a view
            app.on("initech").enqueue("bill", {"n": 1})
            app.on("acme").enqueue("bill", {"n": 1})
            app.bind(lambda: None)
        with psycopg.connect(dsn) as request, app.bound(request):
            app.on("initech").enqueue("bill", {"n": 2})  # that transaction is of another database
            app.on("acme").enqueue("bill", {"n": 2})
        with psycopg.connect(other) as there:
            assert scalar(there, "select count(*) from initech.job_live") == 2
        assert jobs_in(conn) == {"acme": 2}
    finally:
        app.close()
        databases.drop_all()


def test_a_new_dsn_of_the_app_is_that_of_its_views(dsn: str, conn: Conn) -> None:
    app = App(make_conninfo(dsn, dbname="nowhere"))
    view = app.on("acme")
    app.name, app.dsn = "shop", dsn
    view.enqueue("bill", {"n": 1})
    assert jobs_in(conn) == {"acme": 1}
    assert view.name == "shop"
    app.close()


def test_keys_are_spread_evenly_and_only_those_that_a_new_shard_takes_move() -> None:
    before = App(shards=[f"shop_{n}" for n in range(4)])
    after = App(shards=[f"shop_{n}" for n in (4, 3, 2, 1, 0)])
    keys = range(4000)
    was, now = [before.shard(key).schema for key in keys], [after.shard(key).schema for key in keys]
    assert all(850 < count < 1150 for count in Counter(was).values())
    moved = [to for home, to in zip(was, now, strict=True) if home != to]
    assert set(moved) == {"shop_4"}
    assert 650 < len(moved) < 950


def test_the_shard_of_a_key_never_changes() -> None:
    app = App(shards=["shop_0", "shop_1", "shop_2"])
    tenant = uuid.UUID("0192f0c4-1b2a-7000-8000-000000000001")
    found = [app.shard(key).schema for key in (7, "7", "naïve", tenant, str(tenant), "acme", -1)]
    assert found == ["shop_0", "shop_0", "shop_2", "shop_1", "shop_1", "shop_0", "shop_0"]


@pytest.mark.parametrize("key", [None, True, 1.5, b"acme", ("a", 1)])
def test_a_key_of_another_type_is_refused(key: Any) -> None:
    with pytest.raises(InvalidOption, match="shard key"):
        App(shards=["shop_0"]).shard(key)


def test_what_cannot_be_a_shard_is_refused() -> None:
    with pytest.raises(ConfigError, match="'Acme'"):
        App().on("Acme")
    with pytest.raises(ConfigError, match="pg_"):
        App(shards=["pg_a"])
    with pytest.raises(InvalidOption, match="give a list"):
        App(shards="acme")
    with pytest.raises(UnknownShard, match="has no shards"):
        App().shard(1)


def test_on_still_listens_to_events() -> None:
    app, heard = App(), list[JobSucceeded]()
    app.on(JobSucceeded)(heard.append)
    app.on("acme").listeners.emit(event := JobSucceeded(1, "t", "q", 1, 1, uuid.uuid4()))
    assert heard == [event]
