"""Which functions and operators Postgres takes for those of a statement, and with which types: by its parse tree.

`debug_print_parse` sends the tree of each statement as a notice. It tells what an unqualified name was resolved to, and
which operands were coerced: where one was, a stranger's function or operator that needs no coercion would be preferred.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg

from pgqueue.queries import Query
from tests.harness import Conn

_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"|[{}()\[\]]|(?:\\.|[^\s{}()\[\]\\])+', re.DOTALL
)  # a space or line break in a word is escaped
_CLOSING = {"(": ")", "[": "]"}
_TEXT = 25

# The field of each node that says which function or operator it calls, and that of its result's type.
_CALLED = {
    "OPEXPR": ("opno", "opresulttype"), "SCALARARRAYOPEXPR": ("opno", ""), "DISTINCTEXPR": ("opno", "opresulttype"),
    "NULLIFEXPR": ("opno", "opresulttype"), "FUNCEXPR": ("funcid", "funcresulttype"), "AGGREF": ("aggfnoid", "aggtype"),
    "WINDOWFUNC": ("winfnoid", "wintype"),
}  # fmt: skip
_TYPE = {
    "VAR": "vartype", "CONST": "consttype", "PARAM": "paramtype", "RELABELTYPE": "resulttype",
    "COERCEVIAIO": "resulttype", "ARRAYCOERCEEXPR": "resulttype", "COERCETODOMAIN": "resulttype",
    "CASEEXPR": "casetype", "CASE": "casetype", "COALESCEEXPR": "coalescetype", "COALESCE": "coalescetype",
    "MINMAXEXPR": "minmaxtype", "MINMAX": "minmaxtype", "ARRAYEXPR": "array_typeid", "ARRAY": "array_typeid",
    "FIELDSELECT": "resulttype", "SUBSCRIPTINGREF": "refrestype", "SQLVALUEFUNCTION": "type", "ROWEXPR": "row_typeid",
    "ROW": "row_typeid", "CASETESTEXPR": "typeId", "SETTODEFAULT": "typeId",
} | {name: result for name, (_, result) in _CALLED.items() if result}  # fmt: skip
_BOOLEAN = 16
_EXPR_SUBLINK, _ARRAY_SUBLINK = 4, 6
_IMPLICIT = "2"  # COERCE_IMPLICIT_CAST
_EXPLICIT_CALL = "0"  # COERCE_EXPLICIT_CALL


class Node(NamedTuple):
    """A node of a parse tree."""

    name: str
    fields: dict[str, list[Any]]

    def number(self, field: str) -> int:
        return int(self.fields[field][0])


class Call(NamedTuple):
    """A function or an operator (`is_operator`) of a statement, with the types that its operands may be taken for."""

    name: str
    is_operator: bool
    is_aggregate: bool
    operands: tuple[int, ...]
    result: int
    returns_set: bool


def read_tree(text: str) -> Any:
    """Read what debug_print_parse prints: nodes, lists and words."""
    tokens = _TOKEN.findall(text)
    at = 0

    def step() -> str:
        nonlocal at
        token: str = tokens[at]
        at += 1
        return token

    def read() -> Any:
        token = step()
        if token == "{":
            return node()
        if token not in _CLOSING:
            return token
        items = []
        while tokens[at] != _CLOSING[token]:
            items.append(read())
        step()
        return items

    def node() -> Node:
        name, fields, values = step(), {}, []
        while tokens[at] != "}":
            if tokens[at].startswith(":"):
                values = fields.setdefault(step()[1:], [])
            else:
                values.append(read())
        step()
        return Node(name, fields)

    return read()


def nodes(tree: Any) -> Iterator[Node]:
    """Every node of a tree."""
    if isinstance(tree, Node):
        yield tree
        tree = list(tree.fields.values())
    if isinstance(tree, list):
        for part in tree:
            yield from nodes(part)


def parse_trees(conn: Conn, query: Query[Any]) -> list[Any]:
    """The trees of a statement, and of those that it runs inside, as far as it came. It is rolled back."""
    found: list[Any] = []

    def note(notice: psycopg.errors.Diagnostic) -> None:
        if notice.message_primary == "parse tree:":
            found.append(notice.message_detail)

    conn.add_notice_handler(note)
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("set local client_min_messages = log")
            conn.execute("set local debug_print_parse = on")
            conn.execute("set local debug_pretty_print = off")  # it breaks words where a tree is deep
            found.clear()
            conn.execute(query.sql, query.params or None, prepare=True, binary=True if query.params else None)
    except (psycopg.errors.RaiseException, psycopg.errors.InvalidTransactionTermination):
        pass  # a stranger's function was called, and the tree says so, too; or a block commits
    finally:
        conn.remove_notice_handler(note)
    return [read_tree(text) for text in found]


class Catalog:
    """Names and types of a database."""

    def __init__(self, conn: Conn) -> None:
        self.elements = dict(conn.execute("select oid::int, typelem::int from pg_type").fetchall())
        self.arrays = dict(conn.execute("select oid::int, typarray::int from pg_type").fetchall())
        self.types = dict(conn.execute("select oid::int, format_type(oid, null) from pg_type").fetchall())
        self.operators = dict(conn.execute("select oid::int, oprname from pg_operator").fetchall())
        self.functions = dict(conn.execute("select oid::int, proname from pg_proc").fetchall())

    def calls(self, tree: Any) -> Iterator[Call]:
        """Each function and operator of a statement, with all types that its operands may be taken for.

        A constant or parameter without a cast has no type until the operator is chosen: it may be taken for a text, or
        for what the other operand is.
        """
        for name, oid, operands, node in called(tree):
            result = node.fields.get(_CALLED[node.name][1] if node.name in _CALLED else "") or [_BOOLEAN]
            types = [self.type_of(operand) for operand in operands]
            if node.name == "SCALARARRAYOPEXPR":
                types[1] = self.elements[types[1]]
            choices = [
                {kind, _TEXT, *types} if operand.name in ("CONST", "PARAM") else {kind}
                for kind, operand in zip(types, operands, strict=True)
            ]
            names = self.operators if name == "opno" else self.functions
            for chosen in itertools.product(*choices):
                yield Call(
                    names[oid],
                    name == "opno",
                    name in ("aggfnoid", "winfnoid"),
                    chosen,
                    int(result[0]),
                    node.fields.get("funcretset") == ["true"],
                )

    def type_of(self, node: Node) -> int:
        """The type of an expression."""
        if node.name == "COLLATEEXPR":
            return self.type_of(node.fields["arg"][0])
        if node.name == "SUBLINK" and node.number("subLinkType") in (_EXPR_SUBLINK, _ARRAY_SUBLINK):
            first = node.fields["subselect"][0].fields["targetList"][0][0]
            kind = self.type_of(first.fields["expr"][0])
            return kind if node.number("subLinkType") == _EXPR_SUBLINK else self.arrays[kind]
        return node.number(_TYPE[node.name]) if node.name in _TYPE else _BOOLEAN


def called(tree: Any) -> Iterator[tuple[str, int, list[Node], Node]]:
    """Each call by name: which field names it, what it was resolved to, its operands as they were written."""
    for node in nodes(tree):
        if node.name in _CALLED:
            if node.fields.get("funcformat", [_EXPLICIT_CALL]) != [_EXPLICIT_CALL]:
                continue  # a cast, or syntax: not found by a name
            field = _CALLED[node.name][0]
            given = node.fields["args"][0]
            operands = given if isinstance(given, list) else []
            if node.name == "AGGREF":
                operands = [operand.fields["expr"][0] for operand in operands]
            yield field, node.number(field), [written(operand) for operand in operands], node
        elif node.name in ("ROWCOMPAREEXPR", "ROWCOMPARE"):
            sides = node.fields["largs"][0], node.fields["rargs"][0]
            for oid, left, right in zip(node.fields["opnos"][0][1:], *sides, strict=True):
                yield "opno", int(oid), [written(left), written(right)], node


def written(node: Node) -> Node:
    """An operand as it was before Postgres coerced it."""
    form = node.fields.get("relabelformat") or node.fields.get("coerceformat") or node.fields.get("funcformat")
    if form != [_IMPLICIT] and node.name != "NAMEDARGEXPR":
        return node
    inner = node.fields.get("arg") or node.fields["args"][0]
    return written(inner[0])
