"""`pgqueue metrics` and `pgqueue observability`: what Prometheus and Grafana read."""

import sys
import threading
from typing import Annotated

import typer

from pgqueue.cli.call import Call, schemas_of
from pgqueue.cli.output import say
from pgqueue.errors import ConfigError

observability_cli = typer.Typer(no_args_is_help=True, help="Alert rules and a dashboard for the metrics, to stdout.")
Port = Annotated[int, typer.Option(help="The port to answer on; 0: one that is free.")]
Host = Annotated[str, typer.Option(help="The address to answer on.")]


def metrics(call: Call, port: Port = 9187, host: Host = "127.0.0.1") -> None:
    """Export gauges of the database for Prometheus, until stopped. One exporter for a database is enough.

    With several schemas, or a pattern, which is read again with each scrape, each gauge has a label `schema`. What
    workers and schedulers do, they serve themselves: `pgqueue work --metrics-port`.
    """
    from pgqueue.metrics import serve, serve_each  # prometheus-client, an extra

    several = call.several
    if several:
        schemas_of(call.app, several)  # raises for those that cannot be
        server, thread = serve_each(lambda: [call.app.on(name) for name in schemas_of(call.app, several)], host, port)
    else:
        server, thread = serve(call.app, host, port)
    say(f"metrics of the database on http://{host}:{server.server_address[1]}/metrics")
    try:
        _wait(thread)
    finally:
        server.shutdown()
        server.server_close()


def _wait(thread: threading.Thread) -> None:
    """Wait for the thread of the server, which ends by a signal alone."""
    try:
        while thread.is_alive():
            thread.join(1.0)
    except KeyboardInterrupt:
        raise typer.Exit from None
    raise ConfigError("the exporter has ended by itself: see its log")


@observability_cli.command("rules")
def rules() -> None:
    """Print alert rules for Prometheus: `pgqueue observability rules > pgqueue.rules.yml`."""
    from pgqueue.metrics.rules import rules  # as above

    sys.stdout.write(rules())


@observability_cli.command("grafana")
def grafana() -> None:
    """Print a dashboard that Grafana imports: `pgqueue observability grafana > pgqueue.json`."""
    from pgqueue.metrics.grafana import dashboard  # as above

    sys.stdout.write(dashboard())
