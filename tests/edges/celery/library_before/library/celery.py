"""The app of the library, before it moves."""

from celery import Celery

app = Celery("library")
app.config_from_object("library.settings", namespace="CELERY")
app.autodiscover_tasks(["library.loans", "library.mails"])
