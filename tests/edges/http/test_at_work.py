"""Targets in a worker, and without the package that they need."""

import importlib
import logging
import sys

import pytest

from pgqueue import App, MissingExtra
from pgqueue.http import Secret, Target
from tests.conftest import drain, scalar
from tests.edges.http.conftest import OLD, TOKEN
from tests.edges.http.hook_server import HookServer
from tests.harness import Conn


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def test_a_worker_sends_many_at_once_and_its_log_has_neither_urls_nor_secrets(
    app: App, conn: Conn, hooks: Target, server: HookServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.will_answer(410)
    call = {"url": f"{server.url}?token=hidden", "headers": {"Authorization": Secret("partner")}}
    with caplog.at_level(logging.DEBUG):
        hooks.enqueue_many([{**call, "body": {"n": n}} for n in range(20)])
        drain(app, conn)
    assert len(server.received) == 20
    assert len({got.headers["webhook-id"] for got in server.received}) == 20
    states = "select json_object_agg(state, n) from (select state, count(*) as n from pgqueue.job group by state) as s"
    assert scalar(conn, states) == {"succeeded": 19, "failed": 1}
    for hidden in (TOKEN, OLD, "token=hidden", "/hook"):
        assert hidden not in caplog.text


def test_without_httpcore_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("pgqueue.http", "httpcore"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpcore", None)
    with pytest.raises(MissingExtra, match=r"pgqueue-jobs\[http\]"):
        importlib.import_module("pgqueue.http")
