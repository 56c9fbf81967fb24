"""The pages for beginners do what they say."""

import asyncio
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import httpx
import psycopg
import pytest

from tests.conftest import drain
from tests.harness import DEADLINE, Conn
from tests.project.start_pages import StartPage, Terminal


@contextmanager
def _module(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import shop.py of a place, as `import shop` finds it."""
    spec = importlib.util.spec_from_file_location("shop", place / "shop.py")
    assert spec
    assert spec.loader
    shop = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "shop", shop)
    spec.loader.exec_module(shop)
    yield shop
    shop.app.close()


def test_the_first_five_minutes(
    dsn: str, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    page = StartPage("start.md")
    page.write(tmp_path)
    with _module(tmp_path, monkeypatch) as shop:
        exec(compile(page.files["order.py"], "order.py", "exec"), {})
        said = capsys.readouterr().out.splitlines()
        assert said == ["job 1", "the second order was rolled back, and so was its job", "jobs: 1"]
        drain(shop.app, conn)
        assert shop.app.get(1).wait(timeout=10) == "receipt of order 1 sent to a@example.com"


def test_the_page_about_fastapi(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    StartPage("start-fastapi.md").write(tmp_path)
    with _module(tmp_path, monkeypatch) as shop:
        asyncio.run(_order_twice(shop))
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select count(*) from pgqueue.job").fetchone() == (1,)


async def _order_twice(shop: ModuleType) -> None:
    transport = httpx.ASGITransport(shop.api, raise_app_exceptions=False)
    async with shop.lifespan(shop.api), httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answer = await client.post("/orders/1", params={"email": "a@example.com"})
        assert (answer.status_code, answer.json()) == (202, {"job": 1})
        job = await shop.app.aget(1)
        assert await job.await_result(DEADLINE) == "receipt of order 1 sent to a@example.com"
        shown = {"state": "succeeded", "result": "receipt of order 1 sent to a@example.com", "attempts": 1}
        assert (await client.get("/jobs/1")).json() == shown
        assert (await client.post("/orders/1", params={"email": "a@example.com"})).status_code == 500
        missing = await client.get("/jobs/2")
        assert (missing.status_code, missing.json()) == (404, {"detail": "no such job"})


@pytest.mark.servers
@pytest.mark.timeout(600)
def test_the_page_about_django(tmp_path: Path) -> None:
    binaries = Path(sys.executable).parent
    here = Terminal(tmp_path, PATH=f"{binaries}:{os.environ['PATH']}", PYTHONPATH=str(Path(__file__).parents[2]))
    page = StartPage("start-django.md")
    install, run, order, work, look = page.commands
    here.run("\n".join(install.splitlines()[2:]))  # what the first two install is here
    page.write(tmp_path, added="shop/settings.py")
    *prepare, serve = run.splitlines()
    here.run("\n".join(prepare))
    with here.running(f"{serve} --noreload 8907"):
        here.run("curl -so /dev/null --retry-connrefused --retry 30 --retry-delay 1 localhost:8907/nowhere/")
        first, second, status = order.replace("localhost:8000", "localhost:8907").splitlines()
        assert here.run(first) == '{"order": 1, "result": "1"}'
        here.run(second)
        waiting = here.run(f"{status} --json")
    assert [queue["pending"] for queue in json.loads(waiting)["queues"]] == [1]
    with here.running(work.strip()):
        until = time.monotonic() + 4 * DEADLINE  # a command of manage.py takes seconds, on a busy machine twenty
        while "succeeded" not in here.run(look.splitlines()[1]):
            assert time.monotonic() < until
        assert here.run(look.splitlines()[0]).splitlines()[-1] == "1"
