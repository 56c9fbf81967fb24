"""The tree of commands."""

import sys
from typing import Annotated

import typer

from pgqueue.cli.bench import bench
from pgqueue.cli.call import command
from pgqueue.cli.check_celery import check_celery
from pgqueue.cli.dead import dead_cli
from pgqueue.cli.demo import demo
from pgqueue.cli.dev import dev
from pgqueue.cli.doctor import doctor, print_report
from pgqueue.cli.events import events_cli, subscriptions_cli
from pgqueue.cli.importing import import_jobs, print_imported
from pgqueue.cli.init import init
from pgqueue.cli.job_verbs import jobs_cli
from pgqueue.cli.jobs import enqueue
from pgqueue.cli.limits import limits_cli
from pgqueue.cli.locks import locks_cli
from pgqueue.cli.metrics import metrics, observability_cli
from pgqueue.cli.migrate import migrate
from pgqueue.cli.operations import operations_cli
from pgqueue.cli.output import print_id
from pgqueue.cli.pauses import drain, list_pauses, pause, print_pauses, resume, say_drained, say_paused, say_resumed
from pgqueue.cli.queues import queues_cli
from pgqueue.cli.schedules import schedules_cli
from pgqueue.cli.status import print_status, status
from pgqueue.cli.tasks import tasks_cli
from pgqueue.cli.top import top
from pgqueue.cli.upkeep import print_pruned, prune, repair_cli, retention_cli
from pgqueue.cli.web import web
from pgqueue.cli.work import schedule, work
from pgqueue.cli.workers import workers_cli
from pgqueue.cli.workflows import workflows_cli
from pgqueue.config import release

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"pgqueue {release()}\n")
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A transactional job queue that is only Postgres.

    Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 69 database unreachable, 78 configuration or migration
    needed, 79 schema of a newer release.
    """


cli.command()(init)
cli.command()(work)
cli.command()(schedule)
cli.command()(dev)
command(cli, "migrate", lambda _: None, has_json=False, many="each")(migrate)
command(cli, "enqueue", print_id)(enqueue)
command(cli, "status", print_status, many="each")(status)
command(cli, "doctor", print_report, many="each")(doctor)
command(cli, "top", lambda _: None, has_json=False)(top)
command(cli, "pause", say_paused)(pause)
command(cli, "resume", say_resumed)(resume)
command(cli, "drain", say_drained)(drain)
command(cli, "pauses", print_pauses)(list_pauses)
cli.add_typer(jobs_cli, name="jobs")
cli.add_typer(workflows_cli, name="workflows")
cli.add_typer(dead_cli, name="dead")
cli.add_typer(operations_cli, name="operations")
cli.add_typer(queues_cli, name="queues")
cli.add_typer(limits_cli, name="limits")
cli.add_typer(locks_cli, name="locks")
cli.add_typer(workers_cli, name="workers")
cli.add_typer(schedules_cli, name="schedules")
cli.add_typer(tasks_cli, name="tasks")
cli.add_typer(events_cli, name="events")
cli.add_typer(subscriptions_cli, name="subscriptions")
command(cli, "prune", print_pruned)(prune)
cli.add_typer(retention_cli, name="retention")
command(cli, "web", lambda _: None, has_json=False)(web)
command(cli, "metrics", lambda _: None, has_json=False, many="all")(metrics)
cli.add_typer(observability_cli, name="observability")
cli.add_typer(repair_cli, name="repair")
cli.command()(bench)
cli.command()(demo)
cli.command("check-celery")(check_celery)
command(cli, "import", print_imported)(import_jobs)
