"""Connections and rights."""

from collections.abc import Iterator

from pgqueue.doctor.check import Exam, Needs, finds
from pgqueue.doctor.finding import Finding, Kind, Severity, identifier
from pgqueue.roles.granted import granted

CONNECTIONS_FEW = Kind(
    "connections-nearly-used-up", Severity.WARN,
    "More than 85 % of the connections that the server, or the role, may have are open. A worker without one claims "
    "nothing.", "fewer workers, PgBouncer, or `alter system set max_connections = …;` and a restart",
)  # fmt: skip
SUPERUSER = Kind(
    "role-is-superuser", Severity.WARN,
    "The role of the DSN is a superuser: a task that runs SQL of a stranger may do everything. Of an `embedded:` "
    "server it is no finding: there it is the only role.",
    "`pgqueue migrate --apply-roles`, and in the DSN a login that is a member of one: [roles.md](roles.md)",
)  # fmt: skip
OWNER = Kind(
    "role-is-owner", Severity.INFO,
    "The role of the DSN owns pgqueue's tables: it may drop them. A worker needs that only to make partitions.",
    "`pgqueue migrate --apply-roles`, and in the DSN a login that is a member of one: [roles.md](roles.md)",
)  # fmt: skip
RIGHTS_MISSING = Kind(
    "role-lacks-rights", Severity.ERROR,
    "The role works as a worker, but lacks rights on a table that a worker needs: some migration has made it anew.",
    "`grant … on … to …;`, or `pgqueue migrate --apply-roles` as the owner",
)  # fmt: skip
SHOWN = 6  # names of connections
WORKERS_RIGHTS = {"select": 0, "insert": 1, "update": 2, "delete": 3}  # in the order in which they are written


@finds(CONNECTIONS_FEW, needs=Needs.SERVER)
def connections(exam: Exam) -> Iterator[Finding]:
    """Compare the connections that are open with those that may be."""
    count = exam.ask(exam.queries.doctor.connections())
    named = exam.ask(exam.queries.doctor.own_connections(SHOWN))
    ours = ", ".join(f"{number} {name}" for name, number in named) or "none"
    if count.used > exam.limits.connections * count.most:
        yield CONNECTIONS_FEW.found(
            f"{count.used} of {count.most} connections are open; ours in this database: {ours}",
            f"alter system set max_connections = {2 * count.most};",
        )
    if 0 <= count.most_of_role < count.of_role / exam.limits.connections:
        role = exam.ask(exam.queries.doctor.role()).name
        yield CONNECTIONS_FEW.found(
            f"{count.of_role} of the {count.most_of_role} connections that role {role} may have are open; "
            f"ours in this database: {ours}",
            f"alter role {identifier(role)} connection limit {2 * count.most_of_role};",
        )


@finds(SUPERUSER, OWNER)
def power(exam: Exam) -> Iterator[Finding]:
    """Look whether the role may do more than pgqueue needs."""
    role = exam.ask(exam.queries.doctor.role())
    remedy = "pgqueue migrate --apply-roles; then: create role … login password '…' in role pgqueue_worker;"
    if role.is_superuser:
        if exam.app.database.is_embedded:  # its superuser is the only role that it has, on this machine alone
            return
        yield SUPERUSER.found(f"role {role.name} is a superuser", remedy)
    elif role.owns_tables:
        yield OWNER.found(f"role {role.name} owns tables of schema {exam.schema}", remedy)


@finds(RIGHTS_MISSING)
def rights(exam: Exam) -> Iterator[Finding]:
    """Look whether a role that does a worker's work lacks what else a worker needs. Others need less, and get less."""
    held = exam.ask(exam.queries.doctor.rights())
    if "update" not in held.get("job_live", []) or "insert" not in held.get("activity", []):
        return
    missing: dict[str, list[str]] = {}
    for grant in sorted(granted(), key=lambda grant: (grant.object, WORKERS_RIGHTS.get(grant.privilege, 0))):
        of_table = grant.role == "worker" and grant.kind == "table" and not grant.column
        if of_table and grant.privilege not in held.get(grant.object, []):
            missing.setdefault(grant.object, []).append(grant.privilege)
    for table, privileges in missing.items():
        role, lacking = exam.ask(exam.queries.doctor.role()).name, ", ".join(privileges)
        remedy = f"grant {lacking} on {exam.schema}.{table} to {identifier(role)};"
        yield RIGHTS_MISSING.found(f"role {role} works as a worker, and may not {lacking} in {table}", remedy)


CHECKS = (connections, power, rights)
