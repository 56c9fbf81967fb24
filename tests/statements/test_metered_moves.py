"""The verbs against metered jobs in each state: where others are pending they are blocked, and stay in their lane."""

import json
from dataclasses import replace
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from pgqueue import db
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import JobState
from pgqueue.jobs.lifecycle import TRANSITIONS
from pgqueue.queries.turns.claim import Line
from tests.conftest import scalar
from tests.harness import QUERIES, WORKER, Conn, add_rule, claimed
from tests.statements.test_state_machine import LEASE, RESOLUTIONS, VERBS, apply, moves, put, row

FLOW = Flow(("sync/acme",))
HEADERS = Jsonb({"$flow": FLOW.header()})
STATES = [state for state in JobState if state != JobState.PENDING]


PAUSES = ("bring_back",)
RUNNING = 5  # jobs of the bucket, this one among them if it runs


def put_metered(conn: Conn, state: JobState, verb: str) -> int:
    """Put a metered job into a state, parked where the verb adopts it."""
    add_rule(conn, "sync", "acme", max_running=9, running=RUNNING)
    job = put(conn, state, verb)
    turn = ", waits_for = 'turn'" if state == JobState.BLOCKED and verb not in ("adopt", "ready", "skip") else ""
    conn.execute(
        f"update pgqueue.job_live set headers = %s, lane = %s{turn} where id = %s".encode(), (HEADERS, FLOW.lane, job)
    )
    for table in ("job_finished", "dead_letter"):
        conn.execute(f"update pgqueue.{table} set headers = %s where id = %s".encode(), (HEADERS, job))
    return job


def apply_to_metered(conn: Conn, verb: str, job: int, lease: int = LEASE) -> None:
    """Apply a verb through its statement: metered jobs are claimed by one of their own."""
    if verb == "claim":
        db.run(conn, QUERIES.turns.claim(WORKER, "default", [Line(FLOW.lane, 0, '["sync/acme"]', 9)], room=9, slots=9))
    elif verb in RESOLUTIONS:
        resolution = RESOLUTIONS[verb]
        if verb == "meter":  # a job that is metered keeps its buckets: only its priority may be wrong
            resolution = replace(resolution, label=json.dumps(FLOW.header()))
        db.run(conn, QUERIES.jobs.resolve([(replace(claimed(job, lease), lane=FLOW.lane), resolution)]))
    else:
        apply(conn, verb, job)


def lanes(conn: Conn, job: int) -> list[Any]:
    return conn.execute("select lane, waits_for from pgqueue.job_live where id = %s", (job,)).fetchall()


def running(conn: Conn) -> int:
    """Return how many jobs of the bucket run, as it is counted."""
    query = "select u.taken - f.freed from pgqueue.limit_use u join pgqueue.limit_freed f on f.name = u.name"
    return int(scalar(conn, query))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_moves_a_metered_job_as_the_table_says_of_such(tx: Conn, verb: str, state: JobState) -> None:
    job = put_metered(tx, state, verb)
    asks = "cancel_requested_at" if (verb, state) == ("cancel", JobState.RUNNING) else ""
    before = row(tx, job, asks)

    apply_to_metered(tx, verb, job)

    move = TRANSITIONS[verb.split()[0]].of_metered
    if verb in PAUSES:  # a claim passes over metered jobs of a paused task, so they stay in their lanes
        move = move._replace(sources=frozenset())
    if state in move.sources:
        assert [line[:2] for line in moves(tx, job)] == [(state, move.target)]
        assert row(tx, job)[0][0]["headers"] == {"$flow": FLOW.header()}
        waits = "pause" if verb == "set_aside" else "turn"
        waits_for = None if move.target == JobState.RUNNING else waits  # also of a task that the worker does not know
        is_live = move.target in (JobState.BLOCKED, JobState.RUNNING)
        assert lanes(tx, job) == ([(FLOW.lane, waits_for)] if is_live else [])
    else:
        assert row(tx, job, asks) == before
        assert moves(tx, job) == []
    begins = state != JobState.RUNNING and (verb == "claim" and state in move.sources)
    leaves = state == JobState.RUNNING and state in move.sources
    assert running(tx) == RUNNING + begins - leaves


@pytest.mark.parametrize("verb", sorted(RESOLUTIONS))
def test_a_wrong_lease_frees_no_bucket(tx: Conn, verb: str) -> None:
    job = put_metered(tx, JobState.RUNNING, verb)
    before = row(tx, job)
    apply_to_metered(tx, verb, job, LEASE - 1)
    assert (row(tx, job), running(tx)) == (before, RUNNING)


def test_the_statements_for_plain_jobs_leave_a_metered_one_alone(tx: Conn) -> None:
    """So no slot of a limit is lost where a worker believes that the job is plain: it asks again with its lane."""
    job = put_metered(tx, JobState.RUNNING, "succeed")
    for resolution in RESOLUTIONS.values():
        assert db.run(tx, QUERIES.jobs.resolve([(claimed(job, LEASE), resolution)])) == set()
    assert (scalar(tx, "select state from pgqueue.job_live where id = %s", job), running(tx)) == ("running", RUNNING)


@pytest.mark.parametrize("live", [False, True])
def test_a_claim_gives_up_the_unique_key_of_a_metered_job_that_was_to_be_alone_until_it_starts(
    tx: Conn, live: bool
) -> None:
    job = put_metered(tx, JobState.BLOCKED, "claim")
    tx.execute("update pgqueue.job_live set unique_key = 'k', unique_live = %s where id = %s", (live, job))
    apply_to_metered(tx, "claim", job)
    assert scalar(tx, "select unique_key is not null from pgqueue.job_live where id = %s", job) == live
