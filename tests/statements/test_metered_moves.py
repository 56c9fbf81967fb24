"""The verbs against metered jobs in each state: where others are pending they are blocked, and stay in their lane."""

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import JobState
from pgqueue.jobs.lifecycle import TRANSITIONS
from tests.harness import Conn
from tests.statements.test_state_machine import apply, moves, put, row

FLOW = Flow(("sync/acme",))
HEADERS = Jsonb({"$flow": FLOW.header()})
VERBS = ("cancel", "expire", "redrive", "restore", "discard")
STATES = [state for state in JobState if state != JobState.PENDING]


def put_metered(conn: Conn, state: JobState) -> int:
    """Put a metered job into a state."""
    job = put(conn, state)
    turn = ", waits_for = 'turn'" if state == JobState.BLOCKED else ""
    conn.execute(
        f"update pgqueue.job_live set headers = %s, lane = %s{turn} where id = %s".encode(), (HEADERS, FLOW.lane, job)
    )
    for table in ("job_finished", "dead_letter"):
        conn.execute(f"update pgqueue.{table} set headers = %s where id = %s".encode(), (HEADERS, job))
    return job


def lanes(conn: Conn, job: int) -> list[Any]:
    return conn.execute("select lane, waits_for from pgqueue.job_live where id = %s", (job,)).fetchall()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_moves_a_metered_job_as_the_table_says_of_such(tx: Conn, verb: str, state: JobState) -> None:
    job = put_metered(tx, state)
    asks = "cancel_requested_at" if (verb, state) == ("cancel", JobState.RUNNING) else ""
    before = row(tx, job, asks)

    apply(tx, verb, job)

    move = TRANSITIONS[verb].of_metered
    if state in move.sources:
        assert [line[:2] for line in moves(tx, job)] == [(state, move.target)]
        assert row(tx, job)[0][0]["headers"] == {"$flow": FLOW.header()}
        assert lanes(tx, job) == ([(FLOW.lane, "turn")] if move.target == JobState.BLOCKED else [])
    else:
        assert row(tx, job, asks) == before
        assert moves(tx, job) == []
