"""What a statement is, how its schema name is put in, and how parameters are packed."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, LiteralString, TypeVar

from psycopg import sql

from pgqueue.codecs import Codec
from pgqueue.jobs.job import NewJob
from pgqueue.tasks.sealing import seal_args

T = TypeVar("T")
Row = tuple[Any, ...]

# The functions of Postgres that statements call with arguments. `render` qualifies them: a borrowed connection has the
# search_path of its caller, and Postgres prefers a function in `public` that takes exactly the types at hand to a
# variadic or polymorphic one of its own. A call without arguments has no better fit, such as `now()` or `count(*)`.
# `unnest` with several arguments is syntax, as `coalesce` is, and cannot be qualified. Operators are safe because their
# operands are cast until Postgres has one for exactly these types.
# tests/statements/test_strangers.py proves it for every statement.
_FUNCTIONS = (
    "acldefault|aclexplode|age|array_agg|array_append|array_position|array_remove|array_to_string|bool_and|bool_or|"
    "cardinality|ceil|char_length|concat_ws|convert_to|count|current_setting|decode|encode|floor|format|format_type|"
    "generate_series|generate_subscripts|"
    "has_function_privilege|"
    "has_sequence_privilege|has_table_privilege|hashtext|hashtextextended|host|isfinite|json_agg|json_build_array|"
    "jsonb_agg|jsonb_array_elements|jsonb_array_elements_text|jsonb_build_array|jsonb_build_object|jsonb_each|"
    "jsonb_object_agg|jsonb_populate_record|jsonb_populate_recordset|jsonb_strip_nulls|jsonb_to_recordset|jsonb_typeof|"
    "lag|make_interval|max|md5|min|mxid_age|nextval|pg_advisory_xact_lock|pg_advisory_xact_lock_shared|"
    "pg_get_constraintdef|pg_get_expr|"
    "pg_get_function_identity_arguments|pg_get_function_result|pg_get_indexdef|pg_has_role|pg_notify|"
    "pg_relation_size|pg_sleep|pg_try_advisory_xact_lock|power|quote_ident|regexp_match|repeat|replace|set_config|sha256|"
    "split_part|string_agg|substr|string_to_array|sum|to_char|to_date|to_jsonb|to_regclass|to_regnamespace"
)
_UNNEST = re.compile(r"(?<![\w.])unnest\(")
_CALL = re.compile(rf"(?<![\w.])({_FUNCTIONS})\((?!\*)")


@dataclass(slots=True)  # a frozen one takes three times as long to make
class Query(Generic[T]):
    """A statement as a value, which `db.run` and `db.run_async` execute alike."""

    sql: bytes
    read: Callable[[Sequence[Row]], T]
    params: Mapping[str, Any] = field(default_factory=dict)


def fill(template: LiteralString, **parts: LiteralString) -> LiteralString:
    """Return a template with named parts put in: `{cancel_ended}` stands for the part of that name.

    Parts are SQL that several statements have in common. Raises KeyError for a part that the template does not name.
    """
    for name, part in parts.items():
        hole = f"{{{name}}}"
        if hole not in template:
            raise KeyError(name)
        template = template.replace(hole, part)
    return template


class Templates:
    """Templates of statements, rendered for one schema, each once.

    In a template `{s}` stands for the schema's name, and `{channel}` for a literal with the name of its NOTIFY channel.
    The channel has the schema's name, so that two installations in one database do not wake each other.
    `{ended_channel}` and `{locks_channel}` are the names of others, `{channel} || '.ended'` and `{channel} ||
    '.locks'`. Calls of the functions of Postgres are qualified.
    """

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._rendered: dict[str, bytes] = {}

    def render(self, template: LiteralString, **parts: sql.Composable) -> bytes:
        """Return a template with its names put in, and with `parts`: names and literals that Postgres takes no
        parameters for, in statements that are seldom run."""
        rendered = self._rendered.get(template) if not parts else None
        if rendered is None:
            names = {"s": sql.Identifier(self._schema)}
            names |= {f"{name}_channel": sql.Identifier(f"{self._schema}.{name}") for name in ("ended", "locks")}
            channel = sql.Literal(self._schema)
            rendered = sql.SQL(_qualified(template)).format(**names, **parts, channel=channel).as_bytes(None)
            if not parts:
                self._rendered[template] = rendered
        return rendered


def _qualified(template: str) -> Any:
    """Return a template that calls Postgres' own functions by their schema."""
    calls = _CALL.sub(r"pg_catalog.\1(", template)
    return _UNNEST.sub(lambda call: call[0] if _has_comma(calls, call.end()) else f"pg_catalog.{call[0]}", calls)


