"""Makes the pictures of docs/dashboard.md: `python -m tests.edges.dashboard.pictures`. Needs Chromium and Pillow."""

import io
import math
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
from PIL import Image

from pgqueue import migrate
from pgqueue.db import embedded
from tests.conftest import scalar
from tests.edges.dashboard.scene import Shop, build, shop_of
from tests.edges.dashboard.served import browser, served

WIDTH, HEIGHT, LEAST = 1200, 720, 430
COLOURS = 256  # enough for pages, and half of the bytes
END_OF_PAGE = "document.querySelector('main').lastElementChild.getBoundingClientRect().bottom"
STYLE = Path(__file__).parents[3] / "pgqueue" / "dashboard" / "static" / "dashboard.css"
FOLDER = Path(__file__).parents[3] / "docs" / "dashboard"


def paths_of(shop: Shop, conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Return what is photographed, by the name of the picture."""
    group = scalar(conn, "select fingerprint from pgqueue.dead_letter where id = %s", shop.ids["declined"])
    job = f"jobs/{shop.ids['declined']}"
    return {
        "now": "", "queues": "queues", "queue": "queues/critical", "drain": "queues/media/drain",
        "jobs": "jobs?task=shop.*", "job": job,
        "edit": f"{job}/edit", "failures": "failures", "failure": f"failures/{group}", "tasks": "tasks",
        "task": "tasks/shop.charge_card", "schedules": "schedules", "schedule": "schedules/daily~20report",
        "pause": "schedules/daily~20report/pause?until=7d",
        "workers": "workers", "workflows": "workflows", "workflow": f"workflows/{shop.ids['workflow']}",
        "limits": "limits", "database": "database", "operations": "operations",
        "preview": "preview/redrive?task=shop.*",
    }  # fmt: skip


def _save(picture: bytes, path: Path) -> None:
    """Write a picture with the colours that it has most of, and those of the style sheet, which have a meaning."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    raw = image.tobytes()
    pixels = list(zip(raw[::3], raw[1::3], raw[2::3], strict=True))
    seen = Counter(pixels)
    meant = {tuple(bytes.fromhex(colour)) for colour in re.findall(r"#([0-9a-f]{6})\b", STYLE.read_text())}
    palette = sorted(seen, key=lambda colour: (colour not in meant, -seen[colour]))[:COLOURS]
    nearest = {colour: number for number, colour in enumerate(palette)}
    for colour in seen.keys() - nearest.keys():
        nearest[colour] = min(range(len(palette)), key=lambda number: math.dist(palette[number], colour))
    drawn = Image.frombytes("P", image.size, bytes(nearest[colour] for colour in pixels))
    drawn.putpalette([part for colour in palette for part in colour])
    drawn.save(path, optimize=True)


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
            paths = paths_of(shop, conn)
        FOLDER.mkdir(exist_ok=True)
        taken: dict[Path, bytes] = {}
        with served(shop) as site, browser() as chromium:
            for scheme in ("light", "dark"):
                context = chromium.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
                page = context.new_page()
                for name, path in paths.items():
                    page.goto(site + path)
                    page.wait_for_selector("#live:not([hidden])")
                    page.wait_for_function("!document.body.innerText.includes('being read')")
                    shown = page.evaluate(END_OF_PAGE)
                    clip = {"x": 0, "y": 0, "width": WIDTH, "height": min(HEIGHT, max(LEAST, shown + 24))}
                    taken[FOLDER / f"{name}-{scheme}.png"] = page.screenshot(clip=clip)
                context.close()
        shop.app.close()
        for file, picture in taken.items():
            _save(picture, file)
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
