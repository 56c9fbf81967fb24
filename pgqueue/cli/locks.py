"""`pgqueue locks …`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.queries.locks import HeldLock

locks_cli = typer.Typer(help="Named locks: see, release.", no_args_is_help=True)


def print_locks(locks: Sequence[HeldLock]) -> None:
    """Print locks as a table."""
    rows = [
        (lock.key, lock.holder, lock.token, lock.acquired_at, lock.expires_at, "yes" if lock.waited_for else "")
        for lock in locks
    ]
    output.print_table(
        "locks", ("key", "holder", "token", "since", "until", "waited for"), rows, spare=("waited for", "since")
    )


@command(locks_cli, "list", print_locks)
def list_locks(
    call: Call, pattern: Annotated[str, typer.Argument(help="Only keys that match: 'sync:*'.")] = "*"
) -> Sequence[HeldLock]:
    """List the locks that are held, and by whom."""
    return call.app.locks.list(pattern)


def _say_released(lock: HeldLock) -> None:
    output.say(f"released {lock.key}, which {lock.holder} held with token {lock.token}")


@command(locks_cli, "release", _say_released)
def release(
    call: Call,
    key: Annotated[str, typer.Argument(help="The key of the lock.")],
    token: Annotated[int | None, typer.Option(help="Only if it is held under this token.")] = None,
) -> HeldLock:
    """Release a lock, whoever holds it. The next taker gets it at once, so stop the holder first, if you can."""
    return call.app.locks.release(key, token=token)
