"""The command line as people and scripts use it: real processes, exit codes, stdout apart from stderr."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App, db, migrate
from pgqueue.process.heartbeat import describe_process
from pgqueue.tasks.options import TaskOptions
from tests import starter
from tests.conftest import drain, scalar

SHOP = """
import pgqueue
app = pgqueue.App()

@app.task(name="greet", retry=[0.01])
def greet(who: str, times: int = 1) -> str:
    "Say hello."
    return who * times

@app.task(version=2, upcasters={1: dict}, aliases=["old.part"])
def part() -> None: ...
"""


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


class Shell:
    """Runs `pgqueue …` in a directory with a shop in it."""

    def __init__(self, directory: Path, dsn: str | None) -> None:
        self._directory = directory
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith(("PGQUEUE_", "DATABASE_URL"))}
        self._environ["COLUMNS"] = "200"
        if dsn:
            self._environ["PGQUEUE_DSN"] = dsn

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        return starter.run(*args, cwd=self._directory, env=self._environ)

    def data(self, *args: str) -> Any:
        """Return what a command prints with --json; it must succeed."""
        done = self(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def shell(tmp_path: Path, dsn: str) -> Shell:
    (tmp_path / "shop.py").write_text(SHOP)
    return Shell(tmp_path, dsn)


def _refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_enqueue_prints_the_id_of_the_job_it_committed(shell: Shell, conn: psycopg.Connection[Any]) -> None:
    done = shell("enqueue", "greet", '{"who": "you"}', "-A", "shop:app", "--priority", "5", "--tag", "a", "--tag", "b")
    row = conn.execute(
        "select task, args, priority, tags from pgqueue.job where id = %s", [int(done.stdout)]
    ).fetchone()
    assert row == ("greet", {"who": "you"}, 5, ["a", "b"])


def test_an_app_that_requires_the_transaction_of_a_request_is_used_outside_of_one(shell: Shell, tmp_path: Path) -> None:
    with (tmp_path / "shop.py").open("a") as shop:
        shop.write("\ndef current(): raise LookupError\n\napp.bind(current, required=True)\n")
    job = shell.data("enqueue", "greet", '{"who": "you"}', "-A", "shop:app")["id"]
    assert shell.data("jobs", "show", str(job), "-A", "shop:app")["state"] == "pending"


def test_enqueue_gives_the_job_headers(shell: Shell, conn: psycopg.Connection[Any]) -> None:
    done = shell("enqueue", "elsewhere.task", "--header", "tenant=7", "--header", "query=a=b")
    headers = scalar(conn, "select headers from pgqueue.job where id = %s", int(done.stdout))
    assert headers == {"tenant": "7", "query": "a=b"}
    assert shell.data("jobs", "show", done.stdout.strip())["headers"] == headers
    assert '"tenant": "7"' in shell("jobs", "show", done.stdout.strip()).stdout


def test_enqueue_without_an_app_takes_any_task_by_name(shell: Shell, conn: psycopg.Connection[Any]) -> None:
    job = shell.data("enqueue", "elsewhere.task", '{"x": [1, 2]}')
    assert (job["task"], job["state"], job["args"]) == ("elsewhere.task", "pending", {"x": [1, 2]})
    assert scalar(conn, "select count(*) from pgqueue.job") == 1


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["enqueue", "greet", '{"whom": "x"}', "-A", "shop:app"], 2, ["greet", "whom"]),
        (["enqueue", "greet", '{"who": "x", "times": "many"}', "-A", "shop:app"], 2, ["times", "integer"]),
        (["enqueue", "greet", "who=x", "-A", "shop:app"], 2, ["not JSON"]),
        (["enqueue", "greet", "[1]", "-A", "shop:app"], 2, ["name the arguments"]),
        (["enqueue", "greeet", "{}", "-A", "shop:app"], 2, ["greeet", "known: greet"]),
        (["enqueue", "greet", '{"who": "x", "priority": 5}', "-A", "shop:app"], 2, ["using(priority=…)"]),
        (["enqueue", "greet", '{"who": "x"}', "--queue", "a b", "-A", "shop:app"], 2, ["'a b'"]),
        (["enqueue", "greet", '{"who": "x"}', "--delay", "nan", "-A", "shop:app"], 2, ["delay"]),
        (["enqueue", "elsewhere.task", "--header", "tenant"], 2, ["--header 'tenant'", "name=value"]),
        (["enqueue", "elsewhere.task", "--header", "a=1", "--header", "a=2"], 2, ["'a' is given twice"]),
        (["enqueue", "elsewhere.task", "--header", "$version=2"], 2, ["$version", "pgqueue's own"]),
        (["jobs", "list", "--state", "done"], 2, ["done", "succeeded"]),
        (["jobs", "show", "4711"], 1, ["4711"]),
        (["tasks", "show", "greeet", "-A", "shop:app"], 2, ["greeet", "known: greet"]),
        (["tasks", "list"], 78, ["-A module:attr"]),
        (["enqueue", "elsewhere", "{}", "--task-version", "0"], 2, ["version=0"]),
        (["work", "-A", "shop:app", "--limit", "bulk=2"], 2, ["bulk", "default"]),
        (["work", "-A", "shop:app", "--limit", "default"], 2, ["queue=number"]),
        (["work", "-A", "shop:app", "-Q", "critical:6,default"], 2, ["'default' has no share", "default:1"]),
        (["work", "-A", "shop:app", "-Q", "critical:1.5"], 2, ["critical:1.5", "critical:6", "critical:8c"]),
        (["work", "-A", "shop:app", "-Q", "a:2c", "--limit", "a=3"], 2, ["'a' is limited twice"]),
        (["work", "-A", "shop:app", "-Q", "tenant *"], 2, ["queue pattern 'tenant *'"]),
        (["work", "-A", "shop:app", "-Q", "a,"], 2, ["queue name ''"]),
        (["work", "-A", "shop:app", "-c", "0"], 2, ["concurrency 0"]),
        (["work", "-A", "shop:app", "-c", "9999999999"], 2, ["concurrency 9999999999", "10000"]),
        (["work", "-A", "shop:app", "--limit", "default=²"], 2, ["queue=number"]),
        (["work", "-A", "shop:app", "--health-port", "99999"], 78, ["/live and /ready", "a port is 0 to 65535"]),
        (["work", "-A", "shop:app", "--metrics-port", "99999"], 78, ["metrics", "a port is 0 to 65535"]),
        (["work", "-A", "shop:app", "--lease", "0"], 2, ["lease_seconds=0"]),
        (["work", "-A", "shop:app", "--log-level", "loud"], 2, ["loud", "warning"]),
        (["work", "-A", "shop:nothing"], 78, ["shop:nothing", "shop:app"]),
        (["work", "-A", "nowhere:app"], 78, ["nowhere"]),
        (["work", "-A", "broken:app"], 78, ["ZeroDivisionError", "broken.py:1"]),
        (["work", "-A", "refused:app"], 78, ["InvalidOption", "priority=500", "refused.py:3"]),
        (["work"], 78, ["-A module:attr", "PGQUEUE_APP"]),
        (["status", "--dsn", "postgresql://u:sesame@127.0.0.1:1/db"], 69, ["127.0.0.1", "refused"]),
        (["status", "--schema", "No Good"], 78, ["No Good"]),
    ],
)
def test_bad_input_is_refused_with_a_message_and_nothing_written(
    shell: Shell, conn: psycopg.Connection[Any], tmp_path: Path, args: list[str], code: int, words: list[str]
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "refused.py").write_text("import pgqueue\n\npgqueue.App().task(priority=500)(print)\n")
    done = shell(*args)
    _refused(done, code, *words)
    assert "sesame" not in done.stderr
    assert scalar(conn, "select count(*) from pgqueue.job") == 0
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_every_command_says_when_the_schema_is_missing(tmp_path: Path, empty_dsn: str) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    shell = Shell(tmp_path, empty_dsn)
    for args in (["status"], ["jobs", "list"], ["work", "-A", "shop:app"], ["schedule", "-A", "shop:app"]):
        _refused(shell(*args), 78, "pgqueue migrate")
    _refused(shell("enqueue", "greet", '{"who": "x"}', "-A", "shop:app"), 78, "pgqueue migrate")


def test_no_database_named_is_said_before_anything_else(tmp_path: Path) -> None:
    _refused(Shell(tmp_path, None)("status"), 78, "PGQUEUE_DSN", "--dsn")


def test_migrate_check_sql_and_twice(tmp_path: Path, empty_dsn: str) -> None:
    shell = Shell(tmp_path, empty_dsn)
    assert shell("migrate", "--check").returncode == 78
    assert f"{migrate.head()} (new)" in shell("migrate").stderr
    assert "nothing to do" in shell("migrate").stderr
    assert shell("migrate", "--check").returncode == 0
    script = Shell(tmp_path, None)("migrate", "--sql")
    assert script.returncode == 0
    assert 'create table "pgqueue".job_live' in script.stdout


def test_tasks_are_listed_and_shown_with_their_schema(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    shell = Shell(tmp_path, None)  # no database is needed
    listed = shell.data("tasks", "list", "-A", "shop:app")
    assert [(t["name"], t["version"], t["aliases"], t["takes"]) for t in listed] == [
        ("greet", 1, [], "(who: str, times: int = 1)"),
        ("shop.part", 2, ["old.part"], "()"),
    ]
    shown = shell.data("tasks", "show", "greet", "-A", "shop:app")
    assert shown["schema"]["required"] == ["who"]
    assert shown["schema"]["properties"]["times"]["type"] == "integer"
    text = shell("tasks", "show", "old.part", "-A", "shop:app").stdout
    assert "task shop.part" in text
    assert '"additionalProperties": false' in text
    assert "Say hello." in shell("tasks", "list", "-A", "shop:app").stdout


SHARED = """
import pgqueue
app = pgqueue.App(timeout=60, routes={"t": {"priority": 3}}, queue_defaults={"mail": {"max_crashes": 2}})
group = app.with_defaults(queue="mail", retry=[1, 2])

