"""Dead rows: who keeps them, how many there are, and what they have made of the indexes."""

from collections.abc import Iterator
from datetime import timedelta

from pgqueue.doctor.check import CANNOT_SEE, Exam, finds
from pgqueue.doctor.finding import Finding, Kind, Severity

OLD_TRANSACTION = Kind(
    "snapshot-of-connection", Severity.WARN,
    "The transaction of a connection is older than ten minutes: VACUUM removes no row that it may still read.",
    "`select pg_terminate_backend(…);`",
)  # fmt: skip
OLD_PREPARED = Kind(
    "snapshot-of-prepared-transaction", Severity.WARN,
    "A prepared transaction is older than ten minutes. It keeps dead rows and locks, also over a restart.",
    "`rollback prepared '…';` or `commit prepared '…';`",
)  # fmt: skip
OLD_SLOT = Kind(
    "snapshot-of-replication-slot", Severity.WARN,
    "A replication slot keeps the dead rows of more than 500,000 transactions.",
    "`select pg_drop_replication_slot('…');`, or end the long query on its standby",
)  # fmt: skip
OLD_STANDBY = Kind(
    "snapshot-of-standby", Severity.WARN,
    "The feedback of a standby keeps the dead rows of more than 500,000 transactions.",
    "end the long query on the standby, or `select pg_terminate_backend(…);`",
)  # fmt: skip
DEAD_ROWS = Kind(
    "dead-rows", Severity.WARN,
    "A table has many dead rows, more than a fifth, and VACUUM has not removed them: every scan steps over them.",
    "`vacuum (analyze) …;`, after the snapshot that keeps them is gone",
)  # fmt: skip
AUTOVACUUM_OFF = Kind(
    "autovacuum-off", Severity.ERROR,
    "Nothing removes dead rows: autovacuum is off for the server or for a table of pgqueue.",
    "`alter system set autovacuum = on;` or `alter table … reset (autovacuum_enabled);`",
)  # fmt: skip
BLOATED_INDEX = Kind(
    "index-bloated", Severity.WARN,
    "An index of `job_live` is beyond 64 MB and four times as large as one that were built now.",
    "`reindex index concurrently …;`",
)  # fmt: skip
LONGEST_ON_STANDBY = (
    "select pid, usename, application_name, xact_start from pg_stat_activity "
    "order by xact_start limit 5;  -- on the standby"
)


@finds(OLD_TRANSACTION)
def transactions(exam: Exam) -> Iterator[Finding]:
    """Look for connections whose transaction keeps dead rows."""
    queries = exam.queries.doctor
    for old in exam.ask(queries.old_transactions(exam.limits.transaction_seconds)):
        yield OLD_TRANSACTION.found(
            f"connection {old.pid} of role {old.role}, application {old.application!r}, {old.state}: "
            f"its transaction keeps the dead rows of {old.xids} transactions",
            f"select pg_terminate_backend({old.pid});",
            old.since,
        )
    if hidden := exam.ask(queries.hidden_connections()):
        role = exam.ask(queries.role()).name
        yield CANNOT_SEE.found(
            f"role {role} cannot see the transactions of {hidden} connections: any of them may keep dead rows",
            f"grant pg_read_all_stats to {role};",
        )


@finds(OLD_PREPARED)
def prepared_transactions(exam: Exam) -> Iterator[Finding]:
    """Look for prepared transactions that nobody ends."""
    for old in exam.ask(exam.queries.doctor.old_prepared(exam.limits.transaction_seconds)):
        yield OLD_PREPARED.found(
            f"prepared transaction {old.name!r} of role {old.owner} keeps the dead rows of {old.xids} transactions",
            "rollback prepared '{}';".format(old.name.replace("'", "''")),
            old.since,
        )


