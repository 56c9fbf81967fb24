"""Makes the pictures of docs/dashboard.md: `python -m tests.edges.dashboard.pictures`. Needs Chromium."""

import shutil
import tempfile
from pathlib import Path

import psycopg

from pgqueue import migrate
from pgqueue.db import embedded
from tests.edges.dashboard.scene import Shop, build, shop_of
from tests.edges.dashboard.served import browser, served

FOLDER = Path(__file__).parents[3] / "docs" / "dashboard"


def paths_of(shop: Shop) -> dict[str, str]:
    """Return what is photographed, by the name of the picture."""
    return {
        "now": "", "queue": "queues/critical", "jobs": "jobs?task=shop.*", "job": f"jobs/{shop.ids['declined']}",
        "edit": f"jobs/{shop.ids['declined']}/edit", "failures": "failures", "tasks": "tasks",
        "schedule": "schedules/daily~20report", "workers": "workers", "workflow": f"workflows/{shop.ids['workflow']}",
        "limits": "limits", "database": "database", "operations": "operations",
        "preview": "preview/redrive?task=shop.*",
    }  # fmt: skip


def main() -> None:
    """Build the shop on a server of its own, and take a picture of each page, light and dark."""
    directory = Path(tempfile.mkdtemp(prefix="pgqueue-pictures-"))
    directory.chmod(0o755)
    server = embedded.start(directory / "postgres")
    try:
        migrate.upgrade(server.dsn)
        shop = shop_of(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True, options="-c search_path=") as conn:
            build(shop, conn)
        FOLDER.mkdir(exist_ok=True)
        with served(shop) as site, browser() as chromium:
            for scheme in ("light", "dark"):
                context = chromium.new_context(viewport={"width": 1200, "height": 720}, color_scheme=scheme)
                page = context.new_page()
                for name, path in paths_of(shop).items():
                    page.goto(site + path)
                    page.wait_for_selector("#live:not([hidden])")
                    page.screenshot(path=FOLDER / f"{name}-{scheme}.png")
                context.close()
        shop.app.close()
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
