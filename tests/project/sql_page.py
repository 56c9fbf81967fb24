"""docs/reference/sql.md, from the comments in a migrated database: `python -m tests.project.sql_page` writes it."""

import tempfile
from pathlib import Path

import psycopg

from pgqueue import migrate
from pgqueue.db import embedded
from tests.harness import Conn
from tests.project.house import ROOT

PAGE = ROOT / "docs" / "reference" / "sql.md"
HEAD = """# SQL reference

<!-- made by python -m tests.project.sql_page -->

What the schema `pgqueue` has, with its comments in the database, which `\\d+ pgqueue.job_status` in psql shows, too.
Functions and views keep their names and columns within a major version; [sql.md](../sql.md) says what that promises,
what a view costs and who may read it, and asks twenty questions. Tables may change with each release.
"""

FUNCTIONS = """
select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), obj_description(p.oid, 'pg_proc')
from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace and obj_description(p.oid, 'pg_proc') is not null
order by p.proname"""

# Partitions are reached through their table.
RELATIONS = """
select c.relname, obj_description(c.oid, 'pg_class'), a.attname, format_type(a.atttypid, a.atttypmod),
       col_description(c.oid, a.attnum)
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = any(%s) and not c.relispartition
  and a.attnum > 0 and not a.attisdropped
order by c.relname collate "C", a.attnum"""


def page(conn: Conn) -> str:
    """Return the page for the schema of a database."""
    lines = [HEAD, "## Functions", ""]
    for name, arguments, result, comment in conn.execute(FUNCTIONS.encode()).fetchall():
        call = f"{name}({arguments})" if len(arguments) < 80 else f"{name}(\n  {_broken(arguments)}\n)"
        lines += [f"### `{name}`", "", "```text", f"{call}\n  returns {result}", "```", "", f"{_cell(comment)}.", ""]
    lines += ["## Views", "", *_relations(conn, "v"), "## Tables", "", *_relations(conn, "rp")]
    return "\n".join(lines)


def _broken(arguments: str) -> str:
    return arguments.replace(", ", ",\n  ")


def _relations(conn: Conn, kinds: str) -> list[str]:
    lines: list[str] = []
    above = ""
    for relation, comment, column, type_, meaning in conn.execute(RELATIONS.encode(), [list(kinds)]).fetchall():
        if relation != above:
            lines += [""] if above else []
            lines += [f"### `{relation}`", "", *([f"{_cell(comment)}.", ""] if comment else [])]
            lines += ["| column | type | meaning |", "|---|---|---|"]
            above = relation
        lines.append(f"| `{column}` | {type_} | {_cell(meaning)} |")
    return [*lines, ""]


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).rstrip(".").replace("|", "\\|").replace("<", "&lt;")


def write() -> None:
    """Write the page anew."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        server = embedded.start(Path(directory) / "postgres")
        try:
            migrate.upgrade(server.dsn)
            with psycopg.connect(server.dsn) as conn:
                PAGE.write_text(page(conn))
        finally:
            server.stop()


if __name__ == "__main__":
    write()
