"""Settings and names from outside, checked before they are used. Only this module reads os.environ."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import parse_qs
from uuid import UUID

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from pgqueue.errors import ConfigError, InvalidOption

WORKER_ID, DEATHS = "PGQUEUE_WORKER_ID", "PGQUEUE_DEATHS"  # a supervisor sets them for the processes that it starts
WEB_TOKEN = "PGQUEUE_WEB_TOKEN"  # noqa: S105 - a name; `pgqueue dev` sets it for the process of its dashboard
EMBEDDED_WORKER = "PGQUEUE_EMBEDDED_WORKER"  # 0 turns workers and schedulers inside other processes off
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}")


def release() -> str:
    """Return the version of pgqueue; "unknown" where it is used from a checkout without being installed."""
    try:
        return version("pgqueue-jobs")  # on the package index `pgqueue` is another project
    except PackageNotFoundError:
        return "unknown"


def app_release(given: str | None) -> str | None:
    """Return which release of the user's app runs: the argument, else PGQUEUE_RELEASE; None if neither says it."""
    named = given or os.environ.get("PGQUEUE_RELEASE")
    return check_name("release", named) if named else None


def find_dsn(given: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the DSN: the argument, else PGQUEUE_DSN, else DATABASE_URL.

    A URL in SQLAlchemy's dialect form (`postgresql+psycopg://…`) is accepted and reduced to what libpq reads.
    """
    dsn = named_dsn(given, environ)
    if not dsn:
        raise ConfigError(
            "no database configured: pass App(dsn=…) or --dsn, or set PGQUEUE_DSN (or DATABASE_URL), "
            "for example to postgresql://user@localhost/shop. Where `pgqueue dev` started a Postgres, set what it has "
            "printed, PGQUEUE_DSN=embedded:…"
        )
    if dsn.startswith("embedded:"):
        return dsn
    return _check_dsn(re.sub(r"^postgres(ql)?\+\w+://", "postgresql://", dsn))


def named_dsn(given: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the DSN as it was given: the argument, else PGQUEUE_DSN, else DATABASE_URL; None without any."""
    return given or environ.get("PGQUEUE_DSN") or environ.get("DATABASE_URL") or None


def find_app(given: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the app reference `module:attr`: the argument, else PGQUEUE_APP."""
    return given or environ.get("PGQUEUE_APP")


def runs_embedded(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether workers and schedulers run inside servers: unless the environment says 0. Raises InvalidOption."""
    value = environ.get(EMBEDDED_WORKER, "1")
    if value not in ("0", "1"):
        raise InvalidOption(
            f"{EMBEDDED_WORKER}={value!r:.60} cannot be used: give 0 for no worker inside a server, or 1"
        )
    return value == "1"


def web_password(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the password of `pgqueue web`: PGQUEUE_WEB_PASSWORD."""
    return environ.get("PGQUEUE_WEB_PASSWORD") or None


def take_web_token() -> str | None:
    """Return what lets browsers into the dashboard of `pgqueue dev`, once: the app's code does not find it."""
    return os.environ.pop(WEB_TOKEN, None)


def take_worker_id() -> UUID | None:
    """Return the worker id that this process's supervisor chose, once: the supervisor reports the end of this process
    under that id."""
    given = os.environ.pop(WORKER_ID, None)
    return UUID(given) if given else None


def take_deaths() -> dict[UUID, str]:
    """Return how earlier processes of this supervisor ended, by worker id; once."""
    return {UUID(worker): how for worker, how in json.loads(os.environ.pop(DEATHS, "{}")).items()}


def check_schema(name: str) -> str:
    """Return `name` if it can be pgqueue's schema: lower case, digits, underscores, at most 48 characters."""
    if not isinstance(name, str) or not _SCHEMA.fullmatch(name) or name.startswith("pg_"):
        raise ConfigError(
            f"schema name {name!r} cannot be used: it must match {_SCHEMA.pattern} (lower case, no quotes needed) and "
            "not begin with pg_"
        )
    return name


def check_chosen_schema(name: str) -> str:
    """Return `name` if it can name a schema, or is a pattern: each `*` stands for any characters."""
    if isinstance(name, str) and "*" in name:
        if not _SCHEMA.fullmatch(name.replace("*", "_")):
            raise ConfigError(
                f"schema pattern {name!r:.100} cannot be used: give lower case letters, digits, _ and * for any of them"
            )
        return name
    return check_schema(name)


def check_queue(name: object) -> str:
    """Return `name` if it can be a queue: 1 to 100 letters, digits or `_ . : / -`."""
    if not isinstance(name, str) or not _QUEUE.fullmatch(name):
        raise InvalidOption(
            f"queue name {name!r:.120} cannot be used: give 1 to 100 letters, digits or _ . : / -, "
            "the first a letter, digit or _"
        )
    return name


def check_served_queue(name: object) -> str:
    """Return `name` if a worker can serve it: a queue, or a pattern in which each `*` stands for any characters."""
    if isinstance(name, str) and "*" in name:
        if not _QUEUE.fullmatch(name.replace("*", "_")):
            raise InvalidOption(
                f"queue pattern {name!r:.120} cannot be used: give 1 to 100 letters, digits or _ . : / -, "
                "and * for any of them"
            )
        return name
    return check_queue(name)


def check_name(what: str, name: object) -> str:
    """Return `name` if it can name a task or schedule: 1 to 200 printable characters."""
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidOption(f"{what} name {name!r:.300} cannot be used: give 1 to 200 printable characters")
    return name


def describe_dsn(dsn: str) -> str:
    """Return the host, port, user and database of a DSN, for messages: never its password, nor a part of it."""
    parts = conninfo_to_dict(dsn)
    shown = {name: parts[name] for name in ("host", "hostaddr", "port", "user", "dbname") if parts.get(name)}
    return " ".join(f"{name}={value}" for name, value in shown.items()) or "the local default"


# Parameters of other drivers that DATABASE_URL may carry, and what says the same here.
_FOREIGN = {
    "pgbouncer": "App(pgbouncer=True)",
    "schema": 'App(schema="…") for the schema of pgqueue, or options=-csearch_path%3D… for yours',
    "ssl": "sslmode=require, or another mode of libpq",
    "ssl_mode": "sslmode=…",
    "sslcert_mode": "sslcertmode=…",
    "connection_limit": "nothing: pgqueue's pools are small",
    "pool_timeout": "nothing: pgqueue's pools are small",
    "timeout": "connect_timeout=…",
    "command_timeout": "options=-cstatement_timeout%3D…",
}


@lru_cache(maxsize=8)
def _check_dsn(dsn: str) -> str:
    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError:
        given = dsn.rpartition("?")[2] if "://" in dsn and "?" in dsn else ""
        for name in parse_qs(given, keep_blank_values=True):
            if name not in _known_parameters() and "@" not in given:  # with an @, it may be part of a password
                instead = _FOREIGN.get(name, "one of libpq's parameters, or leave it out")
                raise ConfigError(f"libpq does not know the DSN's parameter {name!r}: use {instead}") from None
        parts = {"port": "unreadable"}
    # Of several hosts each may have a port; an empty one is the default.
    if not all(port.isdigit() for port in str(parts.get("port") or "").split(",") if port):
        raise ConfigError(
            "the DSN cannot be read (it is not shown here, for it may hold a password): "
            "give postgresql://user:password@host:port/database, with special characters as %XX, or key=value pairs"
        )
    if "@" in str(parts.get("host")):
        raise ConfigError("the DSN's host has an @ in it: write an @ in the password as %40")
    return dsn


def _known_parameters() -> set[str]:
    return {option.keyword.decode() for option in Conninfo.get_defaults()}


@dataclass(frozen=True, slots=True)
class NotifySocket:
    """Where systemd listens. `watchdog`: in how many seconds it expects a sign of life, None for never."""

    address: str
    watchdog: float | None


def take_notify_socket() -> NotifySocket | None:
    """Return the socket of systemd where that has started this process with `Type=notify`, None without one.

    Takes it out of the environment: child processes speak for nobody.
    """
    address = os.environ.pop("NOTIFY_SOCKET", "")
    micros, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not address.startswith(("/", "@")):
        return None
    mine = micros.isdecimal() and pid in ("", str(os.getpid()))
    return NotifySocket(address.replace("@", "\0", 1), int(micros) / 1e6 if mine else None)
