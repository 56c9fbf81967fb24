"""Workflows that keep history or have lost their jobs, and waits that nobody ends."""

from collections.abc import Iterator

import pytest

from pgqueue import App, DeadFilter, Workflow
from tests.conftest import drain
from tests.doctor.looks import found, provoked
from tests.harness import Conn, insert_job
from tests.statements.graphs import graph, insert, run_all, states

OLD = "update pgqueue.workflow set created_at = now() - interval '20 days'"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def old_day(conn: Conn) -> Iterator[None]:
    """A partition of finished jobs that is older than they are kept."""
    day = conn.execute("select to_char(now() at time zone 'UTC' - interval '12 days', 'YYYYMMDD')").fetchall()[0][0]
    conn.execute(
        f"do $$ begin execute format('create table pgqueue.job_finished_{day} partition of pgqueue.job_finished for "
        f"values from (%L) to (%L)', '{day} 00:00:00+00'::timestamptz, '{day} 00:00:00+00'::timestamptz + interval "
        "'1 day'); end $$".encode()
    )
    yield
    conn.execute(f"drop table pgqueue.job_finished_{day}".encode())


@pytest.mark.usefixtures("old_day")
def test_a_workflow_that_keeps_old_days_is_named(app: App, conn: Conn) -> None:
    made = insert(conn, graph(1))
    assert found(app, "workflow-holds-partition") == []
    conn.execute(OLD)
    finding = provoked(app, "workflow-holds-partition")
    assert finding.what == f"workflow {made.id} 'w' has not ended, and keeps 1 old days of job_finished"
    assert finding.remedy == f"pgqueue workflows cancel {made.id}"
    app.workflows.cancel(made.id)
    assert found(app, "workflow-holds-partition") == []


@pytest.mark.usefixtures("old_day")
def test_a_callback_that_keeps_old_days_is_named(app: App, conn: Conn) -> None:
    made = insert(conn, graph(2, outside=[1]))
    conn.execute("update pgqueue.job_live set queue = 'later' where id = %s", (made.jobs[1],))
    run_all(conn, made)
    assert states(conn, made) == "sp"
    assert found(app, "workflow-holds-partition") == []
    conn.execute(OLD)
    insert(conn, graph(2, outside=[1]))
    finding = provoked(app, "workflow-holds-partition")
    assert finding.what == (
        f"workflow {made.id} 'w' has ended, but its job {made.jobs[1]} has not, and keeps 1 old days of job_finished"
    )
    assert finding.remedy == f"pgqueue jobs why {made.jobs[1]}"
    app.cancel(made.jobs[1])
    assert found(app, "workflow-holds-partition") == []


def test_jobs_and_workflows_whose_rows_were_deleted_are_named(app: App, conn: Conn) -> None:
    made = insert(conn, graph(2, [(0, 1)]))
    conn.execute("delete from pgqueue.job_live where id = %s", (made.jobs[0],))
    assert found(app, "job-waits-for-gone") == []
    conn.execute(OLD)
    finding = provoked(app, "job-waits-for-gone")
    assert finding.remedy == f"pgqueue jobs cancel {made.jobs[1]}"
    assert found(app, "workflow-without-jobs") == []
    app.cancel(made.jobs[1])
    assert found(app, "job-waits-for-gone") == []
    assert provoked(app, "workflow-without-jobs").what == f"workflow {made.id} 'w' runs, and none of its jobs is there"


def test_a_workflow_that_somebody_forgot_to_seal_is_named(app: App, conn: Conn) -> None:
    t = app.task(name="t")(lambda: None)
    with app.batch(name="b", sealed=False).using(conn) as batch:
        batch.add(t.s())
    made = app.workflows.list()[0].id
    conn.execute(OLD)
    assert found(app, "workflow-left-open") == []  # a member lives
    drain(app, conn)
    finding = provoked(app, "workflow-left-open")
    assert finding.what == f"workflow {made} 'b' is not sealed, and none of its 1 jobs lives"
    assert finding.remedy == f"pgqueue workflows seal {made}"
    assert found(app, "workflow-left-open", open_seconds=30 * 86_400) == []
    app.workflows.seal(made)
    assert found(app, "workflow-left-open") == []


def test_an_open_workflow_that_a_dead_letter_holds_is_not_forgotten(app: App, conn: Conn) -> None:
    t = app.task(name="t", max_attempts=1)(lambda: 1 / 0)
    flow = Workflow("w", on_failure="hold", sealed=False)
    flow.add(t.s())
    flow.using(conn).enqueue()
    drain(app, conn)
    conn.execute(OLD)
    assert found(app, "workflow-left-open") == []
    app.dead.discard(DeadFilter(task="t"), reason="why")
    assert provoked(app, "workflow-left-open").what.startswith("workflow ")


def test_letters_that_nobody_delivers_are_found(app: App, conn: Conn) -> None:
    conn.execute("insert into pgqueue.awaited_event (name, key, data) values ('paid', '7', '1')")
    assert found(app, "signals-undelivered") == []
    conn.execute("update pgqueue.awaited_event set at = now() - interval '2 minutes'")
    assert provoked(app, "signals-undelivered").what.startswith("an event waits for 12")


def test_a_wait_without_a_timeout_is_found_after_a_week(app: App, conn: Conn) -> None:
    job = insert_job(conn)
    conn.execute(
        "insert into pgqueue.step (job_id, name, kind, done, waits, attempt, lease, at)"
        " values (%s, 's', 'signal', false, 'approved', 1, 1, now() - interval '8 days')", (job,),
    )  # fmt: skip
    assert found(app, "wait-without-end", wait_seconds=9 * 86_400) == []
    finding = provoked(app, "wait-without-end")
    assert finding.what == f"job {job} waits for signal 'approved', without a timeout"
    assert finding.remedy == f"pgqueue jobs cancel {job}"
    app.cancel(job)
    assert found(app, "wait-without-end") == []
