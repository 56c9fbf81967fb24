"""`pgqueue schedules …`."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from pgqueue.app import App
from pgqueue.cli import output
from pgqueue.cli.load import app_or_default
from pgqueue.errors import InvalidOption, InvalidPlan
from pgqueue.plan import Plan, RRule, Span, as_plan, check_moment
from pgqueue.schedule import Schedule
from pgqueue.schedules import ScheduleOptions
from pgqueue.words import Upcoming, describe_span, preview

schedules_cli = typer.Typer(help="Look at schedules, make, change, pause and fire them.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Name = Annotated[str, typer.Argument(help="The schedule's name.")]
AppRef = Annotated[str | None, typer.Option("-A", "--app", help="The app, as module:attr. Default: PGQUEUE_APP.")]
Dsn = Annotated[str | None, typer.Option(help="The database. Default: the app's, PGQUEUE_DSN or DATABASE_URL.")]
Schema = Annotated[str, typer.Option(help="pgqueue's schema, where no app names it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
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


@schedules_cli.command("list")
def list_schedules(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1)] = 100,
    after: Annotated[str | None, typer.Option(help="Only names after this one: the next page.")] = None,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """List schedules by name, with their next and last ticks."""
    home = app_or_default(app, dsn, schema)
    found = _finish(home, home.schedules.list(after=after, limit=limit))
    output.print_json(found) if as_json else output.print_schedules(found)


@schedules_cli.command("show")
def show(
    name: Name,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="How many of the last ticks.")] = 10,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """Show a schedule: what it says, how it is, what became of its last ticks."""
    home = app_or_default(app, dsn, schema)
    status, ticks = home.schedules.get(name), home.schedules.ticks(name, limit=limit)
    try:
        schedule = home.schedules.definition(name)
    except InvalidPlan:
        schedule = None  # its status says why
    home.close()
    if as_json:
        definition = schedule and {**schedule.columns(), "args": json.loads(schedule.job.args)}
        output.print_json({"status": status, "definition": definition, "ticks": ticks})
        return
    said = (
        {} if schedule is None else {"plan": _words(schedule), "args": schedule.job.args, "queue": schedule.job.queue}
    )
    facts = {field: getattr(status, field) for field in status.__slots__ if getattr(status, field) not in (None, "", 0)}
    rows = (facts | said).items()
    output.table(f"schedule {name}", ("what", "value"), ((field.replace("_", " "), value) for field, value in rows))
    output.table(
        "last ticks",
        ("tick", "outcome", "job", "why"),
        ((t.tick, t.outcome, t.job_id, t.reason or t.by) for t in ticks),
    )


@schedules_cli.command("preview")
def preview_ticks(
    name: Annotated[str | None, typer.Argument(help="A schedule's name; or give --plan.")] = None,
    plan: PlanText = None,
    timezone: Zone = None,
    start: Annotated[str | None, typer.Option(help="The first moment, for --plan.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=1000)] = 5,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """Say in plain words when a schedule, or a plan that is none yet, ticks next."""
    if (name is None) == (plan is None):
        raise InvalidOption("give the name of a schedule, or --plan")
    if name is not None:
        home = app_or_default(app, dsn, schema)
        said, found = _words(home.schedules.definition(name)), _finish(home, home.schedules.preview(name, count))
    else:
        begin = _moment("--start", start)
        span = Span(_plan(plan or "", timezone, begin), begin)
        said, found = describe_span(span), preview(span, timezone or "UTC", datetime.now(UTC), count)
    _print_preview(said, found, as_json=as_json)


@schedules_cli.command("create")
def create(
    name: Name,
    task: Annotated[str, typer.Argument(help="The task's name.")],
    args: Annotated[str, typer.Argument(help="Its arguments as a JSON object.")] = "{}",
    plan: PlanText = None,
    at: Moment = None,
    timezone: Zone = None,
    option: Options = None,
    replace: Annotated[bool, typer.Option(help="Take the place of one of that name.")] = False,
    by: By = None,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """Make a schedule. With an app its task must be registered and its arguments are validated."""
    home = app_or_default(app, dsn, schema)
    if app:
        home.tasks[task]  # an unknown name is an error here, as for `pgqueue enqueue`
    given = _options(option, timezone, args)
    when = None if plan is None else _plan(plan, timezone, given.get("start"))
    moment = _moment("--at", at)
    found = _finish(home, home.schedules.create(name, task, when, at=moment, replace=replace, by=by, **given))
    output.print_json(found) if as_json else output.print_schedules([found])


@schedules_cli.command("edit")
def edit(
    name: Name,
    plan: PlanText = None,
    at: Moment = None,
    timezone: Zone = None,
    args: Args = None,
    option: Options = None,
    by: By = None,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """Change what is given, and leave the rest."""
    home = app_or_default(app, dsn, schema)
    given = _options(option, timezone, args)
    zone = timezone or (home.schedules.definition(name).plan.timezone if plan else None)
    when = None if plan is None else _plan(plan, zone, given.get("start"))
    moment = _moment("--at", at)
    found = _finish(home, home.schedules.edit(name, when, at=moment, by=by, **given))
    output.print_json(found) if as_json else output.print_schedules([found])


@schedules_cli.command("revert")
def revert(
    name: Name, app: AppRef = None, dsn: Dsn = None, schema: Schema = "pgqueue", as_json: AsJson = False
) -> None:
    """Give up the edits of a schedule that the code declares."""
    home = app_or_default(app, dsn, schema)
    found = _finish(home, home.schedules.revert(name))
    output.print_json(found) if as_json else output.print_schedules([found])


@schedules_cli.command("pause")
def pause(
    name: Name,
    until: Annotated[str | None, typer.Option(help="Resume by itself at a moment, or after 15m, 2h, 1d.")] = None,
    catch_up: CatchUp = None,
    by: By = None,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """Let no tick of a schedule fire until it is resumed."""
    home = app_or_default(app, dsn, schema)
    moment = datetime.now(UTC) + _duration(until) if until and _is_duration(until) else _moment("--until", until)
    found = _finish(home, home.schedules.pause(name, until=moment, by=by, catch_up=catch_up or "skip"))
    output.print_json(found) if as_json else output.print_schedules([found])


@schedules_cli.command("resume")
def resume(
    name: Name,
    catch_up: CatchUp = None,
    app: AppRef = None,
    dsn: Dsn = None,
    schema: Schema = "pgqueue",
    as_json: AsJson = False,
) -> None:
    """End the pause of a schedule, or bring back one that the code dropped."""
    home = app_or_default(app, dsn, schema)
    found = _finish(home, home.schedules.resume(name, catch_up=catch_up))
    output.print_json(found) if as_json else output.print_schedules([found])


@schedules_cli.command("run")
def run(
    name: Name, by: By = None, app: AppRef = None, dsn: Dsn = None, schema: Schema = "pgqueue", as_json: AsJson = False
) -> None:
    """Fire a schedule now, whatever its plan says. Prints the id of the job."""
    home = app_or_default(app, dsn, schema)
    job = _finish(home, home.schedules.run(name, by=by))
    output.print_json(job) if as_json else typer.echo(job.id)


@schedules_cli.command("delete")
def delete(
    name: Name, app: AppRef = None, dsn: Dsn = None, schema: Schema = "pgqueue", as_json: AsJson = False
) -> None:
    """Delete a schedule. What became of its ticks stays. One that the code declares comes back with it."""
    home = app_or_default(app, dsn, schema)
    declared = home.schedules.get(name).app
    home.schedules.delete(name)
    home.close()
    if as_json:
        output.print_json({"deleted": name})
    output.say(f"schedule {name} is deleted" + (f"; {declared} declares it: it comes back" if declared else ""))


def _finish(home: App, found: Any) -> Any:
    home.close()
    return found


def _words(schedule: Schedule) -> str:
    return describe_span(Span(schedule.plan, schedule.start, schedule.end))


def _print_preview(said: str, found: Sequence[Upcoming], *, as_json: bool) -> None:
    if as_json:
        output.print_json({"plan": said, "ticks": found})
        return
    output.console.print(said, highlight=False, markup=False)
    for upcoming in found:
        output.console.print(f"  {upcoming.words}", highlight=False, markup=False)


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


def _options(given: Sequence[str] | None, timezone: str | None, args: str | None) -> ScheduleOptions:
    """Read name=value options. Durations may have a unit."""
    found: dict[str, Any] = {} if timezone is None else {"timezone": timezone}
    if args is not None:
        found["args"] = _object(args)
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


def _object(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidOption(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidOption(f'{text!r} is no JSON object: name the arguments, as in {{"order_id": 1}}')
    return value
