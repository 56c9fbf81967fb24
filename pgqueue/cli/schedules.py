"""`pgqueue schedules …`."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.completion import complete_schedule
from pgqueue.cli.filters import DryRun
from pgqueue.cli.options import Limit, TaskArgs, TaskName
from pgqueue.cli.schedule_input import read_end, read_moment, read_options, read_plan
from pgqueue.client.schedules import PausedTicks
from pgqueue.errors import InvalidOption, InvalidPlan
from pgqueue.jobs.job import Job
from pgqueue.queries.schedules.read import ScheduleStatus
from pgqueue.schedules.in_words import preview, span_in_words
from pgqueue.schedules.plan import Span
from pgqueue.schedules.schedule import Schedule

schedules_cli = typer.Typer(help="List, show, create, change, pause and fire schedules.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The schedule's name.", autocompletion=complete_schedule)]
By = Annotated[str | None, typer.Option(help="Who makes the change. Default: the user of this process.")]
PlanText = Annotated[
    str | None,
    typer.Option("--plan", help="Cron ('0 6 * * mon-fri'), an interval (90 seconds, 15m, 2h, 1d), or FREQ=…. Or --at."),
]
Moment = Annotated[str | None, typer.Option("--at", help="One moment instead of a plan: 2027-01-31T06:00+01:00.")]
Zone = Annotated[str | None, typer.Option(help="The timezone of the plan, such as Europe/Paris. Default: UTC.")]
CatchUp = Annotated[
    str | None,
    typer.Option(
        help="What to do about ticks of the pause: skip, once, or all(LIMIT). "
        "Default: skip; of a resume, what the pause was given."
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option("-o", "--option", help="Any other option as name=value: misfire=skip, overlap=queue, queue=bulk, …"),
]


def print_schedules(schedules: Sequence[ScheduleStatus]) -> None:
    """Print schedules, one a line. Times keep their zone on a narrow terminal, too: that of the plan stands beside."""
    rows = [
        (s.name, s.plan, s.timezone, output.cell(s.next_tick) if s.state == "active" else s.state,
         output.age(s.lag_seconds or None), output.cell(s.last_tick), s.last_outcome, s.missed_in_a_day)
        for s in schedules
    ]  # fmt: skip
    columns = ("name", "plan", "timezone", "next tick", "late by", "last tick", "outcome", "missed in a day")
    output.print_table(
        "schedules", columns, rows, spare=("late by", "outcome", "missed in a day", "timezone", "last tick")
    )


def _print_schedule(status: ScheduleStatus) -> None:
    print_schedules([status])


@command(schedules_cli, "list", print_schedules)
def list_schedules(
    call: Call,
    limit: Limit = 100,
    after: Annotated[str | None, typer.Option(help="Only names after this one: the next page.")] = None,
) -> Sequence[ScheduleStatus]:
    """List schedules by name, with their next and last ticks."""
    return call.app.schedules.list(after=after, limit=limit)


def _print_details(details: dict[str, Any]) -> None:
    status, definition = details["status"], details["definition"]
    facts = {field: getattr(status, field) for field in status.__slots__ if getattr(status, field) not in (None, "", 0)}
    if definition is not None:
        facts |= {"plan": _in_words(Schedule.of(status.name, definition, "{}"))}
        facts |= {"args": json.dumps(definition["args"]), "queue": definition["queue"]}
    output.print_facts(f"schedule {status.name}", facts)
    ticks = ((t.tick, t.outcome, t.job_id, t.reason or t.by) for t in details["ticks"])
    output.print_table("last ticks", ("tick", "outcome", "job", "why"), ticks)


@command(schedules_cli, "show", _print_details)
def show(
    call: Call,
    name: Name,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="Show at most this many ticks.")] = 10,
) -> dict[str, Any]:
    """Show one schedule: its definition, its state, and the outcomes of its last ticks."""
    schedules = call.app.schedules
    status, ticks = schedules.get(name), schedules.ticks(name, limit=limit)
    try:
        schedule = schedules.definition(name)
        definition = {**schedule.columns(), "args": json.loads(schedule.job.args)}
    except InvalidPlan:
        definition = None  # the status names the error
    return {"status": status, "definition": definition, "ticks": ticks}


def _print_preview(found: dict[str, Any]) -> None:
    for line in (found["plan"], *(f"  {upcoming.words}" for upcoming in found["ticks"])):
        output.console.print(line)


@command(schedules_cli, "preview", _print_preview)
def preview_ticks(
    call: Call,
    name: Annotated[str | None, typer.Argument(help="A schedule's name; or give --plan.")] = None,
    plan: PlanText = None,
    timezone: Zone = None,
    start: Annotated[str | None, typer.Option(help="When the plan begins. Default: now.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=1000, help="How many ticks to show.")] = 5,
) -> dict[str, Any]:
    """Say in plain words when a schedule ticks next, or when a plan would. Fires nothing."""
    if (name is None) == (plan is None):
        raise InvalidOption("give the name of a schedule, or --plan")
    if name is not None:
        schedules = call.app.schedules
        return {"plan": _in_words(schedules.definition(name)), "ticks": schedules.preview(name, count)}
    begin = read_moment("--start", start)
    span = Span(read_plan(plan or "", timezone, begin), begin)
    return {"plan": span_in_words(span), "ticks": preview(span, timezone or "UTC", datetime.now(UTC), count)}


@command(schedules_cli, "create", _print_schedule)
def create(
    call: Call,
    name: Name,
    task: TaskName,
    args: TaskArgs = "{}",
    plan: PlanText = None,
    at: Moment = None,
    timezone: Zone = None,
    option: Options = None,
    replace: Annotated[bool, typer.Option(help="Replace a schedule that has this name.")] = False,
    by: By = None,
) -> ScheduleStatus:
    """Create a schedule. If an app is named, its task must be registered and its arguments are validated."""
    call.check_task(task)
    options = read_options(task, option, timezone, args)
    when = None if plan is None else read_plan(plan, timezone, options.get("start"))
    options["at"] = read_moment("--at", at)
    act = partial(call.app.schedules.create, name, task, when, replace=replace, by=by, **options)
    return call.recorded("create", {"schedule": name}, by, act, task=task, plan=plan, at=at)


@command(schedules_cli, "edit", _print_schedule)
def edit(
    call: Call,
    name: Name,
    plan: PlanText = None,
    at: Moment = None,
    timezone: Zone = None,
    args: Annotated[
        str | None, typer.Option(help="The task's arguments as a JSON object. Default: as they are.")
    ] = None,
    option: Options = None,
    by: By = None,
) -> ScheduleStatus:
    """Change a schedule. Options that are not given stay as they are."""
    schedules, options = call.app.schedules, read_options(f"the task of schedule {name}", option, timezone, args)
    zone = timezone or (schedules.definition(name).plan.timezone if plan else None)
    when = None if plan is None else read_plan(plan, zone, options.get("start"))
    options["at"] = read_moment("--at", at)
    act = partial(schedules.edit, name, when, by=by, **options)
    return call.recorded("edit", {"schedule": name}, by, act, plan=plan, at=at)


@command(schedules_cli, "revert", _print_schedule)
def revert(call: Call, name: Name) -> ScheduleStatus:
    """Drop the edits of a schedule that the code declares, so that the code's definition counts again."""
    return call.recorded("revert", {"schedule": name}, None, partial(call.app.schedules.revert, name))


