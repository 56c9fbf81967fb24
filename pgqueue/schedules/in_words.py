"""Plans, ticks and durations in plain words."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from pgqueue.schedules.cron import Cron, CronPart
from pgqueue.schedules.plan import At, Every, Plan, RRule, Span, Ticks
from pgqueue.schedules.wall_clock import utc_offset

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def plan_in_words(plan: Plan) -> str:
    """Return when a plan ticks: "At 06:00 on Monday through Friday, Europe/Paris"."""
    match plan:
        case Cron():
            either = [", if also ".join(map(_part_in_words, together)) for together in plan.parts]
            words = "; or ".join(either)
            return f"{words[0].upper()}{words[1:]}, {plan.timezone}"
        case Every():
            since = f", counted from {moment_in_words(plan.anchor, plan.timezone)}" if plan.anchor else ""
            return f"Every {duration_in_words(plan.seconds)}{since}"
        case At():
            return f"Once, at {moment_in_words(plan.moment, plan.timezone)}"
        case RRule():
            return f"By the rule {plan.rule} from {moment_in_words(plan.anchor, plan.timezone)} on"


def _part_in_words(part: CronPart) -> str:
    words = CronSim(part.fields, datetime(2000, 1, 1)).explain()
    return words[0].lower() + words[1:]


def span_in_words(span: Span) -> str:
    """Return when a plan ticks, and from and until which moment."""
    words, timezone = plan_in_words(span.plan), span.plan.timezone
    if span.start is not None:
        words += f"; from {moment_in_words(span.start, timezone)}"
    if span.end is not None:
        words += f"; until {moment_in_words(span.end, timezone)}"
    return words


def tick_in_words(tick: datetime, before: datetime, timezone: str) -> str:
    """Return when a tick is, how long after `before`, and whether the clocks change in between."""
    zone = ZoneInfo(timezone)
    words = f"{moment_in_words(tick, timezone)}, in {duration_in_words((tick - before).total_seconds())}"
    ahead = (utc_offset(zone, tick) - utc_offset(zone, before)).total_seconds()
    if ahead:
        words += f" (clocks went {'forward' if ahead > 0 else 'back'} {duration_in_words(abs(ahead))})"
    return words


@dataclass(frozen=True, slots=True)
class Upcoming:
    """A tick to come, and the same in words."""

    tick: datetime
    words: str


def preview(ticks: Ticks, timezone: str, after: datetime, count: int) -> list[Upcoming]:
    """Return the next `count` ticks after a moment; fewer if the plan ends before."""
    found: list[Upcoming] = []
    tick = ticks.after(after)
    while tick is not None and len(found) < count:
        found.append(Upcoming(tick, tick_in_words(tick, after, timezone)))
        tick = ticks.after(tick)
    return found


def duration_in_words(seconds: float) -> str:
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
    """Return a moment on the wall clock: "Mon 2026-03-30 06:00:00 Europe/Paris (UTC+2)"."""
    shown = moment.astimezone(ZoneInfo(timezone))
    hours = (shown.utcoffset() or timedelta(0)).total_seconds() / 3600
    zone = timezone if shown.tzinfo is UTC or timezone == "UTC" else f"{timezone} (UTC{hours:+g})"
    return f"{shown:%a %Y-%m-%d %H:%M:%S} {zone}"
