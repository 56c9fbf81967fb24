"""The aliases of TASKS that lead to pgqueue."""

from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string


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
