"""Nothing that a stranger may create in `public` is called by a statement, on whichever connection it runs."""

from collections.abc import Iterator

import psycopg
import pytest

from pgqueue.queries import Query
from tests.conftest import Databases
from tests.harness import QUERIES, Conn
from tests.statements.resolved import Call, Catalog, called, parse_trees
from tests.statements.test_queries import SAMPLES

# There is one already, or no stranger can make it: with a pseudo type, or an aggregate without arguments.
NOT_MADE = (
    psycopg.errors.DuplicateFunction,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidFunctionDefinition,
    psycopg.errors.SyntaxError,
)
TAKEN = "language plpgsql as $$begin raise exception 'a stranger was called'; end$$"


@pytest.fixture(scope="module")
def conn(server_dsn: str, template: str) -> Iterator[Conn]:
    databases = Databases(server_dsn)
    with psycopg.connect(databases.make(template), options="-c search_path=public") as conn:
        yield conn
        conn.rollback()
    databases.drop_all()


@pytest.fixture(scope="module")
def strangers(conn: Conn) -> dict[str, dict[int, str]]:
    """For each call of each statement a function or operator in `public` that fits it as well as any can."""
    catalog = Catalog(conn)
    queries = [make(QUERIES) for make in SAMPLES.values()]
    calls = {call for query in queries for tree in parse_trees(conn, query) for call in catalog.calls(tree)}
    for call in sorted(calls):
        try:
            with conn.transaction():
                conn.execute(_definition(call, catalog))
        except NOT_MADE:
            pass
    return {
        "opno": dict(_made(conn, "select oid::int, oid::regoperator::text from pg_operator where oprnamespace = %s")),
        "other": dict(_made(conn, "select oid::int, oid::regprocedure::text from pg_proc where pronamespace = %s")),
    }


def _made(conn: Conn, select: str) -> list[tuple[int, str]]:
    public = conn.execute("select 'public'::regnamespace::oid").fetchone()
    return conn.execute(select.encode(), public).fetchall()


def _definition(call: Call, catalog: Catalog) -> bytes:
    operands = [catalog.types[operand] for operand in call.operands]
    result, listed = catalog.types[call.result], ", ".join(operands)
    name = f'public."{call.name}"'
    inner = f'public."for {abs(hash(call))}"'
    if call.is_aggregate:
        return f"""create function {inner}({result}, {listed}) returns {result} {TAKEN};
            create aggregate {name}({listed}) (sfunc = {inner}, stype = {result})""".encode()
    if not call.is_operator:
        returns = f"setof {result}" if call.returns_set else result
        return f"create function {name}({listed}) returns {returns} {TAKEN}".encode()
    sides = zip(("rightarg",) if len(operands) == 1 else ("leftarg", "rightarg"), operands, strict=True)
    return f"""create function {inner}({listed}) returns {result} {TAKEN};
        create operator public.{call.name} ({", ".join(f"{side} = {kind}" for side, kind in sides)},
            function = {inner})""".encode()


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_statement_calls_no_stranger(conn: Conn, strangers: dict[str, dict[int, str]], name: str) -> None:
    trees = parse_trees(conn, SAMPLES[name](QUERIES))
    assert trees or name in ("waits.listen", "locks.listen")
    found = {strangers.get(field, strangers["other"]).get(oid) for tree in trees for field, oid, _, _ in called(tree)}
    assert found <= {None}


def test_a_badly_written_statement_would_be_found(conn: Conn, strangers: dict[str, dict[int, str]]) -> None:
    for text in (b"select array_position('{a}'::text[], 'a'::text)", b"select '{}'::jsonb - '1'"):
        (tree,) = parse_trees(conn, Query(text, list))
        (found,) = (strangers.get(field, strangers["other"]).get(oid) for field, oid, _, _ in called(tree))
        assert found
