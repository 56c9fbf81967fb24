"""The checker of calls and of workflows that grow accepts right rows and rejects spoilt ones by what they break."""

from collections.abc import Callable

import psycopg
import pytest

from tests.harness import Conn
from tests.stress.checks_woven import check_woven
from tests.stress.scene import Scene
from tests.stress.woven import load
from tests.stress.woven_scenarios import SCENARIOS
from tests.stress.woven_shop import DEED, TABLES

COPY = """
insert into pgqueue.job_finished select (jsonb_populate_record(j, jsonb_build_object('id', 4711))).*
from pgqueue.job_finished j where args -> 'payload' ? %s limit 1"""
MEMBER = "(select max(id) from pgqueue.job_finished where gate_id is not null)"
CALLBACK = "(select max(id) from pgqueue.job_finished where task = 'over')"


@pytest.fixture
def played(emptied_dsn: str) -> Callable[[str], Conn]:
    """Plays a scenario, and returns a connection to what it has left."""

    def play(scenario: str) -> Conn:
        conn: Conn = psycopg.connect(emptied_dsn, autocommit=True, options="-c search_path=")
        conn.execute("drop schema if exists stress cascade")
        conn.execute(TABLES)
        SCENARIOS[scenario](Scene(conn, emptied_dsn))
        return conn

    return play


def _called_without_a_record(conn: Conn) -> None:
    conn.execute(COPY, ("by",))


def _recorded_without_a_call(conn: Conn) -> None:
    conn.execute("delete from pgqueue.job_finished where args -> 'payload' ? 'by'")


def _answered_twice(conn: Conn) -> None:
    conn.execute("update pgqueue.step set value = jsonb_set(value, '{items,0,state}', '\"failed\"')")


def _answered_as_it_did_not_end(conn: Conn) -> None:
    conn.execute(
        "update stress.step_log set new = jsonb_set(new, '{value,items,0,state}', '\"failed\"') where op = 'U'"
    )


def _saw_another_answer(conn: Conn) -> None:
    conn.execute("update stress.deed set value = '8' where kind = 'saw'")


def _end_not_told(conn: Conn) -> None:
    conn.execute("update pgqueue.call set ended = false")


def _added_twice(conn: Conn) -> None:
    conn.execute(COPY, ("key",))


def _added_and_not_there(conn: Conn) -> None:
    conn.execute(DEED, (1, 1, "added", "k.9", "9"))


def _succeeded_twice(conn: Conn) -> None:
    conn.execute(f"insert into pgqueue.transition (job_id, to_state) values ({MEMBER}, 'succeeded')")


def _never_ran(conn: Conn) -> None:
    conn.execute(f"delete from stress.deed where job_id = {MEMBER}")


def _miscounted_by_its_gate(conn: Conn) -> None:
    conn.execute("update pgqueue.gate set members = members + 1")


def _miscounted_by_its_workflow(conn: Conn) -> None:
    conn.execute("update pgqueue.workflow set jobs = jobs + 1")


def _wrong_state(conn: Conn) -> None:
    conn.execute("update pgqueue.workflow set state = 'failed'")


def _ended_before_a_member(conn: Conn) -> None:
    conn.execute("update pgqueue.workflow set ended_at = ended_at - interval '1 hour'")


def _ended_unsealed(conn: Conn) -> None:
    conn.execute("update pgqueue.workflow set sealed = false")


def _called_back_twice(conn: Conn) -> None:
    ready = (
        "insert into pgqueue.transition (job_id, from_state, to_state, reason) values (%s, 'blocked', 'pending', %s)"
    )
    row = conn.execute(f"select {CALLBACK}").fetchone()
    assert row is not None
    conn.execute(ready, (row[0], "ready"))


def _called_back_early(conn: Conn) -> None:
    conn.execute(f"update pgqueue.transition set at = at - interval '1 hour' where job_id = {CALLBACK}")


def _called_nobody_back(conn: Conn) -> None:
    conn.execute("delete from stress.deed where kind = 'over'")


SPOILT = [
    ("CA1", "called_job_ends", _called_without_a_record), ("CA1", "called_job_ends", _recorded_without_a_call),
    ("CA2", "called_job_ends", _answered_twice), ("CA2", "called_job_ends", _answered_as_it_did_not_end),
    ("CA2", "called_job_ends", _saw_another_answer), ("CA3", "called_job_ends", _end_not_told),
    ("AD1", "sealed", _added_twice), ("AD1", "sealed", _added_and_not_there), ("AD1", "sealed", _succeeded_twice),
    ("AD1", "sealed", _never_ran), ("AD2", "sealed", _miscounted_by_its_gate),
    ("AD2", "sealed", _miscounted_by_its_workflow), ("AD2", "sealed", _wrong_state),
    ("AD3", "sealed", _ended_before_a_member), ("AD3", "sealed", _ended_unsealed),
    ("AD4", "sealed", _called_back_twice), ("AD4", "sealed", _called_back_early),
    ("AD4", "sealed", _called_nobody_back),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "scenario", "spoil"), SPOILT, ids=[spoil.__name__.strip("_") for *_, spoil in SPOILT]
)
def test_spoilt_rows_of_calls_and_of_growth_are_rejected_by_the_invariant_they_break(
    played: Callable[[str], Conn], emptied_dsn: str, number: str, scenario: str, spoil: Callable[[Conn], None]
) -> None:
    with played(scenario) as conn:
        spoil(conn)
    assert number in {violation.number for violation in check_woven(load(emptied_dsn, {}))}


def test_a_caller_that_sleeps_on_is_seen(played: Callable[[str], Conn], emptied_dsn: str) -> None:
    with played("called_job_ends") as conn:
        conn.execute("update pgqueue.step set done = false")
        conn.execute("""
            insert into pgqueue.job_live (id, task, queue, args, max_attempts, state, run_at)
            select job_id, 'saga', 'default', '{"op": "1", "n": 0, "payload": {}}', 5, 'pending', '9000-01-01Z'
            from pgqueue.step""")
    assert "CA3" in {violation.number for violation in check_woven(load(emptied_dsn, {}))}


@pytest.mark.parametrize(("outcome", "key"), [("ok", "k.9"), ("fail", "k.1")])
def test_a_job_that_is_not_there_as_promised_is_seen(
    played: Callable[[str], Conn], emptied_dsn: str, outcome: str, key: str
) -> None:
    with played("sealed"):
        pass
    woven = load(emptied_dsn, {})
    woven.promised = {key: outcome}
    assert "AD1" in {violation.number for violation in check_woven(woven)}
