"""The shop on a database of the module, and clients of its dashboard."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from pgqueue import dashboard
from pgqueue.dashboard import Access
from tests.edges.dashboard.scene import Shop, build, shop_of

HOST = "http://shop.example"
SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Browser:
    """A client as a browser without JavaScript is one: it keeps cookies, and sends forms that a page has."""

    shop: Shop
    access: Any = field(default_factory=lambda: Access.operate("alice"))
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wsgi = dashboard.wsgi(self.shop.app, access=lambda _: self.access, **self.options)
        self.http = httpx.Client(transport=httpx.WSGITransport(wsgi), base_url=HOST)

    def get(self, path: str = "") -> httpx.Response:
        return self.http.get(f"/{path}")

    def page(self, path: str = "") -> str:
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.text)
        return answer.text

    def token(self, path: str = "queues") -> str:
        """Return the token of the forms; the cookie of the browser goes with it."""
        self.page(path)
        key = self.http.cookies["pgqueue-form"]
        return dashboard_token(key)

    def send(self, path: str, headers: dict[str, str] = SAME_SITE, **form: str) -> httpx.Response:
        return self.http.post(f"/{path}", data={"form_token": self.token(), **form}, headers=headers)

    def do(self, path: str, **form: str) -> str:
        """Send a form, and return the page to which it leads."""
        answer = self.send(path, **form)
        assert answer.status_code == 303, (path, answer.status_code, _alert(answer.text))
        return self.http.get(answer.headers["location"]).text if answer.has_redirect_location else ""


def dashboard_token(key: str) -> str:
    from pgqueue.dashboard.guard import token_of

    return token_of(key)


def _alert(text: str) -> str:
    found = re.search(r'role="alert">(.*?)</p>', text, re.S)
    return found[1] if found else text[-500:]


@pytest.fixture(scope="module")
def shop(kept_database: str) -> Iterator[Shop]:
    """The shop with its history, for all tests of the module."""
    shop = shop_of(kept_database)
    with psycopg.connect(kept_database, autocommit=True, options="-c search_path=") as conn:
        build(shop, conn)
    yield shop
    shop.app.close()


@pytest.fixture
def dsn(kept_database: str) -> str:
    """The database of the shop."""
    return kept_database


@pytest.fixture
def browse(shop: Shop) -> Callable[..., Browser]:
    """Return a browser for somebody."""
    return lambda access=None, **options: Browser(shop, access or Access.operate("alice"), options)
