"""`python -m tests.servers` finds servers, counts what became of the tests, and says which failed."""

from pathlib import Path

import pytest

from tests.servers import finding
from tests.servers.__main__ import main, table
from tests.servers.finding import Server, find
from tests.servers.runs import Outcome, read_report

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="passes"/><testcase classname="a" name="skips"><skipped/></testcase>
<testcase classname="a" name="fails"><failure/></testcase><testcase classname="a" name="fails"><error/></testcase>
</testsuite></testsuites>"""


def installed(place: Path, version: str) -> Path:
    """Make what looks like the programs of a server."""
    place.mkdir(parents=True)
    for name in finding.NEEDED:
        (place / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version} (Debian)'\n")
        (place / name).chmod(0o755)
    return place


def test_the_newest_of_each_version_is_found_and_each_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_in_wheels", lambda: [(installed(tmp_path / "wheel", "15.18"), "a wheel")])
    monkeypatch.setenv("PATH", "/usr/bin")
    for version in ("14.1", "15.9", "19beta1"):
        installed(tmp_path / version / "bin", version)
    (tmp_path / "16" / "bin").mkdir(parents=True)  # a client without a server
    named = installed(tmp_path / "named", "14.0")
    found = find(str(named), tmp_path)
    assert [(server.shown, server.origin) for server in found] == [
        ("14.0", "named"), ("15.18", "a wheel"), ("19", "Debian")
    ]  # fmt: skip
    assert found[0].environment == {"PGQUEUE_TEST_PROGRAMS": str(named)}
    assert Server((17, 2), "host=db", "a DSN").environment == {"PGQUEUE_TEST_DSN": "host=db"}
    with pytest.raises(SystemExit, match="names nowhere, which is neither a DSN nor"):
        find("nowhere", tmp_path)


def test_a_report_counts_each_test_once_and_the_table_names_those_that_failed(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    tests, skipped, failures = read_report(tmp_path / "report.xml")
    assert (tests, skipped, failures) == (3, 1, ["a::fails"])
    late = Outcome("14.1", "Debian", tests, skipped, 9, [*failures, "the run did not end within 9 s"])
    assert table([late]).splitlines()[2:] == [
        "| 14.1 | Debian | 3 | 1 | 2 | 1 | 9 |", "", "- 14.1: a::fails", "- 14.1: the run did not end within 9 s"
    ]  # fmt: skip


def test_no_server_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "9"]) == 2
    assert "no server" in capsys.readouterr().out
