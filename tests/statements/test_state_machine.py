"""Every verb against every state, through the statements that workers use."""

from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import db
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import JobState
from pgqueue.jobs.lifecycle import TRANSITIONS, Resolution
from tests.conftest import scalar
from tests.harness import QUERIES, WORKER, Conn, add_worker, claimed, insert_job, new_job

LEASE = 7
ERROR = ErrorInfo("E", "it broke")
RESOLUTIONS = {
    "succeed": Resolution("succeed", result='{"a": 1}'),
    "succeed plainly": Resolution("succeed"),  # it has a statement of its own
    "retry": Resolution("retry", "error", delay=5.0, error=ERROR),
    "snooze": Resolution("snooze", "later", delay=5.0, refund=True),
    "release": Resolution("release", "released", refund=True),
    "park": Resolution("park", "unknown task", refund=True),
    "meter": Resolution("meter", "a rule concerns it now", refund=True, label='{"lane": 5, "buckets": ["r"]}'),
    "replace": Resolution("replace", "stand-in", refund=True),
    "dead_letter": Resolution("dead_letter", "exhausted", error=ERROR),
    "withdraw": Resolution("withdraw", "not wanted"),
}
OTHERS = {
    "claim",
    "adopt",
    "cancel",
    "expire",
    "rescue",
    "rescue_spent",
    "rescue_cancelled",
    "redrive",
    "restore",
    "discard",
    "set_aside",
    "bring_back",
    "ready",
    "skip",
}
VERBS = sorted(RESOLUTIONS.keys() | OTHERS)


def put(conn: Conn, state: JobState, verb: str = "") -> int:
    """Put a job into a state, under a lost worker, with whatever else the verb needs."""
    spent = verb == "rescue_spent"
    common: dict[str, Any] = {"lease": LEASE, "attempt": 2, "max_attempts": 2 if spent else 5}
    worker = add_worker(conn, lost=True)
    match state:
        case JobState.PENDING | JobState.BLOCKED:
            reasons = {"bring_back": "pause", "ready": "jobs", "skip": "jobs"}
            waits_for = reasons.get(verb, "task") if state == JobState.BLOCKED else None
            return insert_job(
                conn, **common | {"state": state, "waits_for": waits_for, "waits_on": 1, "max_attempts": 5}
            )
        case JobState.RUNNING:
            now = scalar(conn, "select now()")
            asked = now if verb == "rescue_cancelled" else None
            return insert_job(conn, **common, state=state, worker_id=worker, claimed_at=now, cancel_requested_at=asked)
        case JobState.FAILED:
            table, columns, values = "dead_letter", "reason", ("exhausted",)
        case _:
            table, columns, values = "job_finished", "state", (str(state),)
    job = scalar(conn, "select nextval('pgqueue.job_id')")
    conn.execute(
        f"insert into pgqueue.{table} (id, task, queue, lease, attempt, max_attempts, {columns})"
        " values (%s, 't', 'default', %s, %s, %s, %s)",
        (job, *common.values(), *values),
    )
    return int(job)


