"""What each role of docs/operations.md may do to each relation, tried and not read from the catalogue. F40."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import scalar
from tests.harness import Conn

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
ROLES = ("app", "worker", "reader")
RELATIONS = (
    "select relname, relkind::text from pg_class where relnamespace = 'pgqueue'::regnamespace and relkind = any(%s)"
)
TRIED = {
    "select": "select * from {} limit 0",
    "insert": "insert into {} default values",
    "update": "update {} set {column} = {column} where false",
    "delete": "delete from {} where false",
    "truncate": "truncate {}",
    "drop": "drop table {}",
    "alter": "alter table {} add column x int",
    "lock": "lock table {} in access exclusive mode",
}


@pytest.fixture
def suffix(conn: Conn) -> Iterator[str]:
    """The three roles, as the docs make them; their names end in this."""
    text = OPERATIONS.read_text()
    (grants,) = [b for b in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "grant usage" in b]
    suffix = scalar(conn, "select 'r' || substr(md5(random()::text), 1, 8)")
    for role in ROLES:
        conn.execute(f"create role {role}_{suffix}".encode())
        grants = re.sub(rf"to {role};", f"to {role}_{suffix};", grants)
    try:
        conn.execute(grants.encode())
        yield suffix
    finally:
        for role in ROLES:
            conn.execute(f"drop owned by {role}_{suffix}; drop role {role}_{suffix}".encode())


def allows(conn: Conn, statement: str) -> bool:
    """Whether a statement passes the check of privileges; its effects are undone."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.errors.IntegrityError:
        return True
    return True


def allowed(conn: Conn, role: str) -> set[tuple[str, str]]:
    """Return all that a role may do to the relations of the schema."""
    relations = conn.execute(RELATIONS, (["r", "p", "v"],)).fetchall()
    columns = dict(
        conn.execute("select table_name, min(column_name::text) from information_schema.columns"
                     " where table_schema = 'pgqueue' group by 1").fetchall()
    )  # fmt: skip
    conn.execute(f"set role {role}".encode())
    found = {
        (verb, name)
        for name, kind in relations
        for verb, statement in TRIED.items()
        if (kind != "v" or verb == "select") and allows(conn, statement.format(f"pgqueue.{name}", column=columns[name]))
    }
    conn.execute("reset role")
    return found


def every(conn: Conn, kinds: list[str], *verbs: str) -> set[tuple[str, str]]:
    return {(verb, row[0]) for row in conn.execute(RELATIONS, (kinds,)).fetchall() for verb in verbs}


def test_each_role_may_do_exactly_what_the_docs_grant(conn: Conn, suffix: str) -> None:
    # `lock` goes with update, delete or truncate on the table.
    writes = every(conn, ["r", "p"], "select", "insert", "update", "delete", "lock")
    assert allowed(conn, f"worker_{suffix}") == writes | every(conn, ["v"], "select")
    assert allowed(conn, f"reader_{suffix}") == every(conn, ["r", "p", "v"], "select")
    assert allowed(conn, f"app_{suffix}") == {("insert", "job_live"), ("insert", "transition")}


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_build_in_the_schema_or_set_its_sequence(conn: Conn, suffix: str, role: str) -> None:
    conn.execute(f"set role {role}_{suffix}".encode())
    for statement in (
        "create table pgqueue.mine (id int)",
        "create function pgqueue.mine() returns int language sql as 'select 1'",
        "drop schema pgqueue cascade",
        "select setval('pgqueue.job_id', 1)",
        "drop sequence pgqueue.job_id cascade",
    ):
        assert not allows(conn, statement), statement
    assert allows(conn, "select nextval('pgqueue.job_id')") == (role != "reader")
    conn.execute("reset role")


def test_a_role_without_grants_may_do_nothing(conn: Conn, suffix: str) -> None:
    """Nothing is granted to public, and no function of the schema runs with its owner's rights."""
    conn.execute(f"create role stranger_{suffix}".encode())
    try:
        assert allowed(conn, f"stranger_{suffix}") == set()
    finally:
        conn.execute(f"drop role stranger_{suffix}".encode())
    definers = "select count(*) from pg_proc where pronamespace = 'pgqueue'::regnamespace and prosecdef"
    assert scalar(conn, definers) == 0
