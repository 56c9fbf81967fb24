"""docs/words.md: one word for one thing, and none of those that it replaces is left in the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "words.md").read_text()
ROWS = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)]
# What `pgqueue.celery` calls as Celery does, so that code for Celery finds it under the name it knows.
OF_CELERY = {"add_periodic_task", "on_after_finalize", "requeue", "revoke"}
REPLACED = sorted({word for row in ROWS if row[-1] not in ("not", "---") for word in re.findall(r"\w+", row[-1])})


def names() -> Iterator[tuple[str, str]]:
    """Yield each name that the package defines, with its file."""
    for path in (ROOT / "pgqueue").rglob("*.py"):
        yield path.parent.name if path.stem == "__init__" else path.stem, str(path)
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    yield name, str(path)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                    yield name, str(path)
                case ast.alias(asname=str(name)):
                    yield name, str(path)


def parts(name: str) -> list[str]:
    """Return the words of a name: `ForkServer` and `fork_server` have the same two."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


@pytest.fixture(scope="module")
def used() -> dict[str, str]:
    """Each word of a name, with a file that has it."""
    own = ((name, path) for name, path in names() if not (name in OF_CELERY and "/pgqueue/celery/" in path))
    return {word: f"{name} in {path}" for name, path in own for word in parts(name)}


def test_each_word_has_one_sentence_and_one_row() -> None:
    words = [row for row in ROWS if row[0] not in ("word", "---")]
    assert len(words) > 50
    assert len({row[0] for row in words}) == len(words)
    for row in words:
        assert row[1].endswith((".", "…")), row
    assert {"nursery", "bury", "diet", "lookout", "rival", "shift"} <= set(REPLACED)


@pytest.mark.parametrize("word", REPLACED)
def test_a_word_that_was_replaced_is_no_part_of_a_name(word: str, used: dict[str, str]) -> None:
    assert word not in used, used[word]


def test_each_class_that_the_page_names_exists() -> None:
    defined = {name for name, _ in names()}
    for row in ROWS:
        for name in re.findall(r"`([A-Z]\w+)(?:\(…\))?`", row[2]):
            if not name.isupper():
                assert name in defined, name
        for place in re.findall(r"`([\w/]+\.py)`", row[2]):
            assert list((ROOT / "pgqueue").rglob(place)), place
