"""What a statement is, how its schema name is put in, and how parameters are packed."""

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
    `{ended_channel}` is the name of the other channel, `{channel} || '.ended'`.
    """

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._rendered: dict[str, bytes] = {}

    def render(self, template: LiteralString) -> bytes:
        """Return a template with its names put in."""
        rendered = self._rendered.get(template)
        if rendered is None:
            names = {"s": sql.Identifier(self._schema), "ended_channel": sql.Identifier(f"{self._schema}.ended")}
            rendered = sql.SQL(template).format(**names, channel=sql.Literal(self._schema)).as_bytes(None)
            self._rendered[template] = rendered
        return rendered


class Statements:
    """A group of statements, each a method that returns a Query."""

    def __init__(self, templates: Templates, codec: Codec | None) -> None:
        self.codec = codec
        self._sql = templates.render

    def _args(self, jobs: Iterable[NewJob]) -> list[str]:
        """Return the arguments of new jobs as they are stored: sealed, if there is a codec."""
        codec = self.codec
        return [job.args for job in jobs] if codec is None else [seal_args(codec, job.task, job.args) for job in jobs]


def nothing(rows: Sequence[Row]) -> None:
    """Read no rows."""


def first_value(rows: Sequence[Row]) -> Any:
    """Read the one value of the one row; None without a row."""
    return rows[0][0] if rows else None


def packed(values: Iterable[object]) -> str:
    """Return a Postgres array literal of numbers, times or uuids; None becomes null.

    psycopg dumps the items of a list one by one in Python. For the batches of the hot path that costs more than the
    statement itself.
    """
    return "{" + ",".join(["null" if value is None else str(value) for value in values]) + "}"


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
