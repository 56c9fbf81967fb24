"""Serves the dashboard on a socket that is inherited: `python -m pgqueue.cli.dev.pages MODULE:ATTR DSN FD URL`."""

import asyncio
import getpass
import socket
import sys

from pgqueue.app import App
from pgqueue.cli.load import load_app
from pgqueue.cli.output import say
from pgqueue.config import take_web_token
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.standalone import Door, server_of, standalone
from pgqueue.process.supervisor import follow, take_parent

LONGEST_TITLE = 60


def main() -> None:
    """Serve the dashboard of an app until stopped, or until the parent ends."""
    parent, token = take_parent(), take_web_token()
    reference, dsn, fileno, url = sys.argv[1:]
    app = load_app(reference, dsn or None)
    door = Door(None, getpass.getuser(), say, token)
    door.where = url
    with socket.socket(fileno=int(fileno)) as listening:
        asyncio.run(_serve(app, door, listening, parent, reference[:LONGEST_TITLE]))


async def _serve(app: App, door: Door, listening: socket.socket, parent: int | None, title: str) -> None:
    server = server_of(standalone(app, door, Access.operate(getpass.getuser()), {"title": title}))

    def stop() -> None:
        server.should_exit = True

    if parent is not None:
        follow(parent, stop)
    await server.serve([listening])


if __name__ == "__main__":
    main()
