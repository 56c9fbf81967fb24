"""The table of docs/roles.md, from the table in the code. `python -m tests.project.roles_page` writes it anew."""

from pathlib import Path

from pgqueue.roles import ROLES, Grant, granted

PAGE = Path(__file__).parents[2] / "docs" / "roles.md"
BEGIN, END = "<!-- roles: made by python -m tests.project.roles_page -->", "<!-- end of roles -->"
ORDER = ("usage", "execute", "select", "insert", "update", "delete")


def table() -> str:
    """Return a list of what each role may do."""
    lines = ["| role | for | on | may |", "|---|---|---|---|"]
    for role, meaning in ROLES.items():
        own = [grant for grant in granted() if grant.role == role and grant.kind != "schema"]
        first = f"| `{role}` | {meaning} |"
        by_right: dict[str, list[str]] = {}
        for kind, thing in sorted({(grant.kind, grant.object) for grant in own}, key=lambda pair: pair[1]):
            rights = ", ".join(_rights([grant for grant in own if (grant.kind, grant.object) == (kind, thing)]))
            by_right.setdefault(rights, []).append(f"`{thing}{'()' if kind == 'function' else ''}`")
        for rights, things in by_right.items():
            lines.append(f"{first} {', '.join(things)} | {rights} |")
            first = "| | |"
        if not own:
            lines.append(f"{first} the schema and all in it | all |")
    return "\n".join(lines)


def _rights(grants: list[Grant]) -> list[str]:
    rights = []
    for verb in ORDER:
        columns = sorted(grant.column for grant in grants if grant.privilege == verb)
        if columns:
            rights.append(verb + (f" ({', '.join(columns)})" if any(columns) else ""))
    return rights


def current(page: str) -> str:
    """Return the page with the table of today."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text()))
