"""The call of a job as the command line, SQL and Python have it, to be copied."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from pgqueue.doctor.finding import identifier


class Copies(NamedTuple):
    """One call in three languages."""

    cli: str
    sql: str
    python: str


def enqueueing(schema: str, task: str, args: Mapping[str, Any], queue: str | None) -> Copies:
    """Return how to enqueue a job like this one."""
    text = json.dumps(args, ensure_ascii=False)
    option = f" --queue {shlex.quote(queue)}" if queue else ""
    sql_queue = f", queue => {_literal(queue)}" if queue else ""
    python = f"app.using(queue={queue!r})" if queue else "app"
    return Copies(
        f"pgqueue enqueue {shlex.quote(task)} {shlex.quote(text)}{option}",
        f"select {identifier(schema)}.enqueue({_literal(task)}, {_literal(text)}{sql_queue});",
        f"{python}.enqueue({task!r}, {dict(args)!r})",
    )


def _literal(text: str) -> str:
    """Return a text as SQL has it, whatever `standard_conforming_strings` says."""
    quoted = text.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in text else f"'{quoted}'"
