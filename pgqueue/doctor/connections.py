"""Connections and rights."""

from collections.abc import Iterator

from pgqueue.doctor.check import Exam, Needs, finds
from pgqueue.doctor.finding import Finding, Kind, Severity

CONNECTIONS_FEW = Kind(
    "connections-nearly-used-up", Severity.WARN,
    "More than 85 % of the connections that the server, or the role, may have are open. A worker without one claims "
    "nothing.", "fewer workers, PgBouncer, or `alter system set max_connections = …;` and a restart",
)  # fmt: skip
SUPERUSER = Kind(
    "role-is-superuser", Severity.WARN,
    "The role of the DSN is a superuser: a task that runs SQL of a stranger may do everything.",
    "a role of its own: [operations.md](operations.md#least-privilege)",
)  # fmt: skip
OWNER = Kind(
    "role-is-owner", Severity.INFO,
    "The role of the DSN owns pgqueue's tables: it may drop them. A worker needs that only to make partitions.",
    "a role of its own: [operations.md](operations.md#least-privilege)",
)  # fmt: skip
RIGHTS_MISSING = Kind(
    "role-lacks-rights", Severity.ERROR,
    "The role may change jobs, as a worker, but lacks rights on other tables: some migration made them anew.",
    "`grant … on … to …;`",
)  # fmt: skip
SHOWN = 6  # names of connections
WORKERS_RIGHTS = ("select", "insert", "update", "delete")


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
            f"alter role {role} connection limit {2 * count.most_of_role};",
        )


@finds(SUPERUSER, OWNER)
def power(exam: Exam) -> Iterator[Finding]:
    """Look whether the role may do more than pgqueue needs."""
    role = exam.ask(exam.queries.doctor.role())
    remedy = "create role worker login;  -- and the grants of docs/operations.md, Least privilege"
    if role.is_superuser:
        yield SUPERUSER.found(f"role {role.name} is a superuser", remedy)
    elif role.owns_tables:
        yield OWNER.found(f"role {role.name} owns tables of schema {exam.schema}", remedy)


@finds(RIGHTS_MISSING)
def rights(exam: Exam) -> Iterator[Finding]:
    """Look whether a role that may change jobs lacks what else a worker needs. Other roles need less, and get less."""
    held = exam.ask(exam.queries.doctor.rights())
    if "update" not in held.get("job_live", []):
        return
    for table, granted in held.items():
        missing = [right for right in WORKERS_RIGHTS if right not in granted]
        if missing and table != "migration":
            role, lacking = exam.ask(exam.queries.doctor.role()).name, ", ".join(missing)
            remedy = f"grant {lacking} on {exam.schema}.{table} to {role};"
            yield RIGHTS_MISSING.found(f"role {role} may change jobs, and may not {lacking} in table {table}", remedy)


CHECKS = (connections, power, rights)
