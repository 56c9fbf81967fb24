"""Charts as shapes: what a template draws as SVG. The browser computes nothing."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pgqueue.dashboard.formats import age, number, span_words
from pgqueue.dashboard.look import Activity
from pgqueue.errors import InvalidOption
from pgqueue.queries.dashboard import Failures, Span, Step, Wait

WIDTH, HEIGHT = 720, 120
ENDS = {"succeeded": "ok", "retried": "warn", "failed": "bad"}  # outcomes, from the bottom up, and their colours
# What a reader can choose, by the name of it in an address.
SPANS = {
    "1h": Span(60, 60), "3h": Span(180, 60), "24h": Span(900, 96), "7d": Span(3600, 168), "30d": Span(14_400, 180),
}  # fmt: skip
SMALL = Span(300, 36)  # of the small charts of queues


class Bar(NamedTuple):
    """A rectangle of a chart, and the words that it stands for."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    words: str


class Chart(NamedTuple):
    """A chart: its rectangles, what the top of it stands for, and its rows for whoever reads a table."""

    bars: Sequence[Bar]
    top: str
    span: str
    rows: Sequence[tuple[str, ...]]
    total: int


def chosen(asked: str | None, usual: str) -> str:
    """Return the name of the span that is asked for, else the usual one. Raises InvalidOption."""
    if asked is not None and asked not in SPANS:
        raise InvalidOption(f"span={asked!r:.100} cannot be used: give {', '.join(SPANS)}")
    return asked or usual


def pair_of(activity: Activity, span: str) -> dict[str, Any]:
    """Return what a page with both charts of a span shows; no charts where nothing is read."""
    steps = activity.steps
    return {
        "chart": None if steps is None else ended(steps, SPANS[span]),
        "waits": None if steps is None else waited(steps, SPANS[span]),
        "coming": activity.is_coming,
        "unread": activity.why,
        "span": span,
        "step": span_words(SPANS[span].step),
    }


def used_of(activity: Activity, span: str, slots: int) -> dict[str, Any]:
    """Return what a page with the chart of used slots shows; no chart where nothing is read."""
    steps = activity.steps
    return {
        "chart": None if steps is None else used(steps, SPANS[span], slots),
        "coming": activity.is_coming,
        "unread": activity.why,
        "span": span,
        "step": span_words(SPANS[span].step),
    }


def _whole(span: Span) -> str:
    """Return a whole span in words: by the name that a reader chooses, if it is one of these."""
    return next((name for name, each in SPANS.items() if each == span), span_words(span.step * span.steps))


def ended(steps: Iterable[Step], span: Span) -> Chart:
    """Return a chart of how many attempts ended, by step and outcome."""
    counts = [dict.fromkeys(ENDS, 0) for _ in range(span.steps)]
    for step in steps:
        if 0 <= step.ago < span.steps and step.outcome in ENDS:
            counts[step.ago][step.outcome] += step.jobs
    most = max(1, *(sum(each.values()) for each in counts))
    bars = [bar for ago, each in enumerate(counts) for bar in _stack(ago, each, most, span)]
    rows = [
        (_when(ago, span), *(number(each[name]) for name in ENDS))
        for ago, each in enumerate(counts)
        if any(each.values())
    ]
    total = sum(sum(each.values()) for each in counts)
    return Chart(bars, f"{number(most)} in {span_words(span.step)}", _whole(span), rows, total)


def waited(steps: Iterable[Step], span: Span) -> Chart:
    """Return a chart of how long attempts had waited when they began, on average, by step."""
    sums = [[0.0, 0] for _ in range(span.steps)]
    for step in steps:
        if 0 <= step.ago < span.steps and step.outcome in ENDS:
            sums[step.ago][0] += step.wait_seconds
            sums[step.ago][1] += step.jobs
    means = [seconds / jobs if jobs else 0.0 for seconds, jobs in sums]
    most = max(means) or 1.0
    bars = [
        _bar(ago, 0.0, mean / most, "wait", f"{_when(ago, span)}: {age(mean)}", span)
        for ago, mean in enumerate(means)
        if mean
    ]
    rows = [(_when(ago, span), age(mean)) for ago, mean in enumerate(means) if mean]
    return Chart(bars, age(max(means)), _whole(span), rows, sum(int(jobs) for _, jobs in sums))


def waits_of(found: Iterable[Wait], span: Span) -> Chart:
    """Return the small chart of a queue: how long attempts had waited when they began, on average, by step."""
    means = {wait.ago: wait.wait_seconds / wait.jobs for wait in found if wait.jobs and 0 <= wait.ago < span.steps}
    most = max(means.values(), default=0.0)
    bars = [
        _bar(ago, 0.0, mean / (most or 1.0), "wait", f"{_when(ago, span)}: {age(mean)}", span)
        for ago, mean in means.items()
    ]
    return Chart(bars, age(most), _whole(span), (), len(means))


def used(steps: Iterable[Step], span: Span, slots: int) -> Chart:
    """Return a chart of how many slots were used on average, by step: jobs ran for so many seconds in each second. The
    top of it is all slots, or more where there were more of them then."""
    seconds = [0.0] * span.steps
    for step in steps:
        if 0 <= step.ago < span.steps:
            seconds[step.ago] += step.run_seconds
    means = [each / span.step for each in seconds]
    most = max(slots, *means) or 1.0
    rows = [(_when(ago, span), number(mean)) for ago, mean in enumerate(means) if mean]
    bars = [
        _bar(ago, 0.0, mean / most, "run", f"{_when(ago, span)}: {number(mean)} slots", span)
        for ago, mean in enumerate(means)
        if mean
    ]
    return Chart(bars, f"{number(most)} slots", _whole(span), rows, round(sum(seconds) / 3600))


def hourly(group: Failures, hours: int) -> Chart:
    """Return the small chart of a group of failures: how many failed in each of the last hours."""
    counts = {int(ago): int(jobs) for ago, jobs in json.loads(group.hourly)}
    most = max(counts.values(), default=1)
    span = Span(3600, hours)
    bars = [
        _bar(ago, 0.0, jobs / most, "bad", f"{_when(ago, span)}: {number(jobs)}", span) for ago, jobs in counts.items()
    ]
    return Chart(bars, str(most), f"{hours}h", (), sum(counts.values()))


def _stack(ago: int, counts: dict[str, int], most: int, span: Span) -> Iterator[Bar]:
    words = ", ".join(f"{number(jobs)} {name}" for name, jobs in counts.items() if jobs)
    below = 0.0
    for name, kind in ENDS.items():
        if counts[name]:
            yield _bar(ago, below, counts[name] / most, kind, f"{_when(ago, span)}: {words}", span)
            below += counts[name] / most


def _bar(ago: int, below: float, share: float, kind: str, words: str, span: Span) -> Bar:
    """Return a bar; one that stands for anything at all can be seen."""
    room = WIDTH / span.steps
    height = max(1.5, share * HEIGHT)
    left = WIDTH - (ago + 1) * room
    return Bar(
        round(left, 2), round(HEIGHT - below * HEIGHT - height, 2), round(room * 0.78, 2), round(height, 2), kind, words
    )


def _when(ago: int, span: Span) -> str:
    return "now" if ago == 0 else f"{span_words(ago * span.step)} ago"
