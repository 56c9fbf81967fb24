"""What `manage.py check` says of a project's use of pgqueue, beside what Django asks of the backend."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks.registry import registry
from django.db import connections
from django.urls import get_resolver
from django.utils.module_loading import import_string

from pgqueue.django.backends import our_backends
from pgqueue.django.database import E002, REMEDY, not_postgres
from pgqueue.django.named import SETTING

_WHO_LOOKS = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
)


def check_project(**_: Any) -> list[Any]:
    """Return what is wrong with the settings, without a look into the database."""
    return [*_of_backends(), *_of_database(), *_of_dashboard()]


def _of_backends() -> Iterator[Any]:
    """Django 6 and the app `django_tasks` ask each backend. Before Django 6 the backend works without that app."""
    if any(each.__name__ == "check_tasks" for each in registry.get_checks()):
        return
    for known in our_backends():
        yield from import_string("pgqueue.django.interface.task_backends")[known.alias].check()


def _of_database() -> Iterator[Any]:
    alias = (getattr(settings, SETTING, None) or {}).get("database")
    if alias is not None and alias in connections and (problem := not_postgres(alias)):
        yield checks.Error(f'{SETTING}["database"]: {problem}.', hint=f"To mend it, {REMEDY}.", id=E002)


def _of_dashboard() -> Iterator[Any]:
    if not getattr(settings, "ROOT_URLCONF", None) or "access" in (getattr(settings, SETTING, None) or {}):
        return
    if "pgqueue" in get_resolver().app_dict and (lacking := [each for each in _WHO_LOOKS if not _has(each)]):
        yield checks.Warning(
            f"The dashboard does not know who looks at it: MIDDLEWARE lacks {' and '.join(lacking)}.",
            hint=f'Add them, in this order, or name a function of the request in {SETTING}["access"].',
            id="pgqueue.W002",
        )


def _has(wanted: str) -> bool:
    """Whether MIDDLEWARE has a class or one that is made of it."""
    for path in settings.MIDDLEWARE:
        try:
            kind = import_string(path)
        except ImportError:  # Django says so itself
            continue
        if wanted in (f"{base.__module__}.{base.__qualname__}" for base in getattr(kind, "__mro__", ())):
            return True
    return False
