"""The DSN as users give it: what libpq reads is accepted, what it does not know is named, and no password is shown."""

import socket
import struct
import threading

import pytest

from pgqueue import ConfigError, DatabaseUnreachable
from pgqueue.config import find_dsn
from pgqueue.db import Database


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://app@db1.example,db2.example/shop?target_session_attrs=read-write",
        "postgresql://app@db1.example:5432,db2.example/shop",
        "postgresql://app@db1.example,db2.example:6432/shop",
        "host=db1,db2 port=5432,6432 dbname=shop",
        "host=db1 dbname=shop",
    ],
)
def test_several_hosts_may_leave_out_ports_as_for_libpq(dsn: str) -> None:
    assert find_dsn(dsn) == dsn


@pytest.mark.parametrize(
    ("parameter", "value", "instead"),
    [
        ("pgbouncer", "true", r"App\(pgbouncer=True\)"),
        ("schema", "public", r"App\(schema="),
        ("ssl", "require", "sslmode=require"),
        ("nonsense", "1", "leave it out"),
    ],
)
def test_a_parameter_of_another_driver_is_named_with_what_to_use(parameter: str, value: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=f"'{parameter}': use .*{instead}") as refused:
        find_dsn(f"postgresql+asyncpg://app:hunter2@db.example/shop?connect_timeout=3&{parameter}={value}")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("dsn", ["postgresql://app:hunter2@db:x/shop", "postgresql://app:hun/ter2@db/shop", "hunter2"])
def test_what_cannot_be_read_is_refused_without_showing_it(dsn: str) -> None:
    with pytest.raises(ConfigError) as refused:
        find_dsn(dsn)
    assert "ter2" not in str(refused.value)


def test_no_password_is_in_the_repr_of_a_database() -> None:
    assert "hunter2" not in repr(Database("postgresql://app:hunter2@db/shop"))


def test_a_pooler_that_refuses_options_is_named_with_the_remedy() -> None:
    refusal = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0"

    def refuse(server: socket.socket) -> None:
        client = server.accept()[0]
        with client:
            client.recv(65536)
            client.sendall(b"E" + struct.pack("!i", len(refusal) + 4) + refusal)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse, args=(server,))
        thread.start()
        dsn = f"postgresql://u@127.0.0.1:{server.getsockname()[1]}/d?sslmode=disable&gssencmode=disable"
        with pytest.raises(DatabaseUnreachable, match=r"refuses .* options: make the app with App\(pgbouncer=True\)"):
            Database(dsn).connect("x", deadline=5)
        thread.join()


def test_what_is_given_goes_before_the_environment_and_pgqueue_dsn_before_database_url() -> None:
    both = {"PGQUEUE_DSN": "postgresql://db/queue", "DATABASE_URL": "postgresql+psycopg://db/shop"}
    assert find_dsn("host=given", both) == "host=given"
    assert find_dsn(None, both) == "postgresql://db/queue"
    assert find_dsn(None, {"DATABASE_URL": both["DATABASE_URL"]}) == "postgresql://db/shop"
    with pytest.raises(ConfigError, match="what it has printed, PGQUEUE_DSN=embedded:"):
        find_dsn(None, {})