def _print_pause(result: ScheduleStatus | PausedTicks) -> None:
    if isinstance(result, ScheduleStatus):
        _print_schedule(result)
        return
    end = "until it is resumed" if result.until is None else f"until {output.cell(result.until)}"
    many = f"more than {len(result.ticks)}" if result.has_more else str(len(result.ticks))
    output.console.print(f"{end}: {many} ticks would pass")
    for upcoming in result.ticks:
        output.console.print(f"  {upcoming.words}")


@command(schedules_cli, "pause", _print_pause)
def pause(
    call: Call,
    name: Name,
    until: Annotated[
        str | None, typer.Option(help="Resume by itself at a moment, or after 15m, 2h, 1d. Default: never.")
    ] = None,
    catch_up: CatchUp = None,
    by: By = None,
    dry_run: DryRun = False,
) -> ScheduleStatus | PausedTicks:
    """Pause a schedule: none of its ticks fires until it is resumed. With --dry-run it shows which ticks would pass."""
    end = read_end("--until", until)
    if dry_run:
        return call.app.schedules.preview_pause(name, until=end, limit=10)
    act = partial(call.app.schedules.pause, name, until=end, by=by, catch_up=catch_up or "skip")
    return call.recorded("pause", {"schedule": name}, by, act, until=until, catch_up=catch_up)


@command(schedules_cli, "resume", _print_schedule)
def resume(call: Call, name: Name, catch_up: CatchUp = None) -> ScheduleStatus:
    """Resume a paused schedule, or bring back one that the code no longer declares."""
    act = partial(call.app.schedules.resume, name, catch_up=catch_up)
    return call.recorded("resume", {"schedule": name}, None, act, catch_up=catch_up)


@command(schedules_cli, "run", output.print_id)
def run(call: Call, name: Name, by: By = None) -> Job:
    """Fire a schedule now, whatever its plan says. Prints the id of the job."""
    return call.recorded("run", {"schedule": name}, by, partial(call.app.schedules.run, name, by=by))


@command(schedules_cli, "delete", lambda _: None)
def delete(call: Call, name: Name) -> dict[str, str]:
    """Delete a schedule and keep the record of its ticks. The code brings back a schedule that it declares."""
    declared = call.app.schedules.get(name).app
    call.recorded("delete", {"schedule": name}, None, partial(call.app.schedules.delete, name))
    output.say(f"schedule {name} is deleted" + (f"; {declared} declares it: it comes back" if declared else ""))
    return {"deleted": name}


def _in_words(schedule: Schedule) -> str:
    return span_in_words(Span(schedule.plan, schedule.start, schedule.end))
