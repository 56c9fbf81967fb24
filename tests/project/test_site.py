"""The site: its navigation has every page, its references every public name, and it needs nothing from elsewhere."""

import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgqueue
from tests.edges.dashboard.served import CHROMIUM, browser
from tests.project import cli_page, site, sql_page

REFERENCE = site.DOCS / "reference"
NAMED = [name for page in REFERENCE.glob("api-*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)]


def _entries(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values():
                yield from _entries(inner if isinstance(inner, list) else [inner])


def test_the_navigation_has_every_page_once() -> None:
    names = site.contents()
    nav = list(_entries(tomllib.loads(site.configuration(names))["project"]["nav"]))
    pages = [name for name in names.values() if name.endswith(".md") and name != "decisions/template.md"]
    assert sorted(nav) == sorted(pages), "docs/site/zensical.toml is to name each page"


def test_links_are_those_of_the_site_and_a_link_to_no_page_of_it_is_refused() -> None:
    names = site.contents()
    text = "[a](../CHANGELOG.md) [b](operations.md#logs) [c](https://x.example/y)\n\n```\n[d](nowhere.md)\n```\n"
    assert site.rewritten("docs/tasks.md", text, names) == text.replace("../CHANGELOG.md", "changelog.md")
    assert site.rewritten("README.md", "[a](docs/README.md#decisions)", names) == "[a](pages.md#decisions)"
    with pytest.raises(site.LinkBroken, match=r"docs/tasks.md links to ../tests, which is no page"):
        site.rewritten("docs/tasks.md", "[a](../tests)", names)


def test_links_that_lead_nowhere_and_what_is_loaded_from_elsewhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1><a href="https://x.example">fine</a>')
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here"></a><a href="b.html#there"></a><a href="c.html"></a><a href="#"></a>'
        '<script src="https://x.example/a.js"></script><link rel="stylesheet" href="s.css"><img src="data:,">'
    )
    (tmp_path / "s.css").write_text("@font-face{src:url(https://x.example/f)} a{background:url('data:,')}")
    assert site.faults(tmp_path) == [
        "a.html: b.html#there",
        "a.html: c.html",
        "a.html: https://x.example/a.js",
        "s.css: https://x.example/f",
    ]
    assert site.elsewhere(tmp_path) == ["https://x.example"]


def test_the_command_line_reference_is_that_of_the_commands() -> None:
    assert cli_page.page() == cli_page.PAGE.read_text(), "python -m tests.project.cli_page writes it anew"


def test_the_sql_reference_is_that_of_the_schema(emptied_dsn: str) -> None:
    with psycopg.connect(emptied_dsn) as conn:
        written = sql_page.page(conn)
    assert written == sql_page.PAGE.read_text(), "python -m tests.project.sql_page writes it anew"


def test_every_public_name_is_on_one_page_of_the_api_reference() -> None:
    errors = {name for name, value in vars(pgqueue.errors).items() if inspect.isclass(value)}
    assert len(NAMED) == len(set(NAMED))
    named = {name.removeprefix("pgqueue.") for name in NAMED}
    assert set(pgqueue.__all__) - errors <= named
    assert "errors" in named
    for name in NAMED:
        _found(name)


def _found(name: str) -> object:
    """Return the module, class or function of a dotted name."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute)


def test_each_public_name_has_a_docstring_and_so_has_each_of_its_verbs() -> None:
    silent = []
    for name in NAMED:
        thing = _found(name)
        if not inspect.ismodule(thing):
            silent += _silent(name, thing)
            continue
        silent += [] if thing.__doc__ else [name]
        own = [key for key, value in vars(thing).items() if getattr(value, "__module__", "") == name]
        for key in getattr(thing, "__all__", [key for key in own if not key.startswith("_")]):
            silent += _silent(f"{name}.{key}", getattr(thing, key))
    assert silent == []


def _silent(name: str, thing: object) -> list[str]:
    """Return the name if it has no docstring, and those of the methods and properties that have none."""
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return []
    found = [] if (thing.__doc__ or "").strip() and not _is_made(thing) else [name]
    for key, value in inspect.getmembers_static(thing) if inspect.isclass(thing) else []:
        inner = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        own = inspect.isfunction(inner) and inner.__module__.startswith("pgqueue") and not key.startswith("_")
        if own and not inner.__doc__:
            found.append(f"{name}.{key}")
    return found


def _is_made(thing: object) -> bool:
    """Tell whether the docstring is the one that a dataclass makes of its fields."""
    return inspect.isclass(thing) and (thing.__doc__ or "").startswith(f"{thing.__name__}(")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
@pytest.mark.skipif(find_spec("zensical") is None, reason="the extra `docs` is not installed: pip install -e '.[docs]'")
def test_the_site_opened_from_a_disk_is_searched_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    place = tmp_path / "site"
    site.build(place)
    with browser() as chromium:
        page = chromium.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((place / "index.html").as_uri())
        page.keyboard.press("/")
        page.locator("input[placeholder=Search]").fill("idempotency")
        page.locator("a:visible mark", has_text="idempotency").first.wait_for()
        page.goto((place / "reference" / "api-app.html").as_uri())
        assert page.locator("[id='pgqueue.App.task']").count() == 1
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
