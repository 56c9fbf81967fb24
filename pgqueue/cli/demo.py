"""`pgqueue demo`: its options, how it ends, and the dashboard that it may leave open."""

import getpass
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import typer

from pgqueue.app import App
from pgqueue.cli.output import say
from pgqueue.cli.web import LOOPBACK, AnyPort, listen_here
from pgqueue.process.system import needs_fork


def demo(
    keep: Annotated[bool, typer.Option(help="Keep the directory and leave its Postgres running.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Leave the shop and its dashboard open, until Ctrl-C.")] = False,
    port: AnyPort = None,
) -> None:
    """Run a small shop on an embedded Postgres, kill a worker in the middle, and prove that nothing was lost."""
    needs_fork("pgqueue demo", "follow the first steps of the README with a Postgres of your own")
    from pgqueue.demo.run import run  # the embedded server, which no other command needs

    _end_as_by_an_interrupt()
    if not web:
        raise typer.Exit(run(keep=keep))
    with listen_here(port) as listening:
        raise typer.Exit(run(keep=keep, look=_dashboard_on(listening)))


def _end_as_by_an_interrupt() -> None:
    """Let SIGTERM and a terminal that closes end the demo as Ctrl-C does: its Postgres would go on otherwise.

    Further ones change nothing: of a terminal that closes, both the kernel and the shell may send SIGHUP, and what the
    demo has started is then being stopped.
    """
    ends = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    ends = [number for number in ends if signal.getsignal(number) != signal.SIG_IGN]  # as `nohup` has it

    def interrupt(_number: int, _frame: object) -> None:
        for number in ends:
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which programs that are started inherit
        raise KeyboardInterrupt

    for number in ends:
        signal.signal(number, interrupt)


def _dashboard_on(listening: socket.socket) -> Callable[[App], None]:
    """Return what serves the dashboard of an app on a socket until Ctrl-C."""
    from pgqueue.dashboard.access import Access  # jinja2 and uvicorn, an extra
    from pgqueue.dashboard.standalone import Door, server_of, standalone, where

    def look(app: App) -> None:
        who = getpass.getuser()
        door = Door(None, who, say)
        door.where = where(LOOPBACK, listening)
        door.tell()
        say("the shop stays open until Ctrl-C")
        pages = standalone(app, door, Access.operate(who), {"title": "pgqueue demo"})
        with suppress(KeyboardInterrupt):
            server_of(pages).run([listening])

    return look
