"""Where `pgqueue dev` takes a database to be."""

import pytest

from pgqueue.cli.dev.place import place_of

PG = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGUSER", "PGPORT")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PG:
        monkeypatch.delenv(name, raising=False)


HERE = {
    "postgresql:///shop": "shop on this machine",
    "postgresql://localhost/shop": "shop on localhost",
    "postgresql://me:secret@127.0.0.1:5433/shop": "shop on 127.0.0.1",
    "postgresql://me:secret@[::1]/shop": "shop on ::1",
    "postgresql://me:secret@/shop?host=/run/postgresql": "shop on /run/postgresql",
    "host=@abstract dbname=shop": "shop on @abstract",
    "host=localhost,127.0.0.2 dbname=shop": "shop on localhost, 127.0.0.2",
    "host=db.example.com hostaddr=127.0.0.1 dbname=shop": "shop on 127.0.0.1",
    "postgresql://me:secret@localhost": "me on localhost",
}
ELSEWHERE = {
    "postgresql://me:secret@db.example.com/shop": "shop on db.example.com",
    "postgresql://me:secret@10.0.0.7/shop": "shop on 10.0.0.7",
    "postgresql://me:secret@0.0.0.0/shop": "shop on 0.0.0.0",
    "postgresql://me:secret@localhost.example.com/shop": "shop on localhost.example.com",
    "host=localhost,db.example.com dbname=shop": "shop on localhost, db.example.com",
    "host=localhost hostaddr=10.0.0.7 dbname=shop": "shop on 10.0.0.7",
    "host=localhost,db.example.com hostaddr=127.0.0.1, dbname=shop": "shop on 127.0.0.1, db.example.com",
    "service=production dbname=shop": "shop on the service production",
    "service=production host=localhost dbname=shop": "shop on the service production",
}


@pytest.mark.parametrize(("dsn", "told"), HERE.items())
def test_a_socket_and_loopback_are_this_machine(dsn: str, told: str) -> None:
    place = place_of(dsn)
    assert (str(place), place.is_here) == (told, True)


@pytest.mark.parametrize(("dsn", "told"), ELSEWHERE.items())
def test_any_other_host_is_another_machine(dsn: str, told: str) -> None:
    place = place_of(dsn)
    assert (str(place), place.is_here) == (told, False)


def test_the_environment_of_libpq_names_what_the_dsn_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.com")
    monkeypatch.setenv("PGDATABASE", "shop")
    assert place_of("user=me") == ("db.example.com", "shop", False)
    assert place_of("postgresql://localhost/mine") == ("localhost", "mine", True)
    monkeypatch.setenv("PGHOSTADDR", "10.0.0.7")
    assert not place_of("postgresql://localhost/mine").is_here
