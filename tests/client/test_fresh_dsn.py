"""DSNs and passwords that functions give: each new connection asks again. DSNs with several hosts."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner

from pgqueue import App, ConfigError, DatabaseUnreachable, InvalidOption
from pgqueue.cli import cli
from pgqueue.cli.load import load_app
from pgqueue.otel.tracing import _server_of
from tests.conftest import scalar, work
from tests.harness import Conn


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


class Tokens:
    """Gives a new password each time, as a service that signs tokens does; or fails."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.threads: set[int] = set()
        self.fails = False
        self.failures = 0

    def __call__(self) -> str:
        self.threads.add(threading.get_ident())
        if self.fails:
            self.failures += 1
            raise RuntimeError("hunter2 has expired")
        return f"token-{next(self._numbers)}"


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
def fresh(dsn: str, tokens: Tokens) -> Iterator[App]:
    """An app whose connections get a new password each."""
    app = App(dsn, password=tokens)
    yield app
    app.close()


def test_each_connection_of_the_pool_asks_for_the_password(fresh: App) -> None:
    pools = fresh.backend.pools
    with pools.connection() as one, pools.connection() as two:
        passwords = [one.info.password, two.info.password]
    assert len(set(passwords)) == 2
    assert all(each.startswith("token-") for each in passwords)
    with fresh.database.connect("x") as third:
        assert third.info.password not in passwords


def test_each_connection_of_an_async_pool_asks_in_a_thread(fresh: App, tokens: Tokens) -> None:
    async def passwords() -> list[str]:
        pools = fresh.backend.pools
        async with pools.async_connection() as one, pools.async_connection() as two:
            found = [one.info.password, two.info.password]
        await pools.aclose()
        return found

    assert len(set(asyncio.run(passwords()))) == 2
    assert threading.get_ident() not in tokens.threads


def test_a_password_in_the_dsn_is_that_of_its_connections(dsn: str, tokens: Tokens) -> None:
    app = App(make_conninfo(dsn, password="own"), password=tokens)
    assert conninfo_to_dict(app.dsn)["password"] == "own"
    assert not tokens.threads


def test_the_dsn_itself_may_be_a_function(dsn: str, conn: Conn) -> None:
    asked = []

    def where() -> str:
        asked.append(1)
        return make_conninfo(dsn, application_name=f"asked-{len(asked)}")

    app = App(where)
    assert not asked  # making an app asks nothing
    job = app.task(name="t")(lambda: None).enqueue()
    assert scalar(conn, "select id from pgqueue.job_live") == job.id
    before = len(asked)
    app.close()
    app.get(job.id)
    assert len(asked) > before
    app.close()


def test_a_span_asks_no_function_where_the_database_is(tokens: Tokens) -> None:
    assert _server_of(App("host=db.example port=5433", password=tokens))["server.address"] == "db.example"
    assert _server_of(App(tokens)) == {}
    assert not tokens.threads


def test_a_function_cannot_name_an_embedded_server() -> None:
    with pytest.raises(DatabaseUnreachable, match=r"App\(dsn=…\) returned an embedded: one"):
        App(lambda: "embedded:").get(1)


def test_a_worker_goes_on_when_the_function_fails_for_a_while(
    dsn: str, conn: Conn, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    app, caller = App(dsn, password=tokens), App(dsn)
    ran: list[int] = []
    app.task(name="t")(lambda n: ran.append(n))
    ours = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pgqueue worker%'"

    def scene() -> Iterator[bool]:
        caller.enqueue("t", {"n": 1})
        while ran != [1]:
            yield False
        tokens.fails = True
        conn.execute(ours)
        while tokens.failures < 2:
            yield False
        tokens.fails = False
        caller.enqueue("t", {"n": 2})
        while ran != [1, 2]:
            yield False
        yield True

    steps = scene()
    asyncio.run(work(app, lambda: next(steps), poll_seconds=0.1))
    assert "hunter2" not in caplog.text
    assert "the function of App(password=…) raised RuntimeError" in caplog.text
    caller.close()


@pytest.mark.parametrize("answer", ["", None, 7, b"x"])
def test_a_function_that_returns_no_text_is_named_and_its_answer_is_not_shown(dsn: str, answer: Any) -> None:
    with pytest.raises(DatabaseUnreachable, match=r"the function of App\(password=…\) returned"):
        App(dsn, password=lambda: answer).get(1)
    with pytest.raises((DatabaseUnreachable, ConfigError), match=r"App\(dsn=…\)"):
        App(lambda: answer).get(1)


def test_an_error_of_the_function_is_that_of_the_database(dsn: str, tokens: Tokens) -> None:
    tokens.fails = True
    with pytest.raises(DatabaseUnreachable, match="raised RuntimeError") as refused:
        App(dsn, password=tokens).get(1)
    assert "hunter2" not in str(refused.value)


def test_a_fixed_password_is_refused_where_it_is_given() -> None:
    with pytest.raises(InvalidOption, match="give a function") as refused:
        App(password="hunter2")  # type: ignore[arg-type]
    assert "hunter2" not in str(refused.value)


def test_commands_ask_the_function_of_the_app_for_the_password(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token_shop.py").write_text("import pgqueue\napp = pgqueue.App(password=lambda: 'token')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    assert conninfo_to_dict(load_app("token_shop:app", None).dsn)["password"] == "token"
    assert conninfo_to_dict(load_app("token_shop:app", dsn).dsn)["password"] == "token"
    assert CliRunner().invoke(cli, ["migrate", "--check", "-A", "token_shop:app"]).exit_code == 0


def test_of_several_hosts_the_first_that_answers_is_used(dsn: str, conn: Conn) -> None:
    there = conninfo_to_dict(dsn)["host"]
    app = App(make_conninfo(dsn, host=f"/nonexistent,{there}", target_session_attrs="read-write"))
    ran: list[int] = []
    app.task(name="t")(lambda: ran.append(1)).enqueue()
    asyncio.run(work(app, lambda: ran))
    app.close()


def test_of_several_hosts_none_of_which_answers_all_are_named(dsn: str) -> None:
    app = App(make_conninfo(dsn, host="/nonexistent,/neither", password="hunter2"))
    with pytest.raises(DatabaseUnreachable, match=r"/nonexistent,/neither") as refused:
        app.get(1)
    assert "hunter2" not in str(refused.value)


def test_a_server_that_is_only_read_is_refused_where_one_must_be_written(dsn: str, conn: Conn) -> None:
    name = conninfo_to_dict(dsn)["dbname"]
    conn.execute(f'alter database "{name}" set default_transaction_read_only = on')  # type: ignore[arg-type]
    try:
        app = App(make_conninfo(dsn, target_session_attrs="read-write"))
        with pytest.raises(DatabaseUnreachable, match="read-only"):
            app.get(1)
    finally:
        conn.execute("set default_transaction_read_only = off")
        conn.execute(f'alter database "{name}" reset default_transaction_read_only')  # type: ignore[arg-type]
