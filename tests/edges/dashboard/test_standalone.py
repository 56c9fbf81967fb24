"""`pgqueue web`: a link lets one browser in, a password any; an address that others reach needs the password."""

import re

import anyio
import httpx
import pytest

from pgqueue.dashboard import Access
from pgqueue.dashboard.standalone import Address, Door, serve, standalone
from pgqueue.errors import ConfigError, InvalidOption
from tests.edges.dashboard.scene import shop_of


def answers(door: Door, dsn: str, *paths: str, auth: tuple[str, str] | None = None) -> list[int]:
    """Return what one browser is answered under these paths, one after the other."""
    shop = shop_of(dsn)
    api = standalone(shop.app, door, Access.read("rita"), {})

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://127.0.0.1", auth=auth) as one:
            return [(await one.get(path)).status_code for path in paths]

    try:
        return anyio.run(ask)
    finally:
        shop.app.close()


def test_a_link_lets_one_browser_in_and_is_then_worth_nothing(emptied_dsn: str) -> None:
    said: list[str] = []
    door = Door(None, "rita", said.append)
    link = door.link()
    assert answers(door, emptied_dsn, "/", f"/{link}", "/queues") == [404, 303, 200]
    assert answers(door, emptied_dsn, f"/{link}", "/queues") == [404, 404]
    (following,) = re.findall(r"\?token=\S+", said[0])
    assert answers(door, emptied_dsn, f"/{following}", "/queues") == [303, 200]


def test_with_a_password_a_browser_is_asked_for_it(emptied_dsn: str) -> None:
    door = Door("open sesame", "rita", print)
    assert answers(door, emptied_dsn, "/") == [401]
    assert answers(door, emptied_dsn, "/", auth=("rita", "wrong")) == [401]
    assert answers(door, emptied_dsn, "/", auth=("bob", "open sesame")) == [401]
    assert answers(door, emptied_dsn, "/", auth=("rita", "open sesame")) == [200]


def test_an_address_that_others_reach_needs_a_password() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        Address(host, 8080).check(None)
    for host in ("0.0.0.0", "::", "10.0.0.7", "db.example.com"):
        with pytest.raises(ConfigError, match="PGQUEUE_WEB_PASSWORD"):
            Address(host, 8080).check(None)
        Address(host, 8080).check("open sesame")


def test_an_option_that_cannot_be_used_is_refused_before_a_link_is_printed(emptied_dsn: str) -> None:
    said: list[str] = []
    with pytest.raises(InvalidOption, match="trace_url="):
        serve(
            shop_of(emptied_dsn).app,
            Address("127.0.0.1", 0),
            Door(None, "rita", said.append),
            Access.read("rita"),
            {"trace_url": "foo"},
        )
    assert said == []
