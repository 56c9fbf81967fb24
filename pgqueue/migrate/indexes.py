"""Indexes that migrations build while their tables are written: outside of a transaction, and partition by partition.

The SQL here is a migration's, and so stands beside those and not in `pgqueue.queries`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from pgqueue import db
from pgqueue.migrate import locks
from pgqueue.migrate.steps import Index
from pgqueue.queries import Queries
from pgqueue.queries.schema import IndexState


def build(conn: db.Connection, queries: Queries, schema: str, index: Index) -> None:
    """Build an index, and hold up nobody who writes. What an interrupted build has left is made anew.

    `conn` commits each statement. Where the table is partitioned, its own index is made first and is empty, so that new
    partitions bring theirs; then each partition's is built and attached. When the last one is, Postgres calls it valid.
    """
    with _patient(conn):
        states = db.run(conn, queries.schema.index_states(index.table, index.name))
        whole = next(state for state in states if state.relation == index.table)
        if not whole.partitioned:
            _build_one(conn, schema, whole, index.definition)
            return
        if not whole.exists:
            _briefly(conn, index.name, _create("create index if not exists {} on only {} ", schema, whole, index))
        for part in states:
            if part is not whole and not part.attached:
                _build_one(conn, schema, part, index.definition)
                names = sql.Identifier(schema, index.name), sql.Identifier(schema, part.name)
                _briefly(conn, part.name, sql.SQL("alter index {} attach partition {}").format(*names))


def _build_one(conn: db.Connection, schema: str, state: IndexState, definition: str) -> None:
    if state.exists and not state.valid:
        conn.execute(sql.SQL("drop index concurrently if exists {}").format(sql.Identifier(schema, state.name)))
    if not (state.exists and state.valid):
        index = Index(state.name, state.relation, definition)
        conn.execute(_create("create index concurrently if not exists {} on {} ", schema, state, index))


def _create(text: str, schema: str, state: IndexState, index: Index) -> sql.Composed:
    head = sql.SQL(text).format(sql.Identifier(state.name), sql.Identifier(schema, state.relation))
    return head + sql.SQL(index.definition)


def _briefly(conn: db.Connection, what: str, statement: sql.Composed) -> None:
    """Execute a statement that needs a lock which others would wait behind."""

    def execute() -> None:
        with conn.transaction():
            conn.execute("select set_config('lock_timeout', %s, true)", [locks.LOCK_TIMEOUT])
            conn.execute(statement)

    locks.retrying(f"index {what}", execute)


@contextmanager
def _patient(conn: db.Connection) -> Iterator[None]:
    """Let statements take their time: a concurrent build waits for old transactions, and nobody waits for it."""
    conn.execute("set statement_timeout = 0")
    conn.execute("set lock_timeout = 0")
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("reset statement_timeout")
            conn.execute("reset lock_timeout")
