"""pgqueue's tables by `manage.py migrate`: its own migrations run, and its own table says which of them have."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import router

from pgqueue import migrate
from pgqueue.django.backends import our_backends
from pgqueue.django.database import REMEDY, dsn_of, not_postgres
from pgqueue.django.named import SETTING, named_app


def schemas() -> dict[str, set[str]]:
    """Return the schemas that the project has in each of its databases: those of its backends in TASKS, and the one of
    PGQUEUE["database"]. Raises CommandError, which `manage.py` prints as one line, where one is not PostgreSQL."""
    found: dict[str, set[str]] = {}
    for known in our_backends():
        _refuse_others(known.database)
        found.setdefault(known.database, set()).add(known.app.schema)
    given = getattr(settings, SETTING, None) or {}
    if "database" in given:
        _refuse_others(given["database"])
        found.setdefault(given["database"], set()).add(named_app(given["app"], f'{SETTING}["app"]').schema)
    return found


def _refuse_others(alias: str) -> None:
    if problem := not_postgres(alias):
        raise CommandError(f"{problem}: {REMEDY}")


def make_tables(connection: Any) -> None:
    """Make the tables on a connection of Django's, in the transaction of its migration."""
    for schema in schemas().get(connection.alias, ()):
        migrate.upgrade(connection, schema)


def bring_up_to_date(*, using: str, **_: Any) -> None:
    """Run what a newer pgqueue has added, step by step, each in a transaction."""
    if router.allow_migrate(using, "pgqueue"):
        for schema in schemas().get(using, ()):
            migrate.upgrade(dsn_of(using), schema)
