"""The Django app, for INSTALLED_APPS: it brings permissions, and no table."""

from django.apps import AppConfig


class PgqueueConfig(AppConfig):
    """`pgqueue.django` in INSTALLED_APPS."""

    name = "pgqueue.django"
    label = "pgqueue"
    verbose_name = "pgqueue"
    default_auto_field = "django.db.models.BigAutoField"
