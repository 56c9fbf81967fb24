"""Who keeps VACUUM from removing dead rows: the four sources of the oldest transaction that counts as running.

VACUUM removes no row that somebody may still read. Of this database count the transactions of its connections and its
prepared ones; of the whole server, replication slots and the feedback of standbys.
"""

from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements

# List the connections of this database whose transaction is older than `seconds` and keeps rows, oldest first. A
# transaction that has written keeps them by its own id, also without a snapshot. What hides from the role has no
# xact_start: HIDDEN_CONNECTIONS counts it.
OLD_TRANSACTIONS: LiteralString = """
select a.pid, a.usename::text, a.application_name::text, a.state, a.xact_start,
       greatest(age(a.backend_xmin), age(a.backend_xid))
from pg_catalog.pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type <> 'autovacuum worker'
and (a.backend_xmin is not null or a.backend_xid is not null)
and a.xact_start < clock_timestamp() - make_interval(secs => %(seconds)s::float8)
order by a.xact_start limit 20"""

# Count the connections of this database of which the role may not see what they do.
HIDDEN_CONNECTIONS: LiteralString = """
select count(*) from pg_catalog.pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type is null"""

# List the prepared transactions of this database that are older than `seconds`, oldest first. No session holds them:
# they outlive a restart.
OLD_PREPARED: LiteralString = """
select p.gid, p.owner::text, p.prepared, age(p.transaction) from pg_catalog.pg_prepared_xacts p
where p.database = current_database()
and p.prepared < clock_timestamp() - make_interval(secs => %(seconds)s::float8)
order by p.prepared limit 20"""

# List the replication slots that keep the rows of more than `xids` transactions. A slot says no time.
OLD_SLOTS: LiteralString = """
select s.slot_name::text, s.active_pid, greatest(age(s.xmin), age(s.catalog_xmin)), s.xmin is null
from pg_catalog.pg_replication_slots s
where greatest(age(s.xmin), age(s.catalog_xmin)) > %(xids)s::int
order by greatest(age(s.xmin), age(s.catalog_xmin)) desc limit 20"""

# List the standbys whose feedback keeps the rows of more than `xids` transactions. Of a standby that uses a slot the
# slot says so.
OLD_STANDBYS: LiteralString = """
select r.pid, r.usename::text, r.application_name::text, coalesce(host(r.client_addr), 'a local socket'),
       age(r.backend_xmin)
from pg_catalog.pg_stat_replication r
where age(r.backend_xmin) > %(xids)s::int
order by age(r.backend_xmin) desc limit 20"""


class OldTransaction(NamedTuple):
    """A connection whose transaction keeps rows; `xids`: of how many transactions since."""

    pid: int
    role: str
    application: str
    state: str
    since: datetime
    xids: int


class OldPrepared(NamedTuple):
    """A prepared transaction that keeps rows."""

    name: str
    owner: str
    since: datetime
    xids: int


class OldSlot(NamedTuple):
    """A replication slot that keeps rows; `of_catalog`: only those of the catalogue."""

    name: str
    pid: int | None
    xids: int
    of_catalog: bool


class OldStandby(NamedTuple):
    """A standby whose feedback keeps rows."""

    pid: int
    role: str
    application: str
    address: str
    xids: int


class SnapshotQueries(Statements):
    """Who keeps VACUUM from removing dead rows."""

    def old_transactions(self, seconds: float) -> Query[list[OldTransaction]]:
        """List the connections whose transaction is older than so many seconds and keeps rows."""
        return Query(
            self._sql(OLD_TRANSACTIONS), lambda rows: [OldTransaction(*row) for row in rows], {"seconds": seconds}
        )

    def hidden_connections(self) -> Query[int]:
        """Count the connections of which the role may not see what they do."""
        return Query(self._sql(HIDDEN_CONNECTIONS), lambda rows: int(rows[0][0]))

    def old_prepared(self, seconds: float) -> Query[list[OldPrepared]]:
        """List the prepared transactions that are older than so many seconds."""
        return Query(self._sql(OLD_PREPARED), lambda rows: [OldPrepared(*row) for row in rows], {"seconds": seconds})

    def old_slots(self, xids: int) -> Query[list[OldSlot]]:
        """List the replication slots that keep the rows of more than so many transactions."""
        return Query(self._sql(OLD_SLOTS), lambda rows: [OldSlot(*row) for row in rows], {"xids": xids})

    def old_standbys(self, xids: int) -> Query[list[OldStandby]]:
        """List the standbys whose feedback keeps the rows of more than so many transactions."""
        return Query(self._sql(OLD_STANDBYS), lambda rows: [OldStandby(*row) for row in rows], {"xids": xids})
