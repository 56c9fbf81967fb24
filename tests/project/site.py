"""The pages as a site. `python -m tests.project.site PLACE` builds it, strictly, and follows each link in it.

The pages link to each other as files of the checkout, so that they can be read there. On the site some have other
names (`SITE`), and links are written anew. It needs the extra `docs`; docs/site/zensical.toml is its configuration.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIG = DOCS / "site" / "zensical.toml"
# What the site has from elsewhere than docs/, or by another name.
SITE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "compose.yaml": "compose.yaml",
    "docs/README.md": "pages.md",
    "docs/cookbook/README.md": "cookbook/index.md",
    "docs/site/iframe-worker.js": "assets/iframe-worker.js",
}
LEFT_OUT = "docs/site/"
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


class LinkBroken(Exception):
    """A link of a page leads to no page of the site."""


def contents() -> dict[str, str]:
    """Return the files of the site: where each lies in the checkout, and what it is called on the site."""
    own = (str(path.relative_to(ROOT)) for path in sorted(DOCS.rglob("*")) if path.is_file())
    return {path: path.removeprefix("docs/") for path in own if not path.startswith(LEFT_OUT)} | SITE


def rewritten(path: str, text: str, names: dict[str, str]) -> str:
    """Return the text of a page with links that hold on the site."""

    def link(found: re.Match[str]) -> str:
        target = os.path.relpath(ROOT / Path(path).parent / found[1], ROOT)
        if target not in names:
            raise LinkBroken(f"{path} links to {found[1]}, which is no page of the site: link to one that is")
        return f"]({os.path.relpath(names[target], Path(names[path]).parent)}"

    return _outside_of_fences(text, lambda part: LINK.sub(link, part))


def _outside_of_fences(text: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for fence in FENCED.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


def configuration(names: dict[str, str]) -> str:
    """Return the configuration with each line of the navigation that has a `*` replaced by the pages that fit."""

    def lines(found: re.Match[str]) -> str:
        fit = sorted(
            name for name in names.values() if Path(name).match(found[2]) and name.count("/") == found[2].count("/")
        )
        return "".join(f'{found[1]}"{name}",\n' for name in fit)

    return re.sub(r'^( +)"([^"\n]*\*[^"\n]*)",\n', lines, CONFIG.read_text(), flags=re.MULTILINE)


def stage(place: Path) -> None:
    """Write pages and configuration as the builder reads them."""
    names = contents()
    for path, name in names.items():
        written = place / "pages" / name
        written.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".md"):
            written.write_text(rewritten(path, (ROOT / path).read_text(), names))
        else:
            shutil.copy(ROOT / path, written)
    (place / "zensical.toml").write_text(configuration(names))


class Page(HTMLParser):
    """What a page of the site links to, loads, and can be linked to by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif "src" in given or tag == "link":
            self.loads.add(given.get("src") or given.get("href", ""))


def faults(site: Path) -> list[str]:
    """Return each link that leads nowhere, and each thing that a page loads from elsewhere."""
    pages = {path.resolve(): Page(path.read_text()) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses begin at the root of a server
            continue
        for address in sorted(page.links | page.loads):
            parts = urlsplit(address)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc:
                wrong = address in page.loads and not address.startswith("data:")
            else:
                wrong = not target.is_file() or (
                    target in pages and unquote(parts.fragment) not in pages[target].anchors
                )
            if wrong:
                found.append(f"{path.relative_to(site.resolve())}: {address}")
    for style in site.rglob("*.css"):
        found += [
            f"{style.name}: {url}"
            for url in re.findall(r"url\(\s*['\"]?(?!data:|#)(\w+:[^)]*|//[^)]*)\)", style.read_text())
        ]
    return found


def elsewhere(site: Path) -> list[str]:
    """Return the addresses of other sites that pages link to. Nobody follows them here."""
    links = {link for path in site.rglob("*.html") for link in Page(path.read_text()).links}
    return sorted(link for link in links if urlsplit(link).netloc)


def build(site: Path) -> None:
    """Build the site. A warning ends the process, and so does a fault."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        stage(place)
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict"],
            cwd=place,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        if done.returncode != 0 or re.search("warning|error", said, re.IGNORECASE):
            sys.exit(said)
        found = faults(place / "site")
        if found:
            sys.exit("\n".join(["The site has links that lead nowhere, or loads what is not its own:", *found]))
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(place / "site", site)


if __name__ == "__main__":
    site = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site")
    build(site)
    print(f"{sum(1 for _ in site.rglob('*.html'))} pages in {site}; these addresses were not followed:")
    print("\n".join(elsewhere(site)))
