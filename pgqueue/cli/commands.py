"""The commands."""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import threading
from importlib.metadata import version
from typing import Annotated, Any, Protocol

import typer

from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.bench import bench
from pgqueue.cli.load import app_or_default, load_app
from pgqueue.cli.schedules import schedules_cli
from pgqueue.cli.state import read_state
from pgqueue.cli.tasks import tasks_cli
from pgqueue.client.session import Session
from pgqueue.config import find_app
from pgqueue.errors import InvalidArguments, InvalidOption
from pgqueue.process import logs
from pgqueue.process.health import Probe
from pgqueue.process.supervisor import Supervisor, follow_parent
from pgqueue.scheduler import Scheduler, SchedulerSettings, SchedulerThread
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
cli.add_typer(schedules_cli, name="schedules")
cli.add_typer(tasks_cli, name="tasks")
cli.command()(bench)

AppRef = Annotated[str | None, typer.Option("-A", "--app", help="The app, as module:attr. Default: PGQUEUE_APP.")]
Dsn = Annotated[str | None, typer.Option(help="The database. Default: the app's, PGQUEUE_DSN or DATABASE_URL.")]
Schema = Annotated[str, typer.Option(help="pgqueue's schema, where no app names it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log lines of JSON.")]
Lease = Annotated[float, typer.Option(help="Seconds without a heartbeat after which the process counts as lost.")]
Poll = Annotated[float, typer.Option(help="Seconds between looks at the database when nothing else wakes it.")]


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"pgqueue {version('pgqueue')}\n")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A transactional job queue that is only Postgres.

    Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 69 database unreachable, 78 configuration or migrations.
    """


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
    max_jobs_per_child: Annotated[
        int | None, typer.Option(min=1, help="Replace a child process (isolation='process') after so many jobs.")
    ] = None,
    max_memory_per_child: Annotated[
        int | None, typer.Option(min=1, help="… when it has grown beyond so many MiB.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes; more than 1 run under a supervisor.")] = 1,
    health_port: Annotated[
        int | None, typer.Option(help="Answer /live and /ready there; the next ports for more.")
    ] = None,
    health_host: Annotated[str, typer.Option(help="The address for that.")] = "127.0.0.1",
    with_scheduler: Annotated[bool, typer.Option("--with-scheduler", help="Fire schedules as well.")] = False,
    dsn: Dsn = None,
    log_level: LogLevel = "info",
    log_json: LogJson = False,
) -> None:
    """Run jobs. The first SIGTERM or SIGINT lets running jobs end, the second cancels them, the third exits."""
    _log(log_level, log_json)
    if processes > 1:
        raise typer.Exit(_supervise(processes, health_port, shutdown_timeout))
    settings = WorkerSettings(
        queues=[name.strip() for name in queues.split(",")],
        concurrency=concurrency,
        limits=dict(_limit(text) for text in limit or []),
        lease_seconds=lease,
        poll_seconds=poll,
        shutdown_timeout=shutdown_timeout,
        max_jobs_per_child=max_jobs_per_child,
        max_memory_per_child=max_memory_per_child,
    )
    home = load_app(app, dsn)
    worker = Worker(home, settings)
    # What was imported stays: no collection need look through it again, and child processes share its pages. Claimed
    # jobs come and go by the thousand, so collections may be rarer than in a program that makes a few objects.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    worker.prepare()
    scheduler = SchedulerThread(home, SchedulerSettings(lease, poll)) if with_scheduler else None
    asyncio.run(_work(worker, scheduler, health_host, health_port, shutdown_timeout + LAST_RESORT))


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
    settings = SchedulerSettings(lease, poll)
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

    home = app_or_default(app, dsn, schema)
    if sql:
        sys.stdout.write(migrations.script(home.schema))
        return
    if not check:
        before, after = migrations.upgrade(home.dsn, home.schema)
        told = " (nothing to do)" if before == after else f", was {before}" if before else " (new)"
        output.say(f"schema {home.schema}: {after}{told}")
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
    task_version: Annotated[int | None, typer.Option(help="For which version of a task no app tells about.")] = None,
    max_attempts: Annotated[int | None, typer.Option()] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Enqueue it once; then print the first job's id.")] = None,
    unique_key: Annotated[str | None, typer.Option(help="Only if no job with this key waits already.")] = None,
    on_conflict: Annotated[str | None, typer.Option(help="With a unique key: skip, replace or raise.")] = None,
    expires: Annotated[float | None, typer.Option(help="Seconds after which it is not started any more.")] = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """Enqueue a job. With an app its task must be registered and its arguments are validated."""
    home = app_or_default(app, dsn, schema)
    if find_app(app):
        home.tasks[task]  # an unknown name is an error here: a job nobody knows would wait for ever
    conditions: Any = {"idempotency_key": idempotency_key, "unique_key": unique_key, "expires": expires}
    conditions |= {"on_conflict": on_conflict, "version": task_version}
    client = home.using(queue=queue, priority=priority, delay=delay, max_attempts=max_attempts, tags=tag, **conditions)
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
    query = home.queries.jobs.list_jobs(state=state, queue=queue, task=task, before=before, limit=limit)
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
    jobs = _read(home, home.queries.jobs.list_jobs(state="failed", queue=queue, task=task, before=before, limit=limit))
    output.print_json(jobs) if as_json else output.print_dead(jobs)


@cli.command()
def status(
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
    exact: Annotated[bool, typer.Option("--exact", help="Count to the end: slow on a big backlog.")] = False,
) -> None:
    """Show queues, workers, schedules, and what waits for a worker that knows its task.

    Counts stop at 10000, so that this costs the same on any backlog: 10000+ means more.
    """
    home = app_or_default(app, dsn, schema)
    state = read_state(home, exact=exact)
    home.close()
    if as_json:
        output.print_json(state.as_dict())
    else:
        output.print_state(state)


@cli.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Keep the directory and leave its Postgres running.")] = False,
) -> None:
    """Run a small shop on an embedded Postgres, kill a worker in the middle, and prove that nothing was lost."""
    from pgqueue.demo.run import run  # the embedded server: for this command only

    raise typer.Exit(run(keep=keep))


async def _work(
    worker: Worker, scheduler: SchedulerThread | None, health_host: str, health_port: int | None, last_resort: float
) -> None:
    probe = Probe(worker.health)
    if scheduler is not None:
        scheduler.start(worker.stop)
    if health_port is not None:
        port = await probe.start(health_host, health_port)
        logging.getLogger("pgqueue").info("health probe on http://%s:%d/ready", health_host, port)
    try:
        ended = await _until_signalled(worker, last_resort)
    finally:
        await probe.close()
        if scheduler is not None:
            scheduler.stop()
            await asyncio.to_thread(scheduler.join, LAST_RESORT)
    if not ended:
        # A thread, or a task that does not let itself be cancelled, would hold up an ordinary exit. Its job was given
        # back already.
        _exit_now("some tasks did not end and are left behind")


def _supervise(processes: int, health_port: int | None, shutdown_timeout: float) -> int:
    """Run this very command several times, as single processes. Returns the exit code."""
    given = [argument for argument in sys.argv[1:] if argument]
    commands = []
    for number in range(processes):
        port = [] if health_port is None else ["--health-port", str(health_port + number)]
        # The last of two equal options counts.
        commands.append([sys.executable, "-m", "pgqueue", *given, "--processes", "1", *port])
    supervisor = Supervisor(commands)
    well = asyncio.run(_until_signalled(supervisor, shutdown_timeout + 2 * LAST_RESORT))
    return supervisor.exit_code or (0 if well else 1)


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
    if isinstance(process, Supervisor):
        for number in (signal.SIGTSTP, signal.SIGUSR1):
            loop.add_signal_handler(number, process.forward, number)
    follow_parent(on_stop)
    return await process.run()


def _exit_now(why: str = "told to, or out of time; jobs that still run are rescued by other workers") -> None:
    logging.getLogger("pgqueue").error("exiting at once: %s", why)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


def _read(home: App, query: Any) -> Any:
    try:
        return Session(home).run(query)
    finally:
        home.close()


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


def _object(task: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArguments(task, [f"{text!r} is not JSON: {error}"]) from None
    if not isinstance(value, dict):
        raise InvalidArguments(task, [f'{text!r} is no JSON object: name the arguments, as in {{"order_id": 1}}'])
    return value
