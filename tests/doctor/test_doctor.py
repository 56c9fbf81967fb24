"""The doctor as a whole: a check that fails stops no other, what cannot be seen is said, and the exit codes."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from pgqueue import App
from pgqueue.cli import cli
from pgqueue.doctor import Finding, Severity, check, examine
from pgqueue.doctor.catalogue import CHECKS, KINDS
from pgqueue.doctor.limits import Limits
from pgqueue.errors import DatabaseUnreachable, InvalidOption
from tests.conftest import scalar
from tests.doctor.looks import found, provoked
from tests.harness import Conn

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "doctor.md"


def test_every_finding_is_provoked_by_a_test() -> None:
    text = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    general = {kind.id for kind in check.GENERAL}  # by the tests below
    assert set(re.findall(r'provoked\([^"]*"([a-z-]+)"', text)) == {kind.id for kind in KINDS} - general


def test_the_page_lists_every_finding_as_the_code_has_it() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(kind.id, str(kind.severity), kind.meaning, kind.remedy) for kind in KINDS]


def test_each_id_is_one_kind_in_kebab_case_and_says_what_it_means() -> None:
    ids = [kind.id for kind in KINDS]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", each) for each in ids)
    assert all(kind.meaning.endswith(".") and "|" not in kind.meaning + kind.remedy for kind in KINDS)


@pytest.fixture
def stranger(conn: Conn, dsn: str) -> Iterator[str]:
    """The DSN of a role that may read the tables and sees no other role's sessions."""
    role = f"doctor_{scalar(conn, 'select substr(md5(random()::text), 1, 8)')}"
    conn.execute(f"create role {role} login".encode())
    conn.execute(f"grant usage on schema pgqueue to {role}".encode())
    conn.execute(f"grant select on all tables in schema pgqueue to {role}".encode())
    yield psycopg.conninfo.make_conninfo(dsn, user=role)
    conn.execute(f"drop owned by {role}; drop role {role}".encode())


def test_a_role_that_may_not_see_other_sessions_says_so_and_never_calls_them_good(
    conn: Conn, dsn: str, stranger: str
) -> None:
    with psycopg.connect(dsn) as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select from pgqueue.job_live")
        blind, limits = App(stranger), Limits(transaction_seconds=0)
        assert provoked(App(dsn), "snapshot-of-connection", transaction_seconds=0)
        (hidden,) = examine(blind, ["snapshot-of-connection"], limits).findings
        assert (hidden.id, hidden.severity) == ("cannot-see", Severity.INFO)
        assert re.search(r"cannot see the transactions of \d+ connections", hidden.what)
        assert hidden.remedy is not None
        conn.execute(hidden.remedy.encode())
        (seen,) = examine(blind, ["snapshot-of-connection"], limits).findings
        assert str(holder.info.backend_pid) in seen.what
    assert {finding.what for finding in found(blind, "cannot-see")} == {
        f"the role may not read sequence {name}, which gives ids"
        for name in (
            "event_id",
            "job_id",
            "lock_token",
            "operation_id_seq",
            "signal_id",
            "step_number",
            "subscription_id_seq",
        )
    }


def test_a_role_that_may_not_see_standbys_or_sequences_says_so(stranger: str) -> None:
    blind = App(stranger)
    said = " ".join(finding.what for finding in found(blind, "cannot-see"))
    assert "cannot see whether the feedback of a standby" in said
    assert "may not read sequence job_id" in said


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(exam: check.Exam) -> Iterator[Finding]:
        raise psycopg.errors.QueryCanceled("canceling statement due to statement timeout")
        yield  # pragma: no cover

    broken = check.Check(CHECKS[1].kinds, breaks)
    conn.execute("alter table pgqueue.job_live reset (autovacuum_vacuum_threshold)")
    monkeypatch.setattr("pgqueue.doctor.examination.CHECKS", (CHECKS[0], broken, *CHECKS[2:]))
    report = examine(app)
    (failed,) = [finding for finding in report.findings if finding.id == "not-checked"]
    assert failed.what == (
        "schema-behind, schema-ahead could not be checked: QueryCanceled: canceling statement due to statement timeout"
    )
    assert failed.remedy == "pgqueue doctor --only schema-behind"
    assert "table-settings-lost" in {finding.id for finding in report.findings}
    assert report.checks == len([check for check in CHECKS if check.needs is not check.needs.TASKS])


def test_a_statement_that_takes_too_long_is_ended_by_the_server(app: App, conn: Conn, dsn: str) -> None:
    with psycopg.connect(dsn) as holder:
        holder.execute("lock table pgqueue.migration in access exclusive mode")
        assert "statement timeout" in provoked_failure(app, "schema-behind")
    assert found(app, "schema-behind") == []


def provoked_failure(app: App, finding_id: str) -> str:
    """Return why a check could not be made."""
    (finding,) = examine(app, [finding_id], Limits(check_seconds=0.2)).findings
    assert finding.id == "not-checked"
    return finding.what


def test_a_connection_that_ends_in_the_middle_ends_one_check_and_no_other(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(exam: check.Exam) -> Iterator[Finding]:
        exam.conn.close()
        exam.ask(exam.queries.doctor.clock())
        yield  # pragma: no cover

    monkeypatch.setattr("pgqueue.doctor.examination.CHECKS", (check.Check(CHECKS[1].kinds, dies), CHECKS[0]))
    report = examine(app)
    assert [finding.id for finding in report.findings] == ["not-checked"]
    assert report.checks == 2


def test_an_id_that_no_finding_has_is_refused_with_the_one_that_may_be_meant(app: App) -> None:
    with pytest.raises(InvalidOption, match="did you mean index-invalid"):
        app.doctor(only=["index-invalids"])


def test_the_async_twin_finds_the_same(app: App, conn: Conn) -> None:
    conn.execute("alter table pgqueue.job_live reset (autovacuum_vacuum_threshold)")
    assert asyncio.run(app.adoctor(only=["table-settings-lost"])) == app.doctor(only=["table-settings-lost"])


def test_nobody_is_examined_without_a_database() -> None:
    with pytest.raises(DatabaseUnreachable):
        App("postgresql://127.0.0.1:1/nowhere").doctor()


def test_the_command_prints_each_remedy_on_a_line_of_its_own_and_exits_by_severity(dsn: str, conn: Conn) -> None:
    def run(*options: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["doctor", "--dsn", dsn, *options])
        return result.exit_code, result.stdout

    only = ("--only", "table-settings-lost", "--only", "schema-has-more")
    assert run(*only) == (0, "1 checks, nothing found\n")
    conn.execute("create index extra on pgqueue.job_live (tags)")
    code, text = run(*only)
    assert (code, text.splitlines()) == (0, [
        "good to know",
        "  schema-has-more: no migration made index extra of job_live",
        "    drop index concurrently pgqueue.extra;",
        "1 checks, 1 good to know",
    ])  # fmt: skip
    assert run(*only, "--exit-code", "info")[0] == 1
    conn.execute("alter table pgqueue.job_live reset (autovacuum_vacuum_threshold)")
    assert run(*only)[0] == 1
    assert run(*only, "--exit-code", "error")[0] == 0
    code, text = run(*only, "--json")
    assert code == 1
    report = json.loads(text)
    assert report["checks"] == 1
    assert report["findings"][0] == {
        "id": "table-settings-lost",
        "severity": "warn",
        "what": "table job_live has lost 1 of its settings: autovacuum_vacuum_threshold = 1000",
        "remedy": "alter table pgqueue.job_live set (autovacuum_vacuum_threshold = 1000);",
        "since": None,
    }
    assert run("--only", "nonsense")[0] != 0
