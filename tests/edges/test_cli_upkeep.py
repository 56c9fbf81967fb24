"""`pgqueue prune` and `pgqueue retention …`."""

import json
from typing import Any

from typer.testing import CliRunner

from pgqueue.cli.commands import cli
from tests.conftest import scalar
from tests.harness import Conn
from tests.statements.test_retention import add_day, add_job, jobs, set_rule


def call(dsn: str, *arguments: str) -> Any:
    """Run a command that must succeed; return what it prints as JSON."""
    done = CliRunner().invoke(cli, [*arguments, "--dsn", dsn, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_dry_run_says_what_goes_and_prune_does_it(dsn: str, conn: Conn) -> None:
    name, empty, young = add_day(conn, 20), add_day(conn, 21, "job_finished"), add_day(conn, 3)
    add_job(conn, 20)
    bulk = {add_job(conn, 3, queue="bulk") for _ in range(3)}
    kept = add_job(conn, 3)
    set_rule(conn, "succeeded", "1 hour", queue="bulk")
    conn.execute("analyze")
    planned = call(dsn, "prune", "--dry-run")
    assert jobs(conn) > bulk
    assert {(one["name"], one["how"], one["rows"], one["estimated"]) for one in planned} == {
        (f"job_finished_{name}", "emptied", 1, True), (f"transition_{name}", "emptied", 3, True),
        (f"job_finished_{empty}", "dropped", 0, False), (f"job_finished_{young}", "deleted", 3, False),
    }  # fmt: skip
    assert min(one["bytes"] for one in planned) > 0
    done = call(dsn, "prune")
    assert jobs(conn) == {kept}
    assert {(one["name"], one["how"]) for one in done} == {(one["name"], one["how"]) for one in planned} | {
        (f"{history}_{name}", "dropped") for history in ("job_finished", "transition")
    }
    assert (call(dsn, "prune"), call(dsn, "prune", "--dry-run")) == ([], [])


def test_a_large_partition_is_estimated_from_a_sample(dsn: str, conn: Conn) -> None:
    name = add_day(conn, 3, "job_finished")
    conn.execute(
        "insert into pgqueue.job_finished (id, task, queue, state, finished_at)"
        " select n, 't', case when n % 2 = 0 then 'bulk' else 'q' end, 'succeeded', now() - interval '3 days'"
        " from generate_series(1, 40000) as n"
    )
    size = scalar(conn, f"select pg_relation_size('pgqueue.job_finished_{name}')")
    set_rule(conn, "succeeded", "1 hour", queue="bulk")
    (planned,) = call(dsn, "prune", "--dry-run")
    assert planned["estimated"]
    assert 10_000 < planned["rows"] < 30_000
    assert size / 4 < planned["bytes"] < size


def test_people_see_tables(dsn: str, conn: Conn) -> None:
    add_day(conn, 20)
    add_job(conn, 20)
    planned = CliRunner().invoke(cli, ["prune", "--dry-run", "--dsn", dsn])
    assert "about" in planned.stdout
    rules = CliRunner().invoke(cli, ["retention", "list", "--dsn", dsn])
    assert [line.split() for line in rules.stdout.splitlines() if "failed" in line] == [
        ["failed", "*", "*", "for", "ever", "default"]
    ]


def test_an_operator_sets_a_rule_and_takes_it_back(dsn: str) -> None:
    rules = call(dsn, "retention", "set", "succeeded", "30d", "--task", "audit.*", "--by", "alice")
    assert [rule for rule in rules if rule["task"] == "audit.*"] == [
        {"name": "succeeded", "queue": "*", "task": "audit.*", "seconds": 30 * 86400, "set_by": "alice"}
    ]
    assert all(rule["task"] == "*" for rule in call(dsn, "retention", "unset", "succeeded", "--task", "audit.*"))
    done = CliRunner().invoke(cli, ["retention", "unset", "succeeded", "--dsn", dsn])
    assert "no operator has set that rule" in done.stderr
