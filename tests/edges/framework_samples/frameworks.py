"""Tests of the examples in docs/frameworks.md, run beside them by tests/edges/test_frameworks.py."""

import asyncio
import os

import httpx
import orders_bound
import orders_django
import orders_fastapi
import orders_keyed
import orders_once
import orders_sqlalchemy
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.test import TestCase
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from pgqueue import testing
from pgqueue.worker import Worker, WorkerSettings


class DjangoTests(TestCase):
    def setUp(self):
        self.jobs = self.enterContext(testing.using(orders_django.app, connection))

    def test_the_view_answers_with_the_job_and_the_task_sees_the_order(self):
        answer = self.client.post("/orders", {"email": "a@example.com"})
        assert answer.status_code == 202
        job = self.jobs.assert_enqueued(orders_django.send_receipt, {"order_id": answer.json()["order"]})
        assert job.id == answer.json()["job"]
        assert self.jobs.run(job).result == "a@example.com"  # by the ORM, in this thread

    def test_a_rolled_back_block_leaves_no_job(self):
        with transaction.atomic():
            orders_django.send_receipt.using(connection).enqueue(1)
            transaction.set_rollback(True)
        self.jobs.assert_not_enqueued()

    def test_a_task_that_breaks_the_transaction_fails_alone(self):
        @orders_django.app.task(name="twice", max_attempts=1)
        def twice() -> None:
            orders_django.Order.objects.create(email="a")
            with connection.cursor() as cursor:
                cursor.execute("select 1 / 0")

        twice.enqueue()
        assert self.jobs.drain() == testing.Drained(failed=1)
        assert orders_django.Order.objects.count() == 0

    async def test_async_tests_and_tasks_are_in_the_same_transaction(self):
        @orders_django.app.task(name="acount")
        async def acount() -> int:
            await orders_django.Order.objects.acreate(email="b@example.com")
            return await orders_django.Order.objects.acount()

        await orders_django.Order.objects.acreate(email="a@example.com")
        job = await sync_to_async(acount.using(connection).enqueue)()
        assert (await self.jobs.arun(job)).result == 2
        await acount.aenqueue()
        assert (await self.jobs.adrain()).succeeded == 1
        assert await orders_django.Order.objects.acount() == 3

    def test_async_tasks_of_a_sync_test_use_its_connection(self):
        @orders_django.app.task(name="acreate")
        async def acreate() -> None:
            await orders_django.Order.objects.acreate(email="b@example.com")

        acreate.enqueue()
        assert self.jobs.drain().succeeded == 1
        assert orders_django.Order.objects.count() == 1


@pytest.mark.anyio
async def test_sqlalchemy_jobs_belong_to_the_session_s_transaction():
    engine = create_async_engine("postgresql+psycopg://")
    async with engine.connect() as conn:
        outer = await conn.begin()
        with testing.using(orders_sqlalchemy.app, conn) as jobs:
            async with AsyncSession(conn, join_transaction_mode="create_savepoint") as session:
                job = await orders_sqlalchemy.place_order(session, "a@example.com")
                assert (await session.get(orders_sqlalchemy.Order, job.args["order_id"])).email == "a@example.com"
            assert (await jobs.adrain()).succeeded == 1
        await outer.rollback()
    await engine.dispose()


async def _work_once(app):
    """Work until an attempt has ended."""
    loop, worker = asyncio.get_running_loop(), Worker(app, WorkerSettings())
    app.on_attempt_end(lambda _: loop.call_soon_threadsafe(worker.stop))
    await worker.run()


@pytest.mark.parametrize("lost", [False, True], ids=["held", "lease lost"])
def test_sqlalchemy_a_task_writes_once(lost):
    dsn, app = os.environ["PGQUEUE_DSN"], orders_sqlalchemy.app
    with psycopg.connect(dsn, autocommit=True) as other:
        order = other.execute("insert into orders_order (email) values ('a') returning id").fetchone()[0]

        @event.listens_for(orders_once.Session, "after_flush")
        def steal(*_):
            if lost:
                other.execute("update pgqueue.job_live set lease = lease + 1")

        job = orders_once.correct_email.enqueue(order, email="b")
        asyncio.run(_work_once(app))
        event.remove(orders_once.Session, "after_flush", steal)
        found = other.execute("select email from orders_order where id = %s", [order]).fetchone()[0]
        assert (found, app.get(job.id).result) == (("a", None) if lost else ("b", "b"))
        other.execute("delete from orders_order")
        for table in ("job_live", "job_finished", "transition"):
            other.execute(f"delete from pgqueue.{table}")
    app.close()


