"""What people do by commands is a row of an operation, with who has done it, also where it could not be done."""

from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pgqueue import App, Workflow, chain
from pgqueue.cli import cli, output
from tests.harness import Conn, add_worker

ROW = "select kind, filter, options, actor, via, done, error from pgqueue.operation order by id desc limit 1"


@pytest.fixture(autouse=True)
def _environment(emptied_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", emptied_dsn)
    monkeypatch.setattr(output, "console", output.SafeConsole(width=200))


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def newest(conn: Conn) -> tuple[Any, ...]:
    row = conn.execute(ROW).fetchone()
    assert row is not None
    return row


def did(conn: Conn, *arguments: str) -> tuple[Any, ...]:
    """Run a command as alice; return the kind, the thing and the options of the row that it has left."""
    assert (result := run(*arguments, "--by", "alice")).exit_code == 0, result.output
    kind, what, options, actor, via, done, error = newest(conn)
    assert (actor, via, done, error) == ("alice", "cli", 1, None)
    return kind, what, options


def test_pauses_are_operations(conn: Conn) -> None:
    assert did(conn, "pause", "-Q", "mail", "--until", "30m", "--why", "provider down") == (
        "pause", {"queue": "mail"}, {"until": "30m", "why": "provider down"}
    )  # fmt: skip
    assert did(conn, "resume", "-Q", "mail") == ("resume", {"queue": "mail"}, {})
    assert did(conn, "queues", "pause", "mail") == ("pause", {"queue": "mail"}, {})
    assert did(conn, "queues", "resume", "mail") == ("resume", {"queue": "mail"}, {})
    assert did(conn, "pause", "--task", "t") == ("pause", {"task": "t"}, {})


def test_requests_to_processes_are_operations(conn: Conn) -> None:
    worker = str(add_worker(conn))
    for verb in ("quiet", "resume", "stop"):
        assert did(conn, "workers", verb, worker) == (verb, {"process": worker}, {})
    assert did(conn, "workers", "quiet", "--all") == ("quiet", {"process": "all"}, {})


def test_verbs_on_schedules_are_operations(conn: Conn) -> None:
    made = did(conn, "schedules", "create", "nightly", "t", "--plan", "0 3 * * *")
    assert made == ("create", {"schedule": "nightly"}, {"task": "t", "plan": "0 3 * * *"})
    assert did(conn, "schedules", "edit", "nightly", "--plan", "0 4 * * *")[0] == "edit"
    assert did(conn, "schedules", "pause", "nightly", "--until", "2h")[2] == {"until": "2h"}
    assert did(conn, "schedules", "run", "nightly") == ("run", {"schedule": "nightly"}, {})
    for verb in ("resume", "delete"):
        assert run("schedules", verb, "nightly").exit_code == 0
        assert newest(conn)[:2] == (verb, {"schedule": "nightly"})


def test_what_could_not_be_done_says_why(conn: Conn) -> None:
    assert run("schedules", "run", "nobody", "--by", "alice").exit_code == 1
    kind, what, _, actor, _, done, error = newest(conn)
    assert (kind, what, actor, done) == ("run", {"schedule": "nobody"}, "alice", 0)
    assert "no schedule is called 'nobody'" in error
    assert "nobody" in run("operations", "list").stdout


def test_verbs_on_workflows_are_operations(conn: Conn, app: App) -> None:
    @app.task
    def part() -> None: ...

    made = chain(part.si(), part.si()).enqueue().id
    unsealed = Workflow("open", sealed=False)
    unsealed.add(part.si())
    opened = unsealed.enqueue().id
    assert did(conn, "workflows", "cancel", str(made), "--reason", "not wanted") == (
        "cancel", {"workflow": str(made)}, {"reason": "not wanted"}
    )  # fmt: skip
    assert did(conn, "workflows", "retry", str(made)) == ("retry", {"workflow": str(made)}, {})
    assert run("workflows", "seal", str(opened)).exit_code == 0
    assert newest(conn)[:2] == ("seal", {"workflow": str(opened)})
    assert run("workflows", "cancel", "4711", "--by", "alice").exit_code == 1
    kind, what, _, actor, _, done, error = newest(conn)
    assert (kind, what, actor, done) == ("cancel", {"workflow": "4711"}, "alice", 0)
    assert "4711" in error
