"""`pgqueue queues`, `workers`, `status --exit-code`, `top`, and the completion of names."""

import json
import os
import pty
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pgqueue import App, LockLost, UnknownLock
from pgqueue.cli import cli, output
from pgqueue.cli import completion as completing
from pgqueue.client import queues
from pgqueue.client.troubles import LATE_AFTER
from pgqueue.dashboard.pulse import PulseReader
from tests.conftest import DEADLINE, scalar
from tests.harness import ROOT, Conn, InThread, add_worker, insert_job

NOW = "select now()"
RESTING = ("full scan", "inputs", "limits", "partitions", "progress", "resolve", "results", "steps", "sweep steps")


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture(autouse=True)
def _environment(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.setattr(queues, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(queues, "EMPTY_SECONDS", 0.05)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def answer(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_queue_is_paused_with_end_reason_and_actor_and_resumed(conn: Conn) -> None:
    insert_job(conn, queue="mail")
    paused = answer("queues", "pause", "mail", "--until", "30m", "--reason", "provider down", "--by", "alice")
    assert paused == {"queues": ["mail"], "unknown": []}
    lasts = scalar(conn, "select extract(epoch from paused_until - paused_at) from pgqueue.queue")
    assert 1799 < lasts <= 1801
    (mail,) = answer("queues", "list")
    assert (mail["due"], mail["paused_by"], mail["paused_reason"]) == (1, "alice", "provider down")
    status = run("status")
    assert "queue mail is paused by alice until" in status.stdout
    assert "provider" in run("queues", "list").stdout
    assert answer("queues", "resume", "mail") == {"queues": ["mail"], "unknown": []}
    assert answer("queues", "resume", "mail") == {"queues": [], "unknown": []}


def test_a_pause_until_a_moment_that_has_passed_is_wrong_usage(conn: Conn) -> None:
    for until in ("2020-01-01T00:00Z", "soon", "2030-01-01T00:00"):
        result = run("queues", "pause", "mail", "--until", until)
        assert result.exception is not None
        assert getattr(result.exception, "exit_code", None) == 2
    assert scalar(conn, "select count(*) from pgqueue.queue") == 0


def test_a_queue_that_nobody_knows_is_paused_with_a_warning(conn: Conn) -> None:
    result = run("queues", "pause", "mial")
    assert (result.exit_code, "mial has no jobs" in result.stderr) == (0, True)
    insert_job(conn, queue="tenant-1")
    result = run("queues", "pause", "tenant-*")
    assert "appear later are not paused" in result.stderr
    assert answer("queues", "pause", "none-*")["queues"] == []


def test_pause_waits_for_what_runs_and_drain_for_what_is_due_as_well(conn: Conn) -> None:
    worker = add_worker(conn)
    runs = insert_job(
        conn, queue="mail", state="running", attempt=1, lease=1, worker_id=worker, claimed_at=scalar(conn, NOW)
    )
    insert_job(conn, queue="mail")
    late = run("queues", "pause", "mail", "--wait", "--timeout", "0.2")
    assert (late.exit_code, "mail: 1 running" in late.stderr) == (1, True)
    waiting = InThread(lambda: run("queues", "pause", "mail", "--wait"))
    conn.execute("delete from pgqueue.job_live where id = %s", (runs,))
    assert waiting.result().exit_code == 0
    drained = run("queues", "drain", "mail", "--timeout", "0.2")
    assert (drained.exit_code, "is paused by" in drained.stderr) == (1, True)
    conn.execute("delete from pgqueue.job_live")
    assert answer("queues", "drain", "mail") == {"due": 0, "running": 0}


def test_a_task_is_paused_until_a_time_by_somebody_for_a_reason_and_resumed(conn: Conn) -> None:
    asked = ("--task", "shop.sync", "--until", "2h", "--why", "import runs", "--by", "alice")
    assert answer("pause", *asked) == {"kind": "task", "names": ["shop.sync"], "unknown": ["shop.sync"]}
    lasts = scalar(conn, "select extract(epoch from paused_until - paused_at) from pgqueue.task_control")
    assert 7199 < lasts <= 7201
    (pause,) = answer("pauses")
    assert (pause["kind"], pause["name"], pause["by"], pause["why"]) == ("task", "shop.sync", "alice", "import runs")
    assert "import runs" in run("pauses").stdout
    assert "task shop.sync is paused by alice until" in run("status").stdout
    assert answer("status")["pauses"] == [pause]
    assert answer("resume", "--task", "shop.sync") == {"kind": "task", "names": ["shop.sync"], "unknown": []}
    assert "nothing of this name was paused" in run("resume", "--task", "shop.sync").stderr
    assert answer("pauses") == []


def test_pause_warns_of_a_task_that_nobody_knows(conn: Conn) -> None:
    add_worker(conn)
    assert "is known neither here nor to a worker" in run("pause", "--task", "tt").stderr
    assert "warning" not in run("pause", "--task", "t").stderr


def test_queues_and_limits_are_paused_by_the_same_commands(conn: Conn) -> None:
    conn.execute("insert into pgqueue.limit_rule (name) values ('sync')")
    assert answer("pause", "-Q", "mail", "--why", "a deploy")["names"] == ["mail"]
    assert answer("pause", "--limit", "sync", "--key", "acme") == {"kind": "limit", "names": ["acme"], "unknown": []}
    assert [(p["kind"], p["name"], p["key"]) for p in answer("pauses")] == [
        ("limit", "sync", "acme"), ("queue", "mail", None)
    ]  # fmt: skip
    assert "limit sync/acme is paused" in run("status").stdout
    assert answer("resume", "-Q", "mail")["names"] == ["mail"]
    assert answer("resume", "--limit", "sync", "--key", "acme")["names"] == ["acme"]


def test_what_cannot_be_paused_is_wrong_usage(conn: Conn) -> None:
    for wrong in ((), ("--task", "t", "-Q", "q"), ("--task", "t", "--until", "soon"), ("--limit", "none"),
                  ("--task", "t", "--key", "acme"), ("--task", "t", "--until", "2020-01-01T00:00Z")):  # fmt: skip
        assert getattr(run("pause", *wrong).exception, "exit_code", None) == 2
    assert answer("pauses") == []


def test_pause_of_a_task_waits_for_what_runs_as_drain_does(conn: Conn) -> None:
    now = scalar(conn, NOW)
    job = insert_job(conn, state="running", attempt=1, lease=1, worker_id=add_worker(conn), claimed_at=now)
    late = run("pause", "--task", "t", "--wait", "--timeout", "0.2")
    assert (late.exit_code, "t: 1 running" in late.stderr) == (1, True)
    assert run("drain", "--task", "t", "--timeout", "0.2").exit_code == 1
    waiting = InThread(lambda: run("pause", "--task", "t", "--wait"))
    conn.execute("delete from pgqueue.job_live where id = %s", (job,))
    assert waiting.result().exit_code == 0
    assert answer("drain", "--task", "t") == {"due": 0, "running": 0}
    assert answer("drain", "-Q", "default") == {"due": 0, "running": 0}


def test_workers_are_listed_and_asked(conn: Conn) -> None:
    worker = add_worker(conn)
    conn.execute("update pgqueue.worker set release = 'r7', rss_bytes = 50 * 1024 * 1024, health_address = 'h:8080'")
    (row,) = answer("workers", "list")
    assert (row["release"], row["rss_bytes"], row["health_address"]) == ("r7", 52428800, "h:8080")
    table = run("workers", "list").stdout
    assert "r7" in table
    assert "MiB" in table
    (asked,) = answer("workers", "quiet", str(worker)[:8], "--by", "alice")
    assert asked["id"] == str(worker)
    (row,) = answer("workers", "list")
    assert (row["requested"], row["requested_by"]) == ("quiet", "alice")
    assert scalar(conn, "select requested from pgqueue.worker") == "quiet"
    assert "to stop" in run("workers", "stop", "--all").stderr
    for arguments, code in ((("stop",), 2), (("stop", "nobody"), 1)):
        assert getattr(run("workers", *arguments).exception, "exit_code", None) == code


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_list_of_workers_can_be_read_on_any_terminal(conn: Conn, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Ids, kinds, numbers of slots, memory and ages stand whole; what does not fit takes more lines of its column."""
    monkeypatch.setattr(output, "console", output.SafeConsole(width=width))
    duties = dict.fromkeys(RESTING, 3000.0) | {"claim": 7.0, "sweep": 9000.0}
    worker = str(add_worker(conn))
    conn.execute(
        "update pgqueue.worker set host = 'shop-worker-7d9f8b6c5-x2x9z', release = '2026.11.30-gabcdef0', slots = 32,"
        " queues = %s, rss_bytes = 202 * 1048576, duties = %s, requested = 'quiet', requested_by = 'alice'",
        (["critical", "default", "email"], json.dumps(duties)),
    )
    shown = run("workers", "list").stdout
    assert all(len(line.rstrip()) <= width for line in shown.splitlines())
    for word in (worker[:8], "worker", "0/32", "202 MiB", " 7s ", "critical", "default", "email"):
        assert word in shown, word
    assert shown.count("\n") < 16  # of which six are the title, the head and the margins
    assert "3000" not in shown
    assert "50m0s" not in shown  # a duty that rests for most of an hour is no news
    words = shown.split()
    assert words.index("sweep") < words.index("stuck")
    assert "2h30m" in shown


def test_a_worker_is_shown_with_each_of_its_duties(conn: Conn) -> None:
    worker, duties = add_worker(conn), {"claim": 7.0, "inputs": None, "sweep": 9000.0}
    conn.execute("update pgqueue.worker set duties = %s", (json.dumps(duties),))
    shown = run("workers", "show", str(worker)[:8]).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert [line for line in lines if line and line[0] in duties] == [
        ["sweep", "2h30m"], ["claim", "7s"], ["inputs", "not", "yet"],
    ]  # fmt: skip
    (row,) = answer("workers", "show", "h:1")
    assert row["duties"]["sweep"] == 9000.0
    assert "no living worker" in str(run("workers", "show", "nobody").exception)


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        ((), ["queue mail: no worker takes its due jobs"]),
        (("-Q", "other"), []),
        (("-Q", "served", "--max-age", "1h"), []),
        (("-Q", "served", "--max-age", "60s"), ["queue served: the oldest due job waits 10m"]),
        (("-Q", "served", "--max-dead", "2"), []),
        (("-Q", "served", "--max-dead", "1"), ["2 dead letters within the last hour, 2 of them in queue served"]),
        (("-Q", "held"), []),
        (
            ("-Q", "held", "--max-age", "60s"),
            ["queue held: the oldest due job waits 10m", "s (queue held is paused by a)"],
        ),
    ],
)
def test_monitoring_gets_an_exit_code_and_one_line(conn: Conn, arguments: tuple[str, ...], reasons: list[str]) -> None:
    add_worker(conn)
    conn.execute("update pgqueue.worker set queues = '{served,other}'")
    for queue in ("mail", "served", "held"):
        conn.execute(
            "insert into pgqueue.job_live (task, queue, run_at) values ('t', %s, now() - interval '600 s')", (queue,)
        )
    conn.execute("insert into pgqueue.queue (name, paused_at, paused_by) values ('held', now(), 'a')")
    conn.execute(
        "insert into pgqueue.dead_letter (id, task, queue, reason, failed_at) select -i, 't', 'served', 'why',"
        " now() - make_interval(mins => 40 * (i - 1)) from generate_series(1, 3) as i"
    )
    result = run("status", "--exit-code", *arguments)
    assert result.exit_code == bool(reasons)
    (line,) = result.stdout.splitlines()
    if reasons:
        assert all(reason in line for reason in reasons)
    else:
        assert line == "ok"
    told = run("status", "--exit-code", "--json", *arguments)
    found = json.loads(told.stdout)
    assert (told.exit_code, found["ok"]) == (bool(reasons), not reasons)
    assert all(reason in "; ".join(found["reasons"]) for reason in reasons)


def test_limits_without_the_exit_code_are_wrong_usage() -> None:
    for arguments in (("--max-age", "60s"), ("--max-dead", "0"), ("--exit-code", "--max-age", "soon")):
        assert getattr(run("status", *arguments).exception, "exit_code", None) == 2


def test_status_names_the_operations_that_run(conn: Conn) -> None:
    conn.execute("insert into pgqueue.operation (kind, filter, actor, done) values ('redrive', '{}', 'alice', 12)")
    assert "operation 1 runs: redrive by alice, 12 done, 0 skipped" in run("status").stdout
    (operation,) = answer("status")["operations"]
    assert (operation["actor"], operation["done"]) == ("alice", 12)


def test_top_prints_one_picture_where_there_is_no_terminal(conn: Conn) -> None:
    for number in range(20):
        insert_job(conn, queue=f"q{number}")
    result = run("top")
    assert result.exit_code == 0
    assert "20 pending" in result.stdout
    assert "the first 15 of 20" in result.stdout


def _on_terminal(dsn: str, key: bytes) -> tuple[int, bytes]:
    """Run `pgqueue top` on a terminal, press a key at the first picture; return its exit code and what it wrote."""
    master, slave = pty.openpty()
    environ = os.environ | {"PGQUEUE_DSN": dsn, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = [sys.executable, "-m", "pgqueue", "top", "--interval", "0.2"]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environ, cwd=ROOT, start_new_session=True
    )
    os.close(slave)
    written, pressed, deadline = b"", False, time.monotonic() + 2 * DEADLINE
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    written += os.read(master, 65536)
                except OSError:
                    break
            if b"pending" in written and not pressed:
                pressed = True
                if key == b"\x03":
                    os.kill(process.pid, 2)
                else:
                    os.write(master, key)
        return process.wait(DEADLINE), written
    finally:
        process.kill()
        os.close(master)


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "interrupt"])
def test_top_on_a_terminal_ends_with_a_key_and_leaves_the_terminal_as_it_was(dsn: str, conn: Conn, key: bytes) -> None:
    insert_job(conn, queue="mail")
    status, written = _on_terminal(dsn, key)
    assert status == 0, written
    assert b"mail" in written
    assert b"\x1b[?1049l" in written  # the screen from before is back


def test_the_first_line_of_top_says_what_is_wrong_as_the_dashboard_does(dsn: str, conn: Conn) -> None:
    def first() -> str:
        return run("top").stdout.splitlines()[0]

    assert first() == "All is well. No job waits or runs."
    worker = add_worker(conn)
    assert first() == "All is well. 1 queue, 0 running, nothing waits too long."
    insert_job(conn, queue="mail", run_at="2020-01-01T00:00:00Z")
    conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (worker,))
    assert first().startswith("Queue mail is without a worker (the oldest job waits ")
    assert first().endswith("); process h:1 was lost.")
    app = App(dsn)
    troubles = PulseReader(app, LATE_AFTER).now().troubles
    assert [one.words.split(" (")[0] for one in troubles] == ["queue mail is without a worker", "process h:1 was lost"]
    app.close()


def _completed(words: str, environ: dict[str, str]) -> list[str]:
    typed = words.split(" ")
    completing = {"_PGQUEUE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'pgqueue'; from pgqueue.cli import main; main()"],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | completing | environ,
        capture_output=True, text=True, timeout=2 * DEADLINE, cwd=ROOT,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("pgqueue queues pause m", ["mail", "many_things"]),
        ("pgqueue queues pause many_", ["many_things"]),
        ("pgqueue jobs list -Q ma", ["mail", "many_things"]),
        ("pgqueue jobs list --task sh", ["shop.send"]),
        ("pgqueue jobs list --state ret", ["retrying"]),
        ("pgqueue schedules show ni", ["nightly"]),
        ("pgqueue workers stop 0000", ["00000000-0000-0000-0000-000000000001"]),
        ("pgqueue workers stop h:", ["h:1"]),
    ],
)
def test_names_of_the_database_are_completed(dsn: str, conn: Conn, words: str, offered: list[str]) -> None:
    add_worker(conn)
    conn.execute("update pgqueue.worker set id = %s, queues = '{mail}', tasks = '{shop.send,shop.send@2}'",
                 ("00000000-0000-0000-0000-000000000001",))  # fmt: skip
    for queue in ("many_things", "other"):
        insert_job(conn, queue=queue)
    conn.execute("insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick)"
                 " values ('nightly', 't', 'q', 60, now())")  # fmt: skip
    assert _completed(words, {"PGQUEUE_DSN": dsn}) == offered


@pytest.mark.parametrize("dsn_given", ["", "embedded:/nowhere", "nonsense", "postgresql://127.0.0.1:1/x"])
def test_without_a_database_nothing_is_offered_and_nothing_is_said(dsn_given: str, tmp_path: Path) -> None:
    environ = {"PGQUEUE_DSN": dsn_given, "DATABASE_URL": "", "HOME": str(tmp_path)}
    assert _completed("pgqueue queues pause m", environ) == []


def test_a_server_that_does_not_answer_costs_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        given = {"dsn": f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/x"}
        assert completing._within(0.3, lambda: completing._read(given, lambda q: q.names.queues(""))) == []
        assert time.monotonic() - began < 5


def test_named_locks_are_listed_and_released(conn: Conn) -> None:
    app = App()
    lock = app.lock("sync:42", ttl=300)
    lock.__enter__()
    (found,) = answer("locks", "list")
    assert (found["key"], found["token"], found["waited_for"]) == ("sync:42", lock.token, False)
    assert "sync:42" in run("locks", "list", "sync:*").stdout
    assert answer("locks", "list", "mail*") == []
    refused = run("locks", "release", "sync:42", "--token", "77")
    assert (refused.exit_code, type(refused.exception)) == (1, UnknownLock)
    released = run("locks", "release", "sync:42", "--token", str(lock.token))
    assert released.exit_code == 0
    assert "released sync:42, which" in released.stderr
    assert answer("locks", "list") == []
    with pytest.raises(LockLost):
        lock.__exit__(None, None, None)
    app.close()


def test_a_ping_says_who_answered_and_exits_1_where_one_is_silent(conn: Conn) -> None:
    assert run("workers", "ping").exit_code == 1  # nobody lives
    worker = add_worker(conn)
    result = run("workers", "ping", "h:1", "--timeout", "0.05")
    assert result.exit_code == 1
    assert str(worker)[:8] in result.output
    assert "no answer" in result.output
    (pong,) = json.loads(run("workers", "ping", "--timeout", "0.05", "--json").stdout)
    assert (pong["worker"]["id"], pong["seconds"]) == (str(worker), None)
