"""The app of a Django project, with all its tasks, for the command line: `pgqueue work -A pgqueue.django.site:app`.

Importing it sets Django up by DJANGO_SETTINGS_MODULE, as wsgi.py does, and imports the module `tasks` of each app in
INSTALLED_APPS.
"""

import django
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

from pgqueue.app import App
from pgqueue.django.backends import our_backends
from pgqueue.django.named import SETTING, named_app


def app_of_project() -> App:
    """Return the app of TASKS, of its default alias if that is one of pgqueue's; else that of PGQUEUE."""
    autodiscover_modules("tasks")
    found: list[App] = [known.app for known in our_backends()]
    if found:
        return found[0]
    given = getattr(settings, SETTING, None) or {}
    if "app" not in given:
        raise ImproperlyConfigured(
            'neither TASKS has a backend of pgqueue nor PGQUEUE an app: set TASKS = {"default": {"BACKEND": '
            '"pgqueue.django.PgqueueBackend"}}'
        )
    return named_app(given["app"], f'{SETTING}["app"]')


if not apps.ready:
    django.setup()
app = app_of_project()
