"""Roles are printed as a script, or applied to a database: made, given the schema, and granted what the table says."""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pgqueue import db
from pgqueue.errors import InvalidOption
from pgqueue.queries import Queries, Query
from pgqueue.queries.roles import Grant
from pgqueue.roles.granted import ROLES, granted

LONGEST = 63 - 1 - max(map(len, ROLES))  # Postgres cuts off longer names, and then two would be one
HEADER = """\
-- The roles of pgqueue's schema {schema}. Run this in one transaction, for example by psql -1, after each migration.
-- Roles cannot log in: `create role shop_worker login in role {prefix}_worker` makes one that can.

"""


class Applied(NamedTuple):
    """What was changed: the roles that were made, and how many privileges were granted and revoked."""

    prefix: str
    made: list[str]
    granted: int
    revoked: int

    def __str__(self) -> str:
        changes = [f"made {', '.join(self.made)}"] * bool(self.made)
        changes += [f"granted {self.granted} privileges"] * bool(self.granted)
        changes += [f"revoked {self.revoked}"] * bool(self.revoked)
        return f"roles {self.prefix}_*: {'; '.join(changes) or 'nothing to do'}"


def check_prefix(prefix: str) -> str:
    """Return what the names of roles are to begin with, if they can. Raises InvalidOption."""
    if not prefix.isprintable() or not prefix or len(prefix.encode()) > LONGEST or prefix.startswith("pg_"):
        raise InvalidOption(
            f"roles cannot be called {prefix!r}_owner and so on: give a prefix of 1 to {LONGEST} bytes without "
            "control characters that does not begin with pg_"
        )
    return prefix


def script(queries: Queries, schema: str, prefix: str) -> str:
    """Return the SQL that makes the roles and grants what they need, on a schema of the newest version.

    It may be run again: after each migration, and where somebody has granted more.
    """
    roles = queries.roles
    names = _names(check_prefix(prefix))
    statements: list[Query[None]] = [roles.make(name, ROLES[role]) for role, name in names.items()]
    statements += [roles.own(names["owner"]), roles.take_all(list(names.values())[1:])]
    statements += [roles.grant(grants) for grants in _by_object(_wanted(prefix))]
    texts = "".join(statement.sql.decode().strip() + ";\n" for statement in statements)
    return HEADER.format(schema=schema, prefix=prefix) + texts


def apply(conn: db.Connection, queries: Queries, prefix: str, *, make: bool = True) -> Applied:
    """Make the roles that are missing, give them the schema and what they need, and take what is too much.

    Runs in the caller's transaction, and reads the privileges that are there: where nothing is to be changed, nothing
    is written or locked. Privileges of other roles stay as they are; PUBLIC loses what it has. `make=False`: a role
    that is missing stays so.
    """
    roles = queries.roles
    names = _names(check_prefix(prefix))
    existing = db.run(conn, roles.existing(list(names.values())))
    made = [name for name in names.values() if make and name not in existing]
    for role, name in names.items():
        if name in made:
            db.run(conn, roles.make(name, ROLES[role]))
    db.run(conn, roles.own(names["owner"]))
    has = db.run(conn, roles.privileges(list(names.values())[1:]))
    wanted = {grant for grant in _wanted(prefix) if grant.role in existing.union(made)}
    for grants in _by_object(has - wanted):
        db.run(conn, roles.take(grants))
    for grants in _by_object(wanted - has):
        db.run(conn, roles.grant(grants))
    return Applied(prefix, made, len(wanted - has), len(has - wanted))


def reapply(conn: db.Connection, queries: Queries) -> None:
    """Give the roles that were once applied to the schema what it has by now, if there are any."""
    prefix = db.run(conn, queries.roles.find_prefix())
    if prefix is not None:
        apply(conn, queries, prefix, make=False)


def _names(prefix: str) -> dict[str, str]:
    return {role: f"{prefix}_{role}" for role in ROLES}


def _wanted(prefix: str) -> set[Grant]:
    return {grant._replace(role=f"{prefix}_{grant.role}") for grant in granted()}


def _by_object(grants: Iterable[Grant]) -> Iterator[list[Grant]]:
    """Yield the privileges of each role on each object."""
    for _, group in itertools.groupby(sorted(grants), key=lambda grant: grant[:3]):
        yield list(group)
