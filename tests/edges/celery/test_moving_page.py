"""docs/moving-from-celery.md: both halves of each pair do the same, and its tables name what the code refuses."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

import pgqueue
from pgqueue import celery as words
from pgqueue.celery import Celery, conf, control, options, signals
from tests.conftest import scalar, work
from tests.harness import ROOT, Conn

PAGE = (ROOT / "docs" / "moving-from-celery.md").read_text()
PAIRS = re.findall(r"^### (.+?)\n\n```python\n(.*?)^```\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def around(conn: Conn) -> Callable[..., dict[str, Any]]:
    """What the examples take from elsewhere: each gets its own."""

    def around(app: Any, module: Any) -> dict[str, Any]:
        calls: list[str] = []

        def download(url: str) -> str:
            calls.append(url)
            if len(calls) == 1:
                raise OSError("not yet")
            return f"{url}, the {len(calls)}nd time"

        names = {name: getattr(module, name) for name in ("chain", "chord", "group")}
        given = {
            "app": app,
            "conn": conn,
            "download": download,
            "seen": [],
            "pgqueue": pgqueue,
            "crontab": words.crontab,
        }
        return {"__name__": "shop", **names, **given}

    return around


def run_all(app: pgqueue.App, conn: Conn) -> None:
    quiet = "select count(*) = 0 from pgqueue.job_live"
    asyncio.run(work(app, lambda: scalar(conn, quiet), queues=["default", "bulk"], poll_seconds=0.05))


def test_the_page_has_pairs() -> None:
    assert len(PAIRS) == PAGE.count("\n### ") >= 10


@pytest.mark.parametrize(("title", "there", "here"), PAIRS, ids=[title for title, *_ in PAIRS])
def test_both_halves_of_a_pair_do_the_same(
    dsn: str, conn: Conn, around: Callable[..., dict[str, Any]], title: str, there: str, here: str
) -> None:
    celery, app = Celery("shop", broker=dsn), pgqueue.App(dsn)
    one, other = around(celery, words), around(app, pgqueue)
    exec(compile(there, f"{title}, Celery", "exec", dont_inherit=True), one)
    run_all(celery.pgqueue, conn)
    exec(compile(here, f"{title}, pgqueue", "exec", dont_inherit=True), other)
    run_all(app, conn)
    value = one["result"].get(timeout=10)
    assert value is not None
    assert app.get(other["job"].id).result == value
    assert one["seen"] == other["seen"]
    plans = [{each.name: (each.plan, each.job.args) for each in an.schedules.values()} for an in (celery.pgqueue, app)]
    assert plans[0] == plans[1]
    celery.close()
    app.close()


def test_the_page_names_what_the_code_refuses_and_what_it_has() -> None:
    for name in ("worker_concurrency", "worker_max_tasks_per_child", "beat_scheduler"):
        assert name in conf.ELSEWHERE
        assert f"`{name}`" in PAGE
    for name in re.findall(r"`(\w+)=`", PAGE.split("## What has no place")[1].split("## Side by side")[0]):
        assert name in {*options.NO_PLACE, "using", "ignore_result", "queue", "link"}, name
    for name in ("purge", "broadcast", "add_consumer", "autoscale"):
        assert name in control.ELSEWHERE
    moved = PAGE.split("## What moves as it is")[1].split("| part |")[0]
    sent = {name for name, each in vars(signals).items() if isinstance(each, signals.Signal) and each.instead is None}
    assert sent <= set(re.findall(r"`(\w+)`", moved))
    known = {*vars(words), *conf.USED, *dir(words.Task), *dir(Celery), *dir(words.Signature), *dir(words.AsyncResult)}
    known |= {*options.TaskOptions.__annotations__, *options.CallOptions.__annotations__, *sent}
    assert set(re.findall(r"`(?:self\.|@|app\.)*(\w+)`", moved)) - known <= {
        "namespace",
        "request",
        "bind",
        "on_after_configure",
    }
