"""`pgqueue web`: the dashboard, served by itself."""

import getpass
import socket
from typing import Annotated

import typer

from pgqueue.cli.call import Call
from pgqueue.cli.output import say
from pgqueue.config import web_password
from pgqueue.errors import ConfigError

LOOPBACK, PORT = "127.0.0.1", 8080

Port = Annotated[int, typer.Option(min=0, max=65535, help="The port to answer on; 0: one that is free.")]
AnyPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help=f"The port of the dashboard. Default: {PORT}, or one that is free."),
]
Host = Annotated[str, typer.Option(help="The address to answer on. One that others reach needs a password.")]


def web(
    call: Call,
    port: Port = PORT,
    host: Host = LOOPBACK,
    read_only: Annotated[bool, typer.Option("--read-only", help="Nobody changes anything.")] = False,
    user: Annotated[
        str | None,
        typer.Option(
            help="Who you are, as rows name you; with a password, who may come in. Default: the user of this process."
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="What stands on top of each page.")] = "pgqueue",
    trace_url: Annotated[
        str | None, typer.Option(help="Where the trace of a job is: a URL with {trace_id} in it. Default: no link.")
    ] = None,
) -> None:
    """Serve the dashboard, until stopped. It prints a link that lets one browser in.

    With PGQUEUE_WEB_PASSWORD browsers are asked for that and the user instead. Name the app (-A) and forms know the
    tasks: their arguments are validated.
    """
    from pgqueue.dashboard.access import Access  # jinja2 and uvicorn, an extra
    from pgqueue.dashboard.settings import DashboardOptions
    from pgqueue.dashboard.standalone import Address, Door, serve

    password = web_password()
    address = Address(host, port)
    address.check(password)
    who = user or getpass.getuser()
    may = Access.read(who) if read_only else Access.operate(who)
    options: DashboardOptions = {"read_only": read_only, "title": title, "trace_url": trace_url}
    serve(call.app, address, Door(password, who, say), may, options)


def listen_here(port: int | None) -> socket.socket:
    """Listen on a port of this machine; without one on the default, or on any that is free.

    Raises ConfigError for a port that cannot be had, and ModuleNotFoundError without the dashboard's packages.
    """
    from pgqueue.dashboard.standalone import Address, listen  # jinja2 and uvicorn, an extra

    try:
        return listen(Address(LOOPBACK, PORT if port is None else port))
    except ConfigError:
        if port is not None:
            raise
        return listen(Address(LOOPBACK, 0))
