"""What the recipes of docs/cookbook call: the code of a reader, and the recipes themselves, read from the pages."""

import csv
import itertools
import re
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pgqueue
from pgqueue import http
from tests.harness import ROOT

PAGES = sorted((ROOT / "docs" / "cookbook").glob("*.md"))
INDEX = (ROOT / "docs" / "cookbook" / "README.md").read_text()


@dataclass(frozen=True)
class Recipe:
    """One recipe: its page, title, prose and code by language."""

    page: str
    title: str
    text: str

    def code(self, language: str) -> list[str]:
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)
        return [block for named, block in fenced if named == language]

    @property
    def prose(self) -> str:
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, Recipe]:
    """Return the recipes of all pages by their titles."""
    found = [
        Recipe(page.name, *section.split("\n", 1))
        for page in PAGES
        if page.name != "README.md"
        for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]
    ]
    return {recipe.title: recipe for recipe in found}


@dataclass
class Outside:
    """Stands for a service, a bucket or a table of the reader's: keeps its calls, answers or fails as it is told."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def fail_once(self, name: str = "send") -> None:
        self.failures.append(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, *args, *options.values()))
            if name in self.failures:
                self.failures.remove(name)
                raise TimeoutError(name)
            return self.answers.get(name)

        return call


SERVICES = (
    "mail", "payments", "search", "crm", "kafka", "bucket", "police", "post", "insurer", "pager", "hotel", "flight",
    "maps", "table", "books", "web", "disk", "parcels", "invoices",
)  # fmt: skip


def kitchen(app: pgqueue.App) -> dict[str, Any]:
    """Return the names that a recipe uses."""
    tools: dict[str, Any] = {
        "pgqueue": pgqueue, "http": http, "timedelta": timedelta, "secrets": secrets, "csv": csv,
        "SHOP_SECRET": http.new_secret(),
        "itertools": itertools, "asynccontextmanager": asynccontextmanager, "ledger": [], "pages": [],
    }  # fmt: skip
    return tools | {"__name__": "shop", "app": app} | {name: Outside() for name in SERVICES}
