"""Enqueueing metered jobs from plain SQL: the flow and lane of Python, over any names; and the view of the rules."""

import random
from typing import Any

import psycopg
import pytest

from pgqueue import migrate
from pgqueue.jobs.bucket_key import key_text
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.limit_rule import rule_name
from tests.conftest import scalar
from tests.harness import Conn

ALPHABET = "aZ09_.:-#%/ äß€𝄞\n\t\x7f~'\"\\{},"
CALL = "select pgqueue.enqueue(%s, flow => %s, limit_key => %s, ordering_key => %s, fair_key => %s)"
JOB = "select lane, headers -> '$flow', state, waits_for from pgqueue.job_live where id = %s"


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def drawn(random: random.Random, letters: str = ALPHABET, most: int = 12) -> str:
    length = random.choice([1, 2, 3, most, 250])
    return "".join(random.choice(letters) for _ in range(length))


def test_sql_and_python_compute_one_flow_and_one_lane_for_whatever_names(conn: Conn) -> None:
    seeded = random.Random(15)
    names = ALPHABET.replace("\n", "").replace("\t", "").replace("\x7f", "")
    for _ in range(300):
        task = drawn(seeded, names)[:200]
        rules = [drawn(seeded, names.replace("/", "")) for _ in range(seeded.randrange(4))]
        keys = [None if seeded.random() < 0.5 else drawn(seeded) for _ in rules]
        limit, order, share = (None if seeded.random() < 0.4 else drawn(seeded) for _ in range(3))
        given = [rule if key is None else f"{rule}/{key}" for rule, key in zip(rules, keys, strict=True)]
        buckets = {rule if key is None else f"{rule}/{key_text(key)}" for rule, key in zip(rules, keys, strict=True)}
        own = rule_name(task)
        if limit is not None:
            buckets.add(f"{own}/{key_text(limit)}")
        line = None if order is None else f"{own}#order/{key_text(order)}"
        flow = Flow(
            tuple(sorted(buckets | ({line} if line else set()))),
            line,
            None if share is None else f"{own}#fair/{key_text(share)}",
        )
        job = scalar(conn, CALL, task, given, limit, order, share)
        row = conn.execute(JOB, (job,)).fetchone()
        if flow == Flow():
            assert row == (None, None, "pending", None)
        else:
            assert row == (flow.lane, flow.header(), "blocked", "turn")


