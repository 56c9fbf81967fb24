"""pgqueue in a Django project: a backend for Django's tasks, `manage.py pgqueue`, and the dashboard. Extra: `django`.

`TASKS = {"default": {"BACKEND": "pgqueue.django.PgqueueBackend"}}` and `"pgqueue.django"` in INSTALLED_APPS run the
tasks; `path("jobs/", include("pgqueue.django.urls"))` with `PGQUEUE = {"app": "shop.tasks:app"}` shows the dashboard,
whose permissions the app in INSTALLED_APPS brings.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgqueue.django.backend import PgqueueBackend as PgqueueBackend
    from pgqueue.django.job_views import accepted as accepted
    from pgqueue.django.job_views import job_urls as job_urls
    from pgqueue.django.task_class import task as task

# Django imports this package before it has read the settings, and not every project has tasks.
_LATER = {
    "PgqueueBackend": "pgqueue.django.backend",
    "accepted": "pgqueue.django.job_views",
    "job_urls": "pgqueue.django.job_views",
    "task": "pgqueue.django.task_class",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
