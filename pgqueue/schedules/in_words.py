"""Plans in plain words."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from pgqueue.schedules.cron import Cron
from pgqueue.schedules.plan import At, Every, Plan, RRule, Span, Ticks
from pgqueue.schedules.wall_clock import offset

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def describe(plan: Plan) -> str:
    """Say when a plan ticks: "At 06:00 on Monday through Friday, Europe/Paris"."""
    match plan:
        case Cron():
            return f"{CronSim(plan.fields, datetime(2000, 1, 1)).explain()}, {plan.timezone}"
        case Every():
            since = f", counted from {moment_in_words(plan.anchor, plan.timezone)}" if plan.anchor else ""
            return f"Every {duration(plan.seconds)}{since}"
        case At():
            return f"Once, at {moment_in_words(plan.moment, plan.timezone)}"
        case RRule():
            return f"By the rule {plan.rule} from {moment_in_words(plan.anchor, plan.timezone)} on"


def describe_span(span: Span) -> str:
    """Say when a plan ticks, and between what moments."""
    said, timezone = describe(span.plan), span.plan.timezone
    if span.start is not None:
        said += f"; from {moment_in_words(span.start, timezone)}"
    if span.end is not None:
        said += f"; until {moment_in_words(span.end, timezone)}"
    return said


def describe_tick(tick: datetime, before: datetime, timezone: str) -> str:
    """Say when a tick is, how long after `before`, and whether the clocks change in between."""
    zone = ZoneInfo(timezone)
    said = f"{moment_in_words(tick, timezone)}, in {duration((tick - before).total_seconds())}"
    ahead = (offset(zone, tick) - offset(zone, before)).total_seconds()
    if ahead:
        said += f" (clocks went {'forward' if ahead > 0 else 'back'} {duration(abs(ahead))})"
    return said


@dataclass(frozen=True, slots=True)
class Upcoming:
    """A tick to come, and how people say it."""

    tick: datetime
    words: str


def preview(ticks: Ticks, timezone: str, after: datetime, count: int) -> list[Upcoming]:
    """Return the next `count` ticks after a moment; fewer when the plan comes to its end."""
    found: list[Upcoming] = []
    tick = ticks.after(after)
    while tick is not None and len(found) < count:
        found.append(Upcoming(tick, describe_tick(tick, after, timezone)))
        tick = ticks.after(tick)
    return found


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: "1 day 2 hours"."""
    if seconds < 1 or (seconds != int(seconds) and seconds < 60):
        return f"{seconds:g} seconds"
    left, parts = int(seconds), []
    for size, unit in _UNITS:
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}{'s' if number > 1 else ''}")
    return " ".join(parts[:2])


def moment_in_words(moment: datetime, timezone: str) -> str:
    """Say when a moment is: "Mon 2026-03-30 06:00:00 Europe/Paris (UTC+2)"."""
    shown = moment.astimezone(ZoneInfo(timezone))
    hours = (shown.utcoffset() or timedelta(0)).total_seconds() / 3600
    zone = timezone if shown.tzinfo is UTC or timezone == "UTC" else f"{timezone} (UTC{hours:+g})"
    return f"{shown:%a %Y-%m-%d %H:%M:%S} {zone}"
