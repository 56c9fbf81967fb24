"""What an edit or a redrive makes of the rules of a job: other keys for other arguments, the rule of another queue."""

from typing import Any

import pytest

from pgqueue import App, DeadFilter, InvalidArguments, JobFilter, Limit
from pgqueue.codecs import AESGCM
from pgqueue.jobs.flow import Flow
from tests.client.test_metered_jobs import moves
from tests.harness import Conn, add_rule


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(autouse=True)
def no_rules(conn: Conn) -> None:
    for table in ("limit_rule", "limit_key", "limit_bucket", "limit_use", "limit_freed"):
        conn.execute(f"delete from pgqueue.{table}".encode())


def by_tenant(app: App) -> Any:
    @app.task(name="sync", limit=Limit(5, by="tenant"), ordered="order")
    def sync(tenant: int, order: int, text: str = "") -> None: ...

    return sync


def flow(tenant: int, order: int, *more: str) -> Flow:
    return Flow(tuple(sorted([f"sync/{tenant}", f"sync#order/{order}", *more])), order=f"sync#order/{order}")


def stands(conn: Conn, job: int) -> Any:
    query = "select state, waits_for, lane from pgqueue.job_live where id = %s"
    return conn.execute(query, (job,)).fetchone()


def die(conn: Conn, *jobs: int) -> None:
    conn.execute(
        "with gone as (delete from pgqueue.job_live where id = any(%s) returning *)"
        " insert into pgqueue.dead_letter (id, task, queue, args, headers, reason)"
        " select id, task, queue, args, headers, 'exhausted' from gone", (list(jobs),),
    )  # fmt: skip


def test_other_arguments_make_other_keys(app: App, conn: Conn) -> None:
    sync = by_tenant(app)
    one, many = sync.enqueue(tenant=1, order=7).id, sync.enqueue(tenant=1, order=8).id
    assert app.get(one).flow == flow(1, 7)
    assert app.edit(one, {"tenant": 2}).flow == flow(2, 7)
    assert stands(conn, one) == ("blocked", "turn", flow(2, 7).lane)
    assert app.jobs.edit(JobFilter(ids=[many]), {"order": 9}).done == 1
    assert (app.get(many).flow, stands(conn, many)[2]) == (flow(1, 9), flow(1, 9).lane)
    assert app.edit(one, {"text": "no key is made of it"}).flow == flow(2, 7)


def test_a_key_that_the_call_gave_stays_whatever_the_arguments_are(app: App) -> None:
    job = by_tenant(app).using(limit_key="acme").enqueue(tenant=1, order=7)
    before = app.get(job.id).flow
    assert before is not None
    assert "sync/acme" in before.buckets
    assert app.edit(job.id, {"tenant": 2}).flow == before


def test_arguments_of_which_no_key_can_be_made_are_refused(app: App, conn: Conn) -> None:
    def halves(tenant: int) -> int:
        return 12 // tenant

    @app.task(name="half", limit=Limit(1, by=halves))
    def half(tenant: int) -> None: ...

    job = half.enqueue(tenant=1)
    with pytest.raises(InvalidArguments):
        app.edit(job.id, {"tenant": 0})
    assert app.jobs.edit(JobFilter(ids=[job.id]), {"tenant": 0}).skipped == 1
    assert app.get(job.id).args == {"tenant": 1}


def test_keys_are_made_anew_of_sealed_arguments_and_of_those_of_a_dead_letter(dsn: str, conn: Conn) -> None:
    app = App(dsn, codec=AESGCM({"k": b"0" * 32}))
    sync = by_tenant(app)
    job = sync.enqueue(tenant=1, order=7).id
    assert app.edit(job, {"tenant": 2}).flow == flow(2, 7)
    die(conn, job)
    assert app.dead.edit(job, {"tenant": 3}).flow == flow(3, 7)
    app.retry(job)
    assert stands(conn, job) == ("blocked", "turn", flow(3, 7).lane)
    app.close()


def test_in_another_queue_a_job_has_the_rule_of_that_queue(app: App, conn: Conn) -> None:
    add_rule(conn, "queue:slow", max_running=1)
    add_rule(conn, "queue:mail", max_running=1)
    sync = by_tenant(app)
    job = sync.enqueue(tenant=1, order=7).id
    assert app.edit(job, queue="slow").flow == flow(1, 7, "queue:slow")
    assert app.edit(job, {"tenant": 2}, queue="mail").flow == flow(2, 7, "queue:mail")
    assert app.edit(job, queue="default").flow == flow(2, 7)


def test_a_plain_job_waits_for_its_turn_where_a_rule_concerns_the_queue_and_not_elsewhere(app: App, conn: Conn) -> None:
    add_rule(conn, "queue:slow", max_running=1)
    job = app.enqueue("t", {}).id
    assert stands(conn, job) == ("pending", None, None)
    assert app.jobs.edit(JobFilter(ids=[job]), {}, queue="slow").done == 1
    assert stands(conn, job) == ("blocked", "turn", Flow(("queue:slow",)).lane)
    app.edit(job, queue="default")
    assert stands(conn, job) == ("pending", None, None)
    assert app.get(job).flow is None
    assert moves(conn, job) == [(None, "pending"), ("pending", "blocked"), ("blocked", "pending")]


def test_a_parked_job_stays_parked_unless_a_rule_concerns_it_now(app: App, conn: Conn) -> None:
    """Whoever adopts a parked job takes no buckets for it."""
    add_rule(conn, "queue:slow", max_running=1)
    job = app.enqueue("t", {}).id
    conn.execute("update pgqueue.job_live set state = 'blocked', waits_for = 'task' where id = %s", (job,))
    app.edit(job, queue="other")
    assert stands(conn, job) == ("blocked", "task", None)
    app.edit(job, queue="slow")
    assert stands(conn, job) == ("blocked", "turn", Flow(("queue:slow",)).lane)


def test_a_redrive_into_another_queue_takes_its_rule(app: App, conn: Conn) -> None:
    add_rule(conn, "queue:slow", max_running=1)
    metered, plain = by_tenant(app).enqueue(tenant=1, order=7).id, app.enqueue("t", {}).id
    die(conn, metered, plain)
    assert app.dead.redrive(DeadFilter(ids=[metered, plain]), queue="slow").done == 2
    assert stands(conn, metered) == ("blocked", "turn", flow(1, 7, "queue:slow").lane)
    assert stands(conn, plain) == ("blocked", "turn", Flow(("queue:slow",)).lane)
    die(conn, metered, plain)
    assert app.dead.redrive(DeadFilter(ids=[metered, plain]), queue="default").done == 2
    assert stands(conn, metered) == ("blocked", "turn", flow(1, 7).lane)
    assert stands(conn, plain) == ("pending", None, None)
