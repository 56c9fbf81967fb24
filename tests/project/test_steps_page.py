"""docs/steps.md: the order process runs as the page says, and so do its tests."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pgqueue import testing
from pgqueue.testing import Jobs
from tests.harness import Conn

PAGE = (Path(__file__).parents[2] / "docs" / "steps.md").read_text()
SHOP, WEBHOOK, CALLS, TESTS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def done() -> list[str]:
    """What the services of the shop were asked, in order."""
    return []


@pytest.fixture
def shop(dsn: str, conn: Conn, done: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The module of the page."""

    def note(what: str) -> Any:
        return lambda order_id, **_: done.append(f"{what} {order_id}") or f"{what} of {order_id}"

    conn.execute("create table public.items (free int); insert into public.items values (5)")
    names: dict[str, Any] = {
        "__name__": "shop",
        "payments": SimpleNamespace(request=note("pay"), refund=note("refund")),
        "stock": SimpleNamespace(release=note("release")),
        "parcels": SimpleNamespace(send=note("parcel")),
    }
    for sample in (SHOP, WEBHOOK, CALLS):
        exec(compile(sample, "steps.md", "exec"), names)
    names["app"].dsn = dsn
    module = ModuleType("shop")
    vars(module).update(names)
    monkeypatch.setitem(__import__("sys").modules, "shop", module)
    return names


@pytest.fixture
def jobs(shop: dict[str, Any]) -> Iterator[Jobs]:
    with testing.rolled_back(shop["app"]) as jobs:
        yield jobs
    shop["app"].close()


def test_the_tests_of_the_page_pass(jobs: Jobs, done: list[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(TESTS, "steps.md", "exec"), names)
    names["test_a_paid_order_is_shipped"](jobs)
    assert done == ["pay 7", "parcel 7"]
    done.clear()
    names["test_an_order_that_nobody_pays_is_undone"](jobs)
    assert done == ["pay 8", "release 8", "refund 8"]


def test_the_calls_of_the_page_return_their_results_in_order(shop: dict[str, Any], jobs: Jobs) -> None:
    job = shop["dispatch"].enqueue(7)
    jobs.drain()
    assert shop["app"].get(job.id).result == ["label 7/0", "label 7/1", "label 7/2"]


def test_the_unit_test_of_the_page_runs(shop: dict[str, Any], done: list[str]) -> None:
    (call,) = re.findall(r"`(order\(testing.context\(.*?\), 7\))`", PAGE)
    with testing.rolled_back(shop["app"]) as jobs:
        assert eval(call, shop | {"testing": testing, "conn": jobs.conn}) == "parcel of 7"
    assert done == ["pay 7", "parcel 7"]


def test_the_first_paragraph_says_what_runs_again() -> None:
    first = PAGE.split("\n\n")[1]
    assert "all code outside of steps runs again" in first
