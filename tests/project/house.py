"""The house in numbers: rooms, arrows, circles, sizes, and the files that one job passes.

`python -m tests.project.house [CHECKOUT]` prints them for a checkout, by default this one, so that two states of the
code can be compared. `--no-journey` leaves out the part that runs jobs on an embedded Postgres.
"""

import argparse
import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PACKAGE = "pgqueue"
JOURNEY = Path(__file__).parent / "journey.py"
PARAMETERS = 6
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Definition:
    """A function of the package: where it stands, its length and its number of parameters."""

    place: str
    lines: int
    parameters: int


def graph(checkout: Path, *, typing_only: bool = True) -> grimp.ImportGraph:
    """Return the imports between modules of the checkout's package; `typing_only` counts those for types, too."""
    sys.path.insert(0, str(checkout))
    try:
        return grimp.build_graph(PACKAGE, exclude_type_checking_imports=not typing_only, cache_dir=None)
    finally:
        sys.path.remove(str(checkout))


def rooms(imports: grimp.ImportGraph, container: str = PACKAGE) -> list[str]:
    """Return what stands directly in a package: folders and modules."""
    return sorted(imports.find_children(container) - {f"{container}.__main__"})


def arrows(imports: grimp.ImportGraph, container: str = PACKAGE) -> set[tuple[str, str]]:
    """Return the pairs of rooms of which the first has a module that imports one of the second."""
    found = set()
    for module in imports.modules:
        for imported in imports.find_modules_directly_imported_by(module):
            start, end = _room(module, container), _room(imported, container)
            if start and end and start != end:
                found.add((start, end))
    return found


def _room(module: str, container: str) -> str | None:
    depth = container.count(".") + 2
    inside = module.startswith(f"{container}.") and module != f"{container}.__main__"
    return ".".join(module.split(".")[:depth]) if inside else None


def circles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other."""
    targets: dict[str, set[str]] = {}
    for source, target in edges:
        targets.setdefault(source, set()).add(target)
    reach = {node: _reachable(node, targets) for node in {node for edge in edges for node in edge}}
    found = {frozenset(other for other in reach if other in reach[node] and node in reach[other]) for node in reach}
    return sorted(sorted(group) for group in found if group)


def _reachable(start: str, targets: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = targets.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen


def module_arrows(imports: grimp.ImportGraph) -> set[tuple[str, str]]:
    """Return all pairs of modules of which the first imports the second."""
    return {(one, two) for one in imports.modules for two in imports.find_modules_directly_imported_by(one)}


def sources(checkout: Path) -> Iterator[tuple[str, ast.Module, str]]:
    """Yield the name, the tree and the text of each file of the package."""
    for path in sorted((checkout / PACKAGE).rglob("*.py")):
        text = path.read_text()
        yield str(path.relative_to(checkout)), ast.parse(text), text


def lines_of(text: str) -> int:
    """Count lines that are not blank."""
    return sum(1 for line in text.splitlines() if line.strip())


def definitions(checkout: Path) -> list[Definition]:
    """Return every function with its length: the lines of its body that are not blank, without its docstring."""
    found = []
    for place, tree, text in sources(checkout):
        for name, node in _functions(tree, ""):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            written = text.splitlines()[body[0].lineno - 1 : node.end_lineno] if body else []
            found.append(Definition(f"{place}: {name}", lines_of("\n".join(written)), _parameters(node)))
    return found


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)


def _parameters(node: Function) -> int:
    every = node.args
    names = [one.arg for one in (*every.posonlyargs, *every.args, *every.kwonlyargs)]
    own = bool(names) and names[0] in ("self", "cls")
    return len(names) - own + (every.vararg is not None) + (every.kwarg is not None)


def hidden_imports(checkout: Path) -> list[str]:
    """Return the imports of the package's own modules that stand inside functions."""
    found = []
    for place, tree, _ in sources(checkout):
        for name, function in _functions(tree, ""):
            for node in ast.walk(function):
                own = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE
                own |= isinstance(node, ast.Import) and any(a.name.split(".")[0] == PACKAGE for a in node.names)
                if own:
                    found.append(f"{place}: {name}, line {node.lineno}")
    return sorted(set(found))


def journey(checkout: Path) -> str:
    """Run `journey.py` on the checkout's package, and return what it prints."""
    environ = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, str(JOURNEY)], env=environ, cwd=checkout, capture_output=True, text=True, timeout=300
    )
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


def show(checkout: Path) -> None:
    """Print all numbers but the journey's."""
    every, runtime = graph(checkout), graph(checkout, typing_only=False)
    folders = [room for room in rooms(every) if every.find_children(room)]
    sizes = sorted((lines_of(text), place) for place, _, text in sources(checkout))
    functions = definitions(checkout)
    longest = max(functions, key=lambda one: one.lines)
    wide = sorted((one for one in functions if one.parameters > PARAMETERS), key=lambda one: one.place)
    print(f"files: {len(sizes)}, median {sizes[len(sizes) // 2][0]} lines that are not blank")
    print(f"at the top of pgqueue/: {len(rooms(every))} ({len(folders)} folders)")
    print(f"arrows between them: {len(arrows(every))}; between modules: {len(module_arrows(every))}")
    _list("circles of them", [", ".join(group) for group in circles(arrows(every))])
    _list("circles of modules", [", ".join(group) for group in circles(module_arrows(every))])
    _list("… that are no types only", [", ".join(group) for group in circles(module_arrows(runtime))])
    _list("own imports inside functions", hidden_imports(checkout))
    print(f"longest file: {sizes[-1][1]}, {sizes[-1][0]} lines")
    print(f"functions: {len(functions)}, longest {longest.place}, {longest.lines} lines without its docstring")
    _list(f"functions of more than {PARAMETERS} parameters", [f"{one.place} ({one.parameters})" for one in wide])


def _list(what: str, items: list[str]) -> None:
    print(f"{what}: {len(items)}")
    for item in items:
        print(f"    {item}")


def main() -> None:
    """Print the numbers of one checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkout", type=Path, nargs="?", default=ROOT)
    parser.add_argument("--no-journey", action="store_true", help="leave out what runs jobs")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    show(checkout)
    if not options.no_journey:
        print(journey(checkout), end="")


if __name__ == "__main__":
    main()