def apply(conn: Conn, verb: str, job: int, lease: int = LEASE) -> None:
    """Apply a verb through its statement."""
    if verb == "claim":
        db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 10}, 10))
    elif verb == "adopt":
        db.run(conn, QUERIES.jobs.adopt(WORKER, {"default": 10}, ["t"], 10))
    elif verb == "cancel":
        db.run(conn, QUERIES.jobs.cancel([job], "not wanted"))
    elif verb == "expire":
        conn.execute("update pgqueue.job_live set attempt = 0, expires_at = now() where id = %s", (job,))
        db.run(conn, QUERIES.jobs.expire(10))
        conn.execute("update pgqueue.job_live set attempt = 2, expires_at = null where id = %s", (job,))
    elif verb == "redrive":
        db.run(conn, QUERIES.dead.redrive(0, [job], "redriven", {}))
    elif verb == "restore":
        db.run(conn, QUERIES.jobs.restore([job], "brought back"))
    elif verb == "discard":
        db.run(conn, QUERIES.dead.discard([job], "discarded"))
    elif verb == "set_aside":
        conn.execute("insert into pgqueue.task_control (task, paused_at) values ('t', now())")
        db.run(conn, QUERIES.pauses.set_aside(["default"], 10, 10))
        conn.execute("delete from pgqueue.task_control")
    elif verb == "bring_back":
        db.run(conn, QUERIES.pauses.bring_back(["t"], 10))
    elif verb == "ready":
        conn.execute("insert into pgqueue.workflow (id, root_id, name, open_gates, state, ended_at)"
                     " values (0, 0, 'w', 0, 'succeeded', now())")  # fmt: skip
        conn.execute(
            "insert into pgqueue.dependency (parent_id, child_id, ord, workflow_id) values (0, %s, 1, 0)", (job,)
        )
        db.run(conn, QUERIES.workflows.settle(10))
        conn.execute("delete from pgqueue.workflow; delete from pgqueue.dependency")
    elif verb == "skip":
        conn.execute("update pgqueue.job_live set cancel_requested_at = now() where waits_for = 'jobs'")
        db.run(conn, QUERIES.workflows.cascade(10))
    elif verb.startswith("rescue"):
        db.run(conn, QUERIES.jobs.rescue(WORKER))
    else:
        db.run(conn, QUERIES.jobs.resolve([(claimed(job, lease), RESOLUTIONS[verb])]))


def row(conn: Conn, job: int, without: str = "") -> Any:
    """Return a job, without one of its columns."""
    return conn.execute("select to_jsonb(j) - %s::text from pgqueue.job j where id = %s", (without, job)).fetchall()


def moves(conn: Conn, job: int) -> list[Any]:
    query = "select from_state, to_state, attempt, lease from pgqueue.transition where job_id = %s"
    return conn.execute(query, (job,)).fetchall()


def test_every_verb_of_the_table_is_driven_here() -> None:
    assert set(TRANSITIONS) == {"enqueue", *(verb.split()[0] for verb in VERBS)}


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_moves_a_job_as_the_table_says_or_leaves_it_untouched(tx: Conn, verb: str, state: JobState) -> None:
    job = put(tx, state, verb)
    asks = "cancel_requested_at" if (verb, state) == ("cancel", JobState.RUNNING) else ""  # which moves no job
    before = row(tx, job, asks)
    assert len(before) == 1

    apply(tx, verb, job)

    move = TRANSITIONS[verb.split()[0]]
    if state in move.sources:
        claiming = verb in ("claim", "adopt")
        assert [r[:2] for r in tx.execute("select id, state from pgqueue.job").fetchall()] == [(job, move.target)]
        attempt = {"claim": 3, "adopt": 3, "expire": 0, "redrive": 0, "restore": 0}.get(verb, 2)
        assert moves(tx, job) == [(state, move.target, attempt, LEASE + claiming)]
    else:
        assert row(tx, job, asks) == before
        assert moves(tx, job) == []


def test_the_moves_that_happen_are_exactly_the_moves_of_the_table(tx: Conn) -> None:
    for verb in VERBS:
        for state in JobState:
            with tx.transaction(savepoint_name="one", force_rollback=False):
                apply(tx, verb, put(tx, state, verb))
    db.run(tx, QUERIES.jobs.enqueue([new_job()]))
    happened = tx.execute("select distinct from_state, to_state from pgqueue.transition").fetchall()
    allowed = {(source, move.target) for move in TRANSITIONS.values() for source in move.sources or [None]}
    aside = {(move.target, move.target) for move in [TRANSITIONS["set_aside"].of_metered]}  # of jobs that `meter` made
    assert set(happened) == allowed | aside


def test_enqueue_writes_one_transition_from_nothing_to_pending(tx: Conn) -> None:
    job = db.run(tx, QUERIES.jobs.enqueue([new_job()]))[0].id
    assert scalar(tx, "select state from pgqueue.job where id = %s", job) == "pending"
    assert moves(tx, job) == [(None, "pending", 0, 0)]