def _has_comma(text: str, start: int) -> bool:
    """Whether the arguments of a call that begin at `start` are more than one."""
    depth = 0
    for letter in text[start:]:
        if depth == 0 and letter in ",)":
            return letter == ","
        depth += (letter == "(") - (letter == ")")
    return False


class Statements:
    """A group of statements, each a method that returns a Query."""

    def __init__(self, templates: Templates, codec: Codec | None) -> None:
        self.codec = codec
        self._sql = templates.render

    def _args(self, jobs: Iterable[NewJob]) -> list[str]:
        """Return the arguments of new jobs as they are stored: sealed, if there is a codec."""
        codec = self.codec
        return [job.args for job in jobs] if codec is None else [seal_args(codec, job.task, job.args) for job in jobs]


def statement_timeout(seconds: float) -> "Query[None]":
    """Let the server end each further statement of this transaction after so many seconds."""
    text = "select pg_catalog.set_config('statement_timeout', %(timeout)s, true)"
    return Query(text.encode(), nothing, {"timeout": f"{int(1000 * seconds)}ms"})


def does_answer() -> "Query[None]":
    """Ask whether the server answers: no table, no lock, no right is needed. Only a duty that has failed and had
    nothing to do since asks; that a connection is open would not do, for its server may be gone."""
    return Query(b"select", nothing)


def sleep(seconds: float) -> "Query[None]":
    """Let the server wait, and with it whoever runs this, sync or async. Outside of a transaction: it holds no lock."""
    return Query(b"select pg_catalog.pg_sleep(%(seconds)s::float8)", nothing, {"seconds": seconds})


def no_notify() -> "Query[None]":
    """Let no further statement of pgqueue notify in this transaction."""
    return Query(b"select pg_catalog.set_config('pgqueue.notify', 'off', true)", nothing)


def nothing(rows: Sequence[Row]) -> None:
    """Read no rows."""


def first_value(rows: Sequence[Row]) -> Any:
    """Read the one value of the one row; None without a row."""
    return rows[0][0] if rows else None


def packed(values: Iterable[object]) -> str:
    """Return a Postgres array literal of numbers, uuids or booleans, none of them None.

    psycopg dumps the items of a list one by one in Python. For the batches of the hot path that costs more than the
    statement itself.
    """
    return "{" + ",".join(map(str, values)) + "}"


def sparse(values: Iterable[object | None]) -> str:
    """Return numbers, times or uuids, or None, separated by commas: for `string_to_array(…, ',', '')`.

    Not as an array literal: its null is the text 'null' where the setting array_nulls is off. If every value is None,
    the array is empty, and `unnest` fills it up beside a longer one.
    """
    texts = ["" if value is None else str(value) for value in values]
    return ",".join(texts) if any(texts) else ""


def nullable(values: list[T]) -> list[T]:
    """Return a list of which some items may be None, for a parameter `%(…)b`, which psycopg sends in binary.

    A list of nothing but None becomes empty, as in `sparse`: psycopg would send it as an array literal.
    """
    return values if any(value is not None for value in values) else []


def start_of(time: datetime | None) -> str:
    """Return a time from which on an index is read; from its left end for None."""
    return "-infinity" if time is None else time.isoformat()


def lines(texts: Iterable[str | None]) -> str:
    """Return texts without line breaks, one a line, an empty line for None: for `string_to_array(…, E'\\n', '')`.

    The JSON that pgqueue writes and the names that it has checked contain no line break, so neither side must quote.
    """
    return "\n".join([text or "" for text in texts])


def text_array(items: Iterable[str]) -> str:
    """Return a Postgres text[] literal. `unnest` takes arrays of arrays apart, so each row's array is sent as text."""
    quoted = ('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
    return "{" + ",".join(quoted) + "}"
