"""Tables on a narrow terminal: columns are left out and texts end in an ellipsis, and no word and no id is broken."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pgqueue import App, db
from pgqueue.cli import cli, output
from pgqueue.cli.layout import lay_out, shorten, wrap
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.limit_rule import LimitRule
from pgqueue.jobs.limits import Limit
from pgqueue.workflows.graph import Graph, Group
from tests.client.test_dead import add_dead
from tests.conftest import DEADLINE
from tests.harness import QUERIES, ROOT, Conn, add_worker, insert_job, insert_metered, new_job

TASK, QUEUE = "shop.receipts.send_receipt", "critical-mail"
LISTS = [
    ["status"],
    ["top"],
    ["jobs", "list"],
    ["dead", "list"],
    ["dead", "groups"],
    ["queues", "list"],
    ["workers", "list"],
    ["workflows", "list"],
    ["schedules", "list"],
    ["limits", "list"],
    ["operations", "list"],
    ["pauses"],
    ["locks", "list"],
    ["retention", "list"],
]
NAMES = (TASK, QUEUE, "nightly-report", "import-of-may", "shop-worker-7d9f8b6c5-x2x9z:1", "f1", "sync:4711", "retrying")
NAMES += ("scheduled", "running", "Europe/Paris", "stripe-payments", "activity", "operations", "per-tenant")
FILLED = """
insert into pgqueue.schedule (name, task, queue, cron, timezone, next_tick)
values ('nightly-report', 'shop.receipts.send_receipt', 'critical-mail', '0 6 * * mon-fri', 'Europe/Paris', now());
insert into pgqueue.operation (kind, filter, options, actor, via, done, skipped, started_at)
values ('cancel', jsonb_build_object('tenant', repeat('north west ', 30)), '{}', 'alice', 'cli', 5, 1, now());
insert into pgqueue.queue (name, paused_at, paused_by, paused_reason)
values ('critical-mail', now(), 'alice', 'the provider does not answer since this morning');
update pgqueue.worker set host = 'shop-worker-7d9f8b6c5-x2x9z', queues = '{critical-mail,default,bulk}',
    release = '2026.11.30-gabcdef0'
"""


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def filled(app: App, dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of which every list has long rows."""
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    add_worker(conn)
    for number, columns in enumerate(({"attempt": 3}, {"run_at": "2126-01-01T00:00:00Z"}, {})):
        insert_job(conn, **{"id": 1_234_567_000 + number, "task": TASK, "queue": QUEUE, **columns})
    add_dead(conn, 1_234_567_800, task=TASK, queue=QUEUE, error="shop.errors.CardRefused")
    db.run(conn, QUERIES.limits.declare("shop", [LimitRule.of_limit("stripe-payments", Limit(5, rate="10/m"))]))
    insert_metered(conn, Flow(("stripe-payments/per-tenant",)), queue=QUEUE, task=TASK)
    app.workflows.enqueue(Graph([new_job(TASK, QUEUE)], [0], [], [Group("import-of-may")]))
    for statement in FILLED.split(";\n"):
        conn.execute(statement.encode())


def shown(width: int, *arguments: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "console", output.SafeConsole(width=width))
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def words_of(text: str) -> set[str]:
    return set(re.split(r"[\s│]+", text))


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("width", [60, 80, 100])
def test_lists_fit_the_terminal_and_break_no_word(width: int) -> None:
    for arguments in LISTS:
        narrow, whole = shown(width, *arguments), words_of(shown(output.UNBOUNDED, *arguments))
        assert all(len(line.rstrip()) <= width for line in narrow.splitlines()), narrow
        assert [word for word in words_of(narrow) - whole if not is_whole(word, whole)] == [], narrow
        assert [word for word in re.findall(r"(\S+)…", narrow) if word not in whole] == [], narrow
        if "not shown" not in narrow:
            names = {name for name in NAMES if name in whole}
            assert names <= words_of(narrow.replace(",", " ")), narrow


def is_whole(word: str, whole: set[str]) -> bool:
    """Whether a word that only the narrow form has is no broken one: an ellipsis, a rule, a time; or one of the wide
    form with a mark behind it, for a sentence about ages may end elsewhere at the next look."""
    if "…" in word or set(word) <= {"─"} or word.strip(",:") in ("not", "shown"):
        return True
    is_time = re.fullmatch(r"\d\d:\d\d(:\d\d)?|\d{4}-\d\d-\d\d|\d+s", word.rstrip(").,"))
    return bool(is_time) or word.rstrip(",.") in whole


@pytest.mark.usefixtures("filled")
def test_what_is_left_out_is_named_and_what_says_nothing_is_not() -> None:
    listed = shown(80, "workflows", "list")
    assert "not shown" not in listed  # `over` and `stopped` are empty
    assert not {"stopped", "over"} & words_of(listed)
    assert "not shown: " in shown(60, "workflows", "list")


@pytest.mark.usefixtures("filled")
def test_a_pipe_gets_every_word_on_one_line(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "pgqueue", "operations", "list"]
    done = subprocess.run(
        command, env=environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, cwd=tmp_path
    )
    (row,) = [line for line in done.stdout.splitlines() if "alice" in line]
    assert "north west " * 30 in row
    assert "…" not in done.stdout


@pytest.mark.usefixtures("filled")
def test_a_real_terminal_of_80_columns_breaks_no_word(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    environ = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pgqueue", "jobs", "list"], env=environ, stdin=slave, stdout=slave, cwd=tmp_path
    )
    os.close(slave)
    written = b""
    try:
        while block := os.read(master, 65536):
            written += block
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(master)
    assert process.wait(DEADLINE) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode())
    assert text.count(TASK) == 6
    assert text.count(QUEUE) == 6
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("it is fine", 10, "it is fine"),
        ("waits for its turn: sync/acme", 25, "waits for its turn:…"),
        ("waits for its turn", 10, "waits for…"),
        ("waits for its turn", 12, "waits for…"),
        ("averylongname", 6, "avery…"),
        ("first\nsecond", 20, "first…"),
        ("日本語の長い名前", 7, "日本語…"),
    ],
)
def test_a_text_is_shortened_after_a_word(text: str, width: int, short: str) -> None:
    assert shorten(text, width) == short


def test_a_text_is_wrapped_between_words() -> None:
    assert wrap("alive, asked to quiet by alice", 12) == "alive, asked\nto quiet by\nalice"
    assert wrap("averyveryverylongword", 5) == "averyveryverylongword"


def test_columns_go_in_order_and_a_row_that_fits_nowhere_says_so() -> None:
    columns, row = ("id", "task", "run at", "why"), ["1", "shop.send", "2026-11-30", "because of this and of that"]
    left = lay_out(columns, [row], [row], 36, ("run at",))
    assert (left.fits, list(left.columns), left.left_out) == (True, ["id", "task", "why"], ["run at"])
    assert left.rows[0][-1] == "because of this…"
    row[-1] = "rejected: pgqueue.Fail: no such photo"
    legible = lay_out(columns, [row], [row], 52, ("run at",))
    assert (list(legible.columns), legible.rows[0][-1]) == (["id", "task", "why"], "rejected: pgqueue.Fail: no such…")
    assert not lay_out(columns, [row], [row], 12, ("run at",)).fits
