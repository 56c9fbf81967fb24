"""Every statement as Postgres gets it, for schema pgqueue: one file each under `sql/`, named like its query.

After a change of SQL, `python -m tests.statements.snapshots` writes the files anew; the diff shows what changed.
"""

from pathlib import Path

from tests.harness import QUERIES
from tests.statements.test_queries import SAMPLES

FOLDER = Path(__file__).parent / "sql"


def rendered() -> dict[str, str]:
    """Return the text of each file by its name: `jobs.claim.sql`, `jobs.depth.exact.sql`."""
    return {f"{name.replace(' ', '.', 1).replace(' ', '_')}.sql": _text(name) for name in SAMPLES}


def stored() -> dict[str, str]:
    """Return the files that lie there."""
    return {path.name: path.read_text() for path in FOLDER.iterdir()}


def write() -> None:
    """Write all files anew, and delete those of statements that are gone."""
    FOLDER.mkdir(exist_ok=True)
    for stale in stored().keys() - rendered().keys():
        (FOLDER / stale).unlink()
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)


def _text(name: str) -> str:
    return SAMPLES[name](QUERIES).sql.decode().strip("\n") + "\n"


if __name__ == "__main__":
    write()
