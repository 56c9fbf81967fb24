"""`pgqueue work` and `pgqueue schedule`: the long-running processes."""

import asyncio
import gc
import ipaddress
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, TypeAlias

import typer

from pgqueue.app import App
from pgqueue.cli.first_process import leave_first_process
from pgqueue.cli.load import load_app
from pgqueue.cli.options import AppRef, Dsn, Lease, LogJson, LogLevel, Poll, read_queue_limit
from pgqueue.cli.schedule_input import read_seconds
from pgqueue.cli.signals import LAST_RESORT, StopSignals, exit_now, run_to_end
from pgqueue.client.chosen_schemas import ChosenSchemas
from pgqueue.db import embedded
from pgqueue.errors import InvalidOption
from pgqueue.jobs.patterns import is_pattern
from pgqueue.jobs.served_queues import read_served_queues, slots_of, with_limits
from pgqueue.process import logs
from pgqueue.process.duty import hide
from pgqueue.process.health import Probe
from pgqueue.process.supervisor import STOPPED, Supervisor
from pgqueue.process.system import needs_fork
from pgqueue.process.systemd import told
from pgqueue.scheduler import Scheduler, SchedulerSettings, SchedulerThread
from pgqueue.worker import Worker, WorkerSettings
from pgqueue.worker.fleet import Fleet

HealthHost = Annotated[str, typer.Option(help="The address that the health port listens on.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        help="Serve metrics for Prometheus on this port; further processes use the ports after it. Default: no port."
    ),
]
MetricsHost = Annotated[str, typer.Option(help="The address that the metrics port listens on.")]
Address: TypeAlias = tuple[str, int] | None


