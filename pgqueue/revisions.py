"""Where the migrations lie, and the newest of them: known without alembic, which only those load who migrate."""

from functools import cache
from pathlib import Path

from pgqueue.errors import ConfigError


def directory() -> Path:
    """Where the migrations are: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    for place in (package / "migrations", package.parent / "migrations"):
        if place.is_dir():
            return place
    raise ConfigError(f"pgqueue's migrations are missing beside {package}: install pgqueue again")


@cache
def newest() -> str:
    """Return the newest revision that this package knows, by the names of its files. Raises ConfigError."""
    revisions = sorted(path.name[:4] for path in (directory() / "versions").glob("[0-9]*.py"))
    if not revisions:
        raise ConfigError(f"no migrations in {directory()}: install pgqueue again")
    return revisions[-1]
