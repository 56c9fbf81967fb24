"""Checking a code base: each Python file below a path is read and parsed, and none is run."""

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

from pgqueue.celery.checking.finding import Finding, Kind, Review
from pgqueue.celery.checking.module import ModuleCheck, is_task
from pgqueue.celery.checking.names import Imports
from pgqueue.errors import ConfigError

LEFT_OUT = {"node_modules", "site-packages", "venv", "env", "build", "dist", "__pycache__"}


def review(path: Path) -> Review:
    """Return what a code base, or one file, has of Celery. Raises ConfigError where there is no Python file."""
    files = list(_files(path))
    if not files:
        raise ConfigError(f"{path}: there is no Python file: give the directory of your code")
    trees: dict[str, ast.Module] = {}
    texts: dict[str, list[str]] = {}
    findings: list[Finding] = []
    for file in files:
        try:
            with tokenize.open(file) as source:
                text = source.read()
            trees[str(file)], texts[str(file)] = ast.parse(text), text.split("\n")
        except (SyntaxError, UnicodeDecodeError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            what = f"it cannot be parsed: {getattr(error, 'msg', error)}"
            findings.append(Finding(str(file), line, Kind.CHANGE, "unreadable", what, "check it by hand"))
    tasks = frozenset(name for tree in trees.values() for name in _tasks(tree))
    for name, tree in trees.items():
        findings += ModuleCheck(name, tree, texts[name], tasks).findings
    return Review(len(files), sorted(set(findings)))


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for each in sorted(path.iterdir()) if path.is_dir() else ():
        if each.is_dir() and not each.name.startswith(".") and each.name not in LEFT_OUT:
            yield from _files(each)
        elif each.suffix == ".py" and each.is_file():
            yield each


def _tasks(tree: ast.Module) -> Iterator[str]:
    imports = Imports()
    imports.visit(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(
            is_task(each, imports) for each in node.decorator_list
        ):
            yield node.name
