"""The options of a dashboard, checked."""

from dataclasses import dataclass
from typing import TypedDict

from pgqueue.client.troubles import LATE_AFTER
from pgqueue.dashboard.redaction import Redact
from pgqueue.dashboard.traces import check_trace_url
from pgqueue.errors import InvalidOption
from pgqueue.timing import LIMIT, check_duration


class DashboardOptions(TypedDict, total=False):
    """Options of `asgi` and `wsgi`.

    `read_only`: nobody changes anything, whatever their access. `late_after`: how many seconds a due job of a queue may
    wait before the queue is behind, 60 by default. `redact`: a function of a job, the path of a value in it, such as
    `("args", "email")`, and the value; it returns what is shown instead. `title`: what stands on top of each page.
    `trace_url`: where the trace of a job is, such as `https://jaeger.example.com/trace/{trace_id}`.
    """

    read_only: bool
    late_after: float
    redact: Redact | None
    title: str
    trace_url: str | None


@dataclass(frozen=True, slots=True)
class DashboardSettings:
    """The options of a dashboard, checked."""

    read_only: bool = False
    late_after: float = LATE_AFTER
    redact: Redact | None = None
    title: str = "pgqueue"
    trace_url: str | None = None

    @classmethod
    def of(cls, options: DashboardOptions) -> "DashboardSettings":
        """Check options. Raises InvalidOption."""
        if unknown := set(options) - set(DashboardOptions.__annotations__):
            raise InvalidOption(f"the dashboard has no option {', '.join(sorted(unknown))}")
        settings = cls(**options)
        if settings.redact is not None and not callable(settings.redact):
            raise InvalidOption(
                f"redact={settings.redact!r:.100} cannot be used: give a function of (job, path, value)"
            )
        if not isinstance(settings.title, str) or not 1 <= len(settings.title) <= 60:
            raise InvalidOption(f"title={settings.title!r:.100} cannot be used: give a text of 1 to 60 characters")
        check_duration("late_after", settings.late_after, LIMIT)
        check_trace_url(settings.trace_url)
        return settings
