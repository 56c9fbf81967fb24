"""Claims from lanes without buckets, whose jobs only share fairly: one statement of its own, with the same promises."""

from collections.abc import Callable, Sequence

import pytest

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.queries.turns.claim import CLAIM_SHARES, Line
from tests.conftest import scalar
from tests.harness import QUERIES, WORKER, Conn, add_worker
from tests.statements.turns import keyed, line, metered

A, B = Flow(share="fair/a"), Flow(share="fair/b")


def claim(conn: Conn, lines: Sequence[Line], room: int = 100) -> Sequence[ClaimedJob]:
    """Claim by the statement for such lanes."""
    query = QUERIES.turns.claim(WORKER, "default", lines, room=room, slots=room)
    assert query.sql == QUERIES.turns._sql(CLAIM_SHARES)
    return db.run(conn, query).jobs


def both(most: int = 50) -> list[Line]:
    return [line(A, most), line(B, most)]


def test_each_lane_gives_what_is_asked_of_it_and_takes_turns(conn: Conn) -> None:
    a, b = metered(conn, A, 5), metered(conn, B, 5)
    assert [job.id for job in claim(conn, both(2))] == [a[0], b[0], a[1], b[1]]


def test_a_lane_of_more_turns_has_them_among_those_of_the_others(conn: Conn) -> None:
    a, b = metered(conn, A, 5), metered(conn, B, 5)
    assert [job.id for job in claim(conn, [line(A, 3), line(B, 1)])] == [a[0], a[1], a[2], b[0]]


def test_of_many_lanes_each_has_its_turns_together(conn: Conn) -> None:
    flows = [Flow(share=f"fair/{number}") for number in range(65)]
    jobs = {flow.lane: set(metered(conn, flow, 2)) for flow in flows}
    found = claim(conn, [line(flow, 2) for flow in flows], room=130)
    assert len(found) == 130
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert [first.id, second.id] == sorted(jobs[first.lane or 0])


def test_of_many_lanes_those_of_a_higher_priority_come_first(conn: Conn) -> None:
    flows = [Flow(share=f"fair/{number}") for number in range(65)]
    for number, flow in enumerate(flows):
        metered(conn, flow, priority=number % 3)
    lines = [line(flow, 2, priority=number % 3) for number, flow in enumerate(flows)]
    query = QUERIES.turns.claim(WORKER, "default", lines, room=130, slots=130)
    priorities = [job.priority for job in db.run(conn, query).jobs]
    assert len(priorities) == 65
    assert priorities == sorted(priorities, reverse=True)


def test_a_claimed_job_runs_with_its_lane_and_its_transition(conn: Conn) -> None:
    (job_id,) = metered(conn, A)
    (job,) = claim(conn, both())
    assert (job.id, job.lane, job.attempt, job.lease) == (job_id, A.lane, 1, 1)
    moves = "select from_state, to_state from pgqueue.transition where job_id = %s"
    assert conn.execute(moves, (job_id,)).fetchall() == [("blocked", "running")]
    assert db.run(conn, QUERIES.jobs.resolve([(job, PLAIN_SUCCESS)])) == {job_id}


def test_jobs_of_tomorrow_and_expired_ones_wait(conn: Conn) -> None:
    metered(conn, A, delay=86_400)
    (expired,) = metered(conn, B)
    conn.execute("update pgqueue.job_live set expires_at = now() - interval '1 s' where id = %s", (expired,))
    assert claim(conn, both()) == []


def test_a_claim_begins_after_the_place_of_a_lane(conn: Conn) -> None:
    ids = metered(conn, A, 3)
    run_at = scalar(conn, "select run_at from pgqueue.job_live where id = %s", ids[0])
    lines = [line(A, 5)._replace(run_at=run_at, id=ids[0]), line(B, 5)]
    assert [job.id for job in claim(conn, lines)] == ids[1:]


def test_jobs_that_another_transaction_has_locked_are_passed_over(conn: Conn, connect: Callable[[], Conn]) -> None:
    ids = metered(conn, A, 3)
    other = connect()
    with other.transaction():
        other.execute("select from pgqueue.job_live where id = %s for update", (ids[0],))
        assert [job.id for job in claim(conn, both())] == ids[1:]


@pytest.mark.parametrize("of_queue", [True, False], ids=["queue", "task"])
def test_what_is_paused_gives_nothing(conn: Conn, of_queue: bool) -> None:
    metered(conn, A)
    if of_queue:
        conn.execute("insert into pgqueue.queue (name, paused_at) values ('default', now())")
    else:
        conn.execute("insert into pgqueue.task_control (task, paused_at) values ('t', now())")
    assert claim(conn, both()) == []


def test_a_lost_worker_gets_nothing(conn: Conn) -> None:
    metered(conn, A)
    worker = add_worker(conn)
    conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (worker,))
    assert db.run(conn, QUERIES.turns.claim(worker, "default", both(), room=100, slots=100)).jobs == []


def test_a_job_with_a_bucket_is_not_claimed_by_a_collision(conn: Conn) -> None:
    flow = keyed("r/a")
    metered(conn, flow)
    assert claim(conn, [line(A), Line(flow.lane, 0, "[]", 5)], room=105) == []


@pytest.mark.parametrize(
    "lines",
    [[line(A), line(keyed("r/a"))], [line(A), line(B, priority=1)], [line(A, 60), line(B, 60)]],
    ids=["a bucket", "two priorities", "more than the room"],
)
def test_other_lanes_are_claimed_from_by_the_statement_that_counts(lines: list[Line]) -> None:
    query = QUERIES.turns.claim(WORKER, "default", lines, room=100, slots=100)
    assert query.sql != QUERIES.turns._sql(CLAIM_SHARES)
