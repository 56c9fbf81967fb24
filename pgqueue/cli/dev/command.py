"""`pgqueue dev`: its options, and what the processes are started with."""

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from pgqueue.cli.dev.changes import Changes
from pgqueue.cli.dev.processes import Commands, DevProcesses
from pgqueue.cli.dev.site import Site, open_site
from pgqueue.cli.options import AppRef, Dsn, LogLevel
from pgqueue.cli.signals import LAST_RESORT, StopSignals
from pgqueue.cli.web import AnyPort
from pgqueue.cli.work import check_log_level
from pgqueue.config import find_app
from pgqueue.db import embedded
from pgqueue.errors import ConfigError
from pgqueue.process import logs
from pgqueue.process.system import needs_fork

SHUTDOWN = 2  # seconds that running jobs have to end: whoever has saved a file does not wait longer


def dev(
    app: AppRef = None,
    queues: Annotated[str, typer.Option("-Q", "--queues", help="Queues to serve, as of `work`. Default: all.")] = "*",
    concurrency: Annotated[int, typer.Option("-c", "--concurrency", min=1, help="How many jobs run at a time.")] = 8,
    port: AnyPort = None,
    data: Annotated[
        Path | None, typer.Option(help="Where the embedded Postgres keeps its data. Default: a place for this project.")
    ] = None,
    watch: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, file_okay=False, help="A directory whose Python files are watched. Default: the current one."
        ),
    ] = None,
    reload: Annotated[bool, typer.Option(help="Begin anew when a Python file has changed.")] = True,
    dsn: Dsn = None,
    log_level: LogLevel = "info",
) -> None:
    """Run all that a project needs while it is written: Postgres, worker, scheduler, dashboard. Ctrl-C ends them.

    Where no database is named, it starts an embedded Postgres, which keeps its data for the next time. It migrates the
    schema. When a Python file has changed, running jobs have two seconds to end, and the processes begin anew.
    """
    needs_fork("pgqueue dev", "run `pgqueue migrate`, `pgqueue work --with-scheduler` and `pgqueue web`")
    signals = StopSignals(hangup=True)
    signals.catch()
    check_log_level(log_level)
    reference = find_app(app)
    if not reference:
        raise ConfigError("no app named: pass -A module:attr (for example -A shop:app), or set PGQUEUE_APP")
    logs.set_up(log_level, as_json=False)
    options = ["-Q", queues, "-c", str(concurrency), "--shutdown-timeout", str(SHUTDOWN), "--log-level", log_level]
    changes = Changes.of(watch or [Path.cwd()]) if reload else None
    with ExitStack() as kept:
        site = open_site(kept, port)
        commands = _commands(reference, dsn, options, site)
        processes = DevProcesses(commands, changes, site, dsn, data or embedded.path_of(Path.cwd()))
        ended = asyncio.run(signals.run(processes, SHUTDOWN + 2 * LAST_RESORT))
    raise typer.Exit(processes.exit_code or (0 if ended else 1))


def _commands(reference: str, dsn: str | None, options: list[str], site: Site | None) -> Commands:
    named = ["-A", reference, *(["--dsn", dsn] if dsn else [])]
    pages = None
    if site is not None:
        pages = _python("pgqueue.cli.dev.pages", reference, dsn or "", str(site.fileno), site.url)
    return Commands(
        check=_python("pgqueue.cli.dev.check", reference, dsn or ""),
        migrate=_python("pgqueue", "migrate", *named),
        work=_python("pgqueue", "work", "--with-scheduler", *named, *options),
        pages=pages,
    )


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]
