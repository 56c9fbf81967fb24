"""What a migration may not do: rewrite or scan a table under a lock that stops those who write, or break older code.

Each migration after `LAST_FREE` is parsed by Postgres's own grammar (pglast) and checked. What is not known here is
refused, so that a new form is thought about once, and gets its sample in `test_migration_rules.py`.
docs/contributing.md has the list.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import AlterTableType, ConstrType, ObjectType
from pglast.stream import RawStream

LAST_FREE = "0014"  # it landed before there were rules
# Tables of a few rows: a migration may change some, and scan them all.
SMALL = {"worker", "queue", "schedule", "schedule_release", "setting", "operation", "compat", "migration"}
# Functions whose value Postgres computes once and keeps in the catalogue for the rows that are there.
CONSTANT_FUNCTIONS = {"now", "transaction_timestamp", "statement_timestamp", "to_timestamp", "make_interval"}
# Of ALTER TABLE: they change the catalogue alone.
HARMLESS = {
    AlterTableType.AT_ColumnDefault, AlterTableType.AT_DropNotNull, AlterTableType.AT_DropConstraint,
    AlterTableType.AT_SetRelOptions, AlterTableType.AT_ResetRelOptions, AlterTableType.AT_SetStatistics,
    AlterTableType.AT_SetStorage, AlterTableType.AT_SetCompression, AlterTableType.AT_ChangeOwner,
}  # fmt: skip
KEYS = {ConstrType.CONSTR_PRIMARY, ConstrType.CONSTR_UNIQUE, ConstrType.CONSTR_EXCLUSION}
MADE_NEW = (
    ast.ViewStmt, ast.CreateFunctionStmt, ast.AlterFunctionStmt, ast.CreateSeqStmt, ast.CommentStmt, ast.GrantStmt,
)  # fmt: skip
# Migrations that may break a rule once, with the reason: revision, part of the fault, why.
WAIVERS: dict[tuple[str, str], str] = {
    ("0017", "a DO block"): "it revokes and grants functions, whose names it looks up: the catalogue alone",
    ("0033", "a DO block"): "it grants a function to those who had the one that it replaces: the catalogue alone",
    ("0033", "what is dropped"): "the function that replaces it takes all calls of it: more arguments, with defaults",
    ("0036", "changed rows stay locked"): "a row for each bucket; the table is locked already, and only claims wait",
    (
        "0036",
        "a dropped column breaks",
    ): "no release has come out that knows these columns: limits are as new as they are",
}


@dataclass
class Rules:
    """The faults of one migration. `kind` and `concurrently` are what it declares."""

    kind: str = "expand"
    concurrently: Sequence[tuple[str, str, str]] = ()
    made: set[str] = field(default_factory=set)  # tables that this migration has made
    added: set[str] = field(default_factory=set)  # constraints that this migration has added
    validated: set[str] = field(default_factory=set)  # tables of which it has validated a constraint
    faults: list[str] = field(default_factory=list)

    def read(self, statements: Sequence[str]) -> list[str]:
        """Return what is wrong with these statements; nothing if nothing is."""
        for statement in statements:
            for parsed in parse_sql(statement):
                self._statement(parsed.stmt)
        return self.faults

    def _refuse(self, why: str, node: ast.Node) -> None:
        self.faults.append(f"{why}: {RawStream()(node)[:200]}")

    def _contract(self, what: str, node: ast.Node) -> None:
        if self.kind != "contract":
            self._refuse(f"{what} breaks processes of older releases: kind = 'contract', one release later", node)

    def _statement(self, node: Any) -> None:
        match node:
            case ast.CreateStmt():
                parents = {parent.relname for parent in node.inhRelations or ()}
                if not parents <= self.made:
                    self._refuse("a partition locks its table, and scans the default one: upkeep makes them", node)
                self.made.add(node.relation.relname)
            case ast.IndexStmt():
                self._index(node)
            case ast.AlterTableStmt():
                for command in node.cmds:
                    self._alter(node, command)
            case ast.RenameStmt():
                self._contract("a new name", node)
            case ast.DropStmt(removeType=ObjectType.OBJECT_INDEX):
                self._refuse("drop index stops those who write: leave it to a release that does it concurrently", node)
            case ast.DropStmt():
                self._contract("what is dropped", node)
            case ast.UpdateStmt() | ast.DeleteStmt():
                if node.relation.relname not in SMALL | self.made:
                    self._refuse("changed rows stay locked until the commit: let workers do it in batches", node)
            case ast.InsertStmt():
                if node.relation.relname not in SMALL | self.made:
                    self._refuse("rows of a large table are not a migration's", node)
            case ast.DoStmt():
                self._refuse("a DO block hides what it does", node)
            case _ if not isinstance(node, MADE_NEW):
                self._refuse(f"{type(node).__name__} is not known to the rules", node)

    def _index(self, node: Any) -> None:
        table = node.relation.relname
        if node.concurrent:
            self._refuse("create index concurrently fails in a transaction: declare it in `concurrently`", node)
        elif table not in self.made and not (
            node.if_not_exists and (node.idxname, table) in {index[:2] for index in self.concurrently}
        ):
            self._refuse("create index stops those who write: `if not exists`, and declare it in `concurrently`", node)

    def _alter(self, node: Any, command: Any) -> None:
        table, kind = node.relation.relname, command.subtype
        if table in self.made or kind in HARMLESS:
            return
        match kind:
            case AlterTableType.AT_AddColumn:
                self._add_column(node, command.def_)
            case AlterTableType.AT_AddConstraint:
                self._add_constraint(node, command.def_)
            case AlterTableType.AT_ValidateConstraint:
                if command.name in self.added:
                    self._refuse("the scan has the lock of its `add constraint`: migrate validates it afterwards", node)
                self.validated.add(table)
            case AlterTableType.AT_SetNotNull:
                if table not in self.validated:
                    self._refuse("set not null scans the table: validate a check of an earlier migration first", node)
            case AlterTableType.AT_AlterColumnType:
                self._refuse("a new type rewrites the table: add a column, and fill it in batches", node)
            case AlterTableType.AT_DropColumn:
                self._contract("a dropped column", node)
            case _:
                self._refuse(f"{AlterTableType(kind).name} is not known to the rules", node)

    def _add_column(self, node: Any, column: Any) -> None:
        kinds = {constraint.contype: constraint for constraint in column.constraints or ()}
        if column.typeName.names[-1].sval in ("serial", "bigserial", "smallserial") or kinds.keys() & {
            ConstrType.CONSTR_IDENTITY, ConstrType.CONSTR_GENERATED,
        }:  # fmt: skip
            self._refuse("a column that is computed for each row rewrites the table", node)
        default = kinds.get(ConstrType.CONSTR_DEFAULT)
        if default is not None and any(_volatile(part) for part in _nodes(default.raw_expr)):
            self._refuse("a default that differs from row to row rewrites the table", node)
        if ConstrType.CONSTR_NOTNULL in kinds and default is None:
            self._refuse("not null without a default fails where rows are", node)
        if kinds.keys() & (KEYS | {ConstrType.CONSTR_CHECK, ConstrType.CONSTR_FOREIGN}):
            self._refuse("a constraint at a new column scans the table: add it apart, not valid", node)

    def _add_constraint(self, node: Any, constraint: Any) -> None:
        self.added.add(constraint.conname)
        if constraint.contype in KEYS:
            if not constraint.indexname:
                self._refuse("a key builds its index: declare the index in `concurrently`, then `using index`", node)
        elif not constraint.skip_validation and node.relation.relname not in SMALL:
            self._refuse("a constraint scans the table: add it `not valid`, migrate validates it afterwards", node)


def _volatile(node: ast.Node) -> bool:
    return isinstance(node, ast.FuncCall) and node.funcname[-1].sval not in CONSTANT_FUNCTIONS


def _nodes(value: Any) -> Iterator[ast.Node]:
    """Yield a node and all below it."""
    if isinstance(value, ast.Node):
        yield value
        for name in value:
            yield from _nodes(getattr(value, name))
    elif isinstance(value, tuple):
        for one in value:
            yield from _nodes(one)


def load(path: Path) -> ModuleType:
    """Return a migration as a module of its own."""
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def statements_of(module: ModuleType) -> list[str]:
    """Return the statements of a migration, for the schema `pgqueue`."""
    statements: list[str] = []
    context = SimpleNamespace(opts={"pgqueue_schema": '"pgqueue"'})
    vars(module)["op"] = SimpleNamespace(execute=statements.append, get_context=lambda: context)
    module.upgrade()
    return statements


def faults_of(path: Path, *, waive: bool = True) -> list[str]:
    """Return what is wrong with a migration, without what is waived."""
    module = load(path)
    rules = Rules(getattr(module, "kind", "expand"), getattr(module, "concurrently", ()))
    waived = [fault for revision, fault in WAIVERS if waive and revision == module.revision]
    return [fault for fault in rules.read(statements_of(module)) if not any(part in fault for part in waived)]
