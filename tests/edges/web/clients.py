"""Clients of the routes of pgqueue.web: one for plain requests, one that reads a stream as it comes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.requests import Request

from pgqueue import App, Job
from tests.conftest import DEADLINE

EVENTS = re.compile(r"(?:id: (\w+)\n)?event: (\w+)\ndata: (.*)\n")


def client(api: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test")


def everybody(request: Request, job: Job) -> bool:
    return True


def events(text: str) -> list[tuple[str, Any]]:
    return [(kind, json.loads(data)) for _, kind, data in EVENTS.findall(text)]


def run(app: App, body: Callable[[], Any]) -> Any:
    """Run an async test, and close the app's connections in the same loop."""

    async def whole() -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                return await body()
        finally:
            await app.aclose()

    return asyncio.run(whole())


@asynccontextmanager
async def listening(api: Any, job_id: int) -> AsyncIterator[tuple[asyncio.Queue[Any], asyncio.Event]]:
    """Yield what a client receives of a stream, and an event; the client disconnects when it is set, or at the end."""
    received: asyncio.Queue[Any] = asyncio.Queue()
    leaves = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await leaves.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": f"/{job_id}/events", "headers": [], "query_string": b"",
             "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "root_path": ""}  # fmt: skip
    serving = asyncio.create_task(api(scope, receive, received.put))
    try:
        yield received, leaves
    finally:
        leaves.set()
        await asyncio.wait_for(serving, DEADLINE)