def work(
    app: AppRef = None,
    queues: Annotated[
        str,
        typer.Option(
            "-Q",
            "--queues",
            help="Queues to serve, in order: a,b,c. Or by shares of the slots: a:6,b:3. a:8c runs at most 8 jobs of a "
            "at a time, a:6:8c has both. A * stands for any characters: tenant-*.",
        ),
    ] = "default",
    concurrency: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--concurrency",
            help="How many jobs run at a time. Default: 8, or the sum where -Q gives each queue a number: a:8c,b:2c.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="Run at most n jobs of a queue at a time: queue=n, as -Q queue:nc. May be repeated."),
    ] = None,
    max_wait: Annotated[
        str | None,
        typer.Option(
            help="One claim in sixteen takes first what is due for longer, of whichever queue and priority: 5m, 2h. "
            "Default: off."
        ),
    ] = None,
    lease: Lease = 30.0,
    poll: Poll = 1.0,
    shutdown_timeout: Annotated[float, typer.Option(help="Seconds that running jobs have to end after a stop.")] = 30.0,
    max_jobs_per_child: Annotated[
        int | None,
        typer.Option(min=1, help="Replace a child process (isolation='process') after this many jobs. Default: never."),
    ] = None,
    max_memory_per_child: Annotated[
        int | None,
        typer.Option(min=1, help="Replace a child process that has grown beyond this many MiB. Default: never."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes; more than 1 run under a supervisor.")] = 1,
    health_port: Annotated[
        int | None,
        typer.Option(
            help="Answer /live and /ready on this port; further processes use the ports after it. Default: no port."
        ),
    ] = None,
    health_host: HealthHost = "127.0.0.1",
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    with_scheduler: Annotated[bool, typer.Option("--with-scheduler", help="Fire schedules as well.")] = False,
    burst: Annotated[bool, typer.Option("--burst", help="End once nothing is due that this worker could run.")] = False,
    schema: Annotated[
        list[str] | None,
        typer.Option(
            help="Serve this schema instead of the app's. May be repeated, and may be a pattern, tenant_*, which is "
            "read again while the process runs. Their jobs share the slots fairly. Default: the app's alone.",
            show_default=False,
        ),
    ] = None,
    dsn: Dsn = None,
    log_level: LogLevel = "info",
    log_json: LogJson = False,
) -> None:
    """Run jobs. The first SIGTERM or SIGINT lets running jobs end, the second cancels them, the third exits.

    SIGTSTP makes the worker claim no more jobs; SIGUSR1 makes it log what it is doing.
    """
    leave_first_process()
    signals = StopSignals()
    signals.catch()
    check_log_level(log_level)
    if burst and with_scheduler:
        raise InvalidOption("--burst and --with-scheduler exclude each other: run `pgqueue schedule --once` before it")
    if processes > 1:
        logs.set_up(log_level, as_json=log_json)
        raise typer.Exit(
            _supervise(
                signals, processes, {"--health-port": health_port, "--metrics-port": metrics_port}, shutdown_timeout
            )
        )
    limits = dict(read_queue_limit(text) for text in limit or [])
    served = read_served_queues(queues, limits)
    settings = WorkerSettings(
        queues=[queue.name for queue in served],
        concurrency=slots_of(served) if concurrency is None else concurrency,
        shares={queue.name: queue.share for queue in served if queue.share is not None},
        limits=with_limits(served, limits),
        max_wait=read_seconds("--max-wait", max_wait),
        lease_seconds=lease,
        poll_seconds=poll,
        shutdown_timeout=shutdown_timeout,
        max_jobs_per_child=max_jobs_per_child,
        max_memory_per_child=max_memory_per_child,
        burst=burst,
    )
    loaded, several = _serving(load_app(app, dsn), schema or [], with_scheduler)
    logs.set_up(log_level, as_json=log_json)
    with loaded.current():  # what tasks enqueue stays in their schema
        worker = Fleet(loaded, several, settings) if several else Worker(loaded, settings)
        _tune_collector()
        worker.prepare()
        scheduler = SchedulerThread(loaded, SchedulerSettings(lease, poll)) if with_scheduler else None
        probe = None if health_port is None else (health_host, health_port)
        handlers = {"SIGTSTP": worker.quiet, "SIGUSR1": worker.dump}
        work = partial(signals.run, worker, shutdown_timeout + LAST_RESORT, handlers)
        run = _measured(worker, metrics_host, metrics_port, work)
        run_to_end(_run_worker(worker, scheduler, probe, run, STOPPED if signals.supervised else None))


def _serving(app: App, schemas: Sequence[str], with_scheduler: bool) -> tuple[App, ChosenSchemas | None]:
    """Return the app, or its view where one schema is given; and the schemas to serve, if they may be several."""
    if len(schemas) == 1 and not is_pattern(schemas[0]):
        return app.on(schemas[0]), None
    if schemas and with_scheduler:
        raise InvalidOption("--with-scheduler goes with one schema: run `pgqueue schedule --schema …` for each of them")
    return app, ChosenSchemas(schemas) if schemas else None


def schedule(
    app: AppRef = None,
    lease: Lease = 30.0,
    poll: Poll = 1.0,
    health_port: Annotated[
        int | None, typer.Option(help="Answer /live and /ready on this port. Default: no port.")
    ] = None,
    health_host: HealthHost = "127.0.0.1",
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    once: Annotated[bool, typer.Option("--once", help="Fire what is due now, and end.")] = False,
    schema: Annotated[str | None, typer.Option(help="Fire in this schema. Default: the app's.")] = None,
    dsn: Dsn = None,
    log_level: LogLevel = "info",
    log_json: LogJson = False,
) -> None:
    """Fire schedules. Any number of schedulers may run: each tick fires once."""
    leave_first_process()
    signals = StopSignals()
    signals.catch()
    check_log_level(log_level)
    settings = SchedulerSettings(lease, poll, once=once)
    loaded = load_app(app, dsn)
    loaded = loaded if schema is None else loaded.on(schema)
    logs.set_up(log_level, as_json=log_json)
    scheduler = Scheduler(loaded, settings)
    probe = None if health_port is None else (health_host, health_port)
    run = _measured(scheduler, metrics_host, metrics_port, partial(signals.run, scheduler, LAST_RESORT))
    run_to_end(_run_scheduler(scheduler, probe, run))


def _measured(
    process: Worker | Fleet | Scheduler, host: str, port: int | None, run: Callable[[], Awaitable[bool]]
) -> Callable[[], Awaitable[bool]]:
    """Return `run` with metrics of the process served meanwhile, if there is a port for them."""
    if port is None:
        return run
    from pgqueue.metrics import MetricsServer  # prometheus-client, an extra

    async def measured() -> bool:
        server = MetricsServer(process.reading)
        server.start(host, port)
        try:
            return await run()
        finally:
            server.close()

    return measured


def _tune_collector() -> None:
    # Imported modules stay for good: frozen, they are left out of every later collection, and child processes share
    # their pages. The thresholds are left as they are: higher ones keep the garbage of tasks in memory.
    gc.collect()
    gc.freeze()


async def _run_scheduler(scheduler: Scheduler, probe_address: Address, run: Callable[[], Awaitable[bool]]) -> None:
    probe = Probe(scheduler.health)
    scheduler.health_address = await _answer(probe, probe_address)
    try:
        async with told(scheduler, "fires schedules"):
            await run()
    finally:
        await probe.close()


async def _answer(probe: Probe, address: Address) -> str | None:
    """Let the probe listen, if it has an address; return where others reach it."""
    if address is None:
        return None
    host, port = address[0], await probe.start(*address)
    logging.getLogger("pgqueue").info("health probe on http://%s:%d/ready", host, port)
    return f"{socket.gethostname() if _is_any(host) else host}:{port}"


def _is_any(host: str) -> bool:
    """Whether this stands for every address of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return False


async def _run_worker(
    worker: Worker | Fleet,
    scheduler: SchedulerThread | None,
    probe_address: Address,
    run: Callable[[], Awaitable[bool]],
    stopped: int | None,
) -> None:
    """Run a worker; `stopped` is the exit status by which a supervisor knows that an operator has stopped it."""
    probe = Probe(worker.health)
    if scheduler is not None:
        scheduler.start(worker.stop)
    worker.health_address = await _answer(probe, probe_address)
    if (main := asyncio.current_task()) is not None:
        hide(main)
    try:
        async with told(worker, "runs jobs"):
            ended = await run()
    finally:
        await probe.close()
        if scheduler is not None:
            scheduler.stop()
            await asyncio.to_thread(scheduler.join, LAST_RESORT)
    if not ended:
        # A thread, or a task that refuses to be cancelled, would hold up an ordinary exit. Its job is released already.
        try:
            embedded.stop_all()  # an exit without exit handlers would leave the server running
        finally:
            exit_now("some tasks did not end and are left behind", (worker.asked_to_stop and stopped) or 1)
    if stopped and (worker.asked_to_stop or worker.out_of_jobs):
        raise typer.Exit(stopped)


def _supervise(signals: StopSignals, processes: int, ports: Mapping[str, int | None], shutdown_timeout: float) -> int:
    """Run this same command in several child processes; return the exit code."""
    needs_fork("--processes", "start the command as often as there are to be workers")
    arguments = [argument for argument in sys.argv[1:] if argument]
    commands = []
    for number in range(processes):
        own = [text for name, port in ports.items() if port is not None for text in (name, str(port + number))]
        # If an option is given twice, the last one counts.
        commands.append([sys.executable, "-m", "pgqueue", *arguments, "--processes", "1", *own])
    supervisor = Supervisor(commands)
    handlers = {name: partial(supervisor.forward, name) for name in ("SIGTSTP", "SIGUSR1")}

    async def run() -> bool:
        async with told(supervisor, f"keeps {processes} worker processes"):
            return await signals.run(supervisor, shutdown_timeout + 2 * LAST_RESORT, handlers)

    ended = asyncio.run(run())
    return supervisor.exit_code or (0 if ended else 1)


def check_log_level(level: str) -> None:
    """Raise InvalidOption for a level that does not exist."""
    known = ("debug", "info", "warning", "error")
    if level not in known:
        raise InvalidOption(f"--log-level {level!r} is not one of {', '.join(known)}")
