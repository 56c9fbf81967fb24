"""Settings and names from outside, checked before anything uses them. The one reader of os.environ."""

import os
import re
from collections.abc import Mapping

from pgqueue.errors import ConfigError, InvalidOption

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}")
_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*(@)|(password\s*=\s*)('[^']*'|\S+)", re.IGNORECASE)


def find_dsn(given: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the DSN: the argument, else PGQUEUE_DSN, else DATABASE_URL.

    A URL in SQLAlchemy's dialect form (`postgresql+psycopg://…`) is accepted and reduced to what libpq reads.
    """
    dsn = given or environ.get("PGQUEUE_DSN") or environ.get("DATABASE_URL")
    if not dsn:
        raise ConfigError(
            "no database named: pass App(dsn=…) or --dsn, or set PGQUEUE_DSN (or DATABASE_URL), "
            "for example postgresql://user@localhost/shop"
        )
    return re.sub(r"^postgres(ql)?\+\w+://", "postgresql://", dsn)


def find_app(given: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the app reference `module:attr`: the argument, else PGQUEUE_APP."""
    return given or environ.get("PGQUEUE_APP")


def check_schema(name: str) -> str:
    """Return `name` if it can be pgqueue's schema: lower case, digits, underscores, at most 48 characters."""
    if not _SCHEMA.fullmatch(name):
        raise ConfigError(
            f"schema name {name!r} cannot be used: it must match {_SCHEMA.pattern} (lower case, no quotes needed)"
        )
    return name


def check_queue(name: object) -> str:
    """Return `name` if it can be a queue: 1 to 100 letters, digits or `_ . : / -`."""
    if not isinstance(name, str) or not _QUEUE.fullmatch(name):
        raise InvalidOption(
            f"queue name {name!r} cannot be used: 1 to 100 letters, digits or _ . : / -, the first a letter, digit or _"
        )
    return name


def redact(dsn: str) -> str:
    """Return the DSN without its password, for messages."""
    return _PASSWORD.sub(lambda m: f"{m[1]}***{m[2]}" if m[1] else f"{m[3]}***", dsn)
