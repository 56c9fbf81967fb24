"""What SQL may rely on: the views of the schema with their columns, and the functions that somebody may call.

`python -m tests.project.sql_interface` writes the list anew, from the schema as the migrations make it.
"""

import tempfile
from pathlib import Path

import psycopg

from pgqueue import migrate
from pgqueue.db import embedded
from tests.harness import Conn

LIST = Path(__file__).with_name("sql_interface.txt")

COLUMNS = """
select 'view ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = 'v' and a.attnum > 0 order by c.relname, a.attnum"""

# A function without a comment is called by others alone: by triggers, or by the functions of this list.
FUNCTIONS = """
select 'function ' || p.proname || ' returns ' || pg_get_function_result(p.oid) || ': '
       || pg_get_function_arguments(p.oid)
from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace and obj_description(p.oid, 'pg_proc') is not null
order by p.proname"""


def found(conn: Conn) -> list[str]:
    """Return a line for each column of each view, and for each function with its arguments."""
    return [row[0] for query in (COLUMNS, FUNCTIONS) for row in conn.execute(query.encode()).fetchall()]


def stored() -> list[str]:
    """Return the lines of the list."""
    return LIST.read_text().splitlines()


def broken(stored: list[str], found: list[str]) -> list[str]:
    """Return the lines that hold no longer. A function may get more arguments, after those that it has."""
    return [line for line in stored if not any(now == line or _is_longer(now, line) for now in found)]


def _is_longer(now: str, line: str) -> bool:
    return line.startswith("function ") and now.startswith(line if line.endswith(": ") else f"{line}, ")


def write() -> None:
    """Write the list anew."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        server = embedded.start(Path(directory) / "postgres")
        try:
            migrate.upgrade(server.dsn)
            with psycopg.connect(server.dsn) as conn:
                LIST.write_text("".join(f"{line}\n" for line in found(conn)))
        finally:
            server.stop()


if __name__ == "__main__":
    write()
