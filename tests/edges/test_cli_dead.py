"""`pgqueue dead` and `pgqueue operations`: filters, previews, questions, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pgqueue.cli import cli, output
from tests.client.test_dead import add_dead, ids
from tests.conftest import scalar
from tests.harness import Conn

APP = """
import pgqueue
app = pgqueue.App()

@app.task(name="t")
def t(n: int = 0) -> None: ...
"""


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


class Commands:
    """Runs `pgqueue …` in this process."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def __call__(self, *args: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(cli, [*args, "--dsn", self._dsn], input=answer)

    def data(self, *args: str) -> Any:
        done = self(*args, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setattr(output.console, "width", 200)
    return Commands(dsn)


def test_a_preview_of_nothing_says_so(run: Commands, conn: Conn) -> None:
    shown = run("dead", "redrive", "--group", "f0", "--dry-run")
    assert (shown.exit_code, shown.stderr) == (0, "no dead letters to redrive\nnothing was done\n")


def test_a_filter_of_options_is_the_filter_of_the_operation(run: Commands, conn: Conn) -> None:
    add_dead(conn, 1, task="shop.send", args='{"tenant": 7, "who": "ann"}', tags=["eu"])
    add_dead(conn, 2, task="shop.send", args='{"tenant": 8, "who": "ann"}', tags=["eu"])
    chosen = ["--task", "shop.*", "--queue", "default", "--error", "CardRefused", "--group", "f1", "--tag", "eu"]
    chosen += [
        "--arg",
        "tenant=7",
        "--arg",
        "who=ann",
        "--since",
        "2h",
        "--until",
        "2099-01-01T00:00:00Z",
        "--id",
        "1",
        "--id",
        "2",
    ]
    assert [job["id"] for job in run.data("dead", "list", *chosen)] == [1]
    done = run.data("dead", "redrive", *chosen, "--rate", "600/m", "--attempts", "2", "--by", "alice", "--yes")
    assert (done["done"], done["actor"], done["via"], done["options"]) == (
        1,
        "alice",
        "cli",
        {"rate": 10.0, "attempts": 2},
    )
    assert done["filter"]["args"] == {"tenant": 7, "who": "ann"}
    assert (ids(conn, "job_live"), ids(conn, "dead_letter")) == ([1], [2])


def test_a_dry_run_shows_and_does_nothing(run: Commands, conn: Conn) -> None:
    add_dead(conn, 1, 12)
    done = run("dead", "redrive", "--task", "t", "--dry-run")
    assert done.exit_code == 0
    assert "about 12 dead letters to redrive" in done.stderr
    assert done.stderr.count("shop.CardRefused") == 10
    assert scalar(conn, "select count(*) from pgqueue.operation") == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["dead", "redrive", "--yes"], "--all"),
        (["dead", "redrive", "--task", "t"], "--yes"),
        (["dead", "redrive", "--task", "t", "--rate", "fast", "--yes"], "--rate"),
        (["dead", "redrive", "--since", "yesterday", "--yes"], "--since"),
        (["dead", "redrive", "--since", "99999999999999d", "--yes"], "--since"),
        (["dead", "redrive", "--since", "2026-01-01T00:00:00", "--yes"], "zone"),
        (["dead", "redrive", "--arg", "tenant", "--yes"], "--arg"),
        (["dead", "discard", "--task", "t", "--reason", " ", "--yes"], "reason"),
        (["dead", "edit", "99", "--set", "n=1"], "no dead letter 99"),
        (["operations", "show", "99"], "no operation 99"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Commands, conn: Conn, args: list[str], words: str) -> None:
    add_dead(conn, 1)
    done = run(*args)
    assert done.exit_code != 0
    assert words in str(done.exception)
    assert ids(conn, "dead_letter") == [1]


def test_everything_must_be_said(run: Commands, conn: Conn) -> None:
    add_dead(conn, 1, 3)
    assert run.data("dead", "discard", "--all", "--reason", "old", "--limit", "2", "--yes")["done"] == 2
    assert ids(conn, "dead_letter") == [3]


def test_an_edit_is_read_as_json_or_text_and_validated_by_the_app(
    run: Commands, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dead_shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    add_dead(conn, 1, args='{"n": 1}')
    refused = run("dead", "edit", "1", "--set", "n=many", "-A", "dead_shop:app")
    assert "n" in str(refused.exception)
    done = run.data("dead", "edit", "1", "--set", "n=2", "--redrive", "-A", "dead_shop:app")
    assert (done["args"], done["state"]) == ({"n": 2}, "pending")


def test_groups_and_operations_are_tables_and_json(run: Commands, conn: Conn) -> None:
    add_dead(conn, 1, 3)
    assert "f1" in run("dead", "groups").stdout
    assert run.data("dead", "groups")[0][:2] == ["f1", 3]
    run("dead", "redrive", "--id", "1", "--yes")
    (operation,) = run.data("operations", "list")
    assert "1 done" in run("operations", "show", str(operation["id"])).stdout
    assert "redrive" in run("operations", "list").stdout
    assert run("dead", "show", "2").exit_code == 0


def test_a_note_is_shown_in_one_line_that_acts_on_nothing(run: Commands, conn: Conn) -> None:
    add_dead(conn, 1)
    noted = run("dead", "annotate", "1", "asked \x1b[2J\nthe\u202e bank", "--by", "alice")
    assert noted.exit_code == 0
    assert "job 1 t: note of " in noted.stderr
    assert noted.stderr.count("\n") == 1
    for shown in (noted.stderr, run("dead", "show", "1").stdout, run("jobs", "show", "1").stdout):
        (line,) = [line for line in shown.splitlines() if "note of " in line]
        assert line.endswith(r" by alice: asked \x1b[2J\nthe\u202e bank")
    long = run.data("dead", "annotate", "1", "x" * 999)
    for found in (long, run.data("dead", "show", "1"), run.data("dead", "list", "--task", "t")[0]):
        assert [note["text"] for note in found["notes"]] == ["asked \x1b[2J\nthe\u202e bank", "x" * 999]
        assert (found["notes"][0]["by"], found["headers"]) == ("alice", {})
    assert "x" * 999 in run("dead", "show", "1").stdout


@pytest.mark.parametrize(("args", "words"), [(("1", ""), "1 to 1000"), (("99", "x"), "no dead letter 99")])
def test_a_note_that_cannot_be_kept_is_refused(run: Commands, conn: Conn, args: tuple[str, ...], words: str) -> None:
    add_dead(conn, 1)
    done = run("dead", "annotate", *args)
    assert done.exit_code != 0
    assert words in str(done.exception)
    assert run.data("dead", "show", "1")["notes"] == []
