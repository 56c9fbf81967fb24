"""docs/moving-from-others.md: what stands in the right columns of its tables runs, and does what a job of it says."""

import re
from typing import Any

import pytest

from pgqueue import Job, WorkflowRun
from tests.conftest import drain, scalar
from tests.harness import ROOT, Conn

PAGE = (ROOT / "docs" / "moving-from-others.md").read_text()
(CODE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ROWS = re.findall(r"^\| `(.+)` \| `(.+)` \|$", PAGE, re.MULTILINE)


@pytest.fixture
def shop(dsn: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    shop: dict[str, Any] = {"__name__": "shop", "url": "https://example.com/a"}
    exec(compile(CODE, "moving-from-others.md", "exec", dont_inherit=True), shop)
    shop["job"] = shop["count_words"].enqueue("a/b")
    return shop


def test_the_page_has_rows_of_each_queue() -> None:
    assert len(ROWS) > 45


@pytest.mark.parametrize("here", sorted({here for _, here in ROWS}))
def test_each_row_runs(shop: dict[str, Any], conn: Conn, here: str) -> None:
    found = eval(here.replace("\\|", "|"), shop)
    if isinstance(found, Job):
        stored = conn.execute("select task, args from pgqueue.job where id = %s", (found.id,)).fetchone()
        assert stored == (found.task, found.args)
    elif isinstance(found, WorkflowRun):
        assert scalar(conn, "select count(*) from pgqueue.job where workflow_id = %s", found.id) >= 2
    elif here.startswith("app.task("):
        task = found(lambda: None)
        task.enqueue()
        options = dict(re.findall(r"(\w+)=(-?\d+|\"\w+\")", here))
        for name in {"max_attempts", "priority", "queue"} & options.keys():
            stored = scalar(conn, f"select {name}::text from pgqueue.job where task = %s", task.name)
            assert stored == options[name].strip('"')
    elif here.startswith("app.cancel"):
        assert (found, scalar(conn, "select state from pgqueue.job")) == (True, "cancelled")
    shop["app"].close()


def test_the_jobs_of_the_page_run(shop: dict[str, Any], conn: Conn) -> None:
    count_words, double = shop["count_words"], shop["double"]
    run = (count_words.s("a/b") | double.s()).enqueue()
    drain(shop["app"], conn)
    drain(shop["app"], conn)
    assert [shop["app"].get(job).result for job in run.jobs] == [2, 4]
    assert shop["app"].get(shop["job"].id).result == 2
    shop["app"].close()
