"""How values look on a page: times, ages, numbers, JSON. All is text; the templates escape it."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from pgqueue.dashboard.request import slug
from pgqueue.printable import printable
from pgqueue.timing import in_words

LONGEST = 20_000  # characters of a value that a page shows
NONE = "\N{EN DASH}"  # in place of a value that is not there
_SIZES = ("bytes", "kB", "MB", "GB", "TB")


def safe(value: Any) -> Any:
    """Return a value as it is put into a page: characters that hide text or turn it around are shown as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def age(seconds: float | None) -> str:
    """Return a duration in its two largest units, with milliseconds below a second."""
    if seconds is None:
        return NONE
    if 0 < seconds < 1:
        return f"{1000 * seconds:.3g} ms" if seconds >= 0.001 else "< 1 ms"
    return in_words(seconds if seconds < 10 else int(seconds))


def span_words(seconds: float) -> str:
    """Return a span that somebody has chosen, without a part that is zero: 3h, and not 3h0m."""
    return re.sub(r"(?<=[dhm])0[hms]$", "", in_words(int(seconds)))


def last_part(name: str | None) -> str:
    """Return the end of a dotted name: the class of an error without its module."""
    return (name or "").rpartition(".")[2]


def ago(moment: datetime | None) -> Markup:
    """Return how long ago a moment was, or in how long it comes, with the moment itself beside it for whoever asks."""
    if moment is None:
        return Markup("") + NONE
    away = (datetime.now(UTC) - moment).total_seconds()
    words = in_words(int(abs(away)))
    said = "now" if abs(away) < 1 else f"{words} ago" if away > 0 else f"in {words}"
    utc = moment.astimezone(UTC)
    shown = utc.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(utc.isoformat(), shown, said)


def moment(value: datetime | None) -> Markup:
    """Return a moment in UTC."""
    if value is None:
        return Markup("") + NONE
    utc = value.astimezone(UTC)
    part = f".{utc.microsecond // 1000:03}" if utc.microsecond else ""
    return Markup('<time datetime="{}" title="UTC">{}</time>').format(
        utc.isoformat(), utc.strftime("%m-%d %H:%M:%S") + part
    )


def number(value: float | None, capped: bool = False) -> str:
    """Return a number with thin spaces between the thousands, and a plus if there are more."""
    if value is None:
        return NONE
    text = f"{value:,.3g}" if isinstance(value, float) and value < 100 else f"{round(value):,}"
    return text.replace(",", "\u202f") + ("+" if capped else "")


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    if share is None:
        return NONE
    return "0 %" if share == 0 else "< 0.1 %" if share < 0.001 else f"{100 * share:.3g} %"


def size(value: float | None) -> str:
    """Return a number of bytes."""
    if value is None:
        return NONE
    left = 0
    while value >= 1000 and left < len(_SIZES) - 1:
        value, left = value / 1000, left + 1
    return f"{value:.3g} {_SIZES[left]}"


def pretty(value: Any) -> str:
    """Return a value as JSON that people read; of a long one the beginning."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=str)
    return shorten(text)


def shorten(text: str | None, most: int = LONGEST) -> str:
    """Return a text, of a long one the beginning, and how much is left out."""
    if text is None:
        return ""
    return text if len(text) <= most else f"{text[:most]}\n… {len(text) - most:,} of {len(text):,} characters left out"


def brief(value: Any, most: int = 120) -> str:
    """Return a value in one line."""
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else value
    line = " ".join(text[: 2 * most].split())
    return line if len(line) <= most else line[:most] + "…"


def as_value(text: str) -> Markup:
    """Return text for a form, exactly as it is: what a form shows is what it sends."""
    return Markup(escape(text))  # noqa: S704 - it is escaped


FILTERS: dict[str, Callable[..., Any]] = {
    "age": age, "ago": ago, "moment": moment, "number": number, "percent": percent, "size": size, "pretty": pretty,
    "shorten": shorten, "brief": brief, "slug": slug, "as_value": as_value, "last_part": last_part,
}  # fmt: skip