@group.task(name="t", retention=0)
def t() -> None: ...
"""


def test_a_task_is_shown_with_where_each_option_comes_from(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHARED)
    shown = Shell(tmp_path, None).data("tasks", "show", "t", "-A", "shop:app")
    known = {name: (shown[name], shown["origins"][name]) for name in ("queue", "priority", "max_crashes", "timeout")}
    assert known == {
        "queue": ("mail", "with_defaults"), "priority": (3, "route"), "max_crashes": (2, "queue"),
        "timeout": (60, "app"),
    }  # fmt: skip
    assert (shown["max_attempts"], shown["origins"]["max_attempts"]) == (3, "with_defaults")
    assert (shown["origins"]["retention"], shown["origins"]["isolation"]) == ("task", "default")


def test_a_task_is_shown_with_every_option_that_it_has(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import pgqueue\n"
        "app = pgqueue.App(retry=pgqueue.Exponential(base=3, max=60), max_crashes=7)\n"
        "def by_who(who): return who\n"
        "@app.task(name='a', idempotent=by_who, retry_on=OSError, soft_timeout=5, isolation='process', result_ttl=60)\n"
        "def a(who: str) -> None: ...\n"
        "@app.task(name='b', unique=pgqueue.Unique(by='who', while_='live', window=9), expires=30, retry=[1, 2],\n"
        "          store_result=False, retention=0, no_retry_on=(KeyError, ValueError))\n"
        "def b(who: str) -> None: ...\n"
    )
    shell = Shell(tmp_path, None)
    a, b = (shell.data("tasks", "show", name, "-A", "shop:app") for name in "ab")
    assert a["retry"] == {"policy": "Exponential", "base": 3, "factor": 2.0, "max": 60, "jitter": True}
    assert (a["retry_on"], a["no_retry_on"], a["soft_timeout"], a["max_crashes"]) == (["OSError"], [], 5, 7)
    assert (a["idempotent"], a["idempotency_window"], a["unique"], a["expires"]) == ("by_who", 86400, None, None)
    assert (a["store_result"], a["result_ttl"], a["retention"], a["encrypted"]) == (True, 60, None, False)
    assert b["retry"] == {"policy": "Delays", "seconds": [1, 2]}
    assert [a["origins"][name] for name in ("soft_timeout", "retry", "timeout")] == ["task", "app", "app"]
    assert [b["origins"][name] for name in ("retry", "max_attempts", "tags")] == ["task", "task", "default"]
    assert (b["max_attempts"], b["no_retry_on"], b["retention"]) == (3, ["KeyError", "ValueError"], 0)
    assert b["unique"] == {"by": ["who"], "while": "live", "window": 9, "on_conflict": "skip"}
    assert (b["store_result"], b["expires"], b["idempotent"], b["idempotency_window"]) == (False, 30, False, None)
    text = shell("tasks", "show", "b", "-A", "shop:app").stdout
    for shown in ('"policy": "Delays"', '"while": "live"', "KeyError, ValueError"):
        assert shown in text


def test_every_option_of_a_task_is_shown(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    shown = Shell(tmp_path, None).data("tasks", "show", "greet", "-A", "shop:app")
    assert set(TaskOptions.__annotations__) - {"upcasters"} <= set(shown)


def test_a_running_attempt_is_shown_with_its_worker_and_all_times_have_a_zone(
    shell: Shell, app: App, conn: psycopg.Connection[Any]
) -> None:
    job = app.enqueue("greet", {"who": "you"})
    info = describe_process("worker", 30, ["default"], ["greet"], 8)
    db.run(conn, app.queries.workers.register(info))
    db.run(conn, app.queries.jobs.claim(info.id, {"default": 1}, 1))
    (attempt,) = shell.data("jobs", "show", str(job.id))["attempts"]
    assert (attempt["worker_id"], attempt["host"], attempt["pid"]) == (str(info.id), info.host, info.pid)
    assert datetime.fromisoformat(attempt["started_at"]).tzinfo is not None
    text = shell("jobs", "show", str(job.id)).stdout
    assert f"{str(info.id)[:8]} {info.host}:{info.pid}" in text
    assert len(re.findall(r"\d\d:\d\d:\d\d", text)) == len(re.findall(r"\d\d:\d\d:\d\d[+-]\d\d:\d\d", text)) > 2
    db.run(conn, app.queries.workers.unregister(info.id))
    (attempt,) = shell.data("jobs", "show", str(job.id))["attempts"]
    assert (attempt["worker_id"], attempt["host"], attempt["pid"]) == (str(info.id), None, None)


def test_a_job_is_enqueued_for_the_version_that_is_named(shell: Shell, conn: psycopg.Connection[Any]) -> None:
    shell.data("enqueue", "elsewhere", "{}", "--task-version", "3")
    assert scalar(conn, "select headers from pgqueue.job") == {"$version": 3}


def test_jobs_and_dead_letters_are_listed_and_shown(shell: Shell, app: App, conn: psycopg.Connection[Any]) -> None:
    @app.task(name="break", retry=[0.01])
    def broken(secret: str) -> None:
        raise LookupError("no such thing")

    job = broken.enqueue(secret="s")
    later = broken.using(delay=3600).enqueue(secret="s")
    drain_until_dead = "select count(*) from pgqueue.dead_letter"
    assert scalar(conn, drain_until_dead) == 0
    conn.execute("update pgqueue.job_live set queue = 'later' where id = %s", [later.id])
    drain_queue(app, conn)

    listed = shell.data("jobs", "list")
    assert [(j["id"], j["phase"]) for j in listed] == [(later.id, "scheduled"), (job.id, "failed")]
    assert [j["id"] for j in shell.data("jobs", "list", "--state", "scheduled")] == [later.id]
    assert [j["id"] for j in shell.data("jobs", "list", "--before", str(later.id))] == [job.id]
    assert [j["id"] for j in shell.data("dead", "list")] == [job.id]
    shown = shell.data("jobs", "show", str(job.id))
    assert [a["error"]["type"] for a in shown["attempts"]] == ["LookupError", "LookupError"]
    for words in (shell("jobs", "show", str(job.id)).stdout, shell("dead", "list").stdout):
        assert "exhausted" in words
        assert "LookupError: no such thing" in words


def test_a_job_is_shown_with_what_its_task_enqueued(shell: Shell, conn: psycopg.Connection[Any]) -> None:
    insert = "insert into pgqueue.job_live (task, queue, headers) values (%s, 'q', %s) returning id"
    parent = scalar(conn, insert, "parent", "{}")
    made = [scalar(conn, insert, "child", json.dumps({"$by": parent})) for _ in range(2)]
    step = "insert into pgqueue.step (job_id, name, kind, number, attempt, lease) values (%s, 's', 'call', 7, 1, 1)"
    conn.execute(step, [parent])
    call = "insert into pgqueue.call (child_id, job_id, step, number, place) values (%s, %s, 's', 7, 0)"
    conn.execute(call, [made[1], parent])
    child = {"task": "child", "queue": "q", "state": "pending"}
    assert shell.data("jobs", "show", str(parent))["enqueued"] == [
        {"id": made[1], **child, "step": "s"}, {"id": made[0], **child, "step": None}
    ]  # fmt: skip
    assert re.search(rf"{made[1]} +child +q +pending +called by s", shell("jobs", "show", str(parent)).stdout)
    assert shell.data("jobs", "show", str(made[0]))["enqueued_by"] == parent
    assert re.search(rf"enqueued.by +{parent}", shell("jobs", "show", str(made[0])).stdout)


def drain_queue(app: App, conn: psycopg.Connection[Any]) -> None:
    """Run a worker until the queue `default` is empty."""
    import asyncio

    from tests.conftest import work

    empty = "select not exists (select from pgqueue.job_live where queue = 'default')"
    asyncio.run(work(app, lambda: scalar(conn, empty)))


def test_status_shows_queues_and_jobs_that_no_worker_knows(
    shell: Shell, app: App, conn: psycopg.Connection[Any]
) -> None:
    app.enqueue("nobody.knows.this")
    drain(app, conn)
    app.using(queue="bulk").enqueue("x")
    status = shell.data("status")
    assert [(q["queue"], q["pending"], q["blocked"]) for q in status["queues"]] == [("bulk", 1, 0), ("default", 0, 1)]
    assert [(u["task"], u["jobs"], u["known_to_a_worker"]) for u in status["unknown_tasks"]] == [
        ("nobody.knows.this", 1, False)
    ]
    text = shell("status").stdout
    assert "nobody.knows.this" in text
    assert "bulk" in text


def test_a_schedule_is_made_changed_fired_and_deleted(shell: Shell) -> None:
    options = ("--plan", "0 6 * * mon-fri", "--timezone", "Europe/Paris", "-o", "misfire=all(3)", "-o", "grace=10m")
    made = shell.data("schedules", "create", "s", "greet", '{"who": "you"}', *options, "-A", "shop:app", "--by", "ann")
    assert (made["plan"], made["misfire"], made["grace_seconds"], made["edited_by"]) == (
        "0 6 * * mon-fri", "all(3)", 600.0, "ann",
    )  # fmt: skip
    assert shell.data("schedules", "edit", "s", "-o", "queue=bulk", "-o", "overlap=skip")["max_running"] == 1
    looked = shell.data("schedules", "pause", "s", "--until", "7d", "--dry-run")
    assert [len(looked["ticks"]), looked["has_more"]] == [5, False]  # of a week without its weekend
    assert "5 ticks would pass" in shell("schedules", "pause", "s", "--until", "7d", "--dry-run").stdout
    assert shell.data("schedules", "show", "s")["status"]["state"] == "active"
    assert shell.data("schedules", "pause", "s", "--until", "2h")["state"] == "paused"
    job = shell("schedules", "run", "s")
    assert job.stdout.strip().isdigit(), job.stderr
    shown = shell.data("schedules", "show", "s")
    assert shown["status"]["state"] == "paused"
    assert (shown["definition"]["queue"], shown["definition"]["args"]) == ("bulk", {"who": "you"})
    assert [tick["outcome"] for tick in shown["ticks"]] == ["fired"]
    assert shell.data("schedules", "resume", "s", "--catch-up", "once")["state"] == "active"
    assert [one["name"] for one in shell.data("schedules", "list")] == ["s"]
    assert "s is deleted" in shell("schedules", "delete", "s").stderr
    _refused(shell("schedules", "show", "s"), 1, "no schedule is called 's'")


def test_a_preview_says_in_plain_words_when_a_plan_ticks(tmp_path: Path) -> None:
    done = Shell(tmp_path, None)("schedules", "preview", "--plan", "0 6 * * mon-fri", "--timezone", "Asia/Kolkata")
    first, *lines = done.stdout.splitlines()
    assert first == "At 06:00 on Monday through Friday, Asia/Kolkata"
    assert len(lines) == 5
    assert all("06:00:00 Asia/Kolkata (UTC+5.5), in " in line for line in lines)


def test_schedule_options_that_cannot_be_used_are_refused(shell: Shell) -> None:
    create = ("schedules", "create", "s", "greet", '{"who": "you"}')
    _refused(shell(*create, "--plan", "61 * * * *"), 2, "61 * * * *")
    _refused(shell(*create, "--plan", "60", "-o", "color=red"), 2, "color=red", "misfire", "overlap")
    _refused(shell("schedules", "pause", "s", "--until", "soon"), 2, "--until", "2027-01-31")


@pytest.mark.parametrize(("package", "command"), [("jinja2", "web"), ("uvicorn", "web")])
def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(package: str, command: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from pgqueue.cli import main; main([{command!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: ")
    assert f"needs {package} " in done.stderr
    assert "pip install 'pgqueue-jobs[dashboard]'" in done.stderr
    assert "Traceback" not in done.stderr
