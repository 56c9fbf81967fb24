"""The checker of workflows, steps and events accepts right rows and rejects spoilt ones by what they break."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue import db
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution
from pgqueue.jobs.step import NewStep, Wakening
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.workflows.graph import Edge, Graph, Group
from tests.harness import QUERIES, WORKER, Conn, add_worker, insert_job, new_job
from tests.statements.graphs import DONE, claim, end, insert, tidy
from tests.stress.checks_woven import check_woven
from tests.stress.woven import WRONG_COUNTERS, Woven, load
from tests.stress.woven_shop import DEED, TABLES

ASLEEP = Resolution("snooze", "asleep", 1e6, refund=True, wakening=Wakening(None, None))
DIED = Resolution("dead_letter", "rejected")


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def rows(conn: Conn, dsn: str) -> Conn:
    """The tables that tasks of a storm write, empty."""
    conn.execute("drop schema if exists stress cascade")
    conn.execute(TABLES)
    add_worker(conn, worker=WORKER)
    return conn


def deed(conn: Conn, job: ClaimedJob, kind: str, name: str, value: Any = None) -> None:
    conn.execute(DEED, (job.id, job.lease, kind, name, json.dumps(value)))


def number(job: ClaimedJob) -> int:
    return int(json.loads(job.args)["n"])


# Two jobs whose results a third one gets; one that runs if that fails, one at its end, one of node_exact; and
# callbacks of the whole at any end, on success and on failure.
PARENTS, CHILD, ON_FAILURE, AT_END, EXACT, ANY, WELL, BADLY = (0, 1), 2, 3, 4, 5, 6, 7, 8
EDGES = [
    Edge(0, CHILD, "s", "got", 0), Edge(1, CHILD, "s", "got", 1), Edge(CHILD, ON_FAILURE, "f"),
    Edge(CHILD, AT_END, "e"), Edge(-1, ANY, "e"), Edge(-1, WELL, "s"), Edge(-1, BADLY, "f"),
]  # fmt: skip


def planned() -> Graph:
    tasks = ["node"] * 5 + ["node_exact"] + ["callback"] * 3
    args = [json.dumps({"n": n, "payload": {"dies": 0}}) for n in range(len(tasks))]
    jobs = [new_job(task, args=given) for task, given in zip(tasks, args, strict=True)]
    return Graph(jobs, [0] * 6 + [None] * 3, EDGES, [Group("w")])


@dataclass
class Story:
    """A workflow that has run as it must, for a test to spoil."""

    conn: Conn
    graph: Graph
    made: InsertedWorkflow

    def sql(self, statement: str, node: int, *more: Any) -> None:
        """Change rows of a node: its id is the first parameter."""
        self.conn.execute(statement, (self.made.jobs[node], *more))

    def log(self, node: int, source: str, target: str, reason: str | None = None) -> None:
        """Log a move of a node."""
        insertion = (
            "insert into pgqueue.transition (job_id, from_state, to_state, reason, lease) values (%s, %s, %s, %s, 1)"
        )
        self.sql(insertion, node, source, target, reason)


def story(conn: Conn) -> Story:
    graph = planned()
    made = insert(conn, graph)
    while taken := claim(conn):
        for job in taken.values():
            deed(conn, job, "run", str(number(job)), [0, 1] if number(job) == CHILD else None)
            if job.task == "node_exact":
                deed(conn, job, "exact", str(number(job)))
        end(conn, *((job, DONE) for job in taken.values()))
        tidy(conn)
    return Story(conn, graph, made)


def numbers(woven: Woven) -> set[str]:
    return {violation.number for violation in check_woven(woven)}


def test_right_rows_of_a_workflow_violate_nothing(rows: Conn, dsn: str) -> None:
    told = story(rows)
    assert check_woven(load(dsn, {told.made.id: told.graph})) == []


def _began_early(told: Story) -> None:
    early = "update pgqueue.transition set at = at - interval '1 h' where job_id = %s and to_state = 'running'"
    told.sql(early, CHILD)


def _released_twice(told: Story) -> None:
    told.log(CHILD, "blocked", "pending", "ready")


def _never_released(told: Story) -> None:
    told.sql("delete from pgqueue.transition where job_id = %s and reason = 'ready'", CHILD)


def _not_settled(told: Story) -> None:
    told.conn.execute("update pgqueue.workflow set settled = false")


def _open_gate(told: Story) -> None:
    told.conn.execute("update pgqueue.gate set remaining = 1")


def _in_two_tables(told: Story) -> None:
    told.sql("insert into pgqueue.dead_letter (id, task, queue, reason) values (%s, 'node', 'default', 'error')", CHILD)


def _left_blocked(told: Story) -> None:
    insert_job(told.conn, workflow_id=told.made.id, state="blocked", waits_for="jobs", waits_on=1, args='{"n": 99}')


def _skip(told: Story, node: int) -> None:
    told.sql("delete from pgqueue.transition where job_id = %s", node)
    told.sql("delete from stress.deed where job_id = %s", node)
    told.log(node, "blocked", "cancelled", "skipped")
    told.sql("update pgqueue.job_finished set state = 'cancelled', reason = 'skipped' where id = %s", node)


def _run(told: Story, node: int) -> None:
    told.sql("delete from pgqueue.transition where job_id = %s", node)
    told.log(node, "blocked", "pending", "ready")
    told.log(node, "pending", "running")
    told.log(node, "running", "succeeded")
    told.sql("update pgqueue.job_finished set state = 'succeeded', reason = null where id = %s", node)


def _callback_skipped(told: Story) -> None:
    _skip(told, ANY)


def _callback_released_twice(told: Story) -> None:
    told.log(ANY, "blocked", "pending", "ready")


def _both_callbacks(told: Story) -> None:
    _run(told, BADLY)


def _ran_on_a_failure_that_was_none(told: Story) -> None:
    _run(told, ON_FAILURE)


def _left_out(told: Story) -> None:
    _skip(told, AT_END)


def _wrong_state(told: Story) -> None:
    told.conn.execute("update pgqueue.workflow set state = 'failed'")


def _stopped_for_nothing(told: Story) -> None:
    _skip(told, AT_END)
    told.sql("update pgqueue.job_finished set reason = 'a job failed' where id = %s", AT_END)
    told.sql("update pgqueue.transition set reason = 'a job failed' where job_id = %s", AT_END)


def _no_edge(told: Story) -> None:
    told.sql("delete from pgqueue.dependency where child_id = %s and parent_id = %s", CHILD, told.made.jobs[0])


def _no_job(told: Story) -> None:
    told.sql("delete from pgqueue.job_finished where id = %s", EXACT)


def _jobs_of_nothing(told: Story) -> None:
    told.conn.execute("update pgqueue.job_finished set workflow_id = 4711 where task = 'callback'")


def _wrong_order(told: Story) -> None:
    told.sql("update stress.deed set value = '[1, 0]' where job_id = %s", CHILD)


def _never_ran(told: Story) -> None:
    told.sql("delete from stress.deed where job_id = %s", CHILD)


def _effect_twice(told: Story) -> None:
    told.sql("insert into stress.deed (job_id, lease, kind, name) values (%s, 1, 'exact', '5')", EXACT)


def _succeeded_twice(told: Story) -> None:
    told.log(CHILD, "running", "succeeded")


def _back_from_success(told: Story) -> None:
    told.log(CHILD, "succeeded", "pending", "retried by ann")
    told.log(CHILD, "pending", "running")
    told.log(CHILD, "running", "succeeded")


@pytest.mark.parametrize(
    ("number", "spoil"),
    [
        ("WF1", _began_early), ("WF1", _released_twice), ("WF1", _never_released), ("WF2", _not_settled),
        ("WF2", _open_gate), ("WF2", _in_two_tables), ("WF2", _left_blocked), ("WF4", _callback_skipped),
        ("WF4", _callback_released_twice), ("WF4", _both_callbacks), ("WF5", _ran_on_a_failure_that_was_none),
        ("WF5", _left_out), ("WF5", _wrong_state), ("WF5", _stopped_for_nothing), ("WF6", _no_edge),
        ("WF6", _no_job), ("WF6", _jobs_of_nothing), ("WF7", _wrong_order), ("WF8", _never_ran),
        ("WF8", _effect_twice), ("WF9", _succeeded_twice), ("WF9", _back_from_success),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)  # fmt: skip
def test_spoilt_rows_of_a_workflow_are_rejected_by_the_invariant_they_break(
    rows: Conn, dsn: str, number: str, spoil: Callable[[Story], None]
) -> None:
    told = story(rows)
    spoil(told)
    assert number in numbers(load(dsn, {told.made.id: told.graph}))


def test_a_counter_that_is_not_the_number_of_open_edges_is_seen(rows: Conn) -> None:
    insert(rows, planned())
    assert rows.execute(WRONG_COUNTERS).fetchall() == []
    rows.execute("update pgqueue.job_live set waits_on = waits_on + 1 where waits_on = 2")
    woven = Woven(counters=rows.execute(WRONG_COUNTERS).fetchall())  # type: ignore[arg-type]
    assert [violation.number for violation in check_woven(woven)] == ["WF3"]


@pytest.mark.parametrize(("outcome", "there"), [("ok", False), ("fail", True)])
def test_a_workflow_that_is_not_there_as_promised_is_seen(outcome: str, there: bool, rows: Conn, dsn: str) -> None:
    graphs = {}
    if there:
        told = story(rows)
        graphs = {told.made.id: told.graph}
    woven = load(dsn, graphs)
    woven.promised = {"w": outcome}
    assert numbers(woven) == {"WF6"}


def running(conn: Conn) -> ClaimedJob:
    db.run(conn, QUERIES.jobs.enqueue([new_job("saga")]))
    (job,) = claim(conn).values()
    return job


def record(conn: Conn, job: ClaimedJob, name: str, **columns: Any) -> None:
    kind = columns.pop("kind", "value")
    value = columns.pop("value", "1" if kind == "value" else None)
    db.run(conn, QUERIES.steps.record([(job, NewStep(name, kind, value, **columns))]))


def again(conn: Conn, job: ClaimedJob) -> ClaimedJob:
    """The next attempt of a job."""
    db.run(conn, QUERIES.jobs.resolve([(job, Resolution("retry", "error", 0.0))]))
    (job,) = claim(conn).values()
    return job


UNDO = json.dumps({"task": "undone", "queue": "default", "priority": 0, "args": {}, "max_attempts": 3, "tags": []})


def _a_right_saga(conn: Conn) -> None:
    job = running(conn)
    deed(conn, job, "did", "s", 1)
    record(conn, job, "s")
    deed(conn, job, "saw", "s", 1)
    deed(conn, job, "tx", "tx", 1)
    record(conn, job, "tx")
    record(conn, job, "nap", kind="sleep", seconds=-1)
    job = again(conn, job)
    deed(conn, job, "saw", "s", 1)
    deed(conn, job, "saw", "nap")
    deed(conn, job, "sent", "go", 7)
    db.run(conn, QUERIES.signals.send(job.id, "go", "7"))
    record(conn, job, "go", kind="signal", waits="go")
    db.run(conn, QUERIES.signals.take([(job, "go")]))
    deed(conn, job, "saw", "go", 7)
    end(conn, (job, DONE))


def test_right_rows_of_steps_violate_nothing(rows: Conn, dsn: str) -> None:
    _a_right_saga(rows)
    _dead(rows)
    assert check_woven(load(dsn, {})) == []


def _dead(conn: Conn, *, undone: bool = True) -> None:
    """A job with two steps dies, and both are undone, the second one first."""
    job = running(conn)
    for name in ("undo0", "undo1"):
        record(conn, job, name, undo=UNDO)
    with conn.transaction():
        db.run(conn, QUERIES.jobs.resolve([(job, DIED)]))
        if undone:
            db.run(conn, QUERIES.steps.compensate([job]))
    while taken := claim(conn):
        for undo in taken.values():
            with conn.transaction():
                end(conn, (undo, DONE))
                db.run(conn, QUERIES.steps.undo_ended([undo.id]))


def _record_changed(conn: Conn) -> None:
    record(conn, running(conn), "s")
    conn.execute("update pgqueue.step set value = '2'")


def _recorded_without_the_lease(conn: Conn) -> None:
    record(conn, running(conn), "s")
    conn.execute("""update stress.step_log set new = new || '{"lease": 7}'""")


def _recorded_after_the_end(conn: Conn) -> None:
    job = running(conn)
    record(conn, job, "s")
    again(conn, job)
    late = datetime.now(UTC) + timedelta(hours=1)
    conn.execute("update stress.step_log set new = new || jsonb_build_object('at', %s::text)", (late.isoformat(),))


def _ran_again(conn: Conn) -> None:
    job = running(conn)
    record(conn, job, "s")
    deed(conn, again(conn, job), "did", "s", 2)


def _saw_another_value(conn: Conn) -> None:
    job = running(conn)
    record(conn, job, "s")
    deed(conn, job, "saw", "s", 2)


def _effect_without_a_record(conn: Conn) -> None:
    deed(conn, running(conn), "tx", "tx", 1)


def _record_without_an_effect(conn: Conn) -> None:
    record(conn, running(conn), "tx")


def _woke_early(conn: Conn) -> None:
    job = running(conn)
    record(conn, job, "nap", kind="sleep", seconds=60)
    deed(conn, job, "saw", "nap")


def _signal_taken_twice(conn: Conn) -> None:
    job = running(conn)
    for name in ("go", "go#2"):
        db.run(conn, QUERIES.signals.send(job.id, "go", "7"))
        record(conn, job, name, kind="signal", waits="go")
        db.run(conn, QUERIES.signals.take([(job, name)]))


def _timed_out_beside_a_signal(conn: Conn) -> None:
    job = running(conn)
    deed(conn, job, "sent", "go", 7)
    conn.execute("update stress.deed set at = at - interval '5 s'")
    record(conn, job, "go", kind="signal", waits="go", seconds=-1)
    db.run(conn, QUERIES.signals.take([(job, "go")]))


def _timeout_changed(conn: Conn) -> None:
    _timed_out_beside_a_signal(conn)
    conn.execute("delete from stress.deed")
    conn.execute("update pgqueue.step set timed_out = false, value = '7'")


def _slept_beside_a_signal(conn: Conn) -> None:
    job = running(conn)
    record(conn, job, "go", kind="signal", waits="go")
    db.run(conn, QUERIES.signals.send(job.id, "go", "7"))
    conn.execute("update pgqueue.signal set seen = true")


def _event_taken_twice(conn: Conn) -> None:
    job = running(conn)
    for name in ("paid", "paid#2"):
        record(conn, job, name, kind="event", waits="paid", key="k")
    conn.execute("update pgqueue.step set done = true, event_id = 5, value = '1'")


def _worked_in_its_sleep(conn: Conn) -> None:
    job = running(conn)
    db.run(conn, QUERIES.jobs.resolve([(job, ASLEEP)]))
    deed(conn, job, "saw", "s")
    conn.execute("update stress.deed set at = at + interval '1 s'")
    conn.execute("delete from stress.step_log")


def _not_undone(conn: Conn) -> None:
    _dead(conn, undone=False)


def _undone_in_another_order(conn: Conn) -> None:
    _dead(conn)
    conn.execute("update pgqueue.undo set number = -number")
    conn.execute("""update stress.step_log set new = new || jsonb_build_object('number', -(new ->> 'number')::int)""")


def _undone_twice(conn: Conn) -> None:
    _dead(conn)
    conn.execute("""insert into pgqueue.transition (job_id, from_state, to_state)
                    select undo_job_id, 'running', 'succeeded' from pgqueue.undo""")


def _undo_that_did_not_end(conn: Conn) -> None:
    _dead(conn)
    conn.execute("update pgqueue.undo set ended_at = null where step = 'undo0'")


def _heard(conn: Conn, topic: str, *heard: tuple[str, int]) -> None:
    conn.execute("insert into pgqueue.published_event (id, topic, data) values (1, %s, '{}')", (topic,))
    for task, job in heard:
        conn.execute(DEED, (job, 1, "heard", task, "1"))


def _event_not_heard(conn: Conn) -> None:
    _heard(conn, "woven.made", ("hears_all", 8))


def _event_heard_twice(conn: Conn) -> None:
    _heard(conn, "other.paid", ("hears_paid", 8), ("hears_paid", 9))


def _event_for_others(conn: Conn) -> None:
    _heard(conn, "other.paid", ("hears_paid", 8), ("hears_each", 9))


def _event_rolled_back(conn: Conn) -> None:
    conn.execute(DEED, (8, 1, "heard", "hears_all", "77"))


@pytest.mark.parametrize(
    ("number", "spoil"),
    [
        ("ST1", _record_changed), ("ST1", _recorded_without_the_lease), ("ST1", _recorded_after_the_end),
        ("ST1", _ran_again), ("ST1", _saw_another_value), ("ST2", _effect_without_a_record),
        ("ST2", _record_without_an_effect), ("ST3", _woke_early), ("ST4", _signal_taken_twice),
        ("ST4", _timed_out_beside_a_signal), ("ST4", _timeout_changed), ("ST4", _slept_beside_a_signal),
        ("ST4", _event_taken_twice), ("ST5", _worked_in_its_sleep), ("ST6", _not_undone),
        ("ST6", _undone_in_another_order), ("ST6", _undone_twice), ("ST6", _undo_that_did_not_end),
        ("EV", _event_not_heard), ("EV", _event_heard_twice), ("EV", _event_for_others), ("EV", _event_rolled_back),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)  # fmt: skip
def test_spoilt_rows_of_steps_and_events_are_rejected_by_the_invariant_they_break(
    rows: Conn, dsn: str, number: str, spoil: Callable[[Conn], None]
) -> None:
    spoil(rows)
    assert number in numbers(load(dsn, {}))
