"""`pgqueue jobs cancel|retry|promote|edit|wait|why|list`: ids and filters, previews, questions, exit codes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App, Context, PgqueueError, Task
from pgqueue.jobs.flow import Flow
from tests.client.test_dead import add_dead, ids
from tests.client.test_jobs_in_bulk import add_jobs
from tests.client.test_operator_verbs import finished_job, running_job, waiting_job
from tests.conftest import drain, scalar, work
from tests.edges.test_cli_dead import APP, Commands
from tests.edges.test_cli_dead import run as run
from tests.harness import Conn, Process, add_rule, insert_metered


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def test_jobs_named_by_id_are_changed_without_a_question(run: Commands, conn: Conn) -> None:
    add_jobs(conn, 500, 504)
    add_dead(conn, 600)
    done = run.data("jobs", "cancel", "500", "501", "--reason", "tenant gone")
    assert [(job["id"], job["state"], job["reason"]) for job in done["jobs"]] == [
        (500, "cancelled", "tenant gone"), (501, "cancelled", "tenant gone"),
    ]  # fmt: skip
    assert [job["phase"] for job in run.data("jobs", "retry", "600", "500", "--by", "alice")["jobs"]] == ["pending"] * 2
    assert run.data("jobs", "promote", "502", "--priority", "4")["jobs"][0]["priority"] == 4
    edited = run.data("jobs", "edit", "503", "--set", "n=2", "--to-queue", "slow", "--delay", "60")["jobs"][0]
    assert (edited["args"], edited["queue"], edited["phase"]) == ({"n": 2}, "slow", "scheduled")
    assert scalar(conn, "select count(*) from pgqueue.operation") == 0
    assert (
        "job 503 t in slow is scheduled, due" in run("jobs", "edit", "503", "--run-at", "2126-01-01T00:00:00Z").stdout
    )


def test_a_running_job_is_asked_to_stop_and_that_is_said(run: Commands, conn: Conn) -> None:
    job = running_job(conn)
    assert "its worker was asked to stop it" in run("jobs", "cancel", str(job)).stdout


def test_what_cannot_be_done_to_one_job_holds_up_no_other_and_is_the_exit_code(run: Commands, conn: Conn) -> None:
    waiting, running = waiting_job(conn), running_job(conn)
    done = run("jobs", "retry", str(running), "4711", str(waiting), "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert [job["id"] for job in told["jobs"]] == [waiting]
    assert [refused["id"] for refused in told["refused"]] == [running, 4711]
    assert f"job {running} is running and cannot be retried: cancel it first" in done.stderr


def test_a_filter_is_previewed_and_becomes_an_operation(run: Commands, conn: Conn) -> None:
    add_jobs(conn, 1, 12, args='{"tenant": 7}', tags=["eu"])
    add_jobs(conn, 13, args='{"tenant": 8}', tags=["eu"])
    chosen = ["--task", "t", "--arg", "tenant=7", "--tag", "eu", "--state", "scheduled", "--since", "2h"]
    shown = run("jobs", "cancel", *chosen, "--dry-run")
    assert "about 12 jobs to cancel, for example:" in shown.stderr
    assert shown.stderr.count("t in default, scheduled, enqueued") == 10
    assert scalar(conn, "select count(*) from pgqueue.operation") == 0
    assert [job["id"] for job in run.data("jobs", "list", *chosen, "--limit", "2")] == [12, 11]
    promoted = run.data("jobs", "promote", *chosen, "--priority", "3", "--limit", "2", "--by", "alice", "--yes")
    assert (promoted["kind"], promoted["done"], promoted["actor"], promoted["via"]) == ("promote", 2, "alice", "cli")
    assert run.data("jobs", "edit", "--arg", "tenant=7", "--set", "tenant=9", "--yes")["done"] == 12
    done = run("jobs", "cancel", "--arg", "tenant=9", "--yes")
    assert "cancel by" in done.stdout
    assert "12 done, 0 skipped; ended" in done.stdout
    assert run.data("jobs", "retry", "--state", "cancelled", "--yes")["done"] == 12
    assert [o["kind"] for o in run.data("operations", "list")] == ["retry", "cancel", "edit", "promote"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["jobs", "cancel", "--yes"], "--all"),
        (["jobs", "cancel", "--task", "t"], "--yes"),
        (["jobs", "cancel", "1", "--task", "t", "--yes"], "exclude each other"),
        (["jobs", "cancel", "--state", "dead", "--yes"], "state"),
        (["jobs", "retry", "--state", "running", "--yes"], "running"),
        (["jobs", "edit", "--task", "t", "--yes"], "nothing"),
        (["jobs", "edit", "--task", "t", "--set", "n", "--yes"], "--set"),
        (["jobs", "edit", "--task", "t", "--run-at", "soon", "--yes"], "--run-at"),
        (["jobs", "promote", "--task", "t", "--priority", "101", "--yes"], "priority"),
        (["jobs", "why", "4711"], "4711"),
        (["jobs", "wait", "4711"], "4711"),
        (["jobs", "cancel", "--since", "9" * 5000 + "d", "--yes"], "--since"),
        (["jobs", "cancel", "--since", "999999999w", "--yes"], "--since"),
        (["jobs", "cancel", "--until", "nope" * 1000, "--yes"], "--until"),
        (["jobs", "cancel", "--arg", "n=" + "[" * 100_000, "--yes"], "--arg"),
        (["jobs", "cancel", "--arg", "n=NaN", "--yes"], "args"),
        (["jobs", "cancel", "--arg", "n=1e999", "--yes"], "args"),
        (["jobs", "cancel", "--arg", 'n="\\u0000"', "--yes"], "args"),
        (["jobs", "cancel", "--task", "\udcff", "--yes"], "task"),
        (["jobs", "cancel", "--id", "9" * 20, "--yes"], "ids"),
        (["jobs", "list", "--before", "9" * 20], "before"),
        (["dead", "redrive", "--all", "--rate", "9" * 5000, "--yes"], "--rate"),
        (["dead", "discard", "--all", "--reason", "\udcff", "--yes"], "reason"),
        (["operations", "show", "9" * 20], "operation"),
        (["status", "--exit-code", "--max-age", "9" * 5000], "--max-age"),
        (["status", "--exit-code", "--max-age", "9" * 20 + "d"], "--max-age"),
        (["metrics", "--port", "99999"], "a port is 0 to 65535"),
        (["metrics", "--host", "bad..host"], "bad..host"),
    ],
    ids=lambda part: " ".join(part)[:40] if isinstance(part, list) else "",
)
def test_what_cannot_be_meant_is_refused(run: Commands, conn: Conn, args: list[str], words: str) -> None:
    add_jobs(conn, 1)
    before = conn.execute("select to_jsonb(j) from pgqueue.job_live j").fetchall()
    done = run(*args)
    assert done.exit_code != 0
    assert isinstance(done.exception, PgqueueError)
    assert words in str(done.exception)
    assert len(str(done.exception)) < 400
    assert "\n" not in str(done.exception)
    assert conn.execute("select to_jsonb(j) from pgqueue.job_live j").fetchall() == before
    assert scalar(conn, "select count(*) from pgqueue.operation") == 0


def test_an_edit_is_validated_by_the_app(
    run: Commands, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs_shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    add_jobs(conn, 1)
    refused = run("jobs", "edit", "1", "--set", "n=many", "-A", "jobs_shop:app")
    assert (refused.exit_code, "n: " in refused.stderr) == (2, True)
    assert run.data("jobs", "edit", "1", "--set", "n=2", "-A", "jobs_shop:app")["jobs"][0]["args"] == {"n": 2}


def test_a_wait_prints_the_result_and_its_exit_code_says_how_the_job_ended(
    run: Commands, app: App, conn: Conn, ship: Task[[int], int]
) -> None:
    job = ship.enqueue(4)
    late = run("jobs", "wait", str(job.id), "--timeout", "0.01")
    assert (late.exit_code, "WaitTimeout" in type(late.exception).__name__) == (1, True)
    drain(app, conn)
    done = run("jobs", "wait", str(job.id))
    assert (done.exit_code, json.loads(done.stdout)) == (0, 8)
    assert run.data("jobs", "wait", str(job.id))["result"] == 8
    finished_job(conn, 900)
    add_dead(conn, 901)
    for ended, word in ((900, "cancelled"), (901, "failed")):
        done = run("jobs", "wait", str(ended), "--json")
        assert (done.exit_code, json.loads(done.stdout)["state"]) == (1, word)
        assert word in run("jobs", "wait", str(ended)).stderr


def test_why_is_sentences_and_json(run: Commands, conn: Conn) -> None:
    job = waiting_job(conn)
    told = run("jobs", "why", str(job)).stdout
    assert f"job {job} t in default is retrying" in told
    assert "- No living worker serves queue default." in told
    data: Any = run.data("jobs", "why", str(job))
    assert [reason["code"] for reason in data["reasons"]] == ["retrying", "no_worker"]
    assert data["job"]["id"] == job


def test_a_command_that_is_killed_in_the_middle_is_resumed_by_another(
    run: Commands, conn: Conn, dsn: str, tmp_path: Path
) -> None:
    add_jobs(conn, 1, 20_000)
    with Process(tmp_path, dsn, "jobs", "cancel", "--task", "t", "--yes") as command:
        command.alive_until(lambda: scalar(conn, "select done > 0 from pgqueue.operation"), "the first batch")
        command.kill()
    done = int(scalar(conn, "select done from pgqueue.operation"))
    assert 0 < done < 20_000
    assert len(ids(conn, "job_finished")) == done
    assert run.data("operations", "resume", "1")["done"] == 20_000
    assert len(ids(conn, "job_finished")) == 20_000
    logged = "select count(*), count(distinct job_id) from pgqueue.transition"
    assert conn.execute(logged).fetchone() == (20_000, 20_000)


def test_the_steps_of_a_job_are_a_table_and_what_they_returned_is_shown_where_asked(
    run: Commands, app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="label")
    def label(n: int) -> int:
        return n

    @app.task(name="order")
    def order(ctx: Context) -> None:
        ctx.step("pay", lambda: {"card": "4711"}, undo=label.s(1))
        ctx.wait_signal("ready", timeout=0.01)
        ctx.call("label", label.s(2))
        ctx.wait_event("payment", key=7, timeout=3600)

    job = order.enqueue()
    asyncio.run(work(app, lambda: app.get(job.id).phase == "waiting" and "payment" in str(app.why(job.id))))
    shown = run("jobs", "show", str(job.id)).stdout
    rows = [line.split() for line in shown[shown.index("\nsteps") :].splitlines()]
    assert [(row[0], row[1], row[-1]) for row in rows if row and row[0] in ("pay", "ready", "label")] == [
        ("pay", "step", "undone"), ("ready", "wait", "out"), ("label", "call", "done"),
    ]  # fmt: skip
    assert "waits for payment 7 until" in shown
    assert "4711" not in shown
    assert "4711" not in json.dumps(run.data("jobs", "show", str(job.id)))
    revealed = run("jobs", "show", str(job.id), "--reveal")
    assert '{"card": "4711"}' in revealed.stdout
    steps = {step["name"]: step for step in run.data("jobs", "show", str(job.id), "--reveal")["steps"]}
    assert steps["pay"]["value"] == {"card": "4711"}
    assert (steps["pay"]["kind"], steps["pay"]["attempt"], steps["pay"]["has_undo"]) == ("value", 1, True)
    assert "steps" not in run("jobs", "show", str(label.enqueue(n=3).id)).stdout


def test_a_metered_job_is_shown_with_its_buckets_and_why_it_waits(run: Commands, conn: Conn) -> None:
    add_rule(conn, "sync", "acme", max_running=1, running=1)
    job = insert_metered(conn, Flow(("sync/acme",), order="sync/acme", share="t#fair/acme"))
    shown = " ".join(run("jobs", "list").stdout.split())
    assert "waits for its turn" in shown
    (listed,) = run.data("jobs", "list", "--state", "blocked")
    flow = {"buckets": ["sync/acme"], "order": "sync/acme", "share": "t#fair/acme"}
    assert (listed["id"], listed["waits_for"], listed["flow"]) == (job, "turn", flow)
    shown = run("jobs", "show", str(job)).stdout
    assert "sync/acme" in shown
    assert "t#fair/acme" in shown
    assert "sync/acme is full: 1 of 1 run." in run("jobs", "why", str(job)).stdout
    assert run.data("jobs", "why", str(job))["reasons"][0]["facts"]["bucket"] == "sync/acme"
