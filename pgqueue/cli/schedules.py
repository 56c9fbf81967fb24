"""`pgqueue schedules …`."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.options import json_arguments
from pgqueue.client.schedule_options import ScheduleOptions
from pgqueue.errors import InvalidOption, InvalidPlan
from pgqueue.jobs.job import Job
from pgqueue.queries.read import ScheduleStatus
from pgqueue.schedules.in_words import describe_span, preview
from pgqueue.schedules.plan import Plan, RRule, Span, as_plan, check_moment
from pgqueue.schedules.schedule import Schedule

schedules_cli = typer.Typer(help="Look at schedules, make, change, pause and fire them.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Name = Annotated[str, typer.Argument(help="The schedule's name.")]
By = Annotated[str | None, typer.Option(help="Who does it. Default: the user of this process.")]
PlanText = Annotated[
    str | None, typer.Option("--plan", help="Cron ('0 6 * * mon-fri'), an interval (90, 15m, 2h, 1d), or FREQ=….")
]
Moment = Annotated[str | None, typer.Option("--at", help="One moment instead: 2027-01-31T06:00+01:00.")]
Zone = Annotated[str | None, typer.Option(help="The timezone, as Europe/Paris.")]
CatchUp = Annotated[str | None, typer.Option(help="The ticks of the pause: skip, once, or all(LIMIT).")]
Args = Annotated[str | None, typer.Option(help="The task's arguments as a JSON object.")]
Options = Annotated[
    list[str] | None,
    typer.Option("-o", "--option", help="Any other option as name=value: misfire=skip, overlap=queue, queue=bulk, …"),
]


def _show(status: ScheduleStatus) -> None:
    output.print_schedules([status])


@command(schedules_cli, "list", output.print_schedules)
def list_schedules(
    call: Call,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1)] = 100,
    after: Annotated[str | None, typer.Option(help="Only names after this one: the next page.")] = None,
) -> Sequence[ScheduleStatus]:
    """List schedules by name, with their next and last ticks."""
    return call.app.schedules.list(after=after, limit=limit)


def _show_all(found: dict[str, Any]) -> None:
    status, definition, name = found["status"], found["definition"], found["status"].name
    facts = {field: getattr(status, field) for field in status.__slots__ if getattr(status, field) not in (None, "", 0)}
    if definition is not None:
        facts |= {"plan": _words(Schedule.of(name, definition, "{}")), "args": json.dumps(definition["args"])}
        facts["queue"] = definition["queue"]
    output.table(f"schedule {name}", ("what", "value"), ((field.replace("_", " "), facts[field]) for field in facts))
    ticks = ((t.tick, t.outcome, t.job_id, t.reason or t.by) for t in found["ticks"])
    output.table("last ticks", ("tick", "outcome", "job", "why"), ticks)


@command(schedules_cli, "show", _show_all)
def show(
    call: Call,
    name: Name,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="How many of the last ticks.")] = 10,
) -> dict[str, Any]:
    """Show a schedule: what it says, how it is, what became of its last ticks."""
    schedules = call.app.schedules
    status, ticks = schedules.get(name), schedules.ticks(name, limit=limit)
    try:
        said = schedules.definition(name)
        definition = {**said.columns(), "args": json.loads(said.job.args)}
    except InvalidPlan:
        definition = None  # its status says why
    return {"status": status, "definition": definition, "ticks": ticks}


def _show_preview(found: dict[str, Any]) -> None:
    for line in (found["plan"], *(f"  {upcoming.words}" for upcoming in found["ticks"])):
        output.console.print(line, highlight=False, markup=False)


@command(schedules_cli, "preview", _show_preview)
def preview_ticks(
    call: Call,
    name: Annotated[str | None, typer.Argument(help="A schedule's name; or give --plan.")] = None,
    plan: PlanText = None,
    timezone: Zone = None,
    start: Annotated[str | None, typer.Option(help="The first moment, for --plan.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=1000)] = 5,
) -> dict[str, Any]:
    """Say in plain words when a schedule, or a plan that is none yet, ticks next."""
    if (name is None) == (plan is None):
        raise InvalidOption("give the name of a schedule, or --plan")
    if name is not None:
        schedules = call.app.schedules
        return {"plan": _words(schedules.definition(name)), "ticks": schedules.preview(name, count)}
    begin = _moment("--start", start)
    span = Span(_plan(plan or "", timezone, begin), begin)
    return {"plan": describe_span(span), "ticks": preview(span, timezone or "UTC", datetime.now(UTC), count)}


@command(schedules_cli, "create", _show)
def create(
    call: Call,
    name: Name,
    task: Annotated[str, typer.Argument(help="The task's name.")],
    args: Annotated[str, typer.Argument(help="Its arguments as a JSON object.")] = "{}",
    plan: PlanText = None,
    at: Moment = None,
    timezone: Zone = None,
    option: Options = None,
    replace: Annotated[bool, typer.Option(help="Take the place of one of that name.")] = False,
    by: By = None,
) -> ScheduleStatus:
    """Make a schedule. With an app its task must be registered and its arguments are validated."""
    if call.has_app:
        call.app.tasks[task]  # an unknown name is an error here, as for `pgqueue enqueue`
    given = _options(task, option, timezone, args)
    when = None if plan is None else _plan(plan, timezone, given.get("start"))
    moment = _moment("--at", at)
    return call.app.schedules.create(name, task, when, at=moment, replace=replace, by=by, **given)


@command(schedules_cli, "edit", _show)
def edit(
    call: Call,
    name: Name,
    plan: PlanText = None,
    at: Moment = None,
    timezone: Zone = None,
    args: Args = None,
    option: Options = None,
    by: By = None,
) -> ScheduleStatus:
    """Change what is given, and leave the rest."""
    schedules, given = call.app.schedules, _options(f"the task of schedule {name}", option, timezone, args)
    zone = timezone or (schedules.definition(name).plan.timezone if plan else None)
    when = None if plan is None else _plan(plan, zone, given.get("start"))
    return schedules.edit(name, when, at=_moment("--at", at), by=by, **given)


@command(schedules_cli, "revert", _show)
def revert(call: Call, name: Name) -> ScheduleStatus:
    """Give up the edits of a schedule that the code declares."""
    return call.app.schedules.revert(name)


@command(schedules_cli, "pause", _show)
def pause(
    call: Call,
    name: Name,
    until: Annotated[str | None, typer.Option(help="Resume by itself at a moment, or after 15m, 2h, 1d.")] = None,
    catch_up: CatchUp = None,
    by: By = None,
) -> ScheduleStatus:
    """Let no tick of a schedule fire until it is resumed."""
    moment = datetime.now(UTC) + _duration(until) if until and _is_duration(until) else _moment("--until", until)
    return call.app.schedules.pause(name, until=moment, by=by, catch_up=catch_up or "skip")


@command(schedules_cli, "resume", _show)
def resume(call: Call, name: Name, catch_up: CatchUp = None) -> ScheduleStatus:
    """End the pause of a schedule, or bring back one that the code dropped."""
    return call.app.schedules.resume(name, catch_up=catch_up)


@command(schedules_cli, "run", lambda job: typer.echo(job.id))
def run(call: Call, name: Name, by: By = None) -> Job:
    """Fire a schedule now, whatever its plan says. Prints the id of the job."""
    return call.app.schedules.run(name, by=by)


@command(schedules_cli, "delete", lambda _: None)
def delete(call: Call, name: Name) -> dict[str, str]:
    """Delete a schedule. What became of its ticks stays. One that the code declares comes back with it."""
    declared = call.app.schedules.get(name).app
    call.app.schedules.delete(name)
    output.say(f"schedule {name} is deleted" + (f"; {declared} declares it: it comes back" if declared else ""))
    return {"deleted": name}


def _words(schedule: Schedule) -> str:
    return describe_span(Span(schedule.plan, schedule.start, schedule.end))


def _is_duration(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?[smhd]?", text) is not None


def _duration(text: str) -> timedelta:
    unit = text[-1] if text[-1] in _UNITS else "s"
    return timedelta(seconds=float(text.removesuffix(unit)) * _UNITS[unit])


def _plan(text: str, timezone: str | None, start: datetime | None) -> Plan:
    if "FREQ=" in text.upper():
        return RRule(text, check_moment("start", start), timezone or "UTC")
    return as_plan(_duration(text) if _is_duration(text) else text, timezone or "UTC", start)


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return check_moment(option, datetime.fromisoformat(text))
    except ValueError:
        raise InvalidOption(f"{option} {text!r} cannot be used: give a moment such as 2027-01-31T06:00+01:00") from None


def _options(target: str, given: Sequence[str] | None, timezone: str | None, args: str | None) -> ScheduleOptions:
    """Read name=value options. Durations may have a unit."""
    found: dict[str, Any] = {} if timezone is None else {"timezone": timezone}
    if args is not None:
        found["args"] = json_arguments(target, args)
    for text in given or []:
        name, _, value = text.partition("=")
        if name not in ScheduleOptions.__annotations__ or name in ("args", "timezone") or not value:
            known = sorted(set(ScheduleOptions.__annotations__) - {"args", "timezone"})
            raise InvalidOption(f"--option {text!r} cannot be used: give name=value, name one of {', '.join(known)}")
        found[name] = _value(name, value)
    return found  # type: ignore[return-value]  # its names were checked; values are checked where they are used


def _value(name: str, value: str) -> Any:
    if name in ("start", "end"):
        return _moment(name, value)
    if name == "tags":
        return value.split(",")
    if value == "none":
        return None
    if name in ("priority", "max_attempts", "max_running"):
        return int(value) if re.fullmatch(r"-?\d+", value) else value
    return _duration(value) if name in ("jitter", "delay", "grace", "expires") and _is_duration(value) else value
