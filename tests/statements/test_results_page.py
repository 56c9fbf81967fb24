"""A page of the results of a group is read from where the last one ended, however large the group is."""

import psycopg
import pytest

from pgqueue import db
from tests.harness import QUERIES, Conn
from tests.statements.test_explain import buffers, explain, nodes

# A group of 40,000 in sixteen gates, beside as many results of others; five members are dead letters.
GROUP = """
insert into pgqueue.workflow (id, root_id, name, open_gates) values (100, 100, 'w', 1);
insert into pgqueue.workflow (id, root_id, name, open_gates, state, ended_at)
values (101, 100, 'g', 0, 'succeeded', now());
insert into pgqueue.gate (id, workflow_id, members, remaining, first_id, last_id)
select 200 + i, 101, 2500, 0, 1000, 81000 from generate_series(0, 15) as i;
insert into pgqueue.dependency (parent_id, child_id, ord, runs_after, argument, workflow_id)
values (101, 90000, 0, 'e', 'numbers', 100);
insert into pgqueue.job_finished (id, task, queue, state, result, gate_id, workflow_id)
select 1000 + i, 't', 'q', 'succeeded', to_jsonb(i), case i % 2 when 0 then 200 + i / 2 % 16 end, 100
from generate_series(0, 79999) as i where i % 16000 > 0;
insert into pgqueue.dead_letter (id, task, queue, reason, gate_id, workflow_id, error)
select 1000 + 16000 * i, 't', 'q', 'error', 200, 100, '{"type": "E", "message": "m"}' from generate_series(0, 4) as i"""


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_each_page_costs_the_same(conn: Conn, dsn: str, generic: bool) -> None:
    conn.execute(GROUP)
    conn.execute("analyze")
    for after in (0, 40_000, 80_001):
        with psycopg.connect(dsn) as reader:
            plan = explain(reader, QUERIES.workflows.results_page(90_000, "numbers", after, 100), generic=generic)
        read = [n for n in nodes(plan) if n.get("Relation Name", "").startswith(("job_finished", "dead_letter"))]
        rows = sum((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"] for n in read)
        assert rows <= 105  # a hundred, every other one of this group, and the five dead letters
        assert plan["Actual Rows"] in range(49, 52)
        assert buffers(plan) < 500


def test_pages_are_the_group_in_its_order(conn: Conn) -> None:
    conn.execute(GROUP)
    found, after, pages = [], 0, 0
    while page := db.run(conn, QUERIES.workflows.results_page(90_000, "numbers", after)):
        found += page.items
        after, pages = page.reached, pages + 1
    assert pages == 41
    assert [item["result"] for item in found] == [None if n % 16_000 == 0 else n for n in range(0, 80_000, 2)]
    assert [n for n, item in enumerate(found) if item["state"] == "failed"] == [8000 * i for i in range(5)]
    assert found[1] == {"when": "e", "task": "t", "state": "succeeded", "result": 2, "error": None}
    assert db.run(conn, QUERIES.workflows.results_page(90_000, "other", 0)) is None


def test_the_value_of_a_group_is_read_in_the_order_of_its_jobs(conn: Conn) -> None:
    conn.execute(GROUP)
    conn.execute("update pgqueue.workflow set value_of = array[1004, 1002, 1006, 1008, 1010] where id = 101")
    found, after = [], 0
    while page := db.run(conn, QUERIES.workflows.results_page(90_000, "numbers", after, 2)):
        found.append([item["result"] for item in page.items])
        after = page.reached
    assert found == [[4, 2], [6, 8], [10]]
