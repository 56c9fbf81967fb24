"""docs/architecture.md: the picture is that of the imports, and what the page names exists."""

import ast
import re

import pytest

from tests.project.architecture_map import PAGE, current, floors
from tests.project.house import PACKAGE, ROOT, sources

TEXT = PAGE.read_text()
PLACES = re.findall(r"`([\w/]+\.py)`(?:\s\(((?:`[\w.]+`(?:,\s)?)+)\))?", TEXT)


def test_the_picture_is_that_of_the_imports() -> None:
    assert current(TEXT) == TEXT, "python -m tests.project.architecture_map draws it anew"


def test_the_table_has_every_room() -> None:
    rooms = {room for floor in floors(PACKAGE) for room in floor}
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, re.MULTILINE)
    assert rooms <= {name for row in rows for name in re.findall(r"\w+", row)}


@pytest.mark.parametrize(("place", "names"), PLACES)
def test_each_file_and_each_name_of_the_page_exists(place: str, names: str) -> None:
    path = ROOT / ("" if place.startswith("tests/") else PACKAGE) / place
    assert path.exists()
    tree = ast.parse(path.read_text())
    for name in re.findall(r"[\w.]+", names):
        body: list[ast.stmt] = tree.body
        for part in name.split("."):
            found = [node for node in body if part in _defined(node)]
            assert found, f"{place}: {name}"
            body = getattr(found[0], "body", [])


def test_each_class_and_method_of_the_page_exists() -> None:
    defined: set[str] = set()
    for _, tree, _ in sources(ROOT):
        for node in tree.body:
            defined |= _defined(node)
            if isinstance(node, ast.ClassDef):
                defined |= {f"{node.name}.{name}" for inner in node.body for name in _defined(inner)}
    named = set(re.findall(r"`([A-Z]\w*[a-z]\w*(?:\.\w+)?)`", TEXT))
    assert len(named) > 40
    assert named - defined == set()


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