def test_old_calls_by_name_and_by_position_work(conn: Conn) -> None:
    conn.execute("select pgqueue.enqueue('t')")
    conn.execute("select pgqueue.enqueue('t', '{\"a\": 1}', 'q', 5)")
    conn.execute("select pgqueue.enqueue(task => 't', args => '{}', delay => '1 hour')")
    conn.execute(
        "select pgqueue.enqueue('t', '{}', 'q', 1, null, null, 3, '{a}', '{}', null, '1 hour', null, 'pending', null, "
        "'skip', null, null)"
    )
    assert scalar(conn, "select array_agg(distinct state) from pgqueue.job_live") == ["pending"]
    assert scalar(conn, "select count(*) from pg_proc where proname = 'enqueue'") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("flow => null", "flow NULL cannot be used"),
        ("flow => array[null]", "flow .* cannot be used: give at most 20 rules, each as rule or rule/key"),
        ("flow => '{\"\"}'", "flow .* cannot be used"),
        ("flow => '{/a}'", "flow .* cannot be used"),
        ("flow => '{a/}'", "flow .* cannot be used"),
        (r"flow => array[E'a\nb']", r"cannot be used: give at most 20 rules"),
        ("flow => array(select 'r' || i from generate_series(1, 21) i)", "give at most 20 rules"),
        ("flow => array[repeat('ä', 501)]", "flow .* cannot be used"),
        ("limit_key => ''", "an empty key of a rule"),
        ("ordering_key => ''", "an empty key of a rule"),
        ("fair_key => ''", "an empty key of a rule"),
        ("headers => '{\"$flow\": 1}'", r"the header \$flow cannot be given"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(conn: Conn, arguments: str, says: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=says):
        conn.execute(f"select pgqueue.enqueue('t', {arguments})")  # type: ignore[arg-type]
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0


@pytest.mark.parametrize(
    "options",
    ["", ", idempotency_key => 'k'", ", unique_key => 'k'", ", unique_key => 'k', unique_window => '1 hour'"],
)
def test_each_condition_goes_with_a_flow(conn: Conn, options: str) -> None:
    first = scalar(conn, f"select pgqueue.enqueue('t', limit_key => 'a'{options})")  # type: ignore[arg-type]
    row = conn.execute("select state, waits_for, lane is null from pgqueue.job_live where id = %s", (first,)).fetchone()
    assert row == ("blocked", "turn", False)
    log = conn.execute("select from_state, to_state from pgqueue.transition where job_id = %s", (first,)).fetchall()
    assert log == [(None, "blocked")]
    if options:
        assert scalar(conn, f"select pgqueue.enqueue('t', limit_key => 'a'{options})") == first  # type: ignore[arg-type]


def test_a_role_of_the_users_own_keeps_what_it_was_granted(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(migrate.script(until="0032").encode())
        conn.execute("create role shop_backend")
        try:
            conn.execute("grant usage on schema pgqueue to shop_backend")
            conn.execute("grant execute on function pgqueue.enqueue to shop_backend")
            assert migrate.upgrade(empty_dsn)[1] == migrate.head()
            granted = (
                "select has_function_privilege('shop_backend', oid, 'execute') from pg_proc where proname = 'enqueue'"
            )
            assert scalar(conn, granted) is True
            public = "select has_function_privilege('public', oid, 'execute') from pg_proc where proname = 'enqueue'"
            assert scalar(conn, public) is False
        finally:
            conn.execute("drop owned by shop_backend; drop role shop_backend")


def limits(conn: Conn, *columns: str) -> list[tuple[Any, ...]]:
    return conn.execute(f"select {', '.join(columns)} from pgqueue.limits order by rule, key nulls first").fetchall()  # type: ignore[arg-type]


def test_the_view_shows_rules_with_what_runs_and_waits_of_each_key(conn: Conn) -> None:
    conn.execute("""
        insert into pgqueue.limit_rule (name, max_running, declared)
        values ('t', 5, '{"keyed_by": "n"}'), ('idle', 1, null);
        insert into pgqueue.limit_rule (name, kind) values ('t#fair', 'fair');
        insert into pgqueue.limit_key (rule, key, max_running, paused_at, paused_by) values ('t', 'x', 1, now(), 'me');
        insert into pgqueue.limit_bucket values ('t/run');
        insert into pgqueue.limit_use (name, version, rule, taken) values
            ('t/run', 7, 't', 5), ('t/run', 6, 't', 4), ('t/x', 1, 't', 1);
        insert into pgqueue.limit_freed (name, version, rule, freed, closed_until) values
            ('t/run', 3, 't', 2, now() + interval '1 hour'), ('t/run', 2, 't', 1, null),
            ('t/x', 1, 't', 0, '2020-01-01');
        select pgqueue.enqueue('t', limit_key => 'x', fair_key => 'x') from generate_series(1, 3);
        select pgqueue.enqueue('t', limit_key => 'y/z', fair_key => 'y');
    """)
    columns = ("rule", "key", "kind", "keyed_by", "max_running", "running", "waiting", "waiting_capped")
    assert limits(conn, *columns) == [
        ("idle", None, "limit", None, 1, 0, 0, False),
        ("t", None, "limit", "n", 5, 4, 4, False),
        ("t", "run", "limit", "n", 5, 3, 0, False),
        ("t", "x", "limit", "n", 1, 1, 3, False),
        ("t", "y/z", "limit", "n", 5, 0, 1, False),
        ("t#fair", None, "fair", None, None, None, 4, False),
        ("t#fair", "x", "fair", None, None, None, 3, False),
        ("t#fair", "y", "fair", None, None, None, 1, False),
    ]
    closed = limits(conn, "rule", "key", "closed_until is not null", "paused_by")
    assert [row for row in closed if row[2] or row[3]] == [("t", "run", True, None), ("t", "x", False, "me")]


def test_the_view_counts_no_more_than_a_thousand_and_reads_little_of_many(conn: Conn) -> None:
    conn.execute("""
        insert into pgqueue.limit_rule (name, max_running) values ('v', 5), ('u', 5);
        select pgqueue.enqueue('t', limit_key => 'x') from generate_series(1, 1200);
        insert into pgqueue.job_live (task, queue, args, headers, state, waits_for, lane)
        select 'u', 'default', '{}', jsonb_build_object('$flow', jsonb_build_object('lane', i % 1100, 'buckets',
            jsonb_build_array('u/' || i % 1100))), 'blocked', 'turn', i % 1100 from generate_series(1, 22000) i;
        analyze pgqueue.job_live;
    """)
    found = {(row[0], row[1]): row[2:] for row in limits(conn, "rule", "key", "waiting", "waiting_capped")}
    assert found["u", None] == (1000, True)
    assert found["u", "7"] == (11, True)  # a few of each lane where there are many
    plan = conn.execute("explain (analyze, timing off, format json) select * from pgqueue.limits").fetchone()
    assert plan is not None
    assert rows_read(plan[0][0]["Plan"]) < 20_000


def rows_read(node: dict[str, Any]) -> int:
    """Return how many rows of job_live a plan has read."""
    own = int(node["Actual Rows"] * node["Actual Loops"]) if node.get("Relation Name") == "job_live" else 0
    return own + sum(rows_read(part) for part in node.get("Plans", ()))
