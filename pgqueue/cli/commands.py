"""The commands."""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from typing import Annotated, Any, Protocol

import typer

from pgqueue import logs
from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.load import app_or_default, load_app
from pgqueue.client import Session
from pgqueue.errors import InvalidArguments, InvalidOption
from pgqueue.scheduler import Scheduler, SchedulerSettings
from pgqueue.worker import Worker, WorkerSettings

cli = typer.Typer(
    help="A transactional job queue that is only Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
jobs_cli = typer.Typer(help="Look at jobs, cancel them.", no_args_is_help=True)
dead_cli = typer.Typer(help="Look at dead letters.", no_args_is_help=True)
cli.add_typer(jobs_cli, name="jobs")
cli.add_typer(dead_cli, name="dead")

AppRef = Annotated[str | None, typer.Option("-A", "--app", help="The app, as module:attr. Default: PGQUEUE_APP.")]
Dsn = Annotated[str | None, typer.Option(help="The database. Default: the app's, PGQUEUE_DSN or DATABASE_URL.")]
Schema = Annotated[str, typer.Option(help="pgqueue's schema, where no app names it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log lines of JSON.")]
Lease = Annotated[float, typer.Option(help="Seconds without a heartbeat after which the process counts as lost.")]
Poll = Annotated[float, typer.Option(help="Seconds between looks at the database when nothing else wakes it.")]


@cli.command()
def work(
    app: AppRef = None,
    queues: Annotated[str, typer.Option("-Q", "--queues", help="Queues to serve, in order: a,b,c.")] = "default",
    concurrency: Annotated[int, typer.Option("-c", "--concurrency", help="How many jobs run at a time.")] = 8,
    limit: Annotated[
        list[str] | None, typer.Option(help="At most so many jobs of a queue at a time: queue=n. May be repeated.")
    ] = None,
    lease: Lease = 30.0,
    poll: Poll = 1.0,
    shutdown_timeout: Annotated[float, typer.Option(help="Seconds that running jobs get to end when stopping.")] = 30.0,
    dsn: Dsn = None,
    log_level: LogLevel = "info",
    log_json: LogJson = False,
) -> None:
    """Run jobs. The first SIGTERM or SIGINT lets running jobs end, the second cancels them, the third exits."""
    _log(log_level, log_json)
    settings = WorkerSettings(
        queues=[name.strip() for name in queues.split(",")],
        concurrency=concurrency,
        limits=dict(_limit(text) for text in limit or []),
        lease_seconds=_positive("--lease", lease),
        poll_seconds=_positive("--poll", poll),
        shutdown_timeout=shutdown_timeout,
    )
    if not asyncio.run(_until_signalled(Worker(load_app(app, dsn), settings), shutdown_timeout + LAST_RESORT)):
        logging.shutdown()
        os._exit(1)  # threads that still run tasks would hold up an ordinary exit; their jobs were given back


@cli.command()
def schedule(
    app: AppRef = None,
    lease: Lease = 30.0,
    poll: Poll = 1.0,
    dsn: Dsn = None,
    log_level: LogLevel = "info",
    log_json: LogJson = False,
) -> None:
    """Fire schedules. Any number of schedulers may run: each tick fires once."""
    _log(log_level, log_json)
    settings = SchedulerSettings(_positive("--lease", lease), _positive("--poll", poll))
    asyncio.run(_until_signalled(Scheduler(load_app(app, dsn), settings), LAST_RESORT))


@cli.command()
def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the script; connect to nothing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 0 if the schema is current, 78 if not.")] = False,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
) -> None:
    """Bring pgqueue's schema to the newest version. Safe to run twice, and by several at once."""
    from pgqueue import migrate as migrations  # alembic and SQLAlchemy: for this command only

    if sql:
        sys.stdout.write(migrations.script(schema))
        return
    home = app_or_default(app, dsn, schema)
    if not check:
        before, after = migrations.upgrade(home.dsn, home.schema)
        output.say(f"schema {home.schema}: {after}" + (" (nothing to do)" if before == after else f", was {before}"))
        return
    current, head = migrations.current(home.dsn, home.schema), migrations.head()
    output.say(f"schema {home.schema}: {current or 'not there'}, newest {head}")
    if current != head:
        raise typer.Exit(78)


