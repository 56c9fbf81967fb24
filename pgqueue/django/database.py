"""The databases of a Django project, as pgqueue's own connections reach them."""

import psycopg
from django.db import connections
from psycopg.conninfo import make_conninfo

from pgqueue.errors import ConfigError

E002 = "pgqueue.E002"
REMEDY = 'set its ENGINE to "django.db.backends.postgresql", or name an alias that leads to PostgreSQL'


def not_postgres(alias: str) -> str | None:
    """Return what to say of a database of Django's that is not PostgreSQL, without the remedy; None of one that is."""
    vendor = connections[alias].vendor
    return None if vendor == "postgresql" else f'DATABASES["{alias}"] is {vendor}, and pgqueue needs PostgreSQL'


def dsn_of(alias: str) -> str:
    """Return the connection string of a database of Django's, for the connections of workers.

    Raises ConfigError for one that is not PostgreSQL.
    """
    if problem := not_postgres(alias):
        raise ConfigError(f"{problem}: {REMEDY}")
    given = connections[alias].settings_dict
    keywords = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    parts = {name: value for name, value in given.get("OPTIONS", {}).items() if name in keywords}
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    parts |= {name: given[key] for name, key in names.items() if given.get(key)}
    return make_conninfo("", **parts)
