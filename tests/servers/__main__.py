"""Run the tests on every Postgres at hand, one after another, and print one table.

python -m tests.servers                       # what differs between versions: statements, migrations
python -m tests.servers --all                 # the whole suite
python -m tests.servers --only 15 --only 16 -- tests/worker -k outage

Servers are Debian's in /usr/lib/postgresql, those in installed wheels, and those that PGQUEUE_TEST_SERVERS names, with
white space between them: directories of programs, or DSNs of superusers. Exits 1 if a test failed, and 2 if there is
no server.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from .finding import NAMED, find
from .runs import Outcome, run

# What differs between versions of Postgres is what the statements and migrations meet.
CHOSEN = (
    "tests/statements", "tests/project/test_migrations.py", "tests/project/test_host_migrations.py",
    "tests/project/test_upgrade.py", "tests/worker/test_managed_servers.py",
)  # fmt: skip
COLUMNS = ("PostgreSQL", "from", "tests", "passed", "failed", "skipped", "seconds")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a table of Markdown, and below it what failed."""
    rows = [COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 2))]
    rows += [
        (o.version, o.origin, *map(str, (o.tests, o.passed, len(o.failures), o.skipped, o.seconds))) for o in outcomes
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    failures = [f"- {o.version}: {failure}" for o in outcomes for failure in o.failures]
    return "\n".join([*lines, *([""] if failures else []), *failures])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests; return 1 if some failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description="The tests on every Postgres at hand.")
    parser.add_argument("--all", action="store_true", help="the whole suite")
    parser.add_argument("--only", type=int, action="append", metavar="MAJOR", help="only this version; repeatable")
    parser.add_argument("--seconds", type=float, default=2400, help="for each server at most (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there, too")
    parser.add_argument("--list", action="store_true", help="only list the servers")
    parser.add_argument("tests", nargs="*", help="arguments for pytest, after `--`; without: statements, migrations")
    given = parser.parse_args(arguments)
    servers = [s for s in find(os.environ.get(NAMED, "")) if not given.only or s.version[0] in given.only]
    if given.list or not servers:
        print("\n".join(f"{s.shown} ({s.origin}): {s.place}" for s in servers) or f"no server: name some in {NAMED}")
        return 0 if servers else 2
    outcomes = list[Outcome]()
    for server in servers:
        print(f"PostgreSQL {server.shown} ({server.origin})", file=sys.stderr, flush=True)
        outcomes.append(run(server, given.tests or ([] if given.all else CHOSEN), given.seconds))
        if given.json:  # after each one: what a later one breaks off is kept
            found = [asdict(o) | {"passed": o.passed, "failed": len(o.failures)} for o in outcomes]
            given.json.write_text(json.dumps({"at": f"{datetime.now(UTC):%F %T} UTC", "servers": found}, indent=1))
    print(table(outcomes))
    return 1 if any(o.failures for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
