"""docs/http.md: its examples run, and its tables say what the code does."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue import App, InvalidSignature
from pgqueue.http.answers import PERMANENT
from pgqueue.http.requests import CREDENTIALS
from pgqueue.http.signing import key_of, signed
from pgqueue.testing import rolled_back
from tests.harness import ROOT

PAGE = (ROOT / "docs" / "http.md").read_text()


@pytest.fixture
def page(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names of the page's Python."""
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    for name in ("SHOP_SECRET", "PARTNER_TOKEN"):
        monkeypatch.setenv(name, "")  # the page sets them; put back what was there
    names: dict[str, Any] = {"__name__": "shop"}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "http.md", "exec"), names)
    yield names
    names["app"].close()


def test_the_example_enqueues_a_request_with_names_of_secrets_alone(page: dict[str, Any]) -> None:
    app: App = page["app"]
    with rolled_back(app) as jobs:
        jobs.conn.execute("create table public.orders (id int, paid bool); set local search_path = public")
        page["pay"](jobs.conn, 7)
        job = jobs.assert_enqueued(page["hooks"].task, queue="hooks")
        assert job.args == {
            "url": "https://customer.example/hooks",
            "headers": {"Authorization": {"secret": "partner"}, "X-Shop": "eu"},
            "body": {"type": "order.paid", "data": {"id": 7}},
        }


def test_the_example_of_a_receiver_takes_a_message_once(page: dict[str, Any]) -> None:
    body = b'{"type": "order.paid"}'
    headers = signed([key_of(page["secrets"]["shop"])], "pgqueue-7-1", body)
    with rolled_back(page["app"]) as jobs:
        page["receive"](body, headers)
        page["receive"](body, headers)
        jobs.assert_enqueued("shop.hook", {"body": body.decode()}, count=1)
        with pytest.raises(InvalidSignature):
            page["receive"](body + b" ", headers)


def test_the_page_names_the_statuses_and_the_headers_of_the_code() -> None:
    (given_up,) = re.findall(r"^\| 410 Gone \|.*\n\| ([\d, ]+) \| is a dead letter", PAGE, re.MULTILINE)
    assert {410} | {int(status) for status in given_up.split(", ")} == PERMANENT
    for name in CREDENTIALS:
        assert f"`{name.title()}`" in PAGE