@cli.command()
def enqueue(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    args: Annotated[str, typer.Argument(help="Its arguments as a JSON object.")] = "{}",
    app: AppRef = None,
    queue: Annotated[str | None, typer.Option("-Q", "--queue")] = None,
    priority: Annotated[int | None, typer.Option(help="-100 to 100, higher runs sooner.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    max_attempts: Annotated[int | None, typer.Option()] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """Enqueue a job. With an app its task must be registered and its arguments are validated."""
    home = app_or_default(app, dsn, schema)
    if list(home.tasks):
        home.tasks[task]  # an unknown name is an error here: a job nobody knows would wait for ever
    client = home.using(queue=queue, priority=priority, delay=delay, max_attempts=max_attempts, tags=tag)
    job = client.enqueue(task, _object(task, args))
    home.close()
    if as_json:
        output.print_json(job)
    else:
        sys.stdout.write(f"{job.id}\n")


@jobs_cli.command("list")
def list_jobs(
    state: Annotated[
        str | None, typer.Option(help="A state or phase: pending, scheduled, retrying, running, …")
    ] = None,
    queue: Annotated[str | None, typer.Option("-Q", "--queue")] = None,
    task: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1)] = 20,
    before: Annotated[int | None, typer.Option(help="Only ids below this one: the next page.")] = None,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    if state is not None and state not in PHASES:
        raise InvalidOption(f"state {state!r} is not one of {', '.join(PHASES)}")
    home = app_or_default(app, dsn, schema)
    query = home.queries.list_jobs(state=state, queue=queue, task=task, before=before, limit=limit)
    jobs = _read(home, query)
    output.print_json(jobs) if as_json else output.print_jobs("jobs", jobs)


LAST_RESORT = 15.0  # seconds beyond the grace of running jobs
PHASES = ("blocked", "pending", "scheduled", "retrying", "running", "succeeded", "failed", "cancelled")


@jobs_cli.command("show")
def show_job(
    job_id: int, app: AppRef = None, dsn: Dsn = None, schema: Schema = "pgqueue", as_json: AsJson = False
) -> None:
    """Show one job with its attempts and their errors."""
    home = app_or_default(app, dsn, schema)
    job = home.get(job_id)
    home.close()
    output.print_json(job) if as_json else output.print_job(job)


@jobs_cli.command("cancel")
def cancel_job(job_id: int, app: AppRef = None, dsn: Dsn = None, schema: Schema = "pgqueue") -> None:
    """Cancel a job: a waiting one at once, a running one through the worker that has it."""
    home = app_or_default(app, dsn, schema)
    ended = home.cancel(job_id)
    home.close()
    output.say(f"job {job_id} is cancelled" if ended else f"job {job_id} runs: its worker was asked to stop it")


@dead_cli.command("list")
def list_dead(
    queue: Annotated[str | None, typer.Option("-Q", "--queue")] = None,
    task: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1)] = 20,
    before: Annotated[int | None, typer.Option(help="Only ids below this one: the next page.")] = None,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first."""
    home = app_or_default(app, dsn, schema)
    jobs = _read(home, home.queries.list_jobs(state="failed", queue=queue, task=task, before=before, limit=limit))
    output.print_json(jobs) if as_json else output.print_jobs("dead letters", jobs)


@cli.command()
def status(app: AppRef = None, dsn: Dsn = None, schema: Schema = "pgqueue", as_json: AsJson = False) -> None:
    """Show queues, workers, schedules, and what waits for a worker that knows its task."""
    home = app_or_default(app, dsn, schema)
    session, queries = Session(home, None), home.queries
    queues, workers = session.run(queries.count_jobs()), session.run(queries.list_workers())
    unknown, schedules = session.run(queries.list_unknown_tasks()), session.run(queries.list_schedules())
    finished = session.run(queries.count_finished())
    home.close()
    if as_json:
        parts = {"queues": queues, "workers": workers, "unknown_tasks": unknown, "schedules": schedules}
        output.print_json(parts | {"finished_last_hour": finished})
        return
    for title, rows in (("queues", queues), ("workers", workers), ("schedules", schedules)):
        _print_rows(title, rows)
    if unknown:
        _print_rows("jobs that wait for a worker that knows their task", unknown)
    ended = ", ".join(f"{count} {state}" for state, count in sorted(finished.items())) or "none"
    output.say(f"finished within the last hour: {ended}")


@cli.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Keep the directory and leave its Postgres running.")] = False,
) -> None:
    """Run a small shop on an embedded Postgres, kill a worker in the middle, and prove that nothing was lost."""
    from pgqueue.demo.run import run  # the embedded server: for this command only

    raise typer.Exit(run(keep=keep))


class _Runnable(Protocol):
    async def run(self) -> bool: ...
    def stop(self) -> None: ...


async def _until_signalled(process: _Runnable, last_resort: float) -> bool:
    """Run a process. SIGTERM and SIGINT stop it, each further one harder; `last_resort` seconds after the first it is
    gone, whatever hangs. SIGTSTP makes a worker quiet, SIGUSR1 makes it tell what it is doing."""
    received = 0

    def on_stop() -> None:
        nonlocal received
        received += 1
        if received > 2:
            _exit_now()
        if received == 1:
            # A thread of its own: it must also end a process whose event loop is blocked.
            timer = threading.Timer(last_resort, _exit_now)
            timer.daemon = True
            timer.start()
        process.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    if isinstance(process, Worker):
        loop.add_signal_handler(signal.SIGTSTP, process.quiet)
        loop.add_signal_handler(signal.SIGUSR1, process.dump)
    return await process.run()


def _exit_now() -> None:
    logging.getLogger("pgqueue").error("exiting at once; jobs that still ran are rescued by other workers")
    logging.shutdown()
    os._exit(1)


def _read(home: App, query: Any) -> Any:
    try:
        return Session(home, None).run(query)
    finally:
        home.close()


def _print_rows(title: str, rows: list[Any]) -> None:
    columns = list(type(rows[0]).__slots__) if rows else []
    output.table(title, [name.replace("_", " ") for name in columns], [[getattr(r, c) for c in columns] for r in rows])


def _log(level: str, as_json: bool) -> None:
    known = ("debug", "info", "warning", "error")
    if level not in known:
        raise InvalidOption(f"--log-level {level} is not one of {', '.join(known)}")
    logs.set_up(level, as_json=as_json)


def _limit(text: str) -> tuple[str, int]:
    queue, _, number = text.partition("=")
    if not number.isdigit():
        raise InvalidOption(f"--limit {text!r} cannot be used: give queue=number, for example bulk=2")
    return queue, int(number)


def _positive(option: str, value: float) -> float:
    if not 0.05 <= value <= 86400:
        raise InvalidOption(f"{option} {value} cannot be used: give 0.05 to 86400 seconds")
    return value


def _object(task: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArguments(task, [f"{text!r} is not JSON: {error}"]) from None
    if not isinstance(value, dict):
        raise InvalidArguments(task, [f'{text!r} is no JSON object: name the arguments, as in {{"order_id": 1}}'])
    return value
