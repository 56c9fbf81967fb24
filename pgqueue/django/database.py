"""The databases of a Django project, as pgqueue's own connections reach them."""

import psycopg
from django.db import connections
from psycopg.conninfo import make_conninfo


def dsn_of(alias: str) -> str:
    """Return the connection string of a database of Django's, for the connections of workers."""
    given = connections[alias].settings_dict
    keywords = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    parts = {name: value for name, value in given.get("OPTIONS", {}).items() if name in keywords}
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    parts |= {name: given[key] for name, key in names.items() if given.get(key)}
    return make_conninfo("", **parts)
