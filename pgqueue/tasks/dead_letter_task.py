"""Dead-letter tasks: a job of theirs is enqueued in the transaction that writes a dead letter of another task."""

import inspect
from collections.abc import Iterable
from typing import Literal, TypeAlias

from pgqueue.config import check_name
from pgqueue.errors import InvalidOption, InvalidTask

# The arguments of a job of a dead-letter task. They name the dead letter, and carry no argument or message of it.
ARGUMENTS = ("job_id", "task", "queue", "reason", "error", "fingerprint")
DeadLetterTaskOption: TypeAlias = str | Literal[False] | None


def check_dead_letter_task(given: object) -> str | None:
    """Return the name of a task; None for False or None. Raises InvalidOption for anything else."""
    if given is None or given is False:
        return None
    if not isinstance(given, str):
        raise InvalidOption(f"dead_letter_task={given!r:.200} cannot be used: give the name of a task, or False")
    return check_name("task", given)


def check_takes_arguments(name: str, signature: inspect.Signature, named_by: Iterable[str]) -> None:
    """Refuse a dead-letter task, which other tasks name, that cannot be called with what its jobs get."""
    try:
        signature.bind(**dict.fromkeys(ARGUMENTS))
    except TypeError:
        raise InvalidTask(
            f"task {name} is the dead_letter_task of {', '.join(sorted(named_by))} and takes {signature}: "
            f"let it take {', '.join(ARGUMENTS)}"
        ) from None
