"""The Django app of the admin, apart from `pgqueue.django`: a project has it only where it asks for it."""

from django.apps import AppConfig


class PgqueueAdminConfig(AppConfig):
    """`pgqueue.django.admin` in INSTALLED_APPS, beside `pgqueue.django` and `django.contrib.admin`."""

    name = "pgqueue.django.admin"
    label = "pgqueue_admin"
    verbose_name = "pgqueue"
    default_auto_field = "django.db.models.BigAutoField"
