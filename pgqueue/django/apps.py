"""The Django app, for INSTALLED_APPS: it brings permissions, `manage.py pgqueue`, and pgqueue's tables."""

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate
from django.utils.module_loading import import_string

from pgqueue.errors import NotMigrated


class PgqueueConfig(AppConfig):
    """`pgqueue.django` in INSTALLED_APPS."""

    name = "pgqueue.django"
    label = "pgqueue"
    verbose_name = "pgqueue"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Let `manage.py migrate` bring the tables up to date, and `manage.py check` look at the settings."""
        checks.register(import_string("pgqueue.django.checks.check_project"))
        post_migrate.connect(_bring_up_to_date, sender=self)

    def named(self, error: NotMigrated) -> NotMigrated:
        """Return an error that was raised on a connection of Django's, with the command that makes the tables here."""
        named: NotMigrated = import_string("pgqueue.django.backends.named")(error)
        return named


def _bring_up_to_date(**options: Any) -> None:
    if "plan" in options:  # `manage.py flush`, also after each test of a TransactionTestCase, has none
        import_string("pgqueue.django.upgrading.bring_up_to_date")(**options)  # with alembic, for `migrate` alone
