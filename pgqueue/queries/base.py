"""What a statement is, and how its schema name is put in."""

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


@dataclass(slots=True)  # frozen, it would take three times as long to make
class Query(Generic[T]):
    """A statement as a value: `db.run` and `db.run_async` execute it alike."""

    sql: bytes
    read: Callable[[Sequence[Row]], T]
    params: Mapping[str, Any] = field(default_factory=dict)


class Templates:
    """Templates of statements, rendered for one schema, each once.

    In a template `{s}` stands for the schema's name and `{channel}` for the literal that names its NOTIFY channel: the
    channel is called like the schema, so that two installations in one database do not wake each other. `{ended}` is
    the name of another channel, `{channel} || '.ended'`.
    """

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._rendered: dict[str, bytes] = {}

    def render(self, template: LiteralString) -> bytes:
        """Return a template with its names put in."""
        rendered = self._rendered.get(template)
        if rendered is None:
            names = {"s": sql.Identifier(self._schema), "ended": sql.Identifier(f"{self._schema}.ended")}
            rendered = sql.SQL(template).format(**names, channel=sql.Literal(self._schema)).as_bytes(None)
            self._rendered[template] = rendered
        return rendered


class Statements:
    """Statements of one kind, each a method that returns a Query."""

    def __init__(self, templates: Templates, codec: Codec | None) -> None:
        self.codec = codec
        self._sql = templates.render

    def _args(self, jobs: Iterable[NewJob]) -> list[str]:
        """The arguments of new jobs as they are stored: sealed, if there is a codec."""
        codec = self.codec
        return [job.args for job in jobs] if codec is None else [seal_args(codec, job.task, job.args) for job in jobs]


def nothing(rows: Sequence[Row]) -> None:
    """Read no rows."""


def first_value(rows: Sequence[Row]) -> Any:
    """Read the one value of the one row; None without a row."""
    return rows[0][0] if rows else None


def packed(values: Iterable[object]) -> str:
    """Return a Postgres array literal of numbers or uuids; None is null.

    psycopg dumps the items of a list one by one in Python; for the batches of the hot path that costs more than the
    statement.
    """
    return "{" + ",".join(["null" if value is None else str(value) for value in values]) + "}"


def start_of(time: datetime | None) -> str:
    """Return a time from which on an index is read; from its left end for None."""
    return "-infinity" if time is None else time.isoformat()


def lines(texts: Iterable[str | None]) -> str:
    """Return texts without a line break, one a line, an empty line for None: for `string_to_array(…, E'\\n', '')`.

    JSON as we write it has no line break, nor has a name that was checked. Needs no quoting on either side.
    """
    return "\n".join([text or "" for text in texts])


def text_array(items: Iterable[str]) -> str:
    """Return a Postgres text[] literal. Arrays of arrays cannot pass through unnest, so each row's is a literal."""
    quoted = ('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
    return "{" + ",".join(quoted) + "}"
