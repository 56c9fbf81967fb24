"""The aliases of TASKS that lead to pgqueue, and who makes their tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

from pgqueue.django.named import SETTING
from pgqueue.errors import NotMigrated

MIGRATE = "python manage.py migrate"


def migrates() -> bool:
    """Whether `manage.py migrate` makes pgqueue's tables."""
    named = "database" in (getattr(settings, SETTING, None) or {})
    return apps.is_installed("pgqueue.django") and (named or bool(our_backends()))


@contextmanager
def naming_manage_py() -> Iterator[None]:
    """Let a NotMigrated name `manage.py migrate`, where that makes the tables."""
    try:
        yield
    except NotMigrated as error:
        raise named(error) from None


def named(error: NotMigrated) -> NotMigrated:
    """Return the same error; with `manage.py migrate` as its remedy, where that makes the tables."""
    return error.with_remedy(MIGRATE) if migrates() else error


def our_backends() -> list[Any]:
    """Return the tasks of each alias of TASKS that leads to pgqueue, the default one first."""
    aliases = sorted(getattr(settings, "TASKS", None) or {}, key=lambda alias: alias != "default")
    ours = []
    for alias in aliases:
        backend = settings.TASKS[alias]["BACKEND"]
        if backend.startswith(("django.tasks.", "django_tasks.")):
            continue  # without an import: a project has the one or the other
        try:
            kind = import_string(backend)
        except ImportError:  # Django says so where that one is used
            continue
        if isinstance(kind, type) and any(base.__module__ == "pgqueue.django.backend" for base in kind.__mro__):
            task_backends = import_string("pgqueue.django.interface.task_backends")  # which not every project has
            ours.append(task_backends[alias].known)
    return ours
