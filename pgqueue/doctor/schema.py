"""The schema: its version, its parts, its indexes."""

from collections.abc import Iterator

from pgqueue.doctor.check import Exam, Needs, finds
from pgqueue.doctor.description import Description, described
from pgqueue.doctor.finding import Finding, Kind, Severity

SCHEMA_MISSING = Kind(
    "schema-missing", Severity.ERROR, "The database has no schema of pgqueue, or not under this name.",
    "`pgqueue migrate`",
)  # fmt: skip
SCHEMA_BEHIND = Kind(
    "schema-behind", Severity.ERROR, "The schema is older than this release needs.", "`pgqueue migrate`"
)
SCHEMA_AHEAD = Kind(
    "schema-ahead", Severity.WARN, "A newer release has migrated the schema: this one goes on, and is to be replaced.",
    "`pip install --upgrade pgqueue-jobs`",
)  # fmt: skip
SCHEMA_DRIFTED = Kind(
    "schema-drifted", Severity.ERROR,
    "A column, index, constraint or function of the migrations is missing or different: somebody changed it by hand, "
    "or a restore left it out.", "the SQL that makes it anew",
)  # fmt: skip
SCHEMA_HAS_MORE = Kind(
    "schema-has-more", Severity.INFO,
    "pgqueue's tables have columns, indexes or constraints that no migration made: each index costs every job.",
    "the SQL that drops it, if nobody needs it",
)  # fmt: skip
SETTINGS_LOST = Kind(
    "table-settings-lost", Severity.WARN,
    "A table has lost settings of the migrations, such as those that vacuum it in time.", "`alter table … set (…);`",
)  # fmt: skip
INVALID_INDEX = Kind(
    "index-invalid", Severity.ERROR,
    "An index is invalid, because its making failed: it costs every write and serves no read.",
    "`reindex index concurrently …;`",
)  # fmt: skip


@finds(SCHEMA_MISSING, needs=Needs.SERVER)
def installed(exam: Exam) -> Iterator[Finding]:
    """Look whether the schema is there."""
    if not exam.ask(exam.queries.schema.has_version()):
        yield SCHEMA_MISSING.found(f"schema {exam.schema} is not installed in this database", "pgqueue migrate")


@finds(SCHEMA_BEHIND, SCHEMA_AHEAD)
def version(exam: Exam) -> Iterator[Finding]:
    """Compare the version of the schema with this release's."""
    there, here = exam.ask(exam.queries.schema.version()) or "", described().version
    if there < here:
        yield SCHEMA_BEHIND.found(f"schema {exam.schema} has version {there}, this release needs {here}",
                                  "pgqueue migrate")  # fmt: skip
    elif there > here:
        yield SCHEMA_AHEAD.found(f"schema {exam.schema} has version {there}, this release knows {here}",
                                 "pip install --upgrade pgqueue-jobs")  # fmt: skip


@finds(SCHEMA_DRIFTED, SCHEMA_HAS_MORE, SETTINGS_LOST)
def parts(exam: Exam) -> Iterator[Finding]:
    """Compare the parts of the schema with those of the migrations, where both have the same version."""
    exam.ask(exam.queries.doctor.write_plainly())
    found = Description.of(exam.ask(exam.queries.schema.version()) or "", exam.ask(exam.queries.doctor.describe()))
    expected = described()
    if found.version != expected.version:
        return
    yield from _drifted(exam.schema, found, expected)
    yield from _settings(exam.schema, found, expected)
    yield from _more(exam.schema, found, expected)


def _drifted(schema: str, found: Description, expected: Description) -> Iterator[Finding]:
    for kind in ("column", "index", "constraint", "function"):
        there = found.parts.get(kind, {})
        for name, text in expected.parts[kind].items():
            if name not in there:
                yield SCHEMA_DRIFTED.found(f"{kind} {name} is missing", _made_anew(schema, kind, name, text))
            elif there[name] != text:
                what = f"{kind} {name} is {there[name]!r}, and should be {text!r}"
                yield SCHEMA_DRIFTED.found(what, _made_anew(schema, kind, name, text, there=True))


def _made_anew(schema: str, kind: str, name: str, text: str, *, there: bool = False) -> str:
    """Return the SQL that makes a part as the migrations do; `there`: beside one of the same name."""
    table, _, own_name = name.partition(".")
    match kind:
        case "index":
            drop = f"drop index {schema}.{name}; " if there else ""
            return drop + text.replace(" ON ", f" ON {schema}.", 1) + ";"
        case "constraint":
            drop = f"drop constraint {own_name}, " if there else ""
            return f"alter table {schema}.{table} {drop}add constraint {own_name} {text};"
        case "column" if not there:
            return f"alter table {schema}.{table} add column {own_name} {text};"
        case _:
            return f"pgqueue migrate --sql --schema {schema}  # shows how the migrations make it"


def _more(schema: str, found: Description, expected: Description) -> Iterator[Finding]:
    tables = {name.partition(".")[0] for name in expected.parts["column"]}
    for kind in ("column", "index", "constraint"):
        for name in sorted(found.parts.get(kind, {}).keys() - expected.parts[kind].keys()):
            table, _, own_name = name.partition(".")
            of = table if kind != "index" else found.parts[kind][name].partition(" ON ")[2].partition(" ")[0]
            if of not in tables:
                continue  # a table of somebody else's
            gone = {"index": f"drop index concurrently {schema}.{name};"}
            drop = f"alter table {schema}.{table} drop {kind} {own_name};"
            yield SCHEMA_HAS_MORE.found(f"no migration made {kind} {name} of {of}", gone.get(kind, drop))


def _settings(schema: str, found: Description, expected: Description) -> Iterator[Finding]:
    lost: dict[str, list[str]] = {}
    for name, value in expected.parts["setting"].items():
        if name not in found.parts.get("setting", {}):
            table, _, option = name.partition(".")
            lost.setdefault(table, []).append(f"{option} = {value}")
    for table, options in lost.items():
        settings = ", ".join(options)
        what = f"table {table} has lost {len(options)} of its settings: {settings}"
        yield SETTINGS_LOST.found(what, f"alter table {schema}.{table} set ({settings});")


@finds(INVALID_INDEX)
def invalid_indexes(exam: Exam) -> Iterator[Finding]:
    """Look for indexes that no query uses."""
    for index in exam.ask(exam.queries.doctor.invalid_indexes()):
        name = f"{exam.schema}.{index.name}"
        if "_ccnew" in index.name or "_ccold" in index.name:  # what a broken off REINDEX CONCURRENTLY leaves
            remedy = f"drop index concurrently {name};"
        elif index.is_partitioned:
            remedy = f"reindex index {name};  -- each partition needs its part, attached by alter index … attach"
        else:
            remedy = f"reindex index concurrently {name};"
        yield INVALID_INDEX.found(f"index {index.name} of {index.table} is invalid", remedy)


CHECKS = (installed, version, parts, invalid_indexes)
