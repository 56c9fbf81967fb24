"""`pgqueue workflows …` and pictures of stored workflows."""

import json
import re

import pytest
from typer.testing import CliRunner, Result

from pgqueue import App, InvalidOption, UnknownWorkflow, Workflow, chord, db
from pgqueue.cli import output
from pgqueue.cli.commands import cli
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.lifecycle import Resolution
from tests.harness import QUERIES, WORKER, Conn


@pytest.fixture
def workflow(app: App, monkeypatch: pytest.MonkeyPatch) -> int:
    """A workflow that waits, with a group in it."""
    monkeypatch.setenv("PGQUEUE_DSN", app.dsn)
    monkeypatch.setattr(output, "console", output.SafeConsole(width=200))

    @app.task(name="part")
    def part(n: int) -> int:
        return n

    @app.task(name="whole")
    def whole(parts: list[int]) -> int:
        return sum(parts)

    wf = Workflow("import")
    first = wf.add(part.s(1))
    wf.add(Workflow.of(chord([part.s(2), part.s(3)], whole.s()), name="inner"), after=first)
    run = wf.enqueue()
    assert run.id is not None
    return run.id


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["workflows", *map(str, arguments)], catch_exceptions=False)


def test_workflows_are_listed_shown_and_cancelled(workflow: int) -> None:
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["id"], listed["name"], listed["jobs"], listed["waiting"]) == (workflow, "import", 4, 4)
    assert "import" in run("list", "--state", "running").stdout
    assert run("cancel", workflow, "--reason", "not wanted").stderr == "4 jobs cancelled\n"
    assert json.loads(run("list", "--json").stdout)[0]["state"] == "cancelled"
    assert "nothing to cancel" in run("cancel", workflow).stderr
    assert "4 jobs came back" in run("retry", workflow).stderr


def test_a_cancel_says_what_has_ended_and_what_still_runs(app: App, workflow: int, conn: Conn) -> None:
    (first, *_) = app.workflows.jobs(workflow)
    (job,) = db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 5}, 5))
    assert job.id == first.id
    assert run("cancel", workflow).stderr == "3 jobs cancelled; 1 running job asked to stop\n"
    assert run("cancel", workflow).stderr.startswith(
        "nothing more to do: what still runs of it was asked to stop before"
    )


def test_a_job_and_a_dead_letter_of_a_workflow_name_it(app: App, workflow: int, conn: Conn) -> None:
    (job,) = db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 5}, 5))
    for phase in ("running", "failed"):
        shown = CliRunner().invoke(cli, ["jobs", "show", str(job.id)]).stdout
        assert re.search(rf"workflow id +{workflow}\b", shown), phase
        assert app.get(job.id).workflow_id == workflow
        db.run(conn, QUERIES.jobs.resolve_tied([(job, Resolution("dead_letter", "rejected"))]))
    (dead,) = app.dead.list(DeadFilter())
    assert dead.workflow_id == workflow


def test_a_picture_shows_the_state_of_each_job_and_the_groups(app: App, workflow: int) -> None:
    shown = run("show", workflow).stdout
    assert shown.startswith("import\n")
    first, second, third, body = (job.id for job in app.workflows.jobs(workflow))
    assert shown == (
        "import\n"
        f"└─ part {first}: pending\n"
        "   └─ group inner\n"
        f"      ├─ part {second}, {third}: blocked\n"
        f"      └─ after {second}, {third}: whole {body}: blocked\n"
    )
    assert run("show", workflow, "--as", "mermaid").stdout.startswith("flowchart TD")
    drawn = json.loads(run("show", workflow, "--as", "json").stdout)
    assert [group["name"] for group in drawn["groups"]] == ["import", "inner"]
    assert drawn["groups"][1]["parent"] == 0
    assert len(drawn["nodes"]) == 4
    assert app.workflows.draw(workflow).text() == shown


def test_a_picture_shows_the_first_line_of_the_error_of_a_job_that_has_failed(
    app: App, workflow: int, conn: Conn
) -> None:
    (job,) = db.run(conn, QUERIES.jobs.claim(WORKER, {"default": 5}, 5))
    error = ErrorInfo("shop.CardRefused", "no funds\x1b[2J\non card 4711", "Traceback …")
    db.run(conn, QUERIES.jobs.resolve_tied([(job, Resolution("dead_letter", "rejected", error=error))]))
    shown = run("show", workflow).stdout
    assert f"└─ part {job.id}: failed\n   │  error of {job.id}: shop.CardRefused: no funds\\x1b[2J\n" in shown
    assert "4711" not in shown
    (node,) = [node for node in json.loads(run("show", workflow, "--as", "json").stdout)["nodes"] if "error" in node]
    assert (node["job"], node["state"]) == (job.id, "failed")


def test_what_is_no_workflow_is_said(app: App, workflow: int) -> None:
    with pytest.raises(UnknownWorkflow, match="no workflow 77"):
        run("show", 77)
    with pytest.raises(InvalidOption, match="state='lost'"):
        run("list", "--state", "lost")


@pytest.mark.parametrize("verb", ["show", "cancel", "seal", "retry"])
def test_who_gives_the_id_of_a_job_is_told_that_of_its_workflow(app: App, workflow: int, verb: str) -> None:
    first, *_ = app.workflows.jobs(workflow)
    with pytest.raises(UnknownWorkflow, match=f"^{first.id} is a job of .*: see `pgqueue workflows show {workflow}`$"):
        run(verb, first.id)
    (group,) = {job.group for job in app.workflows.jobs(workflow)} - {workflow}
    with pytest.raises(UnknownWorkflow, match=f"^{group} is a group within .* `pgqueue workflows show {workflow}`$"):
        run(verb, group)
    alone = app.enqueue("part", {"n": 1}).id
    with pytest.raises(
        UnknownWorkflow, match=f"^{alone} is a job, and of no workflow: see `pgqueue jobs show {alone}`$"
    ):
        run(verb, alone)


def test_an_open_workflow_is_sealed(app: App, workflow: int) -> None:
    @app.task(name="more")
    def more() -> None: ...

    opened = Workflow("open", sealed=False)
    opened.add(more.s())
    sealing = opened.enqueue()
    assert [each["sealed"] for each in json.loads(run("list", "--json").stdout)] == [False, True]
    assert run("seal", sealing.id).stderr == "sealed\n"
    assert run("seal", sealing.id).stderr == "it was sealed already\n"
