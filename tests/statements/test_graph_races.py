"""Two connections end, cancel, retry and prune jobs of one workflow at once. pg_blocking_pids proves each wait."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pgqueue import db
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries.jobs.ties import TiedEnds
from pgqueue.queries.retention import Sweep
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, InThread, add_worker, wait_blocked
from tests.statements.graphs import DEAD, DONE, claim, end, graph, insert, retry, run_all, states, tidy, workflow_state
from tests.statements.test_partitions import today
from tests.statements.test_races import at_once
from tests.statements.test_retention import add_day, noon

Open = Callable[[], Conn]


def running(conn: Conn, made: InsertedWorkflow) -> list[ClaimedJob]:
    """Claim what is due, in the order of the graph."""
    add_worker(conn)
    return [job for _, job in sorted(claim(conn).items())]


def after_waiting(conn: Conn, holder: Conn, waiting: Conn, call: Callable[[], Any]) -> Any:
    """Call in a thread; prove that `waiting` waits for `holder`; let `holder` commit; return what the call returned."""
    thread = InThread(call)
    wait_blocked(conn, waiting, holder)
    holder.commit()
    returned = thread.result()
    waiting.commit()
    return returned


def test_two_parents_that_end_at_once_release_their_child_once(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(3, [(0, 2), (1, 2)]))
    first, second = running(conn, made)
    a, b = connect(), connect()
    assert end(a, (first, DONE)).ready == set()
    told = after_waiting(conn, a, b, lambda: end(b, (second, DONE)))
    assert told.ready == {made.jobs[2]}
    assert states(conn, made) == "ssp"
    assert scalar(conn, "select count(*) from pgqueue.transition where reason = 'ready'") == 1


@pytest.mark.parametrize("each", [1, 2], ids=["alone", "in batches"])
def test_the_last_members_that_end_at_once_end_their_workflow_once(conn: Conn, connect: Open, each: int) -> None:
    made = insert(conn, graph(2 * each))
    jobs = [(job, PLAIN_SUCCESS) for job in running(conn, made)]
    a, b = connect(), connect()
    assert not db.run(a, QUERIES.jobs.succeed_counted(jobs[:each])).unsettled
    counted = QUERIES.jobs.succeed_counted(jobs[each:])
    told = after_waiting(conn, a, b, lambda: db.run(b, counted))
    assert (told.moved, told.unsettled) == (set(made.jobs[each:]), True)
    assert conn.execute("select remaining, failed, cancelled from pgqueue.gate").fetchall() == [(0, 0, 0)]
    assert conn.execute("select state, open_gates from pgqueue.workflow").fetchall() == [("succeeded", 0)]
    for batch in (jobs, jobs[:1]):
        assert db.run(conn, QUERIES.jobs.succeed_counted(batch)) == TiedEnds(set(), set(), False, False)


@pytest.mark.parametrize("each", [1, 2], ids=["alone", "in batches"])
def test_a_counted_member_is_left_where_its_lease_or_its_ties_are_others(conn: Conn, each: int) -> None:
    made = insert(conn, graph(each))
    jobs = [(job, PLAIN_SUCCESS) for job in running(conn, made)]
    lost = [(replace(job, lease=job.lease + 1), end) for job, end in jobs]
    assert db.run(conn, QUERIES.jobs.succeed_counted(lost)).moved == set()
    for ties in (None, 1, 2 | 1, 2 | 4, 2 | 8):
        conn.execute("update pgqueue.job_live set ties = %s", (ties,))
        assert db.run(conn, QUERIES.jobs.succeed_counted(jobs)).moved == set(), ties
    assert states(conn, made) == "r" * each
    conn.execute("update pgqueue.job_live set ties = 2 | 16 | 32 | 64")
    assert db.run(conn, QUERIES.jobs.succeed_counted(jobs)).unsettled
    assert states(conn, made) == "s" * each


WRITES_HISTORY = """select count(*) from pg_locks l join pg_inherits i on i.inhrelid = l.relation
where l.pid = %s and l.granted and l.mode = 'RowExclusiveLock'
and i.inhparent in ('pgqueue.job_finished'::regclass, 'pgqueue.transition'::regclass)"""


@pytest.mark.parametrize("each", [1, 2], ids=["alone", "in batches"])
@pytest.mark.parametrize("how", [PLAIN_SUCCESS, DONE], ids=["counted", "with a result"])
def test_members_are_written_before_their_gate_is_locked(conn: Conn, connect: Open, how: Resolution, each: int) -> None:
    """Who waits for a gate has written the history by then: it holds the gate for no longer than it must."""
    made = insert(conn, graph(2 * each))
    jobs = [(job, how) for job in running(conn, made)]
    a, b = connect(), connect()
    end(a, *jobs[:each])
    thread = InThread(lambda: end(b, *jobs[each:]))
    wait_blocked(conn, b, a)
    assert scalar(conn, WRITES_HISTORY, b.info.backend_pid) == 2
    a.commit()
    assert thread.result().unsettled
    b.commit()


def test_a_parent_that_fails_while_the_other_succeeds_dooms_their_child(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(3, [(0, 2), (1, 2)]))
    first, second = running(conn, made)
    a, b = connect(), connect()
    assert end(a, (first, DEAD)).doomed
    assert after_waiting(conn, a, b, lambda: end(b, (second, DONE))).ready == set()
    tidy(conn)
    assert states(conn, made) == "fsc"


def test_the_last_two_members_that_end_at_once_end_their_workflow_once(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(3, [], outside=[2]))
    conn.execute("insert into pgqueue.dependency (parent_id, child_id, ord, workflow_id) values (%s, %s, 1, %s)",
                 (made.id, made.jobs[2], made.id))  # fmt: skip
    first, second = running(conn, made)[:2]
    a, b = connect(), connect()
    assert not end(a, (first, DONE)).unsettled
    assert after_waiting(conn, a, b, lambda: end(b, (second, DONE))).unsettled
    assert workflow_state(conn, made.id) == "succeeded"


def test_two_gates_that_close_at_once_end_their_workflow_once(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(65))
    taken = running(conn, made)
    gates = [scalar(conn, "select gate_id from pgqueue.job_live where id = %s", job.id) for job in taken]
    last: dict[int, ClaimedJob] = dict(zip(gates, taken, strict=True))
    one, other, *rest = last
    keep = {last[one].id, last[other].id}
    end(conn, *((job, DONE) for job in taken if job.id not in keep))
    assert len(rest) == 14
    a, b = connect(), connect()
    assert not end(a, (last[one], DONE)).unsettled
    assert after_waiting(conn, a, b, lambda: end(b, (last[other], DONE))).unsettled
    assert scalar(conn, "select state || open_gates from pgqueue.workflow") == "succeeded0"


def test_a_child_that_is_cancelled_while_its_parent_ends_is_cancelled_and_counted_once(
    conn: Conn, connect: Open
) -> None:
    made = insert(conn, graph(3, [(0, 1), (1, 2)]))
    (parent,) = running(conn, made)
    a, b = connect(), connect()
    db.run(a, QUERIES.jobs.cancel([made.jobs[1]], "not wanted"))
    assert after_waiting(conn, a, b, lambda: end(b, (parent, DONE))).ready == set()
    tidy(conn)
    assert states(conn, made) == "scc"
    assert workflow_state(conn, made.id) == "cancelled"


def test_a_cancellation_that_waits_for_the_end_of_a_parent_cancels_the_released_child(
    conn: Conn, connect: Open
) -> None:
    made = insert(conn, graph(2, [(0, 1)]))
    (parent,) = running(conn, made)
    a, b = connect(), connect()
    end(a, (parent, DONE))
    found = after_waiting(conn, a, b, lambda: db.run(b, QUERIES.jobs.cancel([made.jobs[1]], "not wanted")))
    assert [job.state for job in found] == ["pending"]
    assert states(conn, made) == "sc"
    assert workflow_state(conn, made.id) == "cancelled"


def test_a_cancel_of_a_workflow_waits_for_a_job_that_ends_and_ends_what_that_releases(
    conn: Conn, connect: Open
) -> None:
    made = insert(conn, graph(4, [(0, 1), (2, 3)]))
    first, _ = running(conn, made)
    a, b = connect(), connect()
    end(a, (first, DONE))
    assert after_waiting(conn, a, b, lambda: db.run(b, QUERIES.workflows.request_stop(made.id, "not wanted")))
    ends = db.run(b, QUERIES.workflows.stop(500, made.id))
    b.commit()
    assert ends.moved == set(made.jobs[1:])
    assert states(conn, made) == "scrc"


def test_a_cascade_waits_for_no_child_that_somebody_holds(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(4, [(0, 1), (1, 2, "e"), (3, 2)]))
    failing, other = running(conn, made)
    end(conn, (failing, DEAD))
    a, b = connect(), connect()
    end(a, (other, DONE))  # holds job 2
    with at_once(b):
        assert db.run(b, QUERIES.workflows.cascade(500)).moved == set()
    b.commit()
    a.commit()
    assert db.run(conn, QUERIES.workflows.cascade(500)).moved == {made.jobs[1]}
    assert states(conn, made) == "fcps"


def test_a_workflow_is_settled_by_one_of_two_who_look_at_once(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(1))
    run = running(conn, made)
    end(conn, (run[0], DONE))
    a, b = connect(), connect()
    assert db.run(a, QUERIES.workflows.settle(10)).moved == {made.id}
    with at_once(b):
        assert db.run(b, QUERIES.workflows.settle(10)).moved == set()


def test_a_job_that_gets_ties_while_its_plain_end_waits_is_left_for_the_other_statement(
    conn: Conn, connect: Open
) -> None:
    made = insert(conn, graph(2, outside=[0]))
    job = next(job for job in running(conn, made) if job.ties is None)
    a, b = connect(), connect()
    a.execute("update pgqueue.job_live set ties = 8 where id = %s", (job.id,))
    assert after_waiting(conn, a, b, lambda: db.run(b, QUERIES.jobs.resolve([(job, DONE)]))) == set()
    assert db.run(conn, QUERIES.jobs.resolve_tied([(job, DONE)])).moved == {job.id}


def test_two_retries_at_once_bring_the_workflow_back_once(conn: Conn, connect: Open) -> None:
    made = insert(conn, graph(2, [(0, 1)]))
    run_all(conn, made, {0})
    a, b = connect(), connect()
    a.execute("select 1")  # so that the retry is part of a transaction that stays open
    assert retry(a, made.id).revived == 2
    locked = after_waiting(conn, a, b, lambda: db.run(b, QUERIES.workflows.lock_for_retry(made.id)))
    assert locked.state == "running"
    assert states(conn, made) == "pb"


def old_workflow(conn: Conn) -> tuple[InsertedWorkflow, Sweep]:
    """A workflow that failed ten days ago, and the sweep of the partition that has its finished jobs."""
    made = insert(conn, graph(3, [(0, 1), (1, 2)]))
    run_all(conn, made, {1})
    name = add_day(conn, 10, "job_finished")
    day = noon(today(conn) - timedelta(days=10))
    conn.execute("update pgqueue.workflow set created_at = %s, ended_at = %s", (day, day))
    conn.execute("update pgqueue.job_finished set created_at = %s, finished_at = %s", (day, day))
    start = day - timedelta(hours=12)
    return made, Sweep(f"job_finished_{name}", start, start + timedelta(days=1), timedelta(days=7), True, 0, 10, "h")


def test_a_retry_that_waits_for_a_sweep_of_its_jobs_finds_that_they_are_gone(conn: Conn, connect: Open) -> None:
    made, sweep = old_workflow(conn)
    a, b = connect(), connect()
    assert db.run(a, QUERIES.retention.sweep(sweep))[0] == 2
    revived = after_waiting(conn, a, b, lambda: retry(b, made.id))
    assert (revived.ended, revived.revived) == (1, 0)
    assert states(conn, made) == "-f-"


def test_a_sweep_leaves_the_jobs_of_a_workflow_that_is_being_retried(conn: Conn, connect: Open) -> None:
    made, sweep = old_workflow(conn)
    a, b = connect(), connect()
    assert db.run(a, QUERIES.workflows.lock_for_retry(made.id)) is not None
    with at_once(b):
        assert db.run(b, QUERIES.retention.sweep(sweep))[0] == 0
        assert db.run(b, QUERIES.retention.prune_dead(10, None))[0] == 0
        assert not db.run(b, QUERIES.retention.empty_partition(sweep.name))
        assert db.run(b, QUERIES.workflows.prune(10)) == 0
    b.rollback()
    assert retry(a, made.id).revived == 2
    a.commit()
    assert db.run(conn, QUERIES.retention.sweep(sweep))[0] == 0
    run_all(conn, made)
    assert states(conn, made) == "sss"


def test_a_partition_that_a_living_workflow_may_need_is_not_old(conn: Conn) -> None:
    made, sweep = old_workflow(conn)
    old = "select count(*) from pgqueue.old_partition where partition = %s"
    assert scalar(conn, old, sweep.name) == 1
    retry(conn, made.id)
    assert scalar(conn, old, sweep.name) == 0
    assert not db.run(conn, QUERIES.retention.empty_partition(sweep.name))
    run_all(conn, made)
    assert scalar(conn, old, sweep.name) == 1


def test_a_partition_that_a_waiting_caller_may_need_is_not_old(conn: Conn) -> None:
    _, sweep = old_workflow(conn)
    old = "select count(*) from pgqueue.old_partition where partition = %s"
    assert scalar(conn, old, sweep.name) == 1
    conn.execute(
        "with called as (insert into pgqueue.step (job_id, name, kind, done, attempt, lease, at)"
        " values (7, 'calls', 'call', false, 1, 1, now() - interval '10 years') returning *)"
        " insert into pgqueue.call (child_id, job_id, step, number) select 8, job_id, name, number from called"
    )
    assert scalar(conn, old, sweep.name) == 0
    conn.execute("update pgqueue.call set ended = true")
    assert scalar(conn, old, sweep.name) == 1


def test_dead_letters_of_a_workflow_that_lives_are_kept(conn: Conn) -> None:
    made = insert(conn, graph(2, [(0, 1)], on_failure="hold"))
    run_all(conn, made, {0})
    conn.execute("insert into pgqueue.setting (name, value) values ('retention.failed', interval '1 hour')")
    conn.execute("update pgqueue.dead_letter set failed_at = now() - interval '1 day'")
    assert db.run(conn, QUERIES.retention.prune_dead(10, None))[0] == 0
    assert db.run(conn, QUERIES.dead.discard([made.jobs[0]], "discarded")) == 1


def test_a_result_that_a_living_workflow_may_want_is_kept_until_it_has_ended(conn: Conn) -> None:
    made = insert(conn, graph(2, [(0, 1)]))
    (job,) = running(conn, made)
    end(conn, (job, DONE))
    db.run(conn, QUERIES.jobs.set_result_expiry({job.id: 0.0}))
    db.run(conn, QUERIES.jobs.drop_expired_results(10))
    result = "select result from pgqueue.job_finished where id = %s"
    assert scalar(conn, result, job.id) == 1
    run_all(conn, made)
    conn.execute("update pgqueue.result_expiry set expires_at = now()")
    db.run(conn, QUERIES.jobs.drop_expired_results(10))
    assert scalar(conn, result, job.id) is None


def test_a_workflow_goes_with_its_edges_when_retention_keeps_none_of_its_jobs(conn: Conn) -> None:
    made = insert(conn, graph(3, [(0, 1), (1, 2)]))
    run_all(conn, made)
    other = insert(conn, graph(2, [(0, 1)]))
    run_all(conn, other, {0})
    assert db.run(conn, QUERIES.workflows.prune(10)) == 0
    conn.execute("update pgqueue.workflow set ended_at = now() - interval '30 days'")
    assert db.run(conn, QUERIES.workflows.prune(10)) == 1
    assert scalar(conn, "select array_agg(distinct workflow_id) from pgqueue.gate") == [other.id]
    assert scalar(conn, "select array_agg(distinct workflow_id) from pgqueue.dependency") == [other.id]