@pytest.mark.parametrize("offset", [-1, 1])
@pytest.mark.parametrize("verb", sorted(RESOLUTIONS))
def test_a_wrong_lease_never_moves_a_job(tx: Conn, verb: str, offset: int) -> None:
    job = put(tx, JobState.RUNNING)
    before = row(tx, job)
    apply(tx, verb, job, LEASE + offset)
    assert row(tx, job) == before
    assert moves(tx, job) == []


@pytest.mark.parametrize("verb", sorted(RESOLUTIONS))
def test_resolve_answers_with_the_job_that_moved_and_not_with_the_one_that_lost_its_lease(tx: Conn, verb: str) -> None:
    mine, stale = put(tx, JobState.RUNNING), put(tx, JobState.RUNNING)
    batch = [(claimed(mine, LEASE), RESOLUTIONS[verb]), (claimed(stale, LEASE - 1), RESOLUTIONS[verb])]
    assert db.run(tx, QUERIES.jobs.resolve(batch)) == {mine}


@pytest.mark.parametrize(("verb", "attempt"), [("retry", 2), ("snooze", 1), ("release", 1), ("park", 1)])
def test_only_a_retry_spends_the_attempt_of_a_job_that_goes_on(tx: Conn, verb: str, attempt: int) -> None:
    job = put(tx, JobState.RUNNING)
    apply(tx, verb, job)
    kept = tx.execute("select attempt, lease, worker_id, claimed_at from pgqueue.job where id = %s", (job,)).fetchone()
    assert kept == (attempt, LEASE, None, None)


def check_kept(tx: Conn, verb: str, query: str) -> Any:
    job = put(tx, JobState.RUNNING)
    apply(tx, verb, job)
    return scalar(tx, query, job)


@pytest.mark.parametrize(
    ("verb", "query", "expected"),
    [
        ("succeed", "select result->>'a' from pgqueue.job where id = %s", "1"),
        ("dead_letter", "select error->>'message' from pgqueue.job where id = %s", "it broke"),
        ("dead_letter", "select error->>'message' from pgqueue.transition where job_id = %s", "it broke"),
        ("retry", "select error->>'message' from pgqueue.transition where job_id = %s", "it broke"),
        ("withdraw", "select reason from pgqueue.job where id = %s", "not wanted"),
        ("snooze", "select reason from pgqueue.transition where job_id = %s", "later"),
        ("rescue", "select crash_count from pgqueue.job where id = %s", 1),
        ("rescue", "select error->>'type' from pgqueue.transition where job_id = %s", "pgqueue.WorkerLost"),
        ("retry", "select extract(epoch from run_at - now())::int from pgqueue.job where id = %s", 5),
        ("snooze", "select extract(epoch from run_at - now())::int from pgqueue.job where id = %s", 5),
    ],
)
def test_a_verb_writes_what_goes_with_it(tx: Conn, verb: str, query: str, expected: Any) -> None:
    assert check_kept(tx, verb, query) == expected


def test_a_job_rescued_without_an_attempt_left_is_a_dead_letter_that_says_it_crashed(tx: Conn) -> None:
    job = put(tx, JobState.RUNNING, "rescue_spent")
    apply(tx, "rescue_spent", job)
    dead = tx.execute("select reason, crash_count, error->>'type' from pgqueue.dead_letter where id = %s", (job,))
    assert dead.fetchone() == ("crashed", 1, "pgqueue.WorkerLost")


def worker_is_gone(conn: Conn) -> None:
    conn.execute("delete from pgqueue.worker")


def worker_lives(conn: Conn) -> None:
    conn.execute("update pgqueue.worker set lost_at = null")


@pytest.mark.parametrize(("change", "state"), [(worker_is_gone, "pending"), (worker_lives, "running")])
def test_rescue_takes_jobs_without_a_worker_row_and_spares_those_of_the_living(
    tx: Conn, change: Callable[[Conn], None], state: str
) -> None:
    job = put(tx, JobState.RUNNING)
    change(tx)
    apply(tx, "rescue", job)
    assert scalar(tx, "select state from pgqueue.job where id = %s", job) == state