@pytest.fixture
def jobs():
    with testing.rolled_back(orders_fastapi.app) as jobs:
        yield jobs


@pytest.mark.anyio
async def test_fastapi_answers_with_a_job_that_exists(jobs):
    async def borrowed():
        return jobs.aconn

    orders_fastapi.api.dependency_overrides[orders_fastapi.request_connection] = borrowed
    transport = httpx.ASGITransport(app=orders_fastapi.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/orders/1", params={"email": "a@example.com"})
    orders_fastapi.api.dependency_overrides.clear()
    assert answer.status_code == 202
    job = jobs.assert_enqueued(orders_fastapi.send_receipt, {"order_id": 1, "to": "a@example.com"}, count=1)
    assert job.id == answer.json()["job"]


@pytest.mark.anyio
async def test_fastapi_a_repeated_request_finds_its_job_and_adds_nothing():
    api = orders_keyed.api

    async def post(number, user="ann", email="a"):
        headers = {"x-user": user, "idempotency-key": "k"}
        return await client.post(f"/orders/{number}/once", params={"email": email}, headers=headers)

    transport = httpx.ASGITransport(app=api)
    async with api.router.lifespan_context(api), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        with psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True) as other:
            first, again = await post(70), await post(70)
            assert (first.status_code, again.status_code) == (202, 202)
            assert first.json() == again.json()
            assert (await post(70, email="b")).status_code == 409
            assert (await post(71, user="bob")).json() != first.json()
            assert other.execute("select count(*) from orders where id in (70, 71)").fetchone() == (2,)
            for table in ("pgqueue.job_live", "pgqueue.transition", "pgqueue.idempotency_key", "orders"):
                other.execute(f"delete from {table}")


@pytest.mark.anyio
async def test_fastapi_commits_before_it_answers_and_rolls_back_on_errors():
    api = orders_fastapi.api
    transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
    async with api.router.lifespan_context(api), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        with psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True) as other:
            answer = await client.post("/orders/7", params={"email": "a"})
            seen = other.execute("delete from pgqueue.job_live returning id").fetchall()
            assert (answer.status_code, seen) == (202, [(answer.json()["job"],)])
            assert (await client.post("/orders/7", params={"email": "again"})).status_code == 500
            assert other.execute("select count(*) from pgqueue.job").fetchone() == (0,)
            other.execute("delete from pgqueue.transition")


@pytest.mark.anyio
async def test_a_bound_session_takes_the_job_with_it():
    transport = httpx.ASGITransport(app=orders_bound.api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        with psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True) as other:
            answer = await client.post("/orders/90", params={"email": "a"})
            seen = other.execute("delete from pgqueue.job_live returning id").fetchall()
            assert (answer.status_code, seen) == (202, [(answer.json()["job"],)])
            assert (await client.post("/orders/90", params={"email": "again"})).status_code == 500
            assert other.execute("select count(*) from pgqueue.job").fetchone() == (0,)
            other.execute("delete from orders where id = 90")
            other.execute("delete from pgqueue.transition")
    await orders_bound.engine.dispose()
    await orders_bound.app.aclose()


@pytest.mark.anyio
async def test_async_verbs_of_an_app_that_is_bound_to_django_ask_it_for_no_connection():
    app = orders_django.app
    app.bind(lambda: connection)
    job = await orders_django.send_receipt.aenqueue(1)
    app.binding = None
    with psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True) as other:
        assert other.execute("delete from pgqueue.job_live returning id").fetchall() == [(job.id,)]
        other.execute("delete from pgqueue.transition")
    await app.aclose()
