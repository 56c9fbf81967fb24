"""The setting PGQUEUE of a Django project, and the dashboard that it describes."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest

from pgqueue.dashboard.access import Access
from pgqueue.dashboard.dashboard import Dashboard
from pgqueue.dashboard.settings import DashboardOptions, DashboardSettings
from pgqueue.django.access import staff
from pgqueue.django.backends import our_backends
from pgqueue.django.named import SETTING, found, named_app
from pgqueue.errors import InvalidOption

OPTIONS = tuple(DashboardOptions.__annotations__)
KNOWN = ("app", "access", "database", *OPTIONS)


class Mounted(NamedTuple):
    """The dashboard of a project, and the function of a request of Django that says who looks."""

    dashboard: Dashboard
    access: Callable[[HttpRequest], Access | None]


@cache
def mounted() -> Mounted:
    """Return what the setting describes, made once in a process. Raises ImproperlyConfigured, which names the part of
    the setting that is wrong; and what the project's own modules raise where they are imported."""
    given = getattr(settings, SETTING, {})
    ours = [] if isinstance(given, Mapping) and "app" in given else our_backends()
    if not isinstance(given, Mapping) or not ("app" in given or ours):
        raise ImproperlyConfigured(f'{SETTING} does not name the app: set {SETTING} = {{"app": "shop.tasks:app"}}')
    if unknown := set(given) - set(KNOWN):
        raise ImproperlyConfigured(f"{SETTING} has no part {', '.join(sorted(map(str, unknown)))}: {', '.join(KNOWN)}")
    app = named_app(given["app"], f'{SETTING}["app"]') if "app" in given else ours[0].app
    access = _named(given, "access") if "access" in given else staff
    if not callable(access):
        raise ImproperlyConfigured(f'{SETTING}["access"] is a {type(access).__name__}: name a function of the request')
    options: Any = {name: _named(given, name) if name == "redact" else given[name] for name in OPTIONS if name in given}
    try:
        return Mounted(Dashboard(app, DashboardSettings.of(options), streams=False), access)
    except InvalidOption as error:
        raise ImproperlyConfigured(f"{SETTING}: {error}") from None


def _named(given: Mapping[str, Any], part: str) -> Any:
    return found(given[part], f'{SETTING}["{part}"]')


def _forget(*, setting: str, **_: object) -> None:
    """Make the dashboard anew where a test overrides the setting."""
    if setting in (SETTING, "TASKS"):
        mounted.cache_clear()


setting_changed.connect(_forget)
