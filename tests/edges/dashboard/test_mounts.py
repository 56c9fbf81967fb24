"""Mounted under any prefix, in every framework, all links lead to pages of the dashboard."""

import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import anyio
import httpx
import pytest
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from pgqueue import dashboard
from pgqueue.dashboard import Access, Request
from tests.edges.dashboard.scene import Shop

Get = Callable[[str], httpx.Response]


def may(request: Request) -> Access:
    return Access.operate("alice")


async def may_async(request: Request) -> Access:
    return Access.operate("alice")


def starlette(shop: Shop) -> tuple[Any, str]:
    return Starlette(routes=[Mount("/jobs", dashboard.asgi(shop.app, access=may_async))]), "/jobs"


def fastapi(shop: Shop) -> tuple[Any, str]:
    api, outer = FastAPI(), FastAPI()
    api.mount("/jobs", dashboard.asgi(shop.app, access=may))
    outer.mount("/staff", api)
    return outer, "/staff/jobs"


def litestar(shop: Shop) -> tuple[Any, str]:
    from litestar import Litestar, asgi

    mounted = asgi("/jobs", is_mount=True, copy_scope=True)(dashboard.asgi(shop.app, access=may))
    return Litestar([mounted], openapi_config=None), "/jobs"


def behind_a_proxy(shop: Shop) -> tuple[Any, str]:
    """nginx that takes `/a/b` away, and tells nobody."""
    inner, _ = starlette(shop)

    async def strip(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix("/a/b")
        await inner(scope | {"path": path, "raw_path": path.encode()}, receive, send)

    return strip, "/a/b/jobs"


def flask(shop: Shop) -> tuple[Any, str]:
    app = Flask("shop")
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/jobs": dashboard.wsgi(shop.app, access=may)})  # type: ignore[method-assign]
    return app.wsgi_app, "/jobs"


@pytest.fixture(params=[starlette, fastapi, litestar, behind_a_proxy, flask], ids=lambda one: one.__name__)
def mounted(request: pytest.FixtureRequest, shop: Shop) -> Iterator[tuple[Get, str]]:
    """A function that gets a page of the framework, and where the dashboard is in it."""
    api, prefix = request.param(shop)
    if request.param is flask:
        with httpx.Client(transport=httpx.WSGITransport(api), base_url="http://shop.example") as client:
            yield client.get, prefix
        return

    async def get(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
            return await client.get(path)

    yield lambda path: anyio.run(get, path), prefix


def test_every_link_and_file_answers_below_the_prefix(mounted: tuple[Get, str]) -> None:
    get, prefix = mounted
    left, seen = [f"{prefix}/", f"{prefix}/queues/", f"{prefix}/jobs/1"], set[str]()
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = get(path)
        assert answer.status_code == 200, (path, answer.text[-400:])
        if len(seen) > 40 or "text/html" not in answer.headers["content-type"]:
            continue
        for link in re.findall(r'(?:href|src)="([^"#]+)"', answer.text):
            where = urlsplit(urljoin(f"http://shop.example{path}", unescape(link)))
            assert where.netloc == "shop.example"
            assert where.path.startswith(f"{prefix}/"), (path, link)
            left.append(where.path + (f"?{where.query}" if where.query else ""))
    assert len(seen) > 40


def test_without_the_slash_the_browser_is_sent_to_the_first_page(mounted: tuple[Get, str]) -> None:
    get, prefix = mounted
    if prefix == "/a/b/jobs":
        pytest.skip("Starlette redirects to an absolute address, which nginx turns into that of its clients")
    answer = get(prefix)
    if answer.status_code in (303, 307, 308):
        assert urlsplit(urljoin(f"http://shop.example{prefix}", answer.headers["location"])).path == f"{prefix}/"
    else:  # the framework itself takes both for the same
        assert answer.status_code == 200


def test_access_is_required(shop: Shop) -> None:
    with pytest.raises(TypeError):
        dashboard.asgi(shop.app)  # type: ignore[call-arg]
    for given in (None, True, "alice"):
        with pytest.raises(Exception, match="give a function of a request"):
            dashboard.wsgi(shop.app, access=given)  # type: ignore[arg-type]


def test_the_sample_of_the_docs_gives_each_user_what_it_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "dashboard.md").read_text()
    code, _ = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)  # test_django has the other
    sample: dict[str, Any] = {}
    exec(compile(code, "dashboard.md", "exec"), sample)
    given = [
        sample["access"](Request("GET", "/", {}, {}, raw={"session": session}))
        for session in ({}, {"user": "rita"}, {"user": "alice"})
    ]
    assert given == [None, Access.read("rita"), Access.operate("alice")]
