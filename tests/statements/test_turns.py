"""Jobs that rules concern: the check that keeps them from being put among plain jobs, their phase, their index."""

import psycopg
import pytest

from tests.conftest import scalar
from tests.harness import Conn

INSERT = """
insert into pgqueue.job_live (task, queue, args, headers, state, waits_for, lane, run_at)
values ('t', 'q', '{}', %s, %s, %s, %s, now() + %s::interval) returning id"""
FLOW = '{"$flow": {"lane": 5, "buckets": ["t"]}}'


def insert(
    conn: Conn, state: str, waits_for: str | None, lane: int | None, headers: str = FLOW, later: str = "0"
) -> int:
    row = conn.execute(INSERT, (headers, state, waits_for, lane, later)).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("state", "waits_for", "lane", "headers"),
    [
        ("pending", None, 5, FLOW),
        ("pending", None, None, FLOW),
        ("blocked", None, 5, FLOW),
        ("blocked", "turn", None, FLOW),
        ("blocked", "turn", None, "{}"),
        ("blocked", "turn", 5, "{}"),
        ("blocked", "task", 5, "{}"),
        ("blocked", "task", None, FLOW),
        ("blocked", "weather", 5, FLOW),
    ],
)
def test_no_statement_makes_a_metered_job_a_plain_one(
    conn: Conn, state: str, waits_for: str | None, lane: int | None, headers: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="job_live_state"):
        insert(conn, state, waits_for, lane, headers)


def test_a_metered_job_waits_for_its_turn_its_task_or_the_end_of_a_pause(conn: Conn) -> None:
    for waits_for in ("turn", "task", "pause"):
        insert(conn, "blocked", waits_for, 5)
    insert(conn, "blocked", "pause", None, "{}")
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("update pgqueue.job_live set state = 'pending', waits_for = null where lane = 5")


def test_a_job_that_waits_for_its_turn_has_the_phase_that_others_have(conn: Conn) -> None:
    blocked, scheduled = insert(conn, "blocked", "turn", 5), insert(conn, "blocked", "turn", 5, later="1 hour")
    retrying = insert(conn, "blocked", "turn", 5, later="1 hour")
    conn.execute("update pgqueue.job_live set attempt = 1 where id = %s", (retrying,))
    for view in ("job", "job_status"):
        phases = f"select array_agg(phase order by id) from pgqueue.{view} where state = 'blocked'"
        assert scalar(conn, phases) == ["blocked", "scheduled", "retrying"]
    assert blocked < scheduled < retrying


def test_names_of_rules_and_buckets_sort_by_their_bytes_in_every_database(conn: Conn) -> None:
    names = ["B", "a", "a#2", "a/b", "a/B", "é"]
    conn.cursor().executemany("insert into pgqueue.limit_bucket values (%s)", [(name,) for name in names])
    found = [name for (name,) in conn.execute("select name from pgqueue.limit_bucket order by name")]
    assert found == sorted(names)