@finds(OLD_SLOT)
def slots(exam: Exam) -> Iterator[Finding]:
    """Look for replication slots that keep dead rows."""
    for old in exam.ask(exam.queries.doctor.old_slots(exam.limits.kept_xids)):
        user = f"connection {old.pid} uses" if old.pid else "nobody uses"
        rows = "dead rows of the catalogue" if old.of_catalog else "dead rows"
        drop = f"select pg_drop_replication_slot('{old.name}');"
        yield OLD_SLOT.found(
            f"replication slot {old.name}, which {user}, keeps the {rows} of {old.xids} transactions",
            LONGEST_ON_STANDBY if old.pid and not old.of_catalog else drop,
        )


@finds(OLD_STANDBY)
def standbys(exam: Exam) -> Iterator[Finding]:
    """Look for standbys whose feedback keeps dead rows."""
    queries = exam.queries.doctor
    for old in exam.ask(queries.old_standbys(exam.limits.kept_xids)):
        yield OLD_STANDBY.found(
            f"standby {old.application!r} at {old.address}, connection {old.pid} of role {old.role}: its feedback "
            f"keeps the dead rows of {old.xids} transactions",
            LONGEST_ON_STANDBY,
        )
    role = exam.ask(queries.role())
    if not role.sees_all:
        what = f"role {role.name} cannot see whether the feedback of a standby keeps dead rows"
        yield CANNOT_SEE.found(what, f"grant pg_read_all_stats to {role.name};")


@finds(DEAD_ROWS)
def dead_rows(exam: Exam) -> Iterator[Finding]:
    """Look for tables with many dead rows that VACUUM leaves."""
    limits, now = exam.limits, exam.ask(exam.queries.doctor.clock())
    for table in exam.ask(exam.queries.doctor.dead_rows(limits.dead_rows)):
        share = table.dead / (table.live + table.dead)
        long_ago = table.vacuumed_at is None or now - table.vacuumed_at > timedelta(seconds=limits.vacuum_seconds)
        if share > limits.dead_share and (long_ago or table.dead > limits.most_dead_rows):
            last = f"last vacuumed at {table.vacuumed_at:%Y-%m-%d %H:%M:%SZ}" if table.vacuumed_at else "never vacuumed"
            what = f"table {table.table} has {table.dead} dead rows, {share:.0%} of its rows; {last}"
            yield DEAD_ROWS.found(what, f"vacuum (analyze) {exam.schema}.{table.table};")


@finds(AUTOVACUUM_OFF)
def autovacuum(exam: Exam) -> Iterator[Finding]:
    """Look whether anything removes dead rows."""
    settings = exam.ask(exam.queries.doctor.durability())
    for name in ("autovacuum", "track_counts"):
        if getattr(settings, name) == "off":
            remedy = f"alter system set {name} = on; select pg_reload_conf();"
            yield AUTOVACUUM_OFF.found(f"{name} is off: nothing removes dead rows", remedy)
    for table in exam.ask(exam.queries.doctor.no_autovacuum()):
        remedy = f"alter table {exam.schema}.{table} reset (autovacuum_enabled);"
        yield AUTOVACUUM_OFF.found(f"table {table} has autovacuum_enabled = off: nothing removes its dead rows", remedy)


@finds(BLOATED_INDEX)
def bloated_indexes(exam: Exam) -> Iterator[Finding]:
    """Look for indexes of job_live that are far larger than they need be."""
    for index in exam.ask(exam.queries.doctor.index_sizes()):
        if index.size > max(exam.limits.index_bytes, exam.limits.index_bloat * index.estimated):
            what = (
                f"index {index.name} has {index.size / 1024 / 1024:.0f} MB, and would have about "
                f"{index.estimated / 1024 / 1024:.0f} MB if it were built now"
            )
            yield BLOATED_INDEX.found(what, f"reindex index concurrently {exam.schema}.{index.name};")


CHECKS = (
    transactions, prepared_transactions, slots, standbys, dead_rows, autovacuum, bloated_indexes,
)  # fmt: skip
