"""Where a database is: on this machine, or on another one, where it may be in use."""

import ipaddress
from itertools import zip_longest
from typing import NamedTuple

from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo


class Place(NamedTuple):
    """The hosts and the name of a database, as text without a password, and whether it is on this machine."""

    hosts: str
    database: str
    is_here: bool

    def __str__(self) -> str:
        return f"{self.database} on {self.hosts}"


def place_of(dsn: str) -> Place:
    """Return where a DSN leads. What it leaves open, libpq takes from the environment (PGHOST, PGSERVICE, …).

    A service that the DSN itself names may lead anywhere: it counts as another machine.
    """
    parts = {option.keyword.decode(): option.val.decode() for option in Conninfo.get_defaults() if option.val}
    parts |= {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value}
    database = parts.get("dbname") or parts.get("user", "")
    if "service" in conninfo_to_dict(dsn):
        return Place(f"the service {parts['service']}", database, is_here=False)
    hosts, addresses = parts.get("host", "").split(","), parts.get("hostaddr", "").split(",")
    # libpq connects to the address where both are given, and to several in turn.
    targets = [address or host for address, host in zip_longest(addresses, hosts, fillvalue="")]
    return Place(", ".join(target or "this machine" for target in targets), database, all(map(_is_here, targets)))


def _is_here(target: str) -> bool:
    """Whether a target is a socket or a loopback address: no name but `localhost` says so by itself."""
    if target in ("", "localhost") or target.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(target).is_loopback
    except ValueError:
        return False
