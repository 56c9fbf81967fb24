"""`pgqueue limits …`: the verbs of `app.limits`, with tables and JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pgqueue import App, Limit, PgqueueError, db
from pgqueue.cli import cli
from pgqueue.cli.limits import notes_of
from pgqueue.jobs.limit_rule import LimitRule
from tests.conftest import scalar
from tests.harness import QUERIES, Conn, add_rule

RULE = LimitRule.of_limit("sync", Limit(5, by="tenant", rate="10/m"))


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(autouse=True)
def _environment(dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.setenv("COLUMNS", "200")
    db.run(conn, QUERIES.limits.declare("shop", [RULE]))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def answer(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_limits_are_listed_with_their_keys(conn: Conn, app: App) -> None:
    app.using(limit_key="acme").enqueue("sync")
    app.limits.set("sync", key="acme", max_running=2, weight=3)
    app.pause(limit="sync", by="me")
    found = answer("limits", "list")
    assert [(one["rule"], one["key"], one["max_running"], one["waiting"]) for one in found] == [
        ("sync", None, 5, 1), ("sync", "acme", 2, 1),
    ]  # fmt: skip
    table = run("limits", "list", "sync").stdout
    for word in ("10 in 60s", "paused by me", "weight 3", "acme"):
        assert word in table
    assert answer("limits", "list", "other") == []


def test_a_rule_with_keys_says_over_how_many_keys_its_jobs_run(conn: Conn, app: App) -> None:
    """Each key may run as many: so the sum of what runs may be greater, and is no fault."""
    for key, running in (("acme", 3), ("zen", 5), ("idle", 0)):
        add_rule(conn, "sync", key, running=running)
    rows = [line.split() for line in run("limits", "list").stdout.splitlines() if line.split()[:1] == ["sync"]]
    assert rows[0][:10] == ["sync", "limit", "5", "a", "key", "8", "over", "2", "keys", "0"]
    assert [(row[1], row[4]) for row in rows[1:]] == [("acme", "3"), ("idle", "0"), ("zen", "5")]
    assert app.limits.list("sync")[0].running == 8


def test_fair_turns_show_the_weight_of_each_key_also_the_one_that_nobody_has_set(conn: Conn, app: App) -> None:
    db.run(conn, QUERIES.limits.declare("shop", [RULE, LimitRule.of_share("sync#fair", "tenant")]))
    for tenant in ("acme", "zen"):
        app.using(fair_key=tenant).enqueue("sync")
    app.limits.set("sync#fair", key="acme", weight=3, by="me")
    notes = {one.key: list(notes_of(one)) for one in app.limits.list("sync#fair")}
    assert notes == {None: ["a key has weight 1 unless it has its own"], "acme": ["weight 3", "set by me"],
                     "zen": ["weight 1"]}  # fmt: skip
    assert "weight 1" in run("limits", "list", "sync#fair").stdout


def test_a_rule_that_code_no_longer_declares_says_so(conn: Conn, app: App) -> None:
    assert "no longer" not in run("limits", "list").stdout
    db.run(conn, QUERIES.limits.declare("shop", []))
    assert "no longer" in run("limits", "list").stdout
    (one,) = app.limits.list()
    assert list(notes_of(one)) == ["no longer declared in code"]


def test_jobs_whose_rule_has_no_row_say_so(app: App) -> None:
    app.using(ordering_key=7).enqueue("other")
    (one,) = app.limits.list("other#order")[:1]
    assert list(notes_of(one)) == ["nothing limits these jobs"]
    assert "no rule" in run("limits", "list").stdout


def test_a_limit_is_set_and_reset(conn: Conn) -> None:
    one = answer("limits", "set", "sync", "--max-running", "0", "--rate", "none", "--on-full", "skip", "--by", "me")
    assert (one["max_running"], one["rate_count"], one["on_full"], one["updated_by"]) == (0, None, "skip", "me")
    assert answer("limits", "set", "sync", "--max-running", "none")["max_running"] is None
    assert answer("limits", "set", "sync", "--key", "acme", "--max-running", "1")["key"] == "acme"
    assert "set by" in run("limits", "list").stdout
    back = answer("limits", "reset", "sync")
    assert (back["max_running"], back["rate_count"], back["on_full"], back["updated_by"]) == (5, 10, "wait", None)
    assert answer("limits", "reset", "sync", "--key", "acme")["max_running"] == 5
    assert scalar(conn, "select count(*) from pgqueue.limit_key") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["set", "snc", "--max-running", "1"], 1, "no limit is named 'snc' (known: sync)"),
        (["set", "sync"], 2, "give what is to change"),
        (["set", "sync", "--max-running", "many"], 2, "--max-running 'many' cannot be used: give a number, or none"),
        (["set", "sync", "--rate", "often"], 2, "rate 'often' cannot be used"),
        (["set", "sync", "--weight", "2"], 2, "weight cannot be set for a whole limit"),
        (["reset", "snc"], 1, "no limit is named 'snc'"),
    ],
)
def test_wrong_usage_has_an_exit_code_and_a_reason(arguments: list[str], code: int, says: str) -> None:
    result = run("limits", *arguments)
    assert isinstance(result.exception, PgqueueError)
    assert (result.exception.exit_code, says in str(result.exception)) == (code, True)


def test_an_app_that_is_named_declares_its_rules_at_the_first_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conn: Conn
) -> None:
    (tmp_path / "limited.py").write_text("import pgqueue\napp = pgqueue.App()\napp.limit('stripe', 20)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert answer("limits", "set", "-A", "limited:app", "stripe", "--max-running", "3")["max_running"] == 3
    assert scalar(conn, "select declared_by from pgqueue.limit_rule where name = 'stripe'") == ["limited:app"]
