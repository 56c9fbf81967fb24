"""The setting PGQUEUE of a Django project, and the dashboard that it describes."""

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest

from pgqueue.app import App
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.dashboard import Dashboard
from pgqueue.dashboard.settings import DashboardOptions, DashboardSettings
from pgqueue.django.access import staff
from pgqueue.errors import InvalidOption

SETTING = "PGQUEUE"
OPTIONS = tuple(DashboardOptions.__annotations__)
KNOWN = ("app", "access", *OPTIONS)


class Mounted(NamedTuple):
    """The dashboard of a project, and the function of a request of Django that says who looks."""

    dashboard: Dashboard
    access: Callable[[HttpRequest], Access | None]


@cache
def mounted() -> Mounted:
    """Return what the setting describes, made once in a process. Raises ImproperlyConfigured, which names the part of
    the setting that is wrong; and what the project's own modules raise where they are imported."""
    given = getattr(settings, SETTING, None)
    if not isinstance(given, Mapping) or "app" not in given:
        raise ImproperlyConfigured(f'{SETTING} does not name the app: set {SETTING} = {{"app": "shop.tasks:app"}}')
    if unknown := set(given) - set(KNOWN):
        raise ImproperlyConfigured(f"{SETTING} has no part {', '.join(sorted(map(str, unknown)))}: {', '.join(KNOWN)}")
    app = _named(given, "app")
    if not isinstance(app, App):
        raise ImproperlyConfigured(f'{SETTING}["app"] is a {type(app).__name__}, and not a pgqueue.App')
    access = _named(given, "access") if "access" in given else staff
    if not callable(access):
        raise ImproperlyConfigured(f'{SETTING}["access"] is a {type(access).__name__}: name a function of the request')
    options: Any = {name: _named(given, name) if name == "redact" else given[name] for name in OPTIONS if name in given}
    try:
        return Mounted(Dashboard(app, DashboardSettings.of(options), streams=False), access)
    except InvalidOption as error:
        raise ImproperlyConfigured(f"{SETTING}: {error}") from None


def _named(given: Mapping[str, Any], part: str) -> Any:
    """Return what a part of the setting names as `module:name`; what is no text is the thing itself.

    Settings are read before models can be imported, so text is the way to name what imports models.
    """
    named = given[part]
    if not isinstance(named, str):
        return named
    module, colon, name = named.partition(":")
    if not module or not colon or not name.isidentifier():
        raise ImproperlyConfigured(f'{SETTING}["{part}"] = {named!r:.200} cannot be used: write module:name')
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ImproperlyConfigured(f'{SETTING}["{part}"] = {named!r}: there is no module {error.name}') from None
    if not hasattr(found, name):
        raise ImproperlyConfigured(f'{SETTING}["{part}"] = {named!r}: {module} has no {name}')
    return getattr(found, name)


def _forget(*, setting: str, **_: object) -> None:
    """Make the dashboard anew where a test overrides the setting."""
    if setting == SETTING:
        mounted.cache_clear()


setting_changed.connect(_forget)
