"""The shop's dashboard on a port, and a real browser to open it in."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from pgqueue import dashboard
from pgqueue.dashboard import Access
from tests.edges.dashboard.scene import Shop

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def served(shop: Shop, who: Access | None = None, **options: Any) -> Iterator[str]:
    """Serve the dashboard to somebody, else to Alice, who operates it; yield its address."""
    who = who or Access.operate("alice")
    with serving(dashboard.asgi(shop.app, access=lambda _: who, title="shop", **options)) as address:
        yield address


@contextmanager
def serving(api: Any) -> Iterator[str]:
    """Serve an application of ASGI; yield its address."""
    config = uvicorn.Config(
        api, host="127.0.0.1", port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def browser() -> Iterator[Any]:
    """Start Chromium; yield it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()
