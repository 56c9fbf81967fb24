"""`app.why` of a metered job: what its rules say, with numbers, and when it starts where that can be known."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from pgqueue import App
from pgqueue.jobs.flow import Flow
from tests.client.test_why import blocks_read, codes, reason
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_rule, add_worker, insert_job, insert_metered

DUE = datetime.now(UTC) - timedelta(minutes=1)
LATER = datetime.now(UTC) + timedelta(hours=1)
SOON = datetime.now(UTC) + timedelta(minutes=10)
ACME = Flow(("sync/acme",))
IN_ORDER = Flow(("t#order/7",), order="t#order/7")


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(autouse=True)
def no_rules(conn: Conn) -> None:
    """Without rules of the test before; with one worker that serves the queue."""
    for table in ("limit_rule", "limit_key", "limit_bucket", "limit_use", "limit_freed"):
        conn.execute(f"delete from pgqueue.{table}".encode())
    add_worker(conn)


def running(conn: Conn, flow: Flow, jobs: int) -> list[int]:
    """Insert jobs that run and hold the buckets of a flow."""
    return [
        insert_metered(
            conn, flow, state="running", waits_for=None, worker_id=add_worker(conn), claimed_at=DUE, attempt=1
        )
        for _ in range(jobs)
    ]


def add_key(conn: Conn, rule: str, key: str, **columns: Any) -> None:
    row = {"rule": rule, "key": key, **columns}
    names, values = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    conn.execute(f"insert into pgqueue.limit_key ({names}) values ({values})".encode(), row)


def test_a_full_bucket_says_how_many_run_and_which(app: App, conn: Conn) -> None:
    add_rule(conn, "sync", "acme", max_running=2, running=2)
    held = running(conn, ACME, 2)
    running(conn, Flow(("sync/other",)), 1)
    job = insert_metered(conn, ACME, run_at=DUE)
    found = reason(app, job, "full")
    assert found.text == f"sync/acme is full: 2 of 2 run (jobs {held[0]}, {held[1]})."
    assert found.facts == {"bucket": "sync/acme", "running": 2, "most": 2, "jobs": held}
    assert codes(app, job) == ("full", "due")


def test_of_many_jobs_that_hold_a_bucket_a_few_are_named(app: App, conn: Conn) -> None:
    add_rule(conn, "sync", "acme", max_running=7, running=7)
    running(conn, ACME, 7)
    found = reason(app, insert_metered(conn, ACME, run_at=DUE), "full")
    assert len(found.facts["jobs"]) == 5
    assert found.text.endswith(", …).")


def test_an_exception_for_a_key_counts_and_not_the_rule(app: App, conn: Conn) -> None:
    add_rule(conn, "sync", "acme", max_running=1, running=1)
    add_key(conn, "sync", "acme", max_running=2)
    job = insert_metered(conn, ACME, run_at=DUE)
    assert codes(app, job) == ("next",)
    conn.execute("update pgqueue.limit_key set max_running = 0")
    assert reason(app, job, "full").text == "The limit of sync/acme is 0: none of its jobs may run."


def test_a_rate_says_when_the_next_start_is_and_this_one_at_the_earliest(app: App, conn: Conn) -> None:
    # One each six seconds (burst 1), and the next in 12 seconds.
    tat = scalar(conn, "select clock_timestamp() + interval '12 seconds'")
    add_rule(conn, "sync", "acme", rate_count=10, rate_seconds=60, use_tat=tat)
    first, third = insert_metered(conn, ACME, run_at=DUE), insert_metered(conn, ACME, run_at=DUE, priority=-1)
    insert_metered(conn, ACME, run_at=DUE)
    found = reason(app, first, "rate")
    assert found.facts["next_start_in_seconds"] == pytest.approx(12, abs=5)
    assert "10 starts in 60 s: the next one in " in found.text
    behind = reason(app, third, "rate")
    assert behind.facts["starts_in_seconds"] == pytest.approx(behind.facts["next_start_in_seconds"] + 12)
    assert "this job in " in behind.text
    assert codes(app, third) == ("rate", "ahead", "due")


def test_a_burst_lets_as_many_start_at_once(app: App, conn: Conn) -> None:
    # A step of 60 / (10 - 4 + 1) seconds; three of the four that may start at once are spent.
    step = 60 / 7
    tat = scalar(conn, "select clock_timestamp() + make_interval(secs => %s)", 3 * step - 1)
    add_rule(conn, "sync", "acme", rate_count=10, rate_seconds=60, rate_burst=4, use_tat=tat)
    job = insert_metered(conn, ACME, run_at=DUE)
    assert codes(app, job) == ("next",)
    conn.execute("update pgqueue.limit_use set tat = tat + make_interval(secs => %s)", (step,))
    assert reason(app, job, "rate").facts["next_start_in_seconds"] == pytest.approx(step - 1, abs=3)


def test_a_rate_that_each_worker_keeps_is_said_to_be_that(app: App, conn: Conn) -> None:
    add_rule(conn, "sync", "acme", rate_count=10, rate_seconds=60, scope="worker")
    assert "in each worker" in reason(app, insert_metered(conn, ACME, run_at=DUE), "pace").text


def test_a_closed_bucket_says_until_when_and_why(app: App, conn: Conn) -> None:
    breaker = {"breaker_failures": 5, "breaker_seconds": 60, "breaker_cooldown": 30}
    add_rule(conn, "sync", "acme", use_closed_until=SOON, use_opened=1, **breaker)
    job = insert_metered(conn, ACME, run_at=DUE)
    found = reason(app, job, "closed")
    assert (found.facts["closed_until"], found.facts["by_breaker"]) == (SOON, True)
    assert "its breaker has opened" in found.text
    conn.execute("update pgqueue.limit_freed set closed_until = now(); update pgqueue.limit_use set taken = 1")
    (probe,) = running(conn, ACME, 1)
    assert reason(app, job, "probed").text.endswith(f"until one has ended well (job {probe}).")
    conn.execute("update pgqueue.limit_freed set closed_until = %s, opened = 0", (SOON,))
    assert "RateLimited" in reason(app, job, "closed").text


def test_a_paused_rule_or_key_says_by_whom_until_when_and_why_also_before_the_job_is_due(app: App, conn: Conn) -> None:
    pause = {"paused_at": DUE, "paused_by": "alice", "paused_until": SOON, "paused_why": "import runs"}
    add_rule(conn, "sync", "acme", **pause)
    add_key(conn, "sync", "acme", **pause | {"paused_until": None})
    job = insert_metered(conn, ACME, run_at=LATER)
    assert codes(app, job) == ("scheduled", "paused", "paused")
    rule, key = app.why(job).reasons[1:3]
    assert rule.text.startswith("Rule sync is paused by alice since ")
    assert rule.text.endswith(": import runs.")
    assert (rule.facts["rule"], rule.facts["paused_until"]) == ("sync", SOON)
    assert (key.facts["key"], key.facts["paused_until"]) == ("sync/acme", None)
    conn.execute("update pgqueue.limit_rule set paused_until = now()")
    assert codes(app, job) == ("scheduled", "paused")


def test_a_job_in_order_names_the_first_of_its_lane(app: App, conn: Conn) -> None:
    head = insert_metered(conn, IN_ORDER, run_at=LATER, attempt=1)
    second, third = insert_metered(conn, IN_ORDER, run_at=DUE), insert_metered(conn, IN_ORDER, run_at=DUE)
    found = reason(app, third, "order")
    assert (found.facts["order"], found.facts["head"], found.facts["before"]) == ("t#order/7", head, 2)
    assert found.text.startswith(f"It runs in the order of t#order/7: job {head} is due in ")
    assert found.text.endswith(" for its attempt 2, and keeps its place.")
    assert codes(app, second) == ("order", "ahead", "due")
    conn.execute("update pgqueue.job_live set run_at = now() where id = %s", (head,))
    assert "is due, and goes first" in reason(app, third, "order").text
    assert codes(app, head) == ("next",)


def test_position_counts_due_jobs_of_the_same_lane_alone(app: App, conn: Conn) -> None:
    for flow, columns in (
        (ACME, {"priority": 5, "run_at": DUE}), (ACME, {"priority": 5, "run_at": LATER}), (ACME, {"run_at": DUE}),
        (Flow(("sync/other",)), {"run_at": DUE}),
    ):  # fmt: skip
        insert_metered(conn, flow, **columns)
    insert_job(conn, run_at=DUE)
    job = insert_metered(conn, ACME, run_at=DUE + timedelta(seconds=1))
    insert_metered(conn, ACME, run_at=DUE, priority=-5)
    assert reason(app, job, "ahead").facts == {"ahead": 2, "at_least": False}


def test_several_rules_are_named_each_and_what_else_holds_it_too(app: App, conn: Conn) -> None:
    add_rule(conn, "stripe", max_running=1, running=1)
    add_rule(conn, "sync", "acme", max_running=1, running=1)
    conn.execute("insert into pgqueue.queue (name, paused_at, paused_by) values ('default', now(), 'bob')")
    conn.execute("update pgqueue.worker set quiet_at = now()")
    job = insert_metered(conn, Flow(("stripe", "sync/acme")), run_at=DUE)
    assert set(codes(app, job)) == {"full", "paused", "no_worker", "due"}
    assert [one.facts["bucket"] for one in app.why(job).reasons if one.code == "full"] == ["stripe", "sync/acme"]


def test_a_job_that_only_takes_turns_with_others_is_next(app: App, conn: Conn) -> None:
    job = insert_metered(conn, Flow(share="t#fair/acme"), run_at=DUE)
    assert codes(app, job) == ("next",)


def test_a_parked_metered_job_says_what_it_is_parked_for(app: App, conn: Conn) -> None:
    job = insert_metered(conn, ACME, waits_for="task", run_at=DUE)
    assert codes(app, job)[0] == "blocked"
    assert "a worker that knows task t" in reason(app, job, "blocked").text


@pytest.mark.parametrize("flow", [ACME, IN_ORDER], ids=["limited", "in order"])
@pytest.mark.parametrize("analyzed", [True, False])
def test_what_why_reads_of_a_metered_job_does_not_grow_with_its_lane(
    app: App, conn: Conn, flow: Flow, analyzed: bool
) -> None:
    add_rule(conn, *flow.buckets[0].split("/"), max_running=1, running=1)
    running(conn, flow, 1)
    read: list[int] = []
    for jobs in (30_000, 120_000):
        conn.execute(
            "insert into pgqueue.job_live (task, queue, state, waits_for, lane, headers, run_at)"
            " select 't', 'default', 'blocked', 'turn', %s, %s, %s from generate_series(1, %s)",
            (flow.lane, Jsonb({"$flow": flow.header()}), DUE, jobs),
        )
        job = insert_metered(conn, flow, run_at=DUE)
        if analyzed:
            conn.execute("vacuum analyze pgqueue.job_live")
        assert reason(app, job, "ahead").facts == {"ahead": 10_000, "at_least": True}
        assert reason(app, job, "full").facts["running"] == 1
        found = app.get(job)
        place, buckets = QUERIES.why.place(found, flow.lane), QUERIES.why.buckets(flow.buckets)
        read.append(blocks_read(conn, place) + blocks_read(conn, buckets))
    assert read[1] < 2 * read[0]
    first = int(scalar(conn, "select min(id) from pgqueue.job_live where waits_for = 'turn'"))
    assert blocks_read(conn, QUERIES.why.place(app.get(first), flow.lane)) < 100
