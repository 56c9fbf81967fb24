"""The picture in docs/architecture.md, drawn from the real imports and the contract in pyproject.toml.

`python -m tests.project.architecture_map` writes it between its markers; a test compares.
"""

import tomllib

from tests.project.house import PACKAGE, ROOT, arrows, graph

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- map: made by python -m tests.project.architecture_map -->", "<!-- end of map -->"
STEP = 3


def floors(container: str) -> list[list[str]]:
    """Return the rooms of a container, floor by floor from the top, as the import contract says."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == [container]]
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def draw(container: str) -> str:
    """Draw the rooms of a container: a line hangs from each, and a dot on it is an import of the room in that row."""
    found = {(one.rpartition(".")[2], two.rpartition(".")[2]) for one, two in arrows(graph(ROOT), container)}
    lines: list[str] = []
    above: list[str] = []
    for floor in floors(container):
        lines.append("".join("│".ljust(STEP) for _ in above).rstrip())
        for room in floor:
            lines.append(_row(room, above, found))
            above.append(room)
    return "\n".join(lines[1:])


def _row(room: str, above: list[str], found: set[tuple[str, str]]) -> str:
    users = [(other, room) in found for other in above]
    row = ""
    for at, uses in enumerate(users):
        inside = any(users[: at + 1])
        row += ("●" if uses else "┼" if inside else "│") + ("─" if inside else " ") * (STEP - 1)
    return f"{row[:-1]} {room}" if users else room


def picture() -> str:
    """Return what stands between the markers."""
    pictures = [f"```text\n{draw(container)}\n```" for container in (PACKAGE, f"{PACKAGE}.worker")]
    return "\n\nInside `worker`:\n\n".join(pictures)


def current(page: str) -> str:
    """Return the page with the picture of today."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{picture()}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text()))
